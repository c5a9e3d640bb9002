from __future__ import annotations

import pytest

from kubenclave.errors import NotFound, Refused, UsageError
from kubenclave.kube import Node
from kubenclave.workload import choose, dialect_for, dialect_of, offers_of

MIB = 1 << 20


def node(name, allocatable=None, capacity=None):
    amounts = allocatable or {}
    return Node(
        name=name,
        resource_version="1",
        ready=True,
        labels={},
        taints=(),
        capacity=capacity if capacity is not None else amounts,
        allocatable=amounts,
    )


OE_40 = node("sgx-1", {"cpu": 2, "openenclave.io/sgx_epc_MiB": 40})
OE_20 = node("sgx-2", {"openenclave.io/sgx_epc_MiB": 20})
INTEL_30 = node("sgx-3", {"sgx.intel.com/epc": 30 * MIB})
PLAIN = node("plain-1", {"cpu": 2})


def test_the_only_dialect_offered_is_chosen_with_the_number_of_nodes_as_reason():
    choice = choose([PLAIN, OE_20, OE_40], 10 * MIB)

    assert choice.dialect is dialect_of("openenclave")
    assert choice.reason == "openenclave.io/sgx_epc_MiB is what the cluster offers, on 2 nodes"


def test_the_offer_names_the_largest_node_in_bytes():
    (offer,) = offers_of([PLAIN, OE_20, OE_40])

    assert (offer.nodes, offer.largest_node, offer.largest_bytes) == (2, "sgx-1", 40 * MIB)


def test_among_several_the_preferred_one_is_chosen_and_the_reason_names_the_others():
    choice = choose([OE_40, INTEL_30], 10 * MIB)

    assert choice.dialect is dialect_of("intel")
    assert "comes before openenclave" in choice.reason


def test_a_less_preferred_dialect_is_chosen_where_only_its_nodes_are_large_enough():
    assert choose([OE_40, INTEL_30], 35 * MIB).dialect is dialect_of("openenclave")


def test_a_wanted_dialect_is_taken_over_a_preferred_one():
    assert choose([OE_40, INTEL_30], 10 * MIB, "openenclave").dialect is dialect_of("openenclave")


def test_more_than_the_largest_node_has_is_refused_with_both_numbers():
    with pytest.raises(Refused, match="41 MiB of EPC are asked for, but the largest node, sgx-1, has 40 MiB"):
        choose([PLAIN, OE_20, OE_40], 41 * MIB)


def test_rounding_up_to_a_unit_counts_against_the_node():
    assert choose([OE_40], 40 * MIB)
    with pytest.raises(Refused, match="41943041 bytes of EPC are asked for"):
        choose([OE_40], 40 * MIB + 1)
    with pytest.raises(Refused):
        choose([INTEL_30], 30 * MIB + 1)


def test_a_cluster_without_epc_says_what_to_prepare_and_install():
    with pytest.raises(NotFound) as raised:
        choose([PLAIN], MIB)

    assert "kubenclave node prepare" in raised.value.hint
    assert "node agent" in raised.value.hint


def test_a_node_whose_agent_is_down_is_named():
    silent = node("sgx-1", {"openenclave.io/sgx_epc_MiB": 0}, {"openenclave.io/sgx_epc_MiB": 40})

    with pytest.raises(NotFound, match=r"node sgx-1 knows openenclave\.io/sgx_epc_MiB but has none to give now"):
        choose([silent, PLAIN], MIB)


def test_a_wanted_dialect_that_nobody_offers_is_not_found_and_the_offered_ones_are_named():
    with pytest.raises(NotFound, match=r"no node offers sgx.intel.com/epc; the cluster offers openenclave \(openenclave.io/sgx_epc_MiB\)"):
        choose([OE_40], MIB, "intel")


def test_an_unknown_dialect_is_a_usage_error():
    with pytest.raises(UsageError):
        choose([OE_40], MIB, "sgx")


def test_a_node_is_prepared_for_what_it_offers_and_else_for_the_guides_dialect():
    assert dialect_for(INTEL_30) is dialect_of("intel")
    assert dialect_for(PLAIN) is dialect_of("openenclave")
