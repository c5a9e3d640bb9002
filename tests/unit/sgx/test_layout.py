from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubenclave.errors import KubenclaveError, Refused, UsageError
from kubenclave.sgx.layout import MAX_THREADS, THREAD_PAGE, lay_out
from kubenclave.sgx.measurement import measure
from kubenclave.sgx.pages import ALL_CHUNKS, NO_CHUNKS, PAGE_BYTES
from kubenclave.sgx.sgxs import read_sgxs, write_sgxs
from kubenclave.sgx.tcs import TCS

R, RW, RX = 0x201, 0x203, 0x205


def sized(elf, **changes):
    return lay_out(elf, **{"heap_pages": 8, "stack_pages": 2, "threads": 1, **changes})


def pages(layout):
    """Page offset to (SECINFO, measured, content)."""
    found = {}
    for run in layout.runs:
        for index in range(run.page_count):
            content = bytes(run.page(index))
            assert run.offset + index * PAGE_BYTES not in found
            found[run.offset + index * PAGE_BYTES] = (run.secinfo, run.measured_chunks, content)
    return found


def test_segments_keep_their_place_content_and_permissions(plain_elf):
    found = pages(sized(plain_elf))

    assert found[0] == (R, ALL_CHUNKS, b"headers".ljust(PAGE_BYTES, b"\0"))
    assert found[0x1000] == (RX, ALL_CHUNKS, b"\x90" * PAGE_BYTES)
    assert found[0x2000] == (RX, ALL_CHUNKS, (b"\x90" * 904).ljust(PAGE_BYTES, b"\0"))
    assert 0x3000 not in found
    assert found[0x4000] == (RW, ALL_CHUNKS, (bytes(16) + b"data").ljust(PAGE_BYTES, b"\0"))
    assert [found[at] for at in (0x5000, 0x6000, 0x7000)] == [(RW, ALL_CHUNKS, bytes(PAGE_BYTES))] * 3


def test_each_thread_has_a_guarded_stack_a_tcs_state_save_areas_and_a_page_of_its_own(plain_elf):
    layout = sized(plain_elf, threads=3)
    found = pages(layout)
    tcs_offsets = [at for at, (secinfo, _, _) in found.items() if secinfo == 0x100]

    assert layout.thread_count == 3
    for number, tcs in enumerate(tcs_offsets):
        fields = TCS.unpack_from(found[tcs][2])
        state, flags, ossa, cssa, nssa, oentry, aep, ofsbase, ogsbase, fslimit, gslimit = fields
        assert (state, flags, cssa, nssa, oentry, aep) == (0, 0, 0, 2, 0x1000, 0)
        assert (ossa, ofsbase, ogsbase) == (tcs + PAGE_BYTES, tcs + 4 * PAGE_BYTES, tcs + 4 * PAGE_BYTES)
        assert (fslimit & 0xFFF, gslimit & 0xFFF) == (0xFFF, 0xFFF)
        stack = tcs - 3 * PAGE_BYTES
        for at in (stack, stack + PAGE_BYTES, ossa, ossa + PAGE_BYTES, ofsbase):
            assert found[at][:2] == (RW, ALL_CHUNKS)
        for guard in (stack - PAGE_BYTES, tcs - PAGE_BYTES, ofsbase - PAGE_BYTES):
            assert guard not in found
        facts = THREAD_PAGE.unpack_from(found[ofsbase][2])
        heap = max(found) - 7 * PAGE_BYTES
        assert facts == (layout.elrange_bytes, tcs, heap, 8 * PAGE_BYTES, stack, 2 * PAGE_BYTES, number)


def test_the_heap_is_added_behind_everything_and_not_measured(plain_elf):
    without, with_heap = sized(plain_elf, heap_pages=0), sized(plain_elf, heap_pages=5)
    heap = with_heap.runs[-1]

    assert with_heap.page_count - without.page_count == 5
    assert (heap.page_count, heap.secinfo, heap.measured_chunks, heap.content) == (5, RW, NO_CHUNKS, b"")
    assert all(run.end < heap.offset for run in with_heap.runs[:-1])


@pytest.mark.parametrize("heap_pages", [0, 1, 11, 12, 1000])
def test_the_address_range_is_the_power_of_two_that_holds_all_pages(plain_elf, heap_pages):
    layout = sized(plain_elf, heap_pages=heap_pages)
    end = max(run.end for run in layout.runs)

    assert layout.elrange_bytes.bit_count() == 1
    assert layout.elrange_bytes >= end
    assert layout.elrange_bytes // 2 < end + PAGE_BYTES


def test_what_is_laid_out_is_a_canonical_sgxs_stream(plain_elf):
    layout = sized(plain_elf, threads=2)

    assert measure(read_sgxs(b"".join(write_sgxs(layout)))) == measure(layout)


@pytest.mark.parametrize(
    "changes",
    [
        {"heap_pages": -1},
        {"heap_pages": 1 << 63},
        {"heap_pages": 1 << 24},
        {"stack_pages": 0},
        {"stack_pages": 1 << 40},
        {"threads": 0},
        {"threads": MAX_THREADS + 1},
    ],
)
def test_numbers_out_of_range_are_refused(plain_elf, changes):
    with pytest.raises(UsageError) as caught:
        sized(plain_elf, **changes)
    assert caught.value.hint


def dynamic(*entries):
    return b"".join(struct.pack("<qQ", *entry) for entry in [*entries, (0, 0)])


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ([(1, 5)], "DT_NEEDED"),
        ([(7, 0x100), (8, 24), (9, 24)], "24 bytes of relocations"),
        ([(35, 8)], "8 bytes of relocations"),
        ([(2, 48)], "48 bytes of relocations"),
        ([(18, 16)], "16 bytes of relocations"),
    ],
)
def test_an_image_with_relocations_or_libraries_is_refused(make_elf, segment, entries, what):
    content = dynamic(*entries)
    # The dynamic segment has bytes of its own here; it need not lie in a PT_LOAD to be looked at.
    elf = make_elf([segment(0x1000, b"\x90", 5), segment(0x2000, content, 6, kind=2)])

    with pytest.raises(Refused, match=what):
        sized(elf)


def test_an_image_whose_relocation_tables_are_empty_is_accepted(make_elf, segment):
    elf = make_elf([segment(0x1000, b"\x90", 5), segment(0x2000, dynamic((8, 0), (2, 0)), 6, kind=2)])

    assert sized(elf).page_count > 0


def damaged_elfs(make_elf, segment):
    code = segment(0x1000, b"\x90", 5)
    huge = 1 << 63
    return {
        "cannot be read": b"MZ",
        "not x86-64": make_elf([code], machine=183),
        "bound to one address": make_elf([code], elf_type=2),
        "no PT_LOAD": make_elf([segment(0x1000, b"", 5, kind=4)]),
        "writable and executable": make_elf([segment(0x1000, b"\x90", 7)]),
        "not readable": make_elf([segment(0x1000, b"\x90", 1)]),
        r"e_entry at offset 24 is 0x5000": make_elf([code], entry=0x5000),
        "e_entry at offset 24 is 0x2000": make_elf([code, segment(0x2000, b"x", 6)], entry=0x2000),
        "out of order": make_elf([code, segment(0x1800, b"x", 6)]),
        "PT_INTERP": make_elf([code, segment(0x2000, b"/lib/ld.so", 4, kind=3)]),
        "PT_TLS": make_elf([code, segment(0x2000, b"x", 4, kind=7)]),
        "p_memsz": make_elf([segment(0x1000, b"\x90", 5, memory_bytes=huge)]),
        "p_filesz": make_elf([segment(0x1000, b"\x90" * 32, 5, memory_bytes=1)]),
        "PT_DYNAMIC at address": make_elf([code, segment(0x2000, bytes(64 << 10), 6, kind=2)]),
    }


def test_files_that_cannot_be_enclaves_are_refused_with_the_reason(make_elf, segment):
    for what, elf in damaged_elfs(make_elf, segment).items():
        with pytest.raises(Refused, match=what) as caught:
            sized(elf)
        assert caught.value.hint, what


def test_a_segment_past_the_end_of_the_file_is_refused(plain_elf):
    for cut in (len(plain_elf) - PAGE_BYTES, 200):
        with pytest.raises(Refused, match=r"past the file's|leaves the file's"):
            sized(plain_elf[:cut])


def outcome(elf):
    try:
        return sized(elf)
    except KubenclaveError as refusal:
        return refusal


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_damaged_elf_headers_give_a_layout_or_a_refusal_and_nothing_else(plain_elf, data):
    elf = bytearray(plain_elf)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, 64 + 3 * 56 - 1))
        elf[at] = data.draw(st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))

    match outcome(bytes(elf)):
        case KubenclaveError() as refusal:
            assert refusal.what
            assert refusal.hint
        case layout:
            assert layout.page_count > 0
