from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kubenclave.errors import HostUnfit, Refused
from kubenclave.node._generated.deviceplugin_pb2 import ContainerAllocateRequest, Device, ListAndWatchResponse, NUMANode, TopologyInfo
from kubenclave.node.dialect import MIB, dialect_named
from kubenclave.node.inventory import Inventory, NumaEpc, Source
from kubenclave.node.offer import MAX_MESSAGE_BYTES, count_offer, make_offer, max_units, named_units, no_offer, unit_id
from kubenclave.node.processor import SgxFeatures

OPENENCLAVE = dialect_named("openenclave")


def inventory(*epc_bytes, simulated=False):
    numa = tuple(NumaEpc(numa_node=node, epc_bytes=size) for node, size in enumerate(epc_bytes))
    return Inventory(
        numa=numa,
        source=Source.SYSFS,
        features=SgxFeatures(sgx1=True, sgx2=False, flc=True),
        enclave_device="/dev/sgx_enclave",
        provision_device=None,
        simulated=simulated,
    )


def devices_of(offer):
    return ListAndWatchResponse.FromString(offer.message).devices


def nodes_of(device):
    return [node.ID for node in device.topology.nodes]


def test_forty_mebibytes_are_forty_healthy_units_without_topology():
    offer = make_offer(inventory(40 * MIB), OPENENCLAVE)

    assert (offer.resource, offer.units) == ("openenclave.io/sgx_epc_MiB", 40)
    assert [device.ID for device in devices_of(offer)] == [unit_id(unit) for unit in range(40)]
    assert all(device.health == "Healthy" and not device.HasField("topology") for device in devices_of(offer))


def test_the_sum_over_the_numa_nodes_is_rounded_down_not_each_node():
    assert make_offer(inventory(MIB + MIB // 2, MIB + MIB // 2), OPENENCLAVE).units == 3
    assert make_offer(inventory(2 * MIB - 1), OPENENCLAVE).units == 1


def test_less_epc_than_one_unit_is_unfit():
    with pytest.raises(HostUnfit, match="1048575 bytes of EPC, less than one unit"):
        make_offer(inventory(MIB - 1), OPENENCLAVE)


def test_units_say_on_which_numa_node_they_lie_and_one_across_the_border_says_both():
    offer = make_offer(inventory(2 * MIB + 1, 0, 2 * MIB - 1), OPENENCLAVE)

    assert offer.topology
    assert [nodes_of(device) for device in devices_of(offer)] == [[0], [0], [0, 2], [2]]


def test_two_hundred_and_fifty_six_gibibytes_fit_into_one_message_of_the_measured_size():
    offer = make_offer(inventory(256 * 1024 * MIB), OPENENCLAVE)

    assert offer.units == 262_144
    assert len(offer.message) == 4_190_080
    assert len({device.ID for device in devices_of(offer)}) == 262_144


def test_topology_is_left_out_altogether_where_the_list_would_not_fit_with_it():
    offer = make_offer(inventory(128 * 1024 * MIB, 128 * 1024 * MIB), OPENENCLAVE)

    assert not offer.topology
    assert len(offer.message) == 4_190_080
    assert not any(device.HasField("topology") for device in devices_of(offer))


def test_the_largest_list_that_fits_is_offered_and_one_unit_more_is_refused_with_the_numbers():
    assert max_units() == 262_408
    assert len(make_offer(inventory(max_units() * MIB), OPENENCLAVE).message) == MAX_MESSAGE_BYTES

    with pytest.raises(Refused, match=r"262409 units .* 4194320 bytes; the kubelet takes at most 4194304") as caught:
        make_offer(inventory((max_units() + 1) * MIB), OPENENCLAVE)
    assert "262408" in caught.value.hint


def test_an_absurd_amount_of_epc_is_refused_without_building_a_list():
    with pytest.raises(Refused, match="17592186044416"):
        make_offer(inventory(2**64 - 1, 1), OPENENCLAVE)


def test_taking_everything_back_is_the_empty_list():
    offer = no_offer(OPENENCLAVE.resource, simulated=True)

    assert (offer.units, offer.simulated) == (0, True)
    assert len(devices_of(offer)) == 0


def test_a_device_that_can_be_shared_is_offered_in_a_number_of_units():
    offer = count_offer("sgx.intel.com/enclave", 110, simulated=True)

    assert (offer.resource, offer.units, offer.topology, offer.simulated) == ("sgx.intel.com/enclave", 110, False, True)
    assert [device.ID for device in devices_of(offer)] == [unit_id(unit) for unit in range(110)]


def test_epc_of_which_no_numa_node_is_known_is_offered_without_topology():
    whole = replace(inventory(3 * MIB), numa=(NumaEpc(numa_node=None, epc_bytes=3 * MIB),))

    assert [nodes_of(device) for device in devices_of(make_offer(whole, OPENENCLAVE))] == [[], [], []]


def test_an_offer_carries_the_mark_of_a_simulated_host():
    assert make_offer(inventory(MIB, simulated=True), OPENENCLAVE).simulated


@given(st.lists(st.integers(min_value=0, max_value=100 * MIB), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) >= MIB))
def test_the_message_is_exactly_what_protobuf_makes_of_the_same_units(sizes):
    offer = make_offer(inventory(*sizes), OPENENCLAVE)

    expected = ListAndWatchResponse()
    for unit in range(sum(sizes) // MIB):
        nodes, start = [], 0
        for node, size in enumerate(sizes):
            if size and start < (unit + 1) * MIB and start + size > unit * MIB:
                nodes.append(node)
            start += size
        topology = TopologyInfo(nodes=[NUMANode(ID=node) for node in nodes]) if len(sizes) > 1 else None
        expected.devices.append(Device(ID=unit_id(unit), health="Healthy", topology=topology))
    assert offer.message == expected.SerializeToString()


@given(st.integers(min_value=0, max_value=64 + 64**2 + 64**3 + 64**4 - 1))
def test_an_identifier_is_the_shortest_still_free(unit):
    name = unit_id(unit)

    shorter = sum(64**length for length in range(1, len(name)))
    assert shorter <= unit < shorter + 64 ** len(name)
    assert re.fullmatch(r"[0-9A-Z_a-z~]{1,4}", name)


def test_identifiers_are_unique_and_sort_as_their_units():
    names = [unit_id(unit) for unit in range(70_000)]

    assert len(set(names)) == len(names)
    assert names == sorted(names, key=lambda name: (len(name), name))


def asking(*containers):
    return [ContainerAllocateRequest(devices_ids=names) for names in containers]


@given(st.integers(min_value=1, max_value=300_000), st.integers(min_value=0, max_value=400_000))
def test_an_identifier_names_a_unit_exactly_when_its_number_is_below_their_count(units, unit):
    assert (named_units(asking([unit_id(unit)]), units) is not None) == (unit < units)


# Line feeds and control characters too: on the wire they are what separates the names.
NAMES = st.text(alphabet=st.one_of(st.sampled_from("0Zz~\n\x01\x02\x03"), st.characters(codec="utf-8")), max_size=5)


@example([["\n\x01"]], 5000)
@example([["0\n\x01"], ["0"]], 5000)
@given(st.lists(st.lists(NAMES, max_size=3), max_size=3), st.integers(min_value=0, max_value=5000))
def test_other_text_names_no_unit(containers, units):
    known = {unit_id(unit) for unit in range(units)}
    asked = [name for names in containers for name in names]

    found = named_units(asking(*containers), units)

    assert (found is not None) == known.issuperset(asked)
    if found is not None:
        assert (len(found), len(set(found))) == (len(asked), len(set(asked)))
