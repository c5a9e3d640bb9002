from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kubenclave.sgx.measurement import PIECE_PAGES, measure, measured_stream
from kubenclave.sgx.pages import ALL_CHUNKS, NO_CHUNKS, PAGE_BYTES, EnclaveLayout, PageRun

RW, RX = 0x203, 0x205


def by_the_manual(layout):
    """The pseudo code of ECREATE, EADD and EEXTEND, one record at a time."""
    digest = hashlib.sha256(struct.pack("<8sIQ44x", b"ECREATE", layout.ssa_frame_pages, layout.elrange_bytes))
    for run in layout.runs:
        for page in range(run.page_count):
            offset = run.offset + page * PAGE_BYTES
            digest.update(struct.pack("<8sQQ40x", b"EADD", offset, run.secinfo))
            content = run.content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] or bytes(PAGE_BYTES)
            for chunk in range(16):
                if run.measured_chunks >> chunk & 1:
                    digest.update(struct.pack("<8sQ48x", b"EEXTEND", offset + chunk * 256))
                    digest.update(content[chunk * 256 : chunk * 256 + 256])
    return digest.digest()


@st.composite
def layouts(draw):
    runs, at = [], draw(st.integers(0, 40)) * PAGE_BYTES
    for _ in range(draw(st.integers(1, 4))):
        pages = draw(st.integers(1, 20))
        seed = draw(st.binary(min_size=1, max_size=8))
        content = draw(st.sampled_from([b"", hashlib.shake_256(seed).digest(pages * PAGE_BYTES)]))
        measured = draw(st.sampled_from([ALL_CHUNKS, NO_CHUNKS, 1, 0x8001, 0x7FFF]))
        runs.append(
            PageRun(offset=at, page_count=pages, secinfo=draw(st.sampled_from([RW, RX])), measured_chunks=measured, content=content)
        )
        at += (pages + draw(st.integers(0, 20))) * PAGE_BYTES
    return EnclaveLayout(elrange_bytes=1 << 30, ssa_frame_pages=draw(st.integers(1, 3)), runs=tuple(runs))


@given(layouts())
def test_the_measurement_is_the_one_of_the_manuals_pseudo_code(layout):
    assert measure(layout) == by_the_manual(layout)


@given(st.integers(0, 3 * PAGE_BYTES * 8 - 1))
def test_flipping_any_bit_of_a_measured_page_changes_mrenclave(bit):
    run = PageRun(offset=0xF000, page_count=3, secinfo=RX, content=b"\x5a" * (3 * PAGE_BYTES))
    layout = EnclaveLayout(elrange_bytes=1 << 20, ssa_frame_pages=1, runs=(run,))
    flipped = bytearray(run.content)
    flipped[bit // 8] ^= 1 << bit % 8

    changed = replace(layout, runs=(replace(run, content=bytes(flipped)),))

    assert measure(changed) != measure(layout)


@given(st.integers(0, PAGE_BYTES * 8 - 1))
def test_flipping_any_bit_of_an_unmeasured_page_does_not_change_mrenclave(bit):
    run = PageRun(offset=0, page_count=1, secinfo=RW, measured_chunks=NO_CHUNKS, content=b"\x5a" * PAGE_BYTES)
    layout = EnclaveLayout(elrange_bytes=8192, ssa_frame_pages=1, runs=(run,))
    flipped = bytearray(run.content)
    flipped[bit // 8] ^= 1 << bit % 8

    changed = replace(layout, runs=(replace(run, content=bytes(flipped)),))

    assert measure(changed) == measure(layout)


def test_place_permissions_size_and_ssa_frame_size_are_part_of_mrenclave():
    run = PageRun(offset=0, page_count=1, secinfo=RW)
    layout = EnclaveLayout(elrange_bytes=1 << 20, ssa_frame_pages=1, runs=(run,))
    changed = [
        replace(layout, elrange_bytes=1 << 21),
        replace(layout, ssa_frame_pages=2),
        replace(layout, runs=(replace(run, offset=PAGE_BYTES),)),
        replace(layout, runs=(replace(run, secinfo=RX),)),
        replace(layout, runs=(replace(run, measured_chunks=NO_CHUNKS),)),
    ]

    assert len({measure(one) for one in [layout, *changed]}) == 1 + len(changed)


def test_a_large_enclave_is_measured_in_small_pieces():
    run = PageRun(offset=0, page_count=1 << 14, secinfo=RW)
    layout = EnclaveLayout(elrange_bytes=1 << 27, ssa_frame_pages=1, runs=(run,))

    assert max(len(piece) for piece in measured_stream(layout)) <= PIECE_PAGES * 5184
