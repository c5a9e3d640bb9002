from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import HostUnfit, Refused
from kubenclave.node.inventory import DeviceKind, HostReading, NumaEpc, take_inventory


def reading(*texts, device=DeviceKind.CHARACTER_DEVICE, simulated=False):
    return HostReading(epc_texts=tuple(texts), device=device, simulated=simulated)


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
        take_inventory(reading((0, b"1048576\n"), device=device))


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
