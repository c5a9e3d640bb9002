"""The command line brings a cluster up, changes it and takes it down, at a simulated Azure; and what may go wrong on the way."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("azure.identity", reason="the Azure extra is not installed")

from kubenclave.cluster.azure import applying, clusters, groups, identities
from kubenclave.cluster.carrying import Watcher
from kubenclave.cluster.plan import plan
from kubenclave.cluster.secrets import Files
from kubenclave.cluster.spec import OWNER_TAG, ClusterSpec, Identity, Mode, Pool, Sgx, SgxOptions
from kubenclave.errors import HostUnfit, KubenclaveError, Refused, Unreachable
from kubenclave.local.azure import Settings, graph, routes
from kubenclave.local.azure.server import serving
from kubenclave.local.azure.state import digest
from kubenclave.local.azure.values import Reply

pytestmark = pytest.mark.integration

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
    monkeypatch.setattr(applying, "_PAUSE_SECONDS", 0.05)
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

    def write(self, spec):
        self.file.write_bytes(msgspec.json.encode(spec))


@pytest.mark.parametrize("identity", list(Identity))
def test_a_file_becomes_a_cluster_a_changed_file_changes_it_and_down_leaves_nothing(running, control, state, tmp_path, identity):
    control("PATCH", "/settings", retry_after_seconds=1)
    shell = CommandLine(running, tmp_path)
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
    secrets = [*(tmp_path / "state").rglob("*.json")]
    assert len(secrets) == (identity is Identity.SERVICE_PRINCIPAL)
    for path in secrets:
        _only_there(path, shell, tmp_path)
    shell("down", expected=2)
    assert control("GET", "")["clusters"] == {"g/c": "Succeeded"}
    shell("down", "--yes")
    left = control("GET", "")
    assert (left["groups"], left["clusters"]) == ([], {})
    assert (len(state()["applications"]), len(state()["assignments"])) == (1, 1)
    assert [each for each in (tmp_path / "state").rglob("*") if each.is_file()] == []


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


def test_a_finding_that_blocks_stops_up_before_anything_is_made_and_plan_tells_it(running, control, tmp_path):
    control("PATCH", "/settings", quota={"standarddcsv3family": 0})
    shell = CommandLine(running, tmp_path)
    shell.write(cluster_spec())
    assert "quota" in shell("plan").stdout.lower()
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


def test_a_group_that_someone_deletes_meanwhile_is_told(job, control, session):
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
    assert len(failures) == 1, said
    assert failures[0].hint


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


@pytest.fixture
def removable_secrets(monkeypatch):
    """Let the stand-in list secrets by name and take them out, as Graph does: application by ID to the names by key."""
    names = {}

    def add(context, where):
        before = set(context.state.applications[where["id"]].secrets)
        reply = graph.add_password(context, where)
        (kept,) = set(context.state.applications[where["id"]].secrets) - before
        names[reply.body["keyId"]] = (kept, reply.body["displayName"])
        return reply

    def get(context, where):
        reply = graph.get_application(context, where)
        secrets = context.state.applications[where["id"]].secrets
        found = [{"keyId": key, "displayName": name} for key, (kept, name) in names.items() if kept in secrets]
        return replace(reply, body={**reply.body, "passwordCredentials": found})

    def remove(context, where):
        del context.state.applications[where["id"]].secrets[names.pop(context.request.json()["keyId"])[0]]
        return Reply(status=204)

    path = "/v1.0/applications/{id}"
    added = [
        routes._route(f"POST {path}/addPassword", add, access="graph"),
        routes._route(f"POST {path}/removePassword", remove, access="graph"),
    ]
    monkeypatch.setattr(routes, "ROUTES", (*added, routes._route(f"GET {path}", get, access="graph"), *routes.ROUTES))


@pytest.mark.usefixtures("removable_secrets")
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
