from __future__ import annotations

import pytest

from kubenclave.errors import Refused
from kubenclave.kube import Node, Taint
from kubenclave.kube.preparing import Preparation, preparation

LABEL = ("tee", "sgx")
OURS = Taint(key="ours", value="true", effect="NoSchedule")
OTHER = Taint(key="other", value="x", effect="NoSchedule")
HARDER = Taint(key="other", value="x", effect="NoExecute")
STRANGE = Taint(key="strange", value="", effect="NoSchedule")


def node(*taints, labels=None):
    return Node(name="n", resource_version="1", ready=True, labels=labels or {}, taints=taints, capacity={}, allocatable={})


def prepared(the_node):
    return preparation(the_node, LABEL, OURS, ["ours", "other"])


def test_a_bare_node_lacks_both():
    assert prepared(node()) == Preparation(labels={"tee": "sgx"}, taints=(OURS,), words=("label tee=sgx", "taint ours=true:NoSchedule"))


def test_the_taint_of_another_kind_is_exchanged_and_strange_ones_stay():
    assert prepared(node(OTHER, STRANGE, labels={"tee": "sgx"})) == Preparation(
        taints=(STRANGE, OURS), words=("taint ours=true:NoSchedule", "no longer taint other=x:NoSchedule")
    )


def test_one_beside_its_own_is_taken_away():
    assert prepared(node(OURS, OTHER, labels={"tee": "sgx"})) == Preparation(taints=(OURS,), words=("no longer taint other=x:NoSchedule",))


@pytest.mark.parametrize("taints", [(OURS,), (OURS, STRANGE), (OURS, HARDER), (Taint(key="ours", value="1", effect="NoSchedule"),)])
def test_a_node_that_has_both_is_left_as_it_is(taints):
    assert prepared(node(*taints, labels={"tee": "sgx"})) == Preparation()


def test_a_label_with_another_value_is_not_overwritten():
    with pytest.raises(Refused, match="has the label tee=tdx, not sgx"):
        prepared(node(labels={"tee": "tdx"}))
