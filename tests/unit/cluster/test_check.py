"""The check says who offers EPC, on which nodes, and otherwise the lines that make it so."""

from __future__ import annotations

from kubenclave.cluster.check import check
from kubenclave.kube import Node, Pod

RESOURCES = {"openenclave.io/sgx_epc_MiB": 1 << 20, "sgx.intel.com/epc": 1}
LABEL = ("tee", "sgx")


def node(name, size="Standard_DC2s_v3", allocatable=None, **labels):
    labels = {"node.kubernetes.io/instance-type": size, **labels}
    return Node(name=name, resource_version="1", ready=True, labels=labels, taints=(), capacity={}, allocatable=allocatable or {})


def pod(phase="Running", **labels):
    labels = {name.replace("_", "."): value for name, value in labels.items()}
    return Pod(
        name="p",
        namespace="n",
        uid="u",
        labels=labels,
        created_at=None,
        phase=phase,
        node="",
        unschedulable="",
        reason="",
        message="",
        containers=(),
    )


def checked(nodes, pods=()):
    return check(nodes, pods, resources=RESOURCES, label=LABEL, context="c")


def test_a_node_that_offers_epc_is_told_in_bytes_and_by_what():
    found = checked(
        [node("n", allocatable={"openenclave.io/sgx_epc_MiB": 8}), node("plain", size="Standard_D2s_v5")], [pod(app="sgx-plugin")]
    )
    assert [(each.name, each.epc_bytes, each.offered_as) for each in found.nodes] == [("n", 8 << 20, "openenclave.io/sgx_epc_MiB")]
    assert found.plugins == ("the AKS add-on: 1 of 1 pods run",)
    assert found.findings == ()


def test_without_a_plugin_the_exact_lines_are_given():
    (finding,) = checked([node("one"), node("two", tee="sgx")]).findings
    assert finding.blocks
    assert "kubenclave node prepare one --context c; kubenclave node install --context c" in finding.fix
    assert "prepare two" not in finding.fix


def test_a_plugin_without_epc_on_a_node_names_the_node():
    found = checked(
        [node("one", allocatable={"sgx.intel.com/epc": 4096}), node("two")],
        [pod(app="intel-sgx-plugin"), pod("Pending", app="intel-sgx-plugin")],
    )
    assert [each.about for each in found.findings] == ["node two"]
    assert found.plugins == ("Intel's device plugin: 1 of 2 pods run",)


def test_a_cluster_whose_sgx_pool_has_no_node_now_is_no_failure():
    (finding,) = checked([node("plain", size="Standard_D2s_v5")]).findings
    assert not finding.blocks
    assert "scales from zero" in finding.fix


def test_a_node_is_known_by_its_size_its_label_or_what_it_offers():
    nodes = [
        node("size"),
        node("label", size="", tee="sgx"),
        node("offers", size="x", allocatable={"sgx.intel.com/epc": 1}),
        node("tdx", size="Standard_DC2es_v6"),
    ]
    assert [each.name for each in checked(nodes).nodes] == ["size", "label", "offers"]
