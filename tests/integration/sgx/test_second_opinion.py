from __future__ import annotations

import struct

import pytest

from kubenclave.sgx import PageKind, read_enclave

pytestmark = pytest.mark.integration

ENTRY, GROUP = struct.Struct("<HHIQIIQ"), struct.Struct("<HHIQ16x")
RW = 0x203


def sdk_layout(*, edmm):
    """Heap, then a thread of seven entries, which a group repeats; with EDMM also what may come and go."""
    thread = [
        ENTRY.pack(10, 0, 16, 0x300000, 0, 0, 0),
        ENTRY.pack(8, 3, 2, 0x310000, 0xCCCCCCCC, 0, RW),
        ENTRY.pack(10, 0, 16, 0x312000, 0, 0, 0),
        ENTRY.pack(4, 3, 1, 0x322000, 72, 1888, 0x100),
        ENTRY.pack(6, 3, 2, 0x323000, 0, 0, RW),
        ENTRY.pack(10, 0, 16, 0x325000, 0, 0, 0),
        ENTRY.pack(5, 3, 1, 0x335000, 8, 1890, RW),
    ]
    growing = [
        ENTRY.pack(3, 8, 40, 0x240000, 0, 0, RW),
        ENTRY.pack(1, 7, 5, 0x270000, 0, 0, RW),
        ENTRY.pack(1, 1 | 16, 4, 0x280000, 0, 0, RW),
    ]
    return [
        ENTRY.pack(1, 1, 7, 0x200000, 0, 0, RW),
        ENTRY.pack(2, 3, 3, 0x210000, 0, 0, RW),
        *(growing if edmm else []),
        *thread,
        GROUP.pack(0x1009, 7, 3, 0x100000),
    ]


def test_an_open_enclave_file_from_gcc_is_measured_alike_by_hand(oe_file, open_enclave_by_hand):
    data = oe_file.read_bytes()
    enclave = read_enclave(data)

    mrenclave, count = open_enclave_by_hand(data)

    assert enclave.mrenclave == mrenclave
    assert enclave.layout.page_count == count
    assert enclave.layout.thread_count == 3
    # What the fixture is there for: thread-local data that takes pages and needs a relocation, and ordinary relocations.
    assert sum(run.page_count for run in enclave.layout.runs if run.kind is PageKind.THREAD_DATA) > 3
    table = next(run for run in enclave.layout.runs if run.kind is PageKind.RELOCATIONS).content
    assert {8, 18} <= {info & 0xFFFFFFFF for _, info, _ in struct.iter_unpack("<QQq", table[: len(table) - len(table) % 24])}


@pytest.mark.parametrize("textrel", [False, True], ids=["plain", "text relocations"])
@pytest.mark.parametrize("version", [(1, 3), (1, 4), (1, 5), (2, 1), (2, 4)])
def test_an_sdk_file_from_gcc_is_measured_alike_by_hand(sdk_files, with_metadata, sdk_by_hand, version, textrel):
    patches = [(0x20, b"\0" * 24), (0x1002, b"patch")]
    data, blocks = with_metadata(sdk_files[textrel].read_bytes(), (version, sdk_layout(edmm=version[0] == 2), patches))
    enclave = read_enclave(data)

    mrenclave, count = sdk_by_hand(data, blocks[0])

    assert enclave.mrenclave == mrenclave
    assert enclave.layout.page_count == count
    assert enclave.layout.thread_count == 4
    assert any(run.secinfo & 6 == 6 for run in enclave.layout.runs) is textrel


def test_all_blocks_of_an_sdk_file_are_measured_alike_by_hand(sdk_files, with_metadata, sdk_by_hand):
    versions = [(2, 4), (2, 1), (1, 4)]
    data, blocks = with_metadata(sdk_files[0].read_bytes(), *((version, sdk_layout(edmm=version[0] == 2), []) for version in versions))
    enclave = read_enclave(data)

    found = [block.mrenclave for block in (enclave, *enclave.other_blocks)]

    assert found == [sdk_by_hand(data, block)[0] for block in blocks]
    assert enclave.max_epc_need.pages > enclave.epc_need.pages


def test_a_flipped_byte_changes_both_opinions_alike(oe_file, open_enclave_by_hand):
    data = bytearray(oe_file.read_bytes())
    before = read_enclave(bytes(data)).mrenclave
    data[0x1004] ^= 1

    assert read_enclave(bytes(data)).mrenclave == open_enclave_by_hand(bytes(data))[0] != before
