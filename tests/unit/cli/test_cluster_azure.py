"""How ``kubenclave cluster plan``, ``up`` and ``down`` show steps and findings, and whom they ask."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kubenclave.cli import cluster_access, cluster_azure
from kubenclave.cli.app import build
from kubenclave.cluster.facts import Found, FoundCluster, FoundGroup, FoundPrincipal, Offer, Subscription
from kubenclave.cluster.findings import Finding
from kubenclave.cluster.secrets import Files, Secret
from kubenclave.cluster.spec import OWNER_TAG, ClusterSpec, Mode, Pool
from kubenclave.cluster.steps.step import Kind, Step, Verb
from kubenclave.errors import NotFound, Refused, UsageError

SPEC = ClusterSpec(name="c", group="g", location="uksouth", pools=())
SYSTEM = Pool(name="system", vm_size="Standard_D4s_v5", mode=Mode.SYSTEM)
WHOLE = ClusterSpec(name="c", group="g", location="uksouth", pools=(SYSTEM,))
NOW = datetime.now(tz=UTC)
NOTHING = Found(providers={})
CLUSTER = FoundCluster(
    location="uksouth",
    state="Succeeded",
    kubernetes_version="1.35.1",
    client_id="app",
    network_plugin="azure",
    network_mode="",
    addon=False,
    quote_helper=False,
    pools=(),
    tags={OWNER_TAG: "g/c"},
)
PRINCIPAL = FoundPrincipal(app_id="app", application_object_id="o", principal_id="p", has_role=True, has_secret=True)
OFFER = Offer(
    subscription=Subscription(id="s", name="n", tenant="t", state="Enabled"),
    permissions=(),
    may_make_applications=None,
    locations=("uksouth",),
    sizes={},
    quotas={},
    versions=(),
)


def finding(*, blocks):
    return Finding(about="quota", what="It is too small.", evidence="8 of 8", fix="Ask for more.", blocks=blocks)


def test_steps_are_shown_as_a_difference_with_what_changes_below_each():
    steps = (
        Step(kind=Kind.GROUP, verb=Verb.CREATE, name="g", reason="new"),
        Step(kind=Kind.POOL, verb=Verb.UPDATE, name="sgx", reason="it differs", changes=("count: 1 -> 2",)),
        Step(kind=Kind.POOL, verb=Verb.DELETE, name="old", reason="gone"),
        Step(kind=Kind.CLUSTER, verb=Verb.WAIT, name="c", reason="Creating"),
        Step(kind=Kind.GROUP, verb=Verb.KEEP, name="k", reason="theirs\x1b[2J"),
    )
    assert cluster_azure._diff(steps).splitlines() == [
        "+ create group g   new",
        "~ update pool sgx  it differs",
        "    count: 1 -> 2",
        "- delete pool old  gone",
        ". wait cluster c   Creating",
        "= keep group k     theirs\\x1b[2J",
    ]


def test_every_verb_has_a_mark():
    assert set(cluster_azure._MARKS) == {verb.value for verb in Verb}


def test_a_finding_says_what_how_it_is_known_and_what_to_do():
    assert cluster_azure._paragraph(finding(blocks=True)) == "! quota: It is too small.\n    seen: 8 of 8\n    Ask for more.\n"
    assert cluster_azure._paragraph(finding(blocks=False)).startswith("i ")


def test_only_what_blocks_stands_in_the_way():
    cluster_azure._refuse_blocked([finding(blocks=False)], "Nothing was made")
    with pytest.raises(Refused, match=r"Nothing was made: quota: It is too small. \(and 1 more\)"):
        cluster_azure._refuse_blocked([finding(blocks=True), finding(blocks=True)], "Nothing was made")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("answer", ["", "\n", "y\n", "C\n", "c d\n"])
def test_on_a_terminal_down_goes_on_only_where_the_clusters_name_is_written(monkeypatch, answer):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    with pytest.raises(UsageError, match="nothing was removed"):
        cluster_azure._confirm(SPEC, yes=False)
    monkeypatch.setattr("sys.stdin", Terminal("c\n"))
    cluster_azure._confirm(SPEC, yes=False)


def test_where_nobody_can_be_asked_it_takes_yes(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("c\n"))
    with pytest.raises(UsageError) as refused:
        cluster_azure._confirm(SPEC, yes=False)
    assert "--yes" in refused.value.hint
    cluster_azure._confirm(SPEC, yes=True)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(UsageError, match="--timeout-seconds"):
        cluster_azure._job(None, SPEC, timeout_seconds=seconds)


@pytest.fixture
def azure(monkeypatch, tmp_path):
    """Stand in for what Azure answers: what is found there, what preflight finds, and what the file says."""
    pytest.importorskip("azure.core", reason="the Azure extra is not installed")

    class Answers:
        found, findings, spec, asked = NOTHING, (), WHOLE, 0
        store = Files(tmp_path / "secrets")

    @contextmanager
    def opened(_cloud, _subscription):
        Answers.asked += 1
        yield None

    def read_found(_session, _spec, *, secret_kept):
        have = Answers.found.principal
        return Answers.found if have is None else replace(Answers.found, principal=replace(have, has_secret=secret_kept(have.app_id)))

    for module in (cluster_access, cluster_azure):
        monkeypatch.setattr(module, "opened", opened)
        monkeypatch.setattr(module, "secret_store", lambda: Answers.store)
    monkeypatch.setattr(cluster_azure, "spec_of", lambda _target: Answers.spec)
    monkeypatch.setattr(cluster_access, "named", lambda _target: Answers.spec)
    monkeypatch.setattr(cluster_access, "checked_cluster", lambda *_: (None, "not in a test"))
    monkeypatch.setattr("kubenclave.cluster.azure.applying.look_around", lambda _job: (OFFER, Answers.found))
    monkeypatch.setattr("kubenclave.cluster.azure.reading.read_found", read_found)
    monkeypatch.setattr("kubenclave.cluster.checks.preflight.preflight", lambda *_, **__: Answers.findings)
    return Answers


def test_a_plan_that_has_steps_alone_is_no_failure(azure, capsys):
    azure.findings = (finding(blocks=False),)
    cluster_azure.plan()
    assert "+ create cluster c" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["table", "json"])
def test_plan_shows_all_that_it_found_and_then_refuses_where_something_blocks(azure, capsys, output):
    azure.findings = (finding(blocks=False), finding(blocks=True))
    with pytest.raises(Refused, match="up would make nothing: quota: It is too small"):
        cluster_azure.plan(output=output)
    shown = capsys.readouterr().out
    if output == "json":
        result = json.loads(shown)
        assert [each["blocks"] for each in result["findings"] if each["about"] == "quota"] == [True, False]
        assert [step["kind"] for step in result["steps"]] == ["group", "cluster"]
    else:
        assert shown.index("! quota") < shown.index("i quota") < shown.index("+ create cluster c")


@pytest.mark.parametrize("output", ["table", "json"])
def test_plan_shows_what_it_found_before_a_refusal(azure, capsys, output):
    azure.found = replace(NOTHING, cluster=replace(CLUSTER, tags={}))
    azure.findings = (finding(blocks=False),)
    with pytest.raises(Refused, match="not of this making"):
        cluster_azure.plan(output=output)
    shown = capsys.readouterr().out
    if output == "json":
        assert "not of this making" in json.loads(shown)["refused"]
        assert json.loads(shown)["findings"]
    else:
        assert "i quota: It is too small." in shown


BROKEN = ClusterSpec(name="c", group="g", location="uksouth", pools=(Pool(name="only", vm_size="Standard_D4s_v5"),))


def test_what_a_file_says_against_itself_is_in_the_plan_beside_what_azure_says(azure, capsys):
    azure.spec, azure.findings = BROKEN, (finding(blocks=False),)
    with pytest.raises(Refused, match="no System pool"):
        cluster_azure.plan()
    shown = capsys.readouterr().out
    assert "! pools: no System pool" in shown
    assert "i quota" in shown


def test_up_refuses_what_a_file_says_against_itself_before_azure_is_asked(azure, capsys):
    azure.spec = BROKEN
    with pytest.raises(Refused, match=r"Nothing was made: pools: no System pool"):
        cluster_azure.up()
    assert azure.asked == 0
    assert "! pools: no System pool" in capsys.readouterr().err


@pytest.mark.parametrize(("days", "told"), [(31, None), (29, "ends on"), (-1, "ended on")])
def test_the_secret_of_a_live_cluster_that_ends_soon_is_told_with_what_gives_it_another(azure, capsys, days, told):
    azure.store.keep("0a", Secret(value="s", expires=f"{(NOW + timedelta(days=days)).isoformat()}"))
    azure.found = replace(NOTHING, cluster=replace(CLUSTER, client_id="0a"), principal=replace(PRINCIPAL, app_id="0a"))
    with pytest.raises(Refused):  # a managed identity is asked for, and the cluster has none
        cluster_azure.plan()
    shown = capsys.readouterr().out
    assert ("service principal 0a" in shown) == (told is not None)
    assert told is None or (told in shown and "az aks update-credentials" in shown)


def test_status_of_what_is_not_there_at_all_is_told_as_not_found(azure):
    azure.found = replace(NOTHING, group=FoundGroup(location="uksouth", state="Succeeded", tags={}), directory_failure="Graph said no.")
    with pytest.raises(NotFound, match=r"There is no cluster c in the group g.*Graph said no"):
        cluster_access.status()


@pytest.mark.parametrize(
    "left",
    [
        {"group": FoundGroup(location="uksouth", state="Succeeded", tags={OWNER_TAG: "g/c"})},
        {"principal": replace(PRINCIPAL, app_id="0a")},
        {"cluster": replace(CLUSTER, tags={})},
    ],
)
def test_status_shows_whatever_is_left_or_is_of_others(azure, capsys, left):
    azure.found = replace(NOTHING, **left)
    cluster_access.status(output="json")
    assert len(json.loads(capsys.readouterr().out)["there"]) == 1


def test_status_tells_a_stopped_cluster_and_an_expired_secret(azure, capsys):
    azure.store.keep("0a", Secret(value="s", expires="2020-01-02T00:00:00Z"))
    azure.found = replace(NOTHING, cluster=replace(CLUSTER, power="Stopped"), principal=replace(PRINCIPAL, app_id="0a"))
    cluster_access.status(output="json")
    result = json.loads(capsys.readouterr().out)
    assert [item["state"] for item in result["there"] if item["kind"] == "cluster"] == ["Stopped"]
    assert "expired on 2020-01-02" in result["secret"]


def test_credentials_go_to_stdout_where_the_file_is_a_hyphen():
    _, bound, _ = build().parse_args(["cluster", "credentials", "--name", "c", "--group", "g", "--kubeconfig", "-"], exit_on_error=False)
    assert bound.arguments["kubeconfig"] == Path("-")
