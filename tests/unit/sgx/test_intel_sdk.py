from __future__ import annotations

import struct
import tracemalloc

import pytest

from kubenclave.errors import Refused
from kubenclave.sgx import PageKind, describe, read_enclave
from kubenclave.sgx.tcs import TCS

PAGE = 4096
R, RW, RX, RWX, TCS_PAGE = 0x201, 0x203, 0x205, 0x207, 0x100
TEXTREL = (22, 0)
RELA_TABLE = ((7, 0xA00), (8, 24))


def pages(layout):
    return {
        run.offset + index * PAGE: (run.secinfo, bool(run.measured_chunks), bytes(run.page(index)))
        for run in layout.runs
        for index in range(run.page_count)
    }


def layout_of(sdk, *entries, contents=None, **choices):
    extra = {} if contents is None else {"contents": contents}
    return read_enclave(sdk.file(sdk.block(entries, **choices, **extra))).layout


def test_segments_come_first_and_are_measured_with_their_permissions(sdk):
    layout = layout_of(sdk, *sdk.thread_layout)
    found = pages(layout)

    assert [found[at * PAGE][:2] for at in (0, 1, 3, 4, 5)] == [(R, True), (RX, True), (RW, True), (RW, True), (RW, True)]
    assert 2 * PAGE not in found
    assert found[PAGE][2].startswith(bytes(range(1, 256)))
    assert (layout.elrange_bytes, layout.ssa_frame_pages) == (1 << 24, 1)


def test_a_group_repeats_the_entries_before_it_at_each_step(sdk):
    layout = layout_of(sdk, *sdk.thread_layout)
    tcs = [run.offset for run in layout.runs if run.is_tcs]

    # As given, and twice by the group.
    assert tcs == [0x26000, 0x36000, 0x46000]
    assert [run.offset for run in layout.runs if run.kind is PageKind.STACK] == [0x23000, 0x33000, 0x43000]
    assert (layout.thread_count, layout.max_thread_count) == (3, 3)


def test_the_addresses_in_a_tcs_count_from_where_it_lies(sdk):
    found = pages(layout_of(sdk, *sdk.thread_layout))

    for tcs in (0x26000, 0x36000, 0x46000):
        fields = TCS.unpack_from(found[tcs][2])
        assert fields[2:9] == (tcs + 0x1000, 0, 2, 0x1010, 0, tcs + 0x3000, tcs + 0x3010)
        assert found[tcs][2][72:] == bytes(PAGE - 72)


def test_content_fill_and_measurement_follow_the_entry(sdk):
    content_at = 1888 + 72
    contents = bytes(72) + b"c" * 5000
    found = pages(
        layout_of(
            sdk,
            sdk.entry(7, 3, 2, 0x10000, 0xCCCCCCCC, 0, RW),
            sdk.entry(1, 1, 2, 0x20000, 0, 0, RW),
            sdk.entry(2, 1, 3, 0x30000, 5000, content_at, RW),
            sdk.entry(10, 0, 4, 0x40000, 0, 0, 0),
            contents=contents,
        )
    )

    assert found[0x11000] == (RW, True, b"\xcc" * PAGE)
    assert found[0x20000] == (RW, False, bytes(PAGE))
    # Taken for a piece of the image: measured although it does not ask, zeros behind the content.
    assert [found[0x30000 + at * PAGE] for at in range(3)] == [
        (RW, True, b"c" * PAGE),
        (RW, True, (b"c" * 904).ljust(PAGE, b"\0")),
        (RW, True, bytes(PAGE)),
    ]
    assert 0x40000 not in found


def test_patches_are_applied_by_their_place_in_the_file(sdk):
    layout = layout_of(sdk, *sdk.thread_layout, patches=[(0x3004, b"patched"), (0xFFE, b"abcd"), (0x3006, b"XX")])
    found = pages(layout)

    assert found[0x3000][2][:14] == b"\0\0\0\0paXXhed\0\0\0"
    assert (found[0][2][-2:], found[0x1000][2][:2]) == (b"ab", b"cd")


def test_pages_with_text_relocations_are_added_writable(sdk):
    straddling = ((0x1FFE, 8, 0),)
    entry = sdk.entry(1, 3, 1, 0x10000, 0, 0, RW)
    plain = pages(read_enclave(sdk.file(sdk.block([entry]), relocations=straddling, dynamic=RELA_TABLE)).layout)
    textrel = pages(read_enclave(sdk.file(sdk.block([entry]), relocations=((0x1008, 8, 0),), dynamic=(*RELA_TABLE, TEXTREL))).layout)
    none = pages(read_enclave(sdk.file(sdk.block([entry]), relocations=((0x1008, 0, 0),), dynamic=(*RELA_TABLE, TEXTREL))).layout)

    assert plain[0x1000][0] == RX
    assert (textrel[0][0], textrel[0x1000][0], textrel[0x3000][0]) == (R, RWX, RW)
    assert none[0x1000][0] == RX


def test_a_text_relocation_across_two_pages_makes_both_writable(sdk):
    file = sdk.file(sdk.block([]), relocations=((0xFFC, 8, 0),), dynamic=(*RELA_TABLE, TEXTREL))
    edge = sdk.file(sdk.block([]), relocations=((0xFF8, 8, 0),), dynamic=(*RELA_TABLE, TEXTREL))

    assert [pages(read_enclave(file).layout)[at][0] for at in (0, 0x1000)] == [RW, RWX]
    assert [pages(read_enclave(edge).layout)[at][0] for at in (0, 0x1000)] == [RW, RX]


def with_data_segment(file, address, memory_bytes):
    """Move the RW segment (third header): it then starts within a page."""
    data = bytearray(file)
    struct.pack_into("<QQ", data, 64 + 2 * 56 + 16, address, address)
    struct.pack_into("<QQ", data, 64 + 2 * 56 + 32, 0x400, memory_bytes)
    return bytes(data)


@pytest.mark.parametrize(
    ("version", "address", "memory_bytes", "extra"),
    [
        ((1, 3), 0x3800, 0x600, True),
        ((1, 3), 0x3800, 0x1600, True),
        ((1, 3), 0x3800, 0x1900, False),
        ((1, 3), 0x3000, 0x1900, False),
        ((1, 3), 0x3F00, 0x1A00, False),
        ((1, 4), 0x3800, 0x600, False),
        ((2, 1), 0x3800, 0x600, False),
    ],
)
def test_only_metadata_1_3_adds_a_page_of_zeros_behind_a_segment_that_starts_within_a_page(sdk, version, address, memory_bytes, extra):
    # linux-sgx psw/urts/loader.cpp, build_sections: up(end) < up(up(size) + start).
    end = -(-(address + memory_bytes) // PAGE) * PAGE
    rounded = -(-(-(-memory_bytes // PAGE) * PAGE + address) // PAGE) * PAGE
    assert (end < rounded) is (extra or version != (1, 3))

    layout = read_enclave(with_data_segment(sdk.file(sdk.block([], version=version)), address, memory_bytes)).layout

    assert max(pages(layout)) == (end if extra else end - PAGE)
    if extra:
        assert pages(layout)[end] == (RW, True, bytes(PAGE))


def test_edmm_layouts_tell_what_is_there_from_the_start_and_what_at_most(sdk):
    layout = layout_of(
        sdk,
        sdk.entry(1, 1, 4, 0x10000, 0, 0, RW),
        sdk.entry(3, 8, 100, 0x20000, 0, 0, RW),
        sdk.entry(8, 7, 10, 0x90000, 0xCCCCCCCC, 0, RW),
        sdk.entry(7, 3 | 16, 5, 0xA0000, 0, 0, RW),
        sdk.entry(14, 8, 3, 0xB0000, 0, 0, RW),
        sdk.entry(2, 1 | 8, 2, 0xC0000, 0, 0, RW),
    )
    report = describe(read_enclave(sdk.file(sdk.block([]))))
    image = 5

    assert layout.page_count == image + 4 + 10 + 5 + 2
    assert layout.removable_page_count == 15
    # Kept: image, heap 4 and 2. Later: heap 100, threads 3; what is there and stays is not added again.
    assert layout.max_page_count == image + 6 + 103
    assert (layout.thread_count, layout.max_thread_count) == (0, 3)
    assert report.memory.epc == report.memory.max_epc


def test_pages_that_are_removed_are_in_the_measurement_and_the_epc_at_the_start(sdk):
    added, removed = sdk.entry(8, 3, 10, 0x90000, 0xCCCCCCCC, 0, RW), sdk.entry(8, 7, 10, 0x90000, 0xCCCCCCCC, 0, RW)
    first, second = (read_enclave(sdk.file(sdk.block([entry]))) for entry in (added, removed))

    assert first.mrenclave == second.mrenclave
    assert first.epc_need == second.epc_need
    assert second.max_epc_need == second.epc_need


def test_ids_of_metadata_1_3_are_not_those_of_later_versions(sdk):
    entries = [
        sdk.entry(1, 1, 4, 0x10000, 0, 0, RW),
        sdk.entry(2, 3, 1, 0x20000, 72, 1888, TCS_PAGE),
        sdk.entry(4, 3, 2, 0x21000, 0, 0, RW),
        sdk.entry(3, 1, 1, 0x23000, 0, 0, RW),
        sdk.entry(5, 3, 2, 0x24000, 0xCCCCCCCC, 0, RW),
    ]
    kinds = [run.kind for run in layout_of(sdk, *entries, version=(1, 3)).runs[-5:]]

    assert kinds == [PageKind.HEAP, PageKind.TCS, PageKind.SSA, PageKind.THREAD_DATA, PageKind.STACK]


def test_several_blocks_are_read_each_with_its_signature(sdk, signed):
    edmm = (*sdk.thread_layout, sdk.entry(3, 8, 50, 0x80000, 0, 0, RW))
    file = signed(sdk.file(sdk.block(edmm), sdk.block(sdk.thread_layout, version=(2, 1)), sdk.block(sdk.thread_layout, version=(1, 4))))
    enclave = read_enclave(file)
    report = describe(enclave)

    assert [block.version for block in (enclave, *enclave.other_blocks)] == ["2.4", "2.1", "1.4"]
    for block in (enclave, *enclave.other_blocks):
        assert block.verified_identity().mrenclave == enclave.mrenclave
    assert enclave.max_epc_need.pages - enclave.epc_need.pages == 50
    assert [block.mrenclave for block in report.other_blocks] == [enclave.mrenclave.hex()] * 2


def test_a_block_that_signs_another_measurement_is_found(sdk, signed):
    other = sdk.block(sdk.thread_layout, version=(1, 4), ssa_frame_pages=2)
    file = signed(sdk.file(sdk.block(sdk.thread_layout), other))
    # The second block's signature is over 2 pages of SSA; let it say 1.
    data = bytearray(file)
    place = data.rindex((0x86A80294635D0E4C).to_bytes(8, "little"))
    struct.pack_into("<I", data, place + 24, 1)

    found = [finding for finding in describe(read_enclave(bytes(data))).findings if finding.name == "measurement-differs"]

    assert len(found) == 1
    assert "SIGSTRUCT of metadata 1.4" in found[0].text


def test_a_block_of_a_later_version_is_read_and_another_one_measured(sdk):
    enclave = read_enclave(sdk.file(sdk.block(sdk.thread_layout, version=(3, 0)), sdk.block(sdk.thread_layout, version=(1, 4))))

    assert (enclave.version, [block.version for block in enclave.other_blocks]) == ("1.4", ["3.0"])
    assert enclave.other_blocks[0].layout_gap == "metadata version 3.0 is not supported"


NOTE_AT = 0x3C00 + 12 + 13


@pytest.mark.parametrize(
    ("entries", "choices", "what"),
    [
        ([], {"size": 100}, f"at offset {NOTE_AT + 16:#x}: size is 100"),
        ([], {"size": 1 << 31}, f"at offset {NOTE_AT + 16:#x}: size is 2147483648"),
        ([], {"enclave_bytes": 3 << 20}, f"at offset {NOTE_AT + 40:#x}: enclave_size 0x300000 is not a power of two"),
        ([], {"enclave_bytes": 1 << 63}, f"at offset {NOTE_AT + 40:#x}: enclave_size 0x8000000000000000"),
        ([], {"directories": struct.pack("<IIII", 1 << 31, 32, 0, 0)}, f"at offset {NOTE_AT + 1872:#x}: the patch table"),
        ([], {"directories": struct.pack("<IIII", 0, 0, 1888, 1 << 31)}, f"at offset {NOTE_AT + 1880:#x}: the layout table"),
        ([], {"directories": struct.pack("<IIII", 0, 0, 1888, 33)}, "no multiple of its entries' 32 bytes"),
        ([], {"patches": [(1 << 63, b"x")]}, "a patch puts 0x1 bytes to 0x8000000000000000, past the file's"),
        ([("entry", 1, 3, 1, 0x10001, 0, 0, RW)], {}, "1 pages at 0x10001, unaligned"),
        ([("entry", 1, 3, 1 << 31, 0x10000, 0, 0, RW)], {}, "2147483648 pages at 0x10000"),
        ([("entry", 1, 3, 1, (1 << 64) - PAGE, 0, 0, RW)], {}, "1 pages at 0xfffffffffffff000"),
        ([("entry", 1, 3, 1, 0x3000, 0, 0, RW)], {}, "page 0x3000 is added twice"),
        ([("entry", 1, 3, 1, 0x10000, 1 << 31, 1888, RW)], {}, "takes 0x80000000 bytes from 0x760"),
        ([("entry", 1, 3, 1, 0x10000, 5000, 60, RW)], {"contents": bytes(8192)}, "0x1388 bytes of content for 1 pages"),
        ([("entry", 4, 3, 1, 0x10000, 5000, 60, TCS_PAGE)], {"contents": bytes(8192)}, "0x1388 bytes of content for a TCS"),
        ([("entry", 1, 3, 1, 0x10000, 0, 0, 1 << 40)], {}, "SECINFO flags 0x10000000000"),
        ([("group", 0x1009, 1, 1, 0x1000)], {}, "a group repeats the 1 entries before it, and 0 stand there"),
        ([("entry", 1, 3, 1, 0x10000, 0, 0, RW), ("group", 0x1009, 2, 1, 0x1000)], {}, "repeats the 2 entries before it, and 1"),
        ([("entry", 1, 3, 1, 0x10000, 0, 0, RW), ("group", 0x1009, 0, 1, 0x1000)], {}, "repeats the 0 entries"),
        ([("entry", 1, 3, 1, 0x10000, 0, 0, RW), ("group", 0x1009, 1, 0xFFFFFFFF, 0)], {}, "a group repeats 4294967295 times"),
        ([("entry", 1, 3, 1, 0x10000, 0, 0, RW), ("group", 0x1009, 1, 2, 0)], {}, "a group repeats 2 times by 0x0 bytes"),
        ([("entry", 1, 3, 0, 0, 0, 0, RW), ("group", 0x1009, 1, 60000, 1)] * 2, {}, "the layout has more than 65536 entries|unaligned"),
        (
            [("entry", 1, 3, 1, 0x10000, 0, 0, RW), ("group", 0x1009, 1, 1, 0x1000), ("group", 0x1009, 1, 1, 0x1000)],
            {},
            "a group repeats the group at offset",
        ),
        (
            [("entry", 1, 3, 1, 0x10000, 0, 0, RW), ("group", 0x1009, 1, 1, 0x1000), ("group", 0x1009, 2, 1, 0x1000)],
            {},
            "a group repeats the group at offset",
        ),
    ],
)
def test_damaged_metadata_is_refused_with_field_and_offset(sdk, entries, choices, what):
    layout = [getattr(sdk, kind)(*fields) for kind, *fields in entries]

    with pytest.raises(Refused, match=what) as caught:
        read_enclave(sdk.file(sdk.block(layout, **choices)))
    assert caught.value.hint


def test_patches_that_write_the_file_over_many_times_are_refused(sdk):
    # Sixty that take the same 2000 bytes: the file is small, the work is not.
    row = struct.pack("<QII16x", 0, 1888, 2000)
    directories = struct.pack("<IIII", 1888 + 2000, 32 * 60, 0, 0)
    file = sdk.file(sdk.block([], contents=bytes(2000) + row * 60, directories=directories))

    with pytest.raises(Refused, match="more than the whole file"):
        read_enclave(file)


def test_a_file_without_metadata_was_never_signed(sdk):
    with pytest.raises(Refused, match="never been signed"):
        read_enclave(sdk.file(note=bytes(4096)))


def test_more_blocks_than_any_file_has_are_refused(sdk):
    with pytest.raises(Refused, match="one metadata block more than the 8"):
        read_enclave(sdk.file(*[sdk.block([])] * 9))


def test_a_huge_claim_of_pages_costs_no_memory(sdk):
    entry = sdk.entry(1, 1, (1 << 24) - 16, 0x10000, 0, 0, RW)

    layout = layout_of(sdk, entry, enclave_bytes=1 << 36)

    assert layout.runs[-1].page_count == (1 << 24) - 16
    assert len(layout.runs[-1].content) == 0


def test_content_that_a_group_repeats_is_held_once(sdk):
    contents = bytes(72) + b"c" * 300_000
    entry = sdk.entry(2, 3, 74, 0x100000, 300_000, 1888 + 72, RW)
    file = sdk.file(sdk.block([entry, sdk.group(0x1009, 1, 5000, 0x100000)], contents=contents, enclave_bytes=1 << 36))

    tracemalloc.start()
    layout = read_enclave(file).layout
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert layout.page_count == 5 + 74 * 5001
    assert peak_bytes < 20 << 20


def test_more_threads_than_any_processor_has_are_refused(sdk):
    layout = [sdk.entry(4, 3, 1, 0x10000, 72, 1888, TCS_PAGE), sdk.group(0x1009, 1, 20_000, 0x1000)]

    with pytest.raises(Refused, match="more than 16384 pages of TCS"):
        read_enclave(sdk.file(sdk.block(layout, enclave_bytes=1 << 32)))


def test_more_patches_than_any_signer_writes_are_refused(sdk):
    directories = struct.pack("<IIII", 1888, 32 * 70_000, 0, 0)

    with pytest.raises(Refused, match="the patch table has 70000 entries"):
        read_enclave(sdk.file(sdk.block([], contents=bytes(32 * 70_000), directories=directories)))
