"""Which local Kubernetes stands behind a managed cluster, and what its nodes bear."""

from __future__ import annotations

import pytest

from kubenclave.local.azure import backing
from kubenclave.local.azure.state import Cluster, Kubernetes

PLAIN = {"name": "system", "count": 1, "vmSize": "Standard_D2s_v5", "mode": "System"}
SGX = {
    "name": "sgx",
    "count": 1,
    "vmSize": "Standard_DC2s_v3",
    "mode": "User",
    "nodeLabels": {"tee": "sgx"},
    "nodeTaints": ["sgx.intel.com/epc=true:NoSchedule"],
}


def behind(*pools):
    return backing.backing(Cluster(group="g", name="c", body={"properties": {"agentPoolProfiles": [*pools]}}))


def test_a_pool_of_a_size_with_sgx_becomes_sgx_nodes_with_that_sizes_epc():
    found = behind(PLAIN, SGX)
    assert (found.sgx_nodes, found.plain_nodes, found.epc_bytes) == (1, 1, 8 << 30)


def test_no_more_than_two_nodes_of_a_kind_are_brought_up():
    found = behind({**PLAIN, "count": 5}, {**SGX, "count": 1}, {**SGX, "name": "more", "count": 9})
    assert (found.sgx_nodes, found.plain_nodes) == (2, 2)
    assert [mark.labels["agentpool"] for mark in found.marks] == ["sgx", "more", "system", "system"]


@pytest.mark.parametrize(("pools", "nodes"), [([{**SGX, "count": 0}], (0, 1)), ([{**SGX, "count": 1}], (1, 0))])
def test_a_cluster_without_nodes_still_has_one_to_carry_its_api_server(pools, nodes):
    assert (behind(*pools).sgx_nodes, behind(*pools).plain_nodes) == nodes


def test_nodes_bear_their_pools_labels_and_taints():
    plain, sgx = sorted(behind(PLAIN, SGX).marks, key=lambda mark: mark.node)
    assert (plain.node, plain.labels["agentpool"], plain.labels["kubernetes.azure.com/mode"]) == ("plain-1", "system", "system")
    assert sgx.labels["tee"] == "sgx"
    assert sgx.labels["node.kubernetes.io/instance-type"] == "Standard_DC2s_v3"
    assert sgx.taints == ("sgx.intel.com/epc=true:NoSchedule",)


def test_a_changed_label_is_a_change_of_what_is_wanted():
    before, after = behind(PLAIN, SGX), behind(PLAIN, {**SGX, "nodeLabels": {"tee": "other"}})
    have = Kubernetes(
        sgx_nodes=before.sgx_nodes, plain_nodes=before.plain_nodes, epc_bytes=before.epc_bytes, marks=before.marks_text, phase="ready"
    )
    assert backing.is_as(have, before)
    assert not backing.is_as(have, after)
