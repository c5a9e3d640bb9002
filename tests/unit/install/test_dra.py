from __future__ import annotations

import pytest

from kubenclave.errors import Unreachable
from kubenclave.install.dra import DRIVER, claimable_in, held_in, offered_in
from kubenclave.install.holders import Holder

MIB = 1 << 20


def resource_slice(node="sgx-1", driver=DRIVER, **epc):
    devices = [{"name": name, "capacity": {"epc": {"value": value}}, "allowMultipleAllocations": True} for name, value in epc.items()]
    return {"kind": "ResourceSlice", "metadata": {"name": node}, "spec": {"driver": driver, "nodeName": node, "devices": devices}}


def claim(*users, driver=DRIVER, consumed="10Mi"):
    result = {"request": "epc", "driver": driver, "pool": "sgx-1", "device": "epc-numa0", "consumedCapacity": {"epc": consumed}}
    reserved = [{"resource": "pods", "name": name, "uid": name} for name in users]
    status = {"allocation": {"devices": {"results": [result]}}, "reservedFor": reserved}
    return {"kind": "ResourceClaim", "metadata": {"name": "c", "namespace": "app"}, "spec": {}, "status": status}


def test_a_node_offers_the_sum_of_its_numa_nodes():
    slices = (
        resource_slice(numa0="20Mi", numa1="20Mi"),
        resource_slice("sgx-2", numa0="4096"),
        resource_slice("x", "gpu.example", a="1Gi"),
    )

    assert offered_in(slices) == {"sgx-1": 40 * MIB, "sgx-2": 4096}


def test_one_request_can_have_what_the_largest_device_has():
    slices = (
        resource_slice(numa0="24Mi", numa1="16Mi"),
        resource_slice("sgx-2", numa0="20Mi"),
        resource_slice("x", "gpu.example", a="1Gi"),
    )

    assert claimable_in(slices) == 24 * MIB
    assert claimable_in(()) == 0


def test_a_device_without_epc_counts_nothing():
    bare = {"kind": "ResourceSlice", "spec": {"driver": DRIVER, "nodeName": "n", "devices": [{"name": "provision"}]}}

    assert offered_in((bare, {"kind": "ResourceSlice", "spec": {"driver": DRIVER, "nodeName": "m"}})) == {"n": 0, "m": 0}


def test_a_claim_is_held_by_the_pods_it_is_reserved_for():
    assert list(held_in((claim("a"), claim("b", "c", consumed="4097")))) == [
        Holder(pod="app/a", node="sgx-1", epc_bytes=10 * MIB),
        Holder(pod="app/b, app/c", node="sgx-1", epc_bytes=4097),
    ]


def test_a_claim_of_nobody_of_another_driver_or_without_an_answer_is_not_held():
    waiting = {"kind": "ResourceClaim", "metadata": {"namespace": "app"}, "spec": {}}

    assert list(held_in((claim(), claim("a", driver="gpu.example"), waiting))) == []


def test_an_object_that_is_not_as_the_api_has_it_is_told_in_words():
    with pytest.raises(Unreachable, match="ResourceSlice is not as"):
        offered_in(({"kind": "ResourceSlice", "spec": {"driver": 7}},))
