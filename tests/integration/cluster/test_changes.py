"""Changes of a cluster that is there, carried out at a simulated Azure, come to their end; and what the command line says of others."""

from __future__ import annotations

import json

import msgspec
import pytest

pytest.importorskip("azure.identity", reason="the Azure extra is not installed")

from kubenclave.cli import main
from kubenclave.cluster.azure import applying, clusters, groups
from kubenclave.cluster.secrets import Files
from kubenclave.cluster.spec import OWNER_TAG, Autoscale, ClusterSpec, Identity, Mode, Pool, Sgx, SgxOptions
from kubenclave.cluster.steps.carrying import Watcher
from kubenclave.cluster.steps.plan import plan

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

A = Pool(name="a", vm_size="Standard_D2s_v5", mode=Mode.SYSTEM)
B = Pool(name="b", vm_size="Standard_D2s_v5")
FROM_ZERO = Pool(name="sgx", vm_size="Standard_DC2s_v3", autoscale=Autoscale(min=0, max=2))


def cluster_spec(*pools, **changes):
    return ClusterSpec(name="c", group="g", location="uksouth", pools=pools, **changes)


@pytest.fixture
def up(session, tmp_path, monkeypatch):
    for module in (clusters, groups):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)

    def made(spec):
        watcher = Watcher(news=lambda _: None, done=lambda _: None)
        job = applying.Job(session=session, spec=spec, store=Files(tmp_path / "secrets"), watcher=watcher)
        found = applying.up(job, applying.look(job))
        assert plan(spec, found) == ()
        return {pool.name: pool for pool in found.cluster.pools}

    return made


def test_the_system_pool_is_swapped(up):
    up(cluster_spec(A, B))
    pools = up(cluster_spec(msgspec.structs.replace(A, mode=Mode.USER), msgspec.structs.replace(B, mode=Mode.SYSTEM)))
    assert {name: pool.mode for name, pool in pools.items()} == {"a": "User", "b": "System"}


def test_a_spot_pool_is_as_it_should_be_once_made_and_keeps_its_marks_through_changes(up):
    spot = Pool(name="spot", vm_size="Standard_D2s_v5", spot=True)
    up(cluster_spec(A, spot))
    pool = up(cluster_spec(A, msgspec.structs.replace(spot, count=2, labels={"x": "y"})))["spot"]
    key = "kubernetes.azure.com/scalesetpriority"
    assert (pool.count, pool.labels, pool.taints) == (2, {"x": "y", key: "spot"}, (f"{key}=spot:NoSchedule",))


def test_what_a_pool_told_the_autoscaler_goes_when_it_has_a_node_at_all_times(up):
    pool = up(cluster_spec(A, FROM_ZERO, sgx=SgxOptions(by=Sgx.ADDON)))["sgx"]
    assert any("node-template" in name for name in pool.tags)
    pool = up(cluster_spec(A, msgspec.structs.replace(FROM_ZERO, autoscale=Autoscale(min=1, max=2)), sgx=SgxOptions(by=Sgx.ADDON)))["sgx"]
    assert pool.tags == {OWNER_TAG: "g/c"}


def test_tags_in_other_letters_are_taken_as_the_same(up, session):
    up(cluster_spec(A, tags={"team": "x"}))
    session.resources.resource_groups.create_or_update("g", {"location": "uksouth", "tags": {"TEAM": "x", OWNER_TAG: "g/c"}})
    up(cluster_spec(A, tags={"Team": "x"}))
    up(cluster_spec(A, tags={"Team": "y"}))
    assert session.resources.resource_groups.get("g").tags == {"TEAM": "y", OWNER_TAG: "g/c"}


def test_a_cluster_with_a_service_principal_is_changed_also_where_its_secret_is_not_kept(up, tmp_path):
    spec = cluster_spec(A, identity=Identity.SERVICE_PRINCIPAL)
    up(spec)
    for path in (tmp_path / "secrets").iterdir():
        path.unlink()
    up(msgspec.structs.replace(spec, tags={"team": "x"}, sgx=SgxOptions(by=Sgx.ADDON)))


@pytest.fixture
def kubenclave(signed_in, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("KUBENCLAVE_ARM_ENDPOINT", signed_in.arm_endpoint)
    monkeypatch.setenv("KUBENCLAVE_CA_FILE", str(signed_in.ca_file))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")

    def run(*words):
        return main(["cluster", *words]), capsys.readouterr()

    return run


def test_status_of_a_cluster_that_is_not_there_ends_as_not_found(kubenclave):
    code, said = kubenclave("status", "--name", "c", "--group", "g")
    assert (code, said.out) == (5, "")
    assert "There is no cluster c in the group g" in said.err


def test_credentials_are_written_to_stdout_where_a_hyphen_is_named(kubenclave, monkeypatch):
    handed = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://c.example:443"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    # No Kubernetes stands behind the cluster here.
    monkeypatch.setattr("kubenclave.cluster.azure.credentials.kubeconfig", lambda *_, **__: json.dumps(handed).encode())
    code, said = kubenclave("credentials", "--name", "c", "--group", "g", "--kubeconfig", "-")
    assert code == 0, said.err
    assert "https://c.example:443" in said.out


def test_a_plan_that_is_refused_is_written_whole_before(kubenclave, tmp_path):
    path = tmp_path / "cluster.json"
    path.write_bytes(msgspec.json.encode(cluster_spec(msgspec.structs.replace(A, mode=Mode.USER))))
    code, said = kubenclave("plan", str(path), "--output", "json")
    result = json.loads(said.out)
    assert code == 3
    assert [each["about"] for each in result["findings"] if each["blocks"]] == ["pools"]
    assert "create" in [step["verb"] for step in result["steps"]]
