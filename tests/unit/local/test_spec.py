from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import HostUnfit, UsageError
from kubenclave.local.spec import MAX_NODES, ClusterSpec, parse_epc, parse_nodes, plan_cluster

FORTY_MIB = 40 << 20


def plan(name: str = "kubenclave", *, sgx: int = 1, plain: int = 1, taken: tuple[str, ...] = ()) -> ClusterSpec:
    return plan_cluster(name, sgx_nodes=sgx, plain_nodes=plain, epc_bytes=(FORTY_MIB,), taken=[IPv4Network(text) for text in taken])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("40Mi", (FORTY_MIB,)),
        ("128Gi,128Gi", (128 << 30, 128 << 30)),
        ("4Ki", (4096,)),
        ("8192", (8192,)),
        (" 1Gi , 2Gi", (1 << 30, 2 << 30)),
    ],
)
def test_epc_sizes_are_read_exactly(text, expected):
    assert parse_epc(text) == expected


@pytest.mark.parametrize("text", ["", "40", "40MB", "-1Mi", "0", "1.5Mi", "40Mi,", "2048Gi", "5000", ",".join(["4Ki"] * 9), "4\u0660Mi"])
def test_an_epc_size_that_no_machine_has_is_refused(text):
    with pytest.raises(UsageError):
        parse_epc(text)


@given(st.text(max_size=30))
def test_any_text_is_an_epc_size_or_a_usage_error(text):
    try:
        sizes = parse_epc(text)
    except UsageError:
        return
    assert all(size > 0 and size % 4096 == 0 for size in sizes)


@pytest.mark.parametrize(
    ("text", "expected"), [("2", (1, 1)), ("1", (1, 0)), ("3", (2, 1)), ("sgx=2,plain=3", (2, 3)), ("sgx=1", (1, 0)), ("plain=2", (0, 2))]
)
def test_node_counts_are_read_in_both_forms(text, expected):
    assert parse_nodes(text) == expected


@pytest.mark.parametrize("text", ["", "two", "sgx", "sgx=", "sgx=-1", "gpu=1", "1000"])
def test_node_counts_that_mean_nothing_are_refused(text):
    with pytest.raises(UsageError):
        counts = parse_nodes(text)
        plan_cluster("x", sgx_nodes=counts[0], plain_nodes=counts[1], epc_bytes=(FORTY_MIB,), taken=[])


def test_only_sgx_nodes_have_epc():
    spec = plan(sgx=2, plain=1)
    assert [(node.name, node.epc_bytes) for node in spec.nodes] == [
        ("sgx-1", (FORTY_MIB,)),
        ("sgx-2", (FORTY_MIB,)),
        ("plain-1", ()),
    ]


def test_every_address_and_network_of_a_cluster_is_its_own():
    spec = plan(sgx=MAX_NODES, plain=0)
    networks = [spec.node_network, *(IPv4Network(node.pod_network) for node in spec.nodes)]
    assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[i + 1 :])
    addresses = [spec.api_address, spec.host_address, *(node.address for node in spec.nodes)]
    assert len(set(addresses)) == len(addresses)


def test_a_range_that_is_in_use_is_passed_over():
    assert plan().block == 0
    assert plan(taken=("10.213.3.0/24",)).block == 1
    assert plan(taken=("10.213.0.0/20", "10.213.16.1/32")).block == 2


def test_a_route_over_the_whole_range_is_refused_with_what_to_do():
    with pytest.raises(HostUnfit) as caught:
        plan(taken=("10.0.0.0/8",))
    assert "10.213.0.0/16" in caught.value.what
    assert "down" in caught.value.hint


@pytest.mark.parametrize("count", [0, MAX_NODES + 1])
def test_a_cluster_of_no_node_or_too_many_is_refused(count):
    with pytest.raises(UsageError):
        plan(sgx=count, plain=0)


def test_the_host_interface_is_found_by_the_clusters_name_alone():
    assert plan("one").host_interface == plan("one", taken=("10.213.0.0/20",)).host_interface
    assert plan("one").host_interface != plan("two").host_interface
    assert len(plan("a" * 20).host_interface) <= 15
