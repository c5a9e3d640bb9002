"""The command line brings a cluster up, changes it and takes it down, at a simulated Azure; and what may go wrong on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

pytest.importorskip("azure.identity", reason="the Azure extra is not installed")

from azure.core.rest import HttpRequest

from kubenclave.cluster.azure import applying, clusters, groups, identities, registering
from kubenclave.cluster.azure.marks import directory_tag
from kubenclave.cluster.azure.transport import Transport
from kubenclave.cluster.secrets import Files, Secret
from kubenclave.cluster.spec import OWNER_TAG, ClusterSpec, Identity, Mode, Pool, Sgx, SgxOptions, Taint
from kubenclave.cluster.steps.carrying import Watcher
from kubenclave.cluster.steps.plan import plan
from kubenclave.errors import HostUnfit, KubenclaveError, Refused, Unreachable
from kubenclave.local.azure import Settings
from kubenclave.local.azure import clusters as played_clusters
from kubenclave.local.azure.server import serving
from kubenclave.local.azure.state import digest

pytestmark = [
    pytest.mark.integration,
    # An answer because of which azure-core repeats its request is left to the garbage collector unread.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

SCHEMA = Path(__file__).resolve().parents[4] / "shared" / "data" / "azure" / "schema_2026-05-01_Microsoft.ContainerService.Aks.json"
SYSTEM = Pool(name="system", vm_size="Standard_D2s_v5", mode=Mode.SYSTEM)
SGX = Pool(name="sgx", vm_size="Standard_DC2s_v3", labels={"a": "b"})


def cluster_spec(**changes):
    return ClusterSpec(**{"name": "c", "group": "g", "location": "uksouth", "pools": (SYSTEM, SGX), **changes})


@pytest.fixture
def running(tmp_path):
    settings = Settings(operation_seconds=0.2, registration_seconds=0.2, replication_seconds=0.5, retry_after_seconds=0)
    with serving(tmp_path / "azure", settings, schema=SCHEMA if SCHEMA.exists() else None) as found:
        yield found


@pytest.fixture
def state(tmp_path):
    return lambda: json.loads((tmp_path / "azure" / "state.json").read_bytes())


@pytest.fixture
def job(session, tmp_path, monkeypatch):
    """A job in this process, which keeps what it was told in ``said``."""
    for module in (clusters, groups):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(identities, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(registering, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(applying, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(applying, "_SETTLE_SECONDS", 0.3)
    monkeypatch.setattr("kubenclave.cluster.azure.work._REPLICATION_PAUSE_SECONDS", 0.1)
    said = []

    def made(spec, **options):
        found = applying.Job(
            session=session, spec=spec, store=Files(tmp_path / "secrets"), watcher=Watcher(news=said.append, done=said.append), **options
        )
        return found, said

    return made


def up(task):
    return applying.up(task, applying.look(task))


def down(task):
    return applying.down(task, applying.look(task))


def asked(control, method, part):
    return [each for each in control("GET", "/requests") if each["method"] == method and part in each["path"]]


class CommandLine:
    """Runs kubenclave with a file; keeps all that it ever wrote."""

    def __init__(self, running, folder):
        self.file = folder / "cluster.json"
        self.folder = folder
        self.said = ""
        self.environment = {
            **os.environ,
            "AZURE_TENANT_ID": running.tenant,
            "AZURE_CLIENT_ID": running.client_id,
            "AZURE_CLIENT_SECRET": running.client_secret,
            "KUBENCLAVE_ARM_ENDPOINT": running.url,
            "KUBENCLAVE_CA_FILE": str(running.ca),
            "XDG_STATE_HOME": str(folder / "state"),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        }

    def __call__(self, *words, expected=0):
        code = "import sys; from kubenclave.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "cluster", *words, str(self.file)]
        ended = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )
        self.said += ended.stdout + ended.stderr
        assert ended.returncode == expected, ended.stderr
        return ended

    def started(self, *words):
        heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job's parent may ignore it
        code = f"{heeding}; import sys; from kubenclave.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "cluster", *words, str(self.file)]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def write(self, spec):
        self.file.write_bytes(msgspec.json.encode(spec))


def test_a_file_becomes_a_cluster_a_changed_file_changes_it_and_down_leaves_nothing(running, control, state, tmp_path):
    control("PATCH", "/settings", retry_after_seconds=1)
    shell, identity = CommandLine(running, tmp_path), Identity.SERVICE_PRINCIPAL
    shell.write(cluster_spec(identity=identity, sgx=SgxOptions(by=Sgx.ADDON)))
    assert "+ create cluster c" in shell("plan").stdout
    assert json.loads(shell("up", "--output", "json").stdout)["changed"] is True
    assert "nothing to do" in shell("plan").stdout
    shell.write(
        cluster_spec(identity=identity, pools=(SYSTEM, msgspec.structs.replace(SGX, count=2), Pool(name="new", vm_size="Standard_DC1s_v3")))
    )
    changes = json.loads(shell("plan", "--output", "json").stdout)["steps"]
    assert [(each["verb"], each["kind"], each["name"]) for each in changes] == [
        ("update", "cluster", "c"),
        ("update", "pool", "sgx"),
        ("create", "pool", "new"),
    ]
    shell("up")
    assert json.loads(shell("plan", "--output", "json").stdout)["steps"] == []
    (secret,) = (tmp_path / "state").rglob("*.json")
    _only_there(secret, shell, tmp_path)
    shell("down", expected=2)
    assert control("GET", "")["clusters"] == {"g/c": "Succeeded"}
    shell("down", "--yes")
    left = control("GET", "")
    assert (left["groups"], left["clusters"]) == ([], {})
    assert (len(state()["applications"]), len(state()["assignments"])) == (1, 1)
    assert [each for each in (tmp_path / "state").rglob("*") if each.is_file()] == []


def test_with_a_managed_identity_no_directory_is_touched_and_down_leaves_nothing(running, control, state, tmp_path):
    control("PATCH", "/settings", retry_after_seconds=1)
    shell = CommandLine(running, tmp_path)
    shell.write(cluster_spec())
    shell("up")
    assert [each["path"] for each in asked(control, "POST", "/v1.0/")] == []
    shell.write(cluster_spec(pools=(SYSTEM, msgspec.structs.replace(SGX, vm_size="Standard_DC4s_v3"))))
    assert "VM size of pool sgx (Standard_DC2s_v3 -> Standard_DC4s_v3" in shell("plan", expected=3).stderr
    assert "cannot be changed in place" in shell("up", expected=3).stderr
    shell("down", "--yes")
    left = control("GET", "")
    assert (left["groups"], left["clusters"], len(state()["applications"])) == ([], {}, 1)


def _only_there(path, shell, folder):
    """The secret is in its file, which nobody else may read, and in nothing that was written or said."""
    secret = json.loads(path.read_bytes())["secret"]
    assert len(secret) > 20
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert secret not in shell.said
    others = [each for each in folder.rglob("*") if each.is_file() and each != path]
    assert others
    assert not [each for each in others if secret.encode() in each.read_bytes()]


def test_an_interrupt_amid_an_operation_ends_the_command_at_once_and_the_next_one_goes_on(running, control, tmp_path):
    control("PATCH", "/settings", operation_seconds=5, retry_after_seconds=1)
    shell = CommandLine(running, tmp_path)
    shell.write(cluster_spec())
    with shell.started("up") as process:
        while not asked(control, "GET", "/operations/"):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - interrupted < 5
    assert "running the same command again is safe" in said
    assert "wait cluster c" in shell("plan").stdout
    shell("up")
    assert len(asked(control, "PUT", "/managedClusters/c")) == 1


def test_a_finding_that_blocks_stops_up_before_anything_is_made_and_plan_tells_it(running, control, tmp_path):
    control("PATCH", "/settings", quota={"standarddcsv3family": 0})
    shell = CommandLine(running, tmp_path)
    shell.write(cluster_spec())
    assert "quota" in shell("plan", expected=3).stdout.lower()
    assert "quota" in shell("up", expected=3).stderr.lower()
    assert asked(control, "PUT", "/") == []


def test_without_the_sdks_a_sentence_says_what_to_install(running, tmp_path):
    shell = CommandLine(running, tmp_path)
    shell.write(cluster_spec())
    (tmp_path / "azure" / "hidden").mkdir()
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['azure.core'] = None\n", encoding="ascii")
    shell.environment["PYTHONPATH"] = str(tmp_path)
    assert "pip install 'kubenclave[azure]'" in shell("plan", expected=6).stderr


def test_a_group_that_was_there_keeps_its_tags_and_stays(job, control, session):
    session.resources.resource_groups.create_or_update("g", {"location": "westeurope", "tags": {"team": "others"}})
    task, _ = job(cluster_spec(tags={"team": "mine"}))
    up(task)
    down(task)
    group = session.resources.resource_groups.get("g")
    assert (group.location, group.tags) == ("westeurope", {"team": "others"})
    assert control("GET", "")["clusters"] == {}


def test_a_cluster_of_others_is_neither_changed_nor_removed(job, control, session):
    task, _ = job(cluster_spec())
    up(task)
    foreign = session.containers.managed_clusters.get("g", "c").as_dict(exclude_readonly=True) | {"tags": {"team": "others"}}
    session.containers.managed_clusters.begin_create_or_update("g", "c", foreign, polling_interval=0.05).result()
    with pytest.raises(Refused, match="not of this making"):
        up(task)
    before = len(asked(control, "DELETE", "/managedClusters/"))
    applying.down(task, applying.look(task))
    assert control("GET", "")["clusters"] == {"g/c": "Succeeded"}
    assert [each["path"].rpartition("/")[2] for each in asked(control, "DELETE", "/managedClusters/")[before:]] == ["sgx"]
    assert control("GET", "")["groups"][0] == "g"


def test_a_failed_operation_is_explained_with_a_list_of_what_there_is_and_the_next_up_mends_it(job, control):
    control(
        "POST",
        "/faults",
        what="operation-fails",
        method="PUT",
        path="/managedClusters/",
        code="QuotaExceeded",
        message="Quota of 8 exceeded.",
    )
    task, said = job(cluster_spec())
    with pytest.raises(Refused, match="quota of vCPUs") as failed:
        up(task)
    assert "Quota of 8 exceeded" in failed.value.what
    assert any("what is there now: group g (Succeeded); cluster c (Failed)" in each for each in said)
    assert plan(task.spec, up(task)) == ()


def test_a_creation_that_fails_because_the_service_principal_is_not_known_yet_is_asked_for_again(job, control):
    code = "ServicePrincipalValidationClientError"
    control("POST", "/faults", what="operation-fails", method="PUT", path="/managedClusters/", code=code, message="AADSTS700016", times=2)
    task, said = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    assert plan(task.spec, up(task)) == ()
    assert any("not known everywhere yet; asking again" in each for each in said)


def test_an_operation_that_never_ends_is_given_up_with_exit_code_4_and_adopted_by_the_next_up(job, control):
    control("POST", "/faults", what="operation-never-ends", method="PUT", path="/managedClusters/")
    task, _ = job(cluster_spec(), timeout_seconds=2)
    started = time.monotonic()
    with pytest.raises(Unreachable, match="has not ended within the 2 s") as failed:
        up(task)
    assert time.monotonic() - started < 10
    assert failed.value.exit_code == 4
    puts = len(asked(control, "PUT", "/managedClusters/c"))
    with pytest.raises(Unreachable, match="has not ended within"):
        up(task)
    assert len(asked(control, "PUT", "/managedClusters/c")) == puts
    down(job(cluster_spec())[0])
    assert control("GET", "")["groups"] == []


def test_a_lost_answer_to_the_creation_makes_no_second_cluster_and_no_failure(job, control):
    control("POST", "/faults", what="lost-reply", method="PUT", path="/managedClusters/c")
    task, _ = job(cluster_spec())
    assert plan(task.spec, up(task)) == ()
    assert control("GET", "")["clusters"] == {"g/c": "Succeeded"}


@pytest.mark.parametrize("path", ["/v1.0/applications", "/v1.0/servicePrincipals", "/addPassword"])
@pytest.mark.parametrize("what", ["lost-reply", "dropped", "reply"])
def test_a_lost_answer_of_the_directory_makes_nothing_twice(job, control, state, path, what):
    control("POST", "/faults", what=what, status=503, method="POST", path=path)
    task, _ = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    up(task)
    assert len(state()["applications"]) == len(state()["principals"]) == 2
    down(task)
    assert len(state()["applications"]) == len(state()["principals"]) == 1


@pytest.mark.parametrize("fault", [{"what": "dropped"}, {"what": "reply", "status": 503}, {"what": "reply", "status": 500}])
def test_polls_that_break_off_or_fail_at_azures_end_are_repeated(job, control, fault):
    task, _ = job(cluster_spec())
    control("POST", "/faults", method="GET", path="/operations/", times=2, **fault)
    assert plan(task.spec, up(task)) == ()


def test_two_runs_at_the_same_time_make_one_cluster_and_one_service_principal(job, control, state):
    control("PATCH", "/settings", operation_seconds=1)
    control("POST", "/faults", what="delay", seconds=0.3, method="POST", path="/v1.0/", times=None)
    task, _ = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    other, _ = job(task.spec)
    found, failures = applying.look(task), []

    def beside():
        try:
            applying.up(other, found)
        except KubenclaveError as exc:
            failures.append(exc)

    thread = threading.Thread(target=beside)
    thread.start()
    try:
        applying.up(task, found)
    except KubenclaveError as exc:
        failures.append(exc)
    thread.join(60)
    assert len(failures) < 2
    assert plan(task.spec, up(task)) == ()
    assert len(state()["applications"]) == len(state()["principals"]) == 2
    assert control("GET", "")["clusters"] == {"g/c": "Succeeded"}
    assert len(asked(control, "PUT", "/managedClusters/c")) <= 2


def test_a_storm_of_429_is_waited_out(job, control):
    task, _ = job(cluster_spec())
    control(
        "POST", "/faults", what="reply", status=429, retryAfter=1, times=4, code="TooManyRequests", path="/managedClusters/c", method="PUT"
    )
    assert plan(task.spec, up(task)) == ()


@pytest.mark.parametrize("what", ["token-expired", "claims-challenge"])
def test_a_token_that_ends_amid_an_operation_is_renewed(job, control, what):
    task, _ = job(cluster_spec())
    control("POST", "/faults", what=what, path="/operations/", method="GET")
    assert plan(task.spec, up(task)) == ()


def test_the_files_headers_go_with_the_request_that_makes_the_cluster_and_with_no_other(job, monkeypatch):
    sent = []
    really = Transport.send

    def send(self, request, **options):
        sent.append((request.method, request.url, request.headers.get("usegen2vm")))
        return really(self, request, **options)

    monkeypatch.setattr(Transport, "send", send)
    task, _ = job(cluster_spec(headers={"usegen2vm": "true"}))
    up(task)
    assert [(method, "/managedClusters/c?" in url) for method, url, header in sent if header == "true"] == [("PUT", True)]


def test_a_version_goes_up_with_the_nodes(job):
    task, _ = job(cluster_spec(kubernetes_version="1.34"))
    up(task)
    task, _ = job(cluster_spec(kubernetes_version="1.35"))
    assert up(task).cluster.kubernetes_version.startswith("1.35.")


def test_labels_and_taints_that_the_file_no_longer_has_go(job):
    task, _ = job(cluster_spec(pools=(SYSTEM, msgspec.structs.replace(SGX, labels={"a": "b", "c": "d"}, taints=(Taint(key="k"),)))))
    up(task)
    task, _ = job(cluster_spec(pools=(SYSTEM, msgspec.structs.replace(SGX, labels={"a": "b"}))))
    pool = next(pool for pool in up(task).cluster.pools if pool.name == "sgx")
    assert (pool.labels, pool.taints) == ({"a": "b"}, ())


def test_what_is_undone_by_others_each_time_is_told_after_two_tries(job, control, monkeypatch):
    task, _ = job(cluster_spec())
    up(task)
    really = played_clusters.pool_body
    monkeypatch.setattr(played_clusters, "pool_body", lambda asked, *rest: {**really(asked, *rest), "count": 1})
    task, said = job(cluster_spec(pools=(SYSTEM, msgspec.structs.replace(SGX, count=2))))
    with pytest.raises(Refused, match=r"does not become what it should: .*count: 1 -> 2"):
        up(task)
    assert len(asked(control, "PUT", "/agentPools/sgx")) == 2
    assert any("what is there now" in each for each in said)


def test_another_operation_on_the_cluster_is_waited_for(job, control, session):
    task, said = job(cluster_spec())
    up(task)
    control("PATCH", "/settings", operation_seconds=1.5)
    found = applying.look(task)
    other = {"properties": {"vmSize": "Standard_D2s_v5", "count": 1, "mode": "User"}}
    session.containers.agent_pools.begin_create_or_update("g", "c", "others", other, polling_interval=0.1)
    task, said = job(cluster_spec(pools=(SYSTEM, msgspec.structs.replace(SGX, count=2))))
    final = applying.up(task, found)
    assert {pool.name: pool.count for pool in final.cluster.pools} == {"system": 1, "sgx": 2, "others": 1}
    assert any("something else is being done" in each for each in said)


def test_a_group_that_someone_deletes_meanwhile_is_waited_for_and_made_again(job, control, session):
    control("PATCH", "/settings", operation_seconds=3)
    task, said = job(cluster_spec())
    failures = []

    def running_up():
        try:
            up(task)
        except KubenclaveError as exc:
            failures.append(exc)

    thread = threading.Thread(target=running_up)
    thread.start()
    while not asked(control, "PUT", "/managedClusters/c"):
        time.sleep(0.05)
    control("PATCH", "/settings", operation_seconds=0.2)
    with suppress(Exception):
        session.resources.resource_groups.begin_delete("g", polling_interval=0.05).wait(10)
    thread.join(30)
    assert not thread.is_alive()
    assert failures == []
    assert any("something else is being done" in each for each in said)
    assert said.count("create group g") == 2
    assert control("GET", "")["clusters"] == {"g/c": "Succeeded"}


def test_something_that_comes_into_the_group_while_down_runs_keeps_the_group(job, control, session):
    task, _ = job(cluster_spec())
    up(task)
    found = applying.look(task)
    body = {
        "location": "uksouth",
        "identity": {"type": "SystemAssigned"},
        "properties": {"agentPoolProfiles": [{"name": "a", "count": 1, "vmSize": "Standard_D2s_v5", "mode": "System"}]},
    }
    session.containers.managed_clusters.begin_create_or_update("g", "hers", body, polling_interval=0.05).result()
    final = applying.down(task, found)
    assert control("GET", "")["clusters"] == {"g/hers": "Succeeded"}
    assert final.group.tags[OWNER_TAG] == "g/c"


def test_what_changes_nothing_sends_nothing_but_questions(job, control):
    task, _ = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    up(task)
    before = len(control("GET", "/requests"))
    up(task)
    assert {each["method"] for each in control("GET", "/requests")[before:]} == {"GET"}


def test_a_failure_does_not_quote_the_secret(job, control, tmp_path, monkeypatch):
    task, said = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    kept = []
    really = Files.keep

    def keep(store, client, secret):
        kept.append(secret.value)
        message = f"The client secret {secret.value} is not good, {{'secret': '{secret.value}'}}"
        control("POST", "/faults", what="reply", status=400, code="BadRequest", message=message, method="PUT", path="/managedClusters/c")
        really(store, client, secret)

    monkeypatch.setattr(Files, "keep", keep)
    with pytest.raises(KubenclaveError) as failed:
        up(task)
    told, at = "".join(said), failed.value
    while at is not None:
        told += f"{at!s}{at!r}{getattr(at, 'hint', '')}"
        at = at.__cause__
    assert kept
    assert kept[0] not in told


def test_a_secret_that_was_made_and_never_kept_is_taken_out_when_another_is_made(job, state, monkeypatch):
    task, _ = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))

    def no_space(_store, _client, _secret):
        raise HostUnfit("no space", "")

    with monkeypatch.context() as patch, pytest.raises(HostUnfit):
        patch.setattr(Files, "keep", no_space)
        up(task)
    assert [len(each["secrets"]) for each in state()["applications"].values()] == [1, 1]
    up(task)
    assert [len(each["secrets"]) for each in state()["applications"].values()] == [1, 1]
    kept = task.store.find(applying.look(task).principal.app_id)
    assert digest(kept.value) in [*state()["applications"].values()][1]["secrets"]


@pytest.fixture
def graph(session):
    """Ask the directory as the caller."""

    def ask(method, path, body=None):
        answer = session.graph.send_request(HttpRequest(method, session.graph.format_url(f"/v1.0{path}"), json=body))
        answer.raise_for_status()
        return answer.json() if answer.content else {}

    return ask


@pytest.fixture
def marked(graph, session):
    """An application with the cluster's mark, made by the caller; with ``theirs``, it is handed to somebody else."""

    def made(*, theirs):
        found = graph("POST", "/applications", {"displayName": "marked", "tags": [directory_tag(session.subscription_id, "g/c")]})
        if theirs:
            other = graph("POST", "/applications", {"displayName": "others"})
            owner = graph("POST", "/servicePrincipals", {"appId": other["appId"]})["id"]
            (caller,) = graph("GET", f"/applications/{found['id']}/owners")["value"]
            graph("POST", f"/applications/{found['id']}/owners/$ref", {"@odata.id": f"https://localhost/v1.0/directoryObjects/{owner}"})
            graph("DELETE", f"/applications/{found['id']}/owners/{caller['id']}/$ref")
        return found

    return made


def test_an_application_with_the_mark_that_somebody_else_owns_is_not_used_and_stays(job, control, marked, state):
    application = marked(theirs=True)
    task, said = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    with pytest.raises(Refused, match="is owned by others: whoever owns it could act as the cluster"):
        up(task)
    assert state()["applications"][application["id"]]["secrets"] == {}
    assert len(state()["assignments"]) == 1
    down(task)
    assert application["id"] in state()["applications"]
    assert any("stays: it is owned by others" in each for each in said)
    assert control("GET", "")["groups"] == []


def test_an_application_with_the_mark_that_the_caller_owns_is_taken_up(job, marked):
    application = marked(theirs=False)
    task, said = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    assert up(task).cluster.client_id == application["appId"]
    assert not any("cannot be known" in each for each in said)


def test_whoever_may_not_ask_for_owners_goes_on_and_is_told(job, control, marked):
    application = marked(theirs=True)
    control("POST", "/faults", what="reply", status=403, code="Authorization_RequestDenied", path="/owners", times=None)
    task, said = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    assert up(task).cluster.client_id == application["appId"]
    assert sum("cannot be known" in each for each in said) == 1


def test_another_machines_secret_stays_until_the_cluster_has_one(job, control, state, tmp_path):
    control("POST", "/faults", what="reply", status=400, code="BadRequest", method="PUT", path="/managedClusters/c")
    task, _ = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    with pytest.raises(KubenclaveError):
        up(task)
    other = replace(task, store=Files(tmp_path / "other"))
    kept = other.store.find(up(other).principal.app_id)
    order = [f"{each['method']} {each['path'].rpartition('/')[2]}" for each in control("GET", "/requests") if each["method"] != "GET"]
    assert order.count("POST addPassword") == 2
    assert order.index("POST removePassword") > max(at for at, each in enumerate(order) if each == "PUT c")
    assert [*[*state()["applications"].values()][1]["secrets"]] == [digest(kept.value)]


@pytest.fixture
def profiles(monkeypatch):
    """What was sent of the service principal with each change of the cluster."""
    sent, really = [], Transport.send

    def send(self, request, **options):
        if request.method == "PUT" and request.url.partition("?")[0].endswith("/managedClusters/c"):
            sent.append(json.loads(request.content)["properties"].get("servicePrincipalProfile"))
        return really(self, request, **options)

    monkeypatch.setattr(Transport, "send", send)
    return sent


@pytest.mark.parametrize("own", [True, False])
def test_a_failed_creation_is_taken_up_with_the_secret_that_it_was_given_and_with_no_other(job, control, profiles, tmp_path, own):
    control("POST", "/faults", what="operation-fails", method="PUT", path="/managedClusters/", code="InternalServerError")
    task, _ = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    with pytest.raises(KubenclaveError):
        up(task)
    app_id = applying.look(task).principal.app_id
    if not own:
        task = replace(task, store=Files(tmp_path / "other"))
        task.store.keep(app_id, Secret(value="s-of-another-run", expires="2099-01-01T00:00:00Z", key_id="k"))
    assert plan(task.spec, up(task)) == ()
    first, second = profiles
    assert second == (first if own else None)


def test_a_change_of_a_cluster_with_a_service_principal_does_not_name_it(job, profiles):
    task, _ = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    up(task)
    task, _ = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL, tags={"team": "x"}))
    assert plan(task.spec, up(task)) == ()
    assert profiles[1:] == [None]


@pytest.mark.parametrize("what", ["reply", "operation-fails"])
@pytest.mark.parametrize("code", ["AADSTS7000222", "AADSTS7000215"])
def test_a_kept_secret_that_is_of_no_use_is_replaced_after_the_wait(job, control, monkeypatch, what, code):
    control("PATCH", "/settings", replication_seconds=0)
    monkeypatch.setattr("kubenclave.cluster.azure.work.REPLICATION_SECONDS", 0.4)
    message = f"{code}: the client secret is expired or invalid."
    options = {"code": "ServicePrincipalValidationClientError", "message": message, "method": "PUT", "path": "/managedClusters/c"}
    control("POST", "/faults", what=what, status=400, times=None, **options)
    really, forgotten = Files.forget, []

    def forget(store, client):
        forgotten.append(client)
        control("DELETE", "/faults")
        really(store, client)

    monkeypatch.setattr(Files, "forget", forget)
    task, said = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    assert plan(task.spec, up(task)) == ()
    assert len(forgotten) == 1
    assert any("making another" in each for each in said)


def test_a_kept_secret_that_has_ended_is_replaced_before_it_is_sent(job, control):
    control("POST", "/faults", what="reply", status=400, code="BadRequest", method="PUT", path="/managedClusters/c")
    task, _ = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    with pytest.raises(KubenclaveError):
        up(task)
    app_id = applying.look(task).principal.app_id
    ended = replace(task.store.find(app_id), expires="2020-01-01T00:00:00Z")
    task.store.keep(app_id, ended)
    up(task)
    assert task.store.find(app_id).value != ended.value
    assert len(asked(control, "POST", "/addPassword")) == 2


def test_a_secret_that_aks_has_and_is_of_no_use_is_told_with_what_to_do(job, control):
    options = {"code": "ServicePrincipalValidationClientError", "message": "AADSTS7000222: expired", "method": "PUT"}
    control("POST", "/faults", what="operation-fails", times=None, path="/managedClusters/c", **options)
    task, _ = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    with pytest.raises(Refused, match="secret that AKS has is of no use any more") as failed:
        up(task)
    assert "update-credentials" in failed.value.hint


@pytest.mark.parametrize(("path", "what"), [("/addPassword", "secret"), ("/v1.0/servicePrincipals", "service principal")])
def test_an_application_that_the_directory_does_not_know_everywhere_yet_is_waited_for_and_that_is_told(job, control, path, what):
    control("POST", "/faults", what="reply", status=404, code="Request_ResourceNotFound", method="POST", path=path, times=9)
    task, said = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    assert plan(task.spec, up(task)) == ()
    waiting = "until the directory knows it everywhere; 300 s at most"
    assert sum(each.startswith(f"making the {what} of") and waiting in each for each in said) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"what": "operation-fails", "code": "OperationPreempted", "message": "Gone by."},
        {"what": "reply", "status": 409, "code": "EtagMismatch", "message": "It differs."},
        {"what": "reply", "status": 409, "code": "OriginalETagNotExpect", "message": "It differs."},
        {"what": "reply", "status": 409, "code": "AnotherOperationInProgress", "message": "Not now."},
    ],
)
def test_a_conflict_is_known_by_its_code(job, control, fault):
    task, _ = job(cluster_spec())
    up(task)
    control("POST", "/faults", method="PUT", path="/agentPools/sgx", **fault)
    task, said = job(cluster_spec(pools=(SYSTEM, msgspec.structs.replace(SGX, count=2))))
    assert plan(task.spec, up(task)) == ()
    assert any("looking again" in each for each in said)


def test_a_pool_that_someone_changes_between_look_and_change_is_read_again_and_keeps_that_change(job, control, session, monkeypatch):
    task, _ = job(cluster_spec())
    up(task)
    really, others = Transport.send, []

    def send(self, request, **options):
        if request.method == "PUT" and "/agentPools/sgx?" in request.url and not others:
            others.append("once")
            pools = session.containers.agent_pools
            body = pools.get("g", "c", "sgx").as_dict(exclude_readonly=True)
            body["properties"]["tags"]["team"] = "others"
            pools.begin_create_or_update("g", "c", "sgx", body, polling_interval=0.05).result()
        return really(self, request, **options)

    monkeypatch.setattr(Transport, "send", send)
    task, said = job(cluster_spec(pools=(SYSTEM, msgspec.structs.replace(SGX, count=2))))
    pool = next(each for each in up(task).cluster.pools if each.name == "sgx")
    assert (pool.count, pool.tags["team"]) == (2, "others")
    assert [each["status"] for each in asked(control, "PUT", "/agentPools/sgx")] == [200, 412, 200]
    assert any("looking again" in each for each in said)


def test_a_group_goes_although_arm_still_lists_the_cluster_that_is_gone(job, control, monkeypatch):
    task, _ = job(cluster_spec())
    up(task)
    really = groups.entries
    gone = SimpleNamespace(id="/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c")
    monkeypatch.setattr(groups, "entries", lambda listed, *, most: [*really(listed, most=most), gone])
    down(task)
    assert control("GET", "")["groups"] == []


def test_a_list_that_lags_behind_is_read_again_before_anything_is_done_twice(job, control, monkeypatch):
    monkeypatch.setattr(applying, "_SETTLE_SECONDS", 10)
    task, said = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    up(task)
    really, left = applying.look, [True] * 4

    def look(job):
        found = really(job)
        return replace(found, principal=replace(found.principal, has_role=False)) if left and left.pop() else found

    monkeypatch.setattr(applying, "look", look)
    before = len(asked(control, "PUT", "/roleAssignments/"))
    up(task)
    assert len(asked(control, "PUT", "/roleAssignments/")) == before + 1
    assert sum("does not show yet" in each for each in said) == 1


def test_a_resolver_that_fails_for_a_while_is_waited_out(job, control, monkeypatch):
    really, until = socket.getaddrinfo, []

    def resolve(*arguments, **options):
        until.append(time.monotonic() + 3)
        if time.monotonic() < until[0]:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return really(*arguments, **options)

    control("POST", "/faults", what="dropped", method="GET", path="/operations/")
    task, _ = job(cluster_spec())
    found = applying.look(task)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        final = applying.up(task, found)
    assert plan(task.spec, final) == ()
    assert time.monotonic() > until[0]
    assert len(until) > 1


@pytest.mark.parametrize("skew", [-7200, 7200])
def test_a_clock_that_is_wrong_by_hours_changes_nothing(job, control, skew):
    control("PATCH", "/settings", clock_skew_seconds=skew)
    task, _ = job(cluster_spec(identity=Identity.SERVICE_PRINCIPAL))
    assert plan(task.spec, up(task)) == ()
    down(task)
    assert control("GET", "")["groups"] == []


def test_an_interrupt_amid_a_slow_read_ends_the_command_at_once(running, control, tmp_path):
    control("POST", "/faults", what="delay", seconds=20, method="GET", path="/skus")
    shell = CommandLine(running, tmp_path)
    shell.write(cluster_spec())
    with shell.started("plan") as process:
        while not asked(control, "GET", "/skus"):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        process.communicate(timeout=30)
    assert time.monotonic() - interrupted < 3
    assert process.returncode == 130
