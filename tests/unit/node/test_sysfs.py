from __future__ import annotations

import os

import pytest

from kubenclave.errors import HostUnfit
from kubenclave.node import sysfs
from kubenclave.node.inventory import DeviceKind
from kubenclave.node.sysfs import read_host


def write_epc(root, node, content):
    folder = root / "sys/devices/system/node" / f"node{node}" / "x86"
    folder.mkdir(parents=True)
    (folder / "sgx_total_bytes").write_bytes(content)


def test_each_numa_node_with_an_sgx_file_is_read(tmp_path):
    write_epc(tmp_path, 0, b"41943040\n")
    write_epc(tmp_path, 11, b"0\n")
    (tmp_path / "sys/devices/system/node/node1").mkdir()
    (tmp_path / "sys/devices/system/node/possible").write_text("0-11\n")
    (tmp_path / "sys/devices/system/node/node01").mkdir()

    assert sorted(read_host(tmp_path, None).epc_texts) == [(0, b"41943040\n"), (11, b"0\n")]


def test_a_host_that_shows_nothing_reads_as_nothing(tmp_path):
    reading = read_host(tmp_path, None)

    assert reading.epc_texts == ()
    assert set(reading.enclave + reading.provision) == {DeviceKind.ABSENT}
    assert reading.numa_nodes == ()
    assert not reading.simulated


def test_no_more_is_read_of_a_file_than_a_number_can_take(tmp_path):
    write_epc(tmp_path, 0, b"1" * 1_000_000)

    ((_, text),) = read_host(tmp_path, None).epc_texts

    assert len(text) == 22


def test_a_fifo_in_the_place_of_the_number_does_not_hold_the_reader_up(tmp_path):
    folder = tmp_path / "sys/devices/system/node/node0/x86"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "sgx_total_bytes")

    assert read_host(tmp_path, None).epc_texts == ((0, b"(not a regular file)"),)


def test_a_folder_in_the_place_of_the_number_is_no_number(tmp_path):
    (tmp_path / "sys/devices/system/node/node0/x86/sgx_total_bytes").mkdir(parents=True)

    assert read_host(tmp_path, None).epc_texts == ((0, b"(not a regular file)"),)


def test_more_numa_nodes_than_linux_knows_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sysfs, "_MAX_NUMA_NODES", 2)
    for node in range(3):
        write_epc(tmp_path, node, b"0\n")

    with pytest.raises(HostUnfit, match="more than 2 NUMA nodes"):
        read_host(tmp_path, None)


def test_an_unreadable_host_is_named_in_the_error(tmp_path):
    (tmp_path / "sys/devices/system").mkdir(parents=True)
    (tmp_path / "sys/devices/system/node").symlink_to("node")

    with pytest.raises(HostUnfit, match="sys/devices/system/node cannot be read"):
        read_host(tmp_path, None)


def test_a_device_is_looked_for_at_its_new_path_and_at_its_old_one(tmp_path):
    (tmp_path / "dev/sgx").mkdir(parents=True)
    device = tmp_path / "dev/sgx_enclave"
    device.write_text("")
    (tmp_path / "dev/sgx/provision").symlink_to("/dev/null")
    reading = read_host(tmp_path, None)
    assert reading.enclave == (DeviceKind.OTHER, DeviceKind.ABSENT)
    assert reading.provision == (DeviceKind.ABSENT, DeviceKind.CHARACTER_DEVICE)

    device.unlink()
    device.symlink_to("/dev/null")
    assert read_host(tmp_path, None).enclave[0] is DeviceKind.CHARACTER_DEVICE


def test_all_numa_nodes_are_named_whether_they_have_epc_or_not(tmp_path):
    write_epc(tmp_path, 0, b"0\n")
    (tmp_path / "sys/devices/system/node/node1").mkdir()

    assert read_host(tmp_path, None).numa_nodes == (0, 1)


def test_the_mark_of_a_simulated_host_is_seen(tmp_path):
    (tmp_path / "run/kubenclave").mkdir(parents=True)
    assert not read_host(tmp_path, None).simulated

    (tmp_path / "run/kubenclave/simulated").touch()
    assert read_host(tmp_path, None).simulated
