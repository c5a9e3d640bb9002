from __future__ import annotations

import pytest

from kubenclave.install.holders import Holder, holders
from kubenclave.install.limits import largest, largest_in, renewed, stale
from kubenclave.install.objects import Resource
from kubenclave.kube import Node, Pod

MIB = 1 << 20
RESOURCES = (
    Resource(dialect="openenclave", name="openenclave.io/sgx_epc_MiB", unit_bytes=MIB),
    Resource(dialect="intel", name="sgx.intel.com/epc", unit_bytes=1),
)


def pod(name, requests, *, node="sgx-1", phase="Running"):
    return Pod(
        name=name,
        namespace="default",
        uid=name,
        labels={},
        created_at=None,
        phase=phase,
        node=node,
        unschedulable="",
        reason="",
        message="",
        containers=(),
        requests=requests,
    )


def node(name, **allocatable):
    named = {resource.name: allocatable[resource.dialect] for resource in RESOURCES if resource.dialect in allocatable}
    return Node(name=name, resource_version="1", ready=True, labels={}, taints=(), capacity=named, allocatable=named)


def test_a_pod_holds_what_it_asked_for_in_bytes_whatever_the_dialect():
    found = holders([pod("b", {"openenclave.io/sgx_epc_MiB": 10, "cpu": 1}), pod("a", {"sgx.intel.com/epc": 4096})], RESOURCES, ())

    assert found == (
        Holder(pod="default/a", node="sgx-1", epc_bytes=4096),
        Holder(pod="default/b", node="sgx-1", epc_bytes=10 * MIB),
    )


def test_a_pod_that_has_ended_or_waits_or_asks_for_none_holds_nothing():
    asking = {"openenclave.io/sgx_epc_MiB": 10}

    assert holders([pod("a", asking, phase="Succeeded"), pod("b", asking, node=""), pod("c", {"cpu": 1})], RESOURCES, ()) == ()


def test_what_is_held_by_claims_is_listed_with_the_rest():
    claimed = Holder(pod="default/c", node="sgx-0", epc_bytes=MIB)

    assert holders([pod("a", {"openenclave.io/sgx_epc_MiB": 1})], RESOURCES, (claimed,)) == (
        claimed,
        Holder(pod="default/a", node="sgx-1", epc_bytes=MIB),
    )


def test_the_limits_are_the_largest_node_of_each_dialect_that_is_offered():
    assert largest([node("a", openenclave=40), node("b", openenclave=90), node("c")], RESOURCES, 0) == {"openenclave": 90}
    assert largest([node("a", openenclave=0), node("b")], RESOURCES, 4096) == {"claims": 4096}
    assert largest([], RESOURCES, 0) == {}


@pytest.mark.parametrize(
    ("known", "offered", "words"),
    [
        ({"openenclave": 40}, {"openenclave": 80}, "(openenclave 40, the nodes offer 80)"),
        ({"openenclave": 40}, {"openenclave": 40, "claims": 4096}, "(claims none, the nodes offer 4096)"),
        ({"intel": 1, "azure": 2}, {"intel": 3, "azure": 4}, "(intel 1, the nodes offer 3; azure 2, the nodes offer 4)"),
    ],
)
def test_limits_of_another_time_are_told_with_both_numbers(known, offered, words):
    assert stale(known, offered) == f"the admission rules judge by limits of another time {words}"


@pytest.mark.parametrize(
    ("known", "offered"),
    [({"azure": 40}, {"azure": 40}), ({"azure": 80}, {"azure": 40}), ({}, {"azure": 40}), ({"azure": 40}, {}), ({}, {})],
)
def test_limits_that_hold_or_judge_nobody_are_not_told(known, offered):
    assert stale(known, offered) == ""


def test_the_rules_keep_the_most_of_each_dialect():
    assert renewed({"azure": 90, "intel": 1}, {"azure": 40, "claims": 4096}) == {"azure": 90, "intel": 1, "claims": 4096}


def policy(expression, name="kubenclave-epc-offered", variable="largest"):
    return {
        "metadata": {"name": name},
        "spec": {"variables": [{"name": "other", "expression": "x"}, {"name": variable, "expression": expression}]},
    }


def test_the_limits_are_read_back_from_the_rule():
    assert largest_in([policy("{}", name="other"), policy('{"openenclave": 40}')]) == {"openenclave": 40}


@pytest.mark.parametrize("spoilt", ["", "x", "[1]", '{"openenclave": "plenty"}', "{" * 10_000])
def test_a_rule_that_somebody_changed_has_no_limits(spoilt):
    assert largest_in([policy(spoilt)]) == {}
    assert largest_in([policy("{}", variable="other"), {"metadata": {"name": "kubenclave-epc-offered"}, "spec": {}}]) == {}
