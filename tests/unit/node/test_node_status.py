from __future__ import annotations

import pytest

from kubenclave.errors import Refused, Unreachable
from kubenclave.node.node_status import MARK, check_alone, patch_for, view_of

EPC = "sgx.intel.com/epc"
BYTES = 33_554_000


def node(capacity=None, allocatable=None, annotations=None, managers=()):
    return view_of(
        {
            "metadata": {
                "name": "a",
                "uid": "u",
                "resourceVersion": "7",
                "annotations": annotations or {},
                "managedFields": [
                    {"manager": manager, "fieldsV1": {"f:status": {"f:capacity": {f"f:{resource}": {}}}}} for manager, resource in managers
                ],
            },
            "status": {"capacity": capacity or {}, "allocatable": allocatable or {}},
        }
    )


def told(amount=str(BYTES), allocatable=None, **more):
    return node({EPC: amount}, {EPC: amount if allocatable is None else allocatable}, {MARK: str(BYTES)}, **more)


def test_a_node_that_says_nothing_gets_capacity_allocatable_and_the_mark_and_nothing_else():
    assert patch_for(node(), EPC, BYTES) == {
        "metadata": {"annotations": {MARK: str(BYTES)}},
        "status": {"capacity": {EPC: str(BYTES)}, "allocatable": {EPC: str(BYTES)}},
    }


def test_a_node_that_says_it_already_is_left_alone_in_whatever_form_the_server_keeps_the_number():
    assert patch_for(told(), EPC, BYTES) is None
    assert patch_for(told("33554k"), EPC, BYTES) is None


@pytest.mark.parametrize(
    "changed",
    [told("0"), told(allocatable="0"), node({EPC: str(BYTES)}, {EPC: str(BYTES)}), node(annotations={MARK: str(BYTES)}), told("garbage")],
    ids=["zeroed by the kubelet", "allocatable zeroed", "without the mark", "taken out", "no number"],
)
def test_whatever_is_not_as_it_should_be_is_written_again(changed):
    assert patch_for(changed, EPC, BYTES)["status"]["allocatable"] == {EPC: str(BYTES)}


def test_nothing_is_said_of_a_node_that_has_no_epc_and_0_of_one_that_had_some():
    assert patch_for(node(), EPC, 0) is None
    assert patch_for(told(), EPC, 0)["status"]["capacity"] == {EPC: "0"}


@pytest.mark.parametrize("manager", ["nfd-master", "intel_sgx_epchook"])
def test_a_controller_that_sets_the_resource_is_not_fought(manager):
    with pytest.raises(Refused, match=manager) as caught:
        patch_for(told(managers=[(manager, EPC)]), EPC, BYTES)

    assert manager in caught.value.hint


@pytest.mark.parametrize("manager", ["kubelet", "kubenclave-node", "kubectl-patch"])
def test_the_kubelet_the_agent_itself_and_a_persons_hand_are_no_rivals(manager):
    assert patch_for(told("0", managers=[(manager, EPC)]), EPC, BYTES) is not None


def test_a_manager_of_other_resources_is_no_rival():
    assert patch_for(told(managers=[("nfd-master", "example.com/other")]), EPC, BYTES) is None


def test_what_node_feature_discovery_says_it_manages_is_left_to_it():
    listed = {"nfd.node.kubernetes.io/extended-resources": f"example.com/other,{EPC}"}

    with pytest.raises(Refused, match="node feature discovery"):
        patch_for(node(annotations=listed), EPC, BYTES)


@pytest.mark.parametrize("other", ["openenclave.io/sgx_epc_MiB", "kubernetes.azure.com/sgx_epc_mem_in_MiB"])
def test_epc_that_is_offered_under_another_name_is_not_offered_twice(other):
    with pytest.raises(Refused, match=other):
        patch_for(node(allocatable={other: "40"}), EPC, BYTES)
    assert patch_for(node(allocatable={other: "0"}), EPC, BYTES) is not None


def test_claims_are_not_offered_beside_any_of_the_names():
    with pytest.raises(Refused, match=EPC):
        check_alone(told(), "")


def test_something_else_than_a_node_is_an_answer_of_somebody_else():
    with pytest.raises(Unreachable, match="something else than a Node"):
        view_of({"metadata": {"name": 7}})
