from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import HostUnfit, Refused
from kubenclave.node.inventory import DeviceKind, HostReading, NumaEpc, Source, keep_back, take_inventory
from kubenclave.node.processor import EpcSection, SgxFeatures, SgxProcessor

HERE, ABSENT = DeviceKind.CHARACTER_DEVICE, DeviceKind.ABSENT
MIB = 1024 * 1024
ICE_LAKE = SgxProcessor(
    features=SgxFeatures(sgx1=True, sgx2=True, flc=True), sections=(EpcSection(base=0x240000000, size_bytes=0x200000000),)
)
WITHOUT_SGX = SgxProcessor(features=SgxFeatures(sgx1=False, sgx2=False, flc=False), sections=())


def reading(*texts, enclave=(HERE, ABSENT), provision=(HERE, ABSENT), processor=None, numa_nodes=(0,), simulated=False):
    return HostReading(
        epc_texts=tuple(texts),
        numa_nodes=numa_nodes,
        enclave=enclave,
        provision=provision,
        processor=processor,
        simulated=simulated,
    )


def test_epc_is_counted_by_numa_node_in_rising_order():
    inventory = take_inventory(reading((1, b"2097152\n"), (0, b"1048576\n")))

    assert inventory.numa == (NumaEpc(numa_node=0, epc_bytes=1048576), NumaEpc(numa_node=1, epc_bytes=2097152))
    assert inventory.epc_bytes == 3145728


def test_a_simulated_host_stays_marked_as_one():
    assert take_inventory(reading((0, b"1048576\n"), simulated=True)).simulated
    assert not take_inventory(reading((0, b"1048576\n"))).simulated


def test_a_host_without_the_sysfs_files_is_unfit_and_told_why():
    with pytest.raises(HostUnfit, match="sgx_total_bytes is not there"):
        take_inventory(reading())


def test_a_host_that_shows_no_epc_at_all_is_unfit():
    with pytest.raises(HostUnfit, match="0 bytes"):
        take_inventory(reading((0, b"0\n"), (1, b"0\n")))


@pytest.mark.parametrize("device", [DeviceKind.ABSENT, DeviceKind.OTHER])
def test_epc_without_a_device_to_open_enclaves_with_is_unfit(device):
    with pytest.raises(HostUnfit, match="/dev/sgx_enclave is " + device.value):
        take_inventory(reading((0, b"1048576\n"), enclave=(device, ABSENT)))


def test_the_device_of_the_driver_before_linux_5_11_serves_as_well_and_the_kernels_own_comes_first():
    old = take_inventory(reading((0, b"1048576\n"), enclave=(ABSENT, HERE), provision=(ABSENT, HERE)))
    both = take_inventory(reading((0, b"1048576\n"), enclave=(HERE, HERE), provision=(ABSENT, ABSENT)))

    assert (old.enclave_device, old.provision_device) == ("/dev/sgx/enclave", "/dev/sgx/provision")
    assert (both.enclave_device, both.provision_device) == ("/dev/sgx_enclave", None)


def test_what_the_kernel_shows_comes_before_what_the_processor_says():
    inventory = take_inventory(reading((0, b"1048576\n"), processor=ICE_LAKE))

    assert (inventory.source, inventory.epc_bytes) == (Source.SYSFS, MIB)
    assert inventory.features == ICE_LAKE.features


def test_where_the_kernel_shows_nothing_the_processors_sections_count():
    inventory = take_inventory(reading(processor=ICE_LAKE))

    assert inventory.source is Source.CPUID
    assert inventory.numa == (NumaEpc(numa_node=0, epc_bytes=8 * 1024 * MIB),)


def test_on_several_numa_nodes_the_processors_sections_are_counted_together_and_no_node_is_guessed():
    processor = SgxProcessor(features=ICE_LAKE.features, sections=(ICE_LAKE.sections[0], EpcSection(base=1 << 40, size_bytes=MIB)))

    inventory = take_inventory(reading(processor=processor, numa_nodes=(0, 1)))

    assert inventory.numa == (NumaEpc(numa_node=None, epc_bytes=8 * 1024 * MIB + MIB),)
    assert inventory.numa[0].label == "unknown"


def test_a_processor_without_sgx_and_one_without_epc_are_told_apart():
    with pytest.raises(HostUnfit, match="the processor has no SGX or it is off"):
        take_inventory(reading(processor=WITHOUT_SGX))
    with pytest.raises(HostUnfit, match="CPUID leaf 12H lists no EPC"):
        take_inventory(reading(processor=SgxProcessor(features=ICE_LAKE.features, sections=())))


def test_the_processor_of_a_simulated_host_has_no_say():
    played = take_inventory(reading((0, b"1048576\n"), processor=WITHOUT_SGX, simulated=True))
    assert played.epc_bytes == MIB
    assert played.features == SgxFeatures(sgx1=True, sgx2=False, flc=True)

    with pytest.raises(HostUnfit, match="sgx_total_bytes is not there"):
        take_inventory(reading(processor=ICE_LAKE, simulated=True))


def test_a_reserve_is_taken_from_the_largest_numa_node_first():
    inventory = take_inventory(reading((0, b"%d" % (2 * MIB)), (1, b"%d" % (4 * MIB))))

    def left(reserve):
        return [node.epc_bytes for node in keep_back(inventory, reserve).numa]

    assert left(0) == [2 * MIB, 4 * MIB]
    assert left(3 * MIB) == [2 * MIB, MIB]
    assert left(5 * MIB) == [MIB, 0]


def test_a_reserve_that_leaves_nothing_is_an_error_with_both_numbers():
    with pytest.raises(HostUnfit, match=r"1048576 bytes of EPC and 1048576 are reserved"):
        keep_back(take_inventory(reading((0, b"1048576"))), MIB)


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"-1\n", b"0x10\n", b"1e6\n", b" 1\n", b"1 \n", b"1\n\n", b"01\n", b"\xff\xfe", b"18446744073709551616\n", b"9" * 22],
)
def test_what_the_kernel_would_not_write_is_refused_naming_the_file(text):
    with pytest.raises(Refused, match="node3/x86/sgx_total_bytes"):
        take_inventory(reading((0, b"1048576\n"), (3, text)))


def test_the_largest_unsigned_long_is_a_number_of_bytes():
    assert take_inventory(reading((0, b"18446744073709551615\n"))).epc_bytes == 2**64 - 1


@given(st.integers(min_value=1, max_value=2**64 - 1))
def test_every_number_the_kernel_prints_is_read_back(epc_bytes):
    assert take_inventory(reading((0, b"%d\n" % epc_bytes))).epc_bytes == epc_bytes


@given(st.binary(max_size=64))
def test_no_content_does_more_than_be_refused(text):
    try:
        inventory = take_inventory(reading((0, text)))
    except (Refused, HostUnfit):
        return
    assert text.strip().decode() == str(inventory.epc_bytes)
