from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import KubenclaveError, Unreachable
from kubenclave.node._generated.podresources_pb2 import (
    ClaimResource,
    ContainerDevices,
    ContainerResources,
    DynamicResource,
    ListPodResourcesResponse,
    NUMANode,
    PodResources,
    TopologyInfo,
)
from kubenclave.node.holdings import Container, held_claims, held_devices, held_units

UNITS = "openenclave.io/sgx_epc_MiB"
MIB = 1 << 20


def unit(name, *, node=None, resource=UNITS):
    topology = None if node is None else TopologyInfo(nodes=[NUMANode(ID=node)])
    return ContainerDevices(resource_name=resource, device_ids=[name], topology=topology).SerializeToString()


def pods(*devices, claims=()):
    container = ContainerResources(name="main", devices=devices, dynamic_resources=claims)
    return ListPodResourcesResponse(pod_resources=[PodResources(name="enclave", namespace="app", containers=[container])])


MAIN = Container(namespace="app", pod="enclave", name="main")


def test_units_are_counted_by_container_and_numa_node():
    answer = pods(unit("0", node=0), unit("1", node=0), unit("a~", node=1), unit("x", resource="other.example/device"))

    (holding,) = held_units(answer, UNITS, MIB)

    assert holding.container == MAIN
    assert holding.epc_bytes == {"0": 2 * MIB, "1": MIB}


def test_a_unit_that_lies_on_two_nodes_is_written_twice_and_counted_once():
    (holding,) = held_units(pods(unit("0", node=0), unit("0", node=1)), UNITS, MIB)

    assert holding.epc_bytes == {"0": MIB}


def test_units_that_do_not_say_their_node_are_of_an_unknown_one():
    (holding,) = held_units(pods(unit("0"), unit("1")), UNITS, MIB)

    assert holding.epc_bytes == {"unknown": 2 * MIB}


def test_a_container_without_units_holds_nothing():
    assert held_units(pods(unit("x", resource="other.example/device"), unit("x", resource=UNITS + "x")), UNITS, MIB) == ()
    assert held_units(ListPodResourcesResponse(), UNITS, MIB) == ()


def test_of_a_device_by_itself_it_is_not_known_how_much_epc_goes_with_it():
    (holding,) = held_devices(pods(unit("0", resource="sgx.intel.com/enclave")), "sgx.intel.com/enclave")

    assert holding.epc_bytes is None


def test_claims_are_looked_up_by_claim_device_and_share_and_other_drivers_do_not_count():
    def claim(driver, share):
        resource = ClaimResource(driver_name=driver, pool_name="n1", device_name="epc-numa0", share_id=share)
        return DynamicResource(claim_namespace="app", claim_name="epc", claim_resources=[resource])

    known = {("app", "epc", "epc-numa0", "s1"): ("0", 4096), ("app", "epc", "epc-numa0", "s2"): ("0", 8192)}
    answer = pods(claims=[claim("epc.example", "s1"), claim("epc.example", "s2"), claim("epc.example", "s3"), claim("other.example", "s1")])

    (holding,) = held_claims(answer, "epc.example", known.get)

    assert holding.epc_bytes == {"0": 12_288}


@pytest.mark.parametrize(
    "device",
    [
        ContainerDevices(resource_name=UNITS).SerializeToString(),
        ContainerDevices(resource_name=UNITS).SerializeToString() + b"\x1a\x00",
        ContainerDevices(resource_name=UNITS, device_ids=["0", "1"]).SerializeToString(),
        unit("0") + b"\x1a\x7f",
    ],
)
def test_a_list_of_another_shape_is_refused_rather_than_counted_wrongly(device):
    with pytest.raises(Unreachable, match="the kubelet's list of pods"):
        held_units(pods(device), UNITS, MIB)


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_bytes_of_any_kind_are_counted_or_refused(tails):
    prefix = ContainerDevices(resource_name=UNITS).SerializeToString()
    with contextlib.suppress(KubenclaveError):
        found = held_units(pods(*[prefix + tail for tail in tails]), UNITS, MIB)
        assert sum(sum(holding.epc_bytes.values()) for holding in found) <= len(tails) * MIB
