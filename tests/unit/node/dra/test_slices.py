from __future__ import annotations

import copy

import pytest

from kubenclave.errors import Refused, Unreachable
from kubenclave.node.dialect import DRIVER
from kubenclave.node.dra.slices import check_stored, devices_of, plan, read_slices
from kubenclave.node.inventory import Inventory, NumaEpc, Source
from kubenclave.node.node_status import view_of
from kubenclave.node.processor import SgxFeatures

MIB = 1 << 20
NODE = view_of({"metadata": {"name": "a", "uid": "uid-of-a", "resourceVersion": "7"}})
OWN = f"a-{DRIVER}"


def inventory(*numa, provision="/dev/sgx_provision"):
    return Inventory(
        numa=tuple(NumaEpc(numa_node=number, epc_bytes=size) for number, size in numa),
        source=Source.SYSFS,
        features=SgxFeatures(sgx1=True, sgx2=True, flc=True),
        enclave_device="/dev/sgx_enclave",
        provision_device=provision,
        simulated=True,
    )


DEVICES = devices_of(inventory((0, 24 * MIB), (1, 16 * MIB)), provision=False)


def stored(document, **metadata):
    """What the API server has after a document was written."""
    kept = copy.deepcopy(document)
    kept["metadata"] |= {"resourceVersion": "9"} | metadata
    return kept


def existing(*documents):
    return read_slices({"metadata": {"resourceVersion": "10"}, "items": list(documents)}).items


def test_each_numa_node_is_a_device_that_claims_share_by_whole_pages():
    first, second = DEVICES

    assert (first["name"], second["name"]) == ("epc-numa0", "epc-numa1")
    assert first["allowMultipleAllocations"]
    assert first["capacity"]["epc"]["value"] == str(24 * MIB)
    assert first["capacity"]["epc"]["requestPolicy"] == {"default": str(MIB), "validRange": {"min": "4096", "step": "4096"}}
    assert second["attributes"] == {
        "kind": {"string": "epc"},
        "numaNode": {"int": 1},
        "flc": {"bool": True},
        "sgx2": {"bool": True},
        "simulated": {"bool": True},
    }


def test_a_part_of_a_page_and_a_numa_node_without_epc_are_not_offered():
    (device,) = devices_of(inventory((0, 3 * 4096 + 1), (1, 4095)), provision=False)

    assert device["capacity"]["epc"]["value"] == device["capacity"]["epc"]["requestPolicy"]["default"] == str(3 * 4096)


def test_epc_of_which_no_numa_node_is_known_says_none():
    (device,) = devices_of(inventory((None, MIB)), provision=False)

    assert device["name"] == "epc"
    assert "numaNode" not in device["attributes"]


def test_the_provisioning_device_is_offered_only_where_asked_for_and_there():
    assert [device["name"] for device in devices_of(inventory((0, MIB)), provision=True)] == ["epc-numa0", "provision"]
    assert [device["name"] for device in devices_of(inventory((0, MIB), provision=None), provision=True)] == ["epc-numa0"]


def test_more_numa_nodes_than_a_slice_takes_are_refused_with_the_number():
    with pytest.raises(Refused, match="129 NUMA nodes"):
        devices_of(inventory(*((number, MIB) for number in range(129))), provision=False)


def test_the_first_slice_belongs_to_its_node_and_starts_its_pool():
    created = plan([], NODE, DEVICES).create

    assert created["metadata"]["name"] == OWN
    assert [(owner["kind"], owner["uid"]) for owner in created["metadata"]["ownerReferences"]] == [("Node", "uid-of-a")]
    assert created["spec"]["pool"] == {"name": "a", "generation": 1, "resourceSliceCount": 1}
    assert (created["spec"]["driver"], created["spec"]["nodeName"]) == (DRIVER, "a")


def test_a_slice_as_it_should_be_is_left_alone_however_the_server_writes_its_numbers():
    kept = stored(plan([], NODE, DEVICES).create)
    kept["spec"]["devices"][0]["capacity"]["epc"]["value"] = "24Mi"
    kept["spec"]["devices"][0]["capacity"]["epc"]["requestPolicy"] = {"default": "1Mi", "validRange": {"min": "4Ki", "step": "4Ki"}}

    left = plan(existing(kept), NODE, DEVICES)

    assert (left.create, left.replace, left.delete) == (None, None, ())


def test_a_changed_inventory_replaces_the_slice_in_the_next_generation_of_the_pool():
    kept = stored(plan([], NODE, DEVICES).create)

    replaced = plan(existing(kept), NODE, DEVICES[:1]).replace

    assert replaced["spec"]["pool"]["generation"] == 2
    assert replaced["metadata"]["resourceVersion"] == "9"


def test_the_slice_of_a_node_that_was_made_anew_is_given_to_the_new_one():
    kept = stored(plan([], NODE, DEVICES).create)
    anew = view_of({"metadata": {"name": "a", "uid": "another", "resourceVersion": "8"}})

    assert plan(existing(kept), anew, DEVICES).replace["metadata"]["ownerReferences"][0]["uid"] == "another"


def test_other_slices_of_the_driver_on_this_node_go_and_count_for_the_generation():
    stray = stored(plan([], NODE, DEVICES).create, name="stray")
    stray["spec"]["pool"]["generation"] = 5

    wanted = plan(existing(stray), NODE, DEVICES)

    assert wanted.delete == ("stray",)
    assert wanted.create["spec"]["pool"]["generation"] == 6


def test_without_devices_no_slice_is_left():
    kept = stored(plan([], NODE, DEVICES).create)

    left = plan(existing(kept), NODE, ())

    assert (left.create, left.replace, left.delete) == (None, None, (OWN,))


@pytest.mark.parametrize("field", ["allowMultipleAllocations", "capacity"])
def test_a_cluster_that_drops_what_sharing_needs_is_named(field):
    kept = stored(plan([], NODE, DEVICES).create)
    del kept["spec"]["devices"][0][field]
    (found,) = existing(kept)

    with pytest.raises(Refused, match="claims cannot share EPC in this cluster") as caught:
        check_stored(found, DEVICES)
    assert "1.36" in caught.value.hint


def test_something_else_than_a_list_of_slices_is_an_answer_of_somebody_else():
    with pytest.raises(Unreachable):
        read_slices({"metadata": {}, "items": [{"spec": 1}]})
