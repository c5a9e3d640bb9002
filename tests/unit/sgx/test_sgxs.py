from __future__ import annotations

import hashlib
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import Refused
from kubenclave.sgx.measurement import measure
from kubenclave.sgx.pages import ALL_CHUNKS, NO_CHUNKS, PAGE_BYTES, EnclaveLayout, PageRun
from kubenclave.sgx.sgxs import check_sgxs, read_sgxs, write_sgxs

RW, RX, TCS = 0x203, 0x205, 0x100


def stream(layout):
    return b"".join(write_sgxs(layout))


def ecreate(size=1 << 20, frame=1, tag=b"ECREATE"):
    return struct.pack("<8sIQ44x", tag, frame, size)


def eadd(offset, secinfo=RW):
    return struct.pack("<8sQQ40x", b"EADD", offset, secinfo)


def eextend(offset, content=b"\x11" * 256, tag=b"EEXTEND"):
    return struct.pack("<8sQ48x", tag, offset) + content


@pytest.fixture(scope="module")
def small():
    """Two pages of code, a TCS, a page of which one chunk is measured, a heap: every kind of record."""
    return EnclaveLayout(
        elrange_bytes=1 << 20,
        ssa_frame_pages=1,
        runs=(
            PageRun(offset=0, page_count=2, secinfo=RX, content=bytes(range(256)) * 32),
            PageRun(offset=0x3000, page_count=1, secinfo=TCS, content=b"\x01" + bytes(PAGE_BYTES - 1)),
            PageRun(offset=0x5000, page_count=1, secinfo=RW, measured_chunks=0x4, content=b"\x02" * PAGE_BYTES),
            PageRun(offset=0x8000, page_count=4, secinfo=RW, measured_chunks=NO_CHUNKS),
        ),
    )


@st.composite
def page_lists(draw):
    """Single pages, as no two neighbours alike can be told from a run."""
    runs, at = [], 0
    for _ in range(draw(st.integers(0, 6))):
        at += draw(st.integers(0, 3)) * PAGE_BYTES
        kind = draw(st.sampled_from([RW, RX, 0x201, TCS]))
        content = draw(st.sampled_from([b"", b"\x07" * PAGE_BYTES, b"\x07" * 256 + bytes(PAGE_BYTES - 256)]))
        measured = draw(st.sampled_from([ALL_CHUNKS, NO_CHUNKS, 0x1, 0xFFFE]))
        runs.append(PageRun(offset=at, page_count=1, secinfo=kind, measured_chunks=measured, content=content))
        at += PAGE_BYTES
    return EnclaveLayout(elrange_bytes=1 << 20, ssa_frame_pages=1, runs=tuple(runs))


def single_pages(layout):
    for run in layout.runs:
        for page in range(run.page_count):
            content = run.content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
            yield run.offset + page * PAGE_BYTES, run.secinfo, run.measured_chunks, content


@given(page_lists())
def test_reading_gives_back_the_pages_that_were_written(layout):
    read = read_sgxs(stream(layout))

    assert list(single_pages(read)) == list(single_pages(layout))
    assert (read.elrange_bytes, read.ssa_frame_pages) == (layout.elrange_bytes, layout.ssa_frame_pages)
    assert measure(read) == measure(layout)


@given(page_lists())
def test_writing_what_was_read_gives_the_same_stream(layout):
    written = stream(layout)

    assert stream(read_sgxs(written)) == written


def test_neighbouring_pages_of_one_kind_become_one_run(small):
    assert read_sgxs(stream(small)) == small


def test_sha256_of_a_stream_without_unmeasured_content_is_its_mrenclave(small):
    layout = EnclaveLayout(elrange_bytes=1 << 20, ssa_frame_pages=1, runs=(*small.runs[:2], small.runs[3]))

    assert hashlib.sha256(stream(layout)).digest() == measure(layout)


def test_unmeasured_content_is_loaded_and_left_out_of_the_measurement():
    with_content = ecreate() + eadd(0) + eextend(0) + eextend(256, b"\x22" * 256, b"UNMEASRD")

    layout = read_sgxs(with_content)

    assert layout.runs[0].content[256:512] == b"\x22" * 256
    assert measure(layout) == hashlib.sha256(ecreate() + eadd(0) + eextend(0)).digest()


@given(page_lists())
def test_checking_a_stream_tells_what_reading_it_would(layout):
    written = stream(layout)

    checked = check_sgxs(written)

    assert checked.mrenclave == measure(layout)
    assert (checked.page_count, checked.thread_count) == (layout.page_count, layout.thread_count)
    assert stream(checked.layout()) == written


def test_a_large_stream_is_measured_by_its_pieces_as_by_its_pages(small):
    large = PageRun(offset=0x10000, page_count=3000, secinfo=RW, content=bytes(range(256)) * 48_000)
    layout = EnclaveLayout(elrange_bytes=1 << 25, ssa_frame_pages=1, runs=(*small.runs, large))

    assert check_sgxs(stream(layout)).mrenclave == measure(layout)


@pytest.mark.parametrize("cut", [63, 64 + 63, 64 + 64 + 5, -1])
def test_checking_refuses_a_truncated_stream_in_the_same_words_as_reading(small, cut):
    damaged = stream(small)[:cut]

    with pytest.raises(Refused) as checked:
        check_sgxs(damaged)
    with pytest.raises(Refused) as read:
        read_sgxs(damaged)
    assert checked.value.what == read.value.what


def record_offsets(data):
    at, offsets = 0, []
    while at < len(data):
        offsets.append(at)
        at += 64 + 256 * (data[at : at + 8] in {b"EEXTEND\0", b"UNMEASRD"})
    return offsets


def test_a_stream_cut_within_any_record_is_refused_with_the_offset_of_that_record(small):
    data = stream(small)
    offsets = record_offsets(data)

    for at in offsets:
        for cut in (at + 1, at + 63):
            with pytest.raises(Refused, match=rf"at offset {at}: "):
                read_sgxs(data[:cut])
    assert len(offsets) == 1 + 2 * 17 + 17 + 17 + 4


def test_an_unknown_tag_in_any_record_is_refused_with_the_offset_of_that_record(small):
    data = stream(small)

    for at in record_offsets(data):
        with pytest.raises(Refused, match=rf"at offset {at}: "):
            read_sgxs(data[:at] + b"\xff" * 8 + data[at + 8 :])


@pytest.mark.parametrize(
    ("data", "at", "what"),
    [
        (b"", 0, "ends 64 bytes before"),
        (ecreate(tag=b"UNSIZED"), 0, "UNSIZED"),
        (ecreate(size=3 << 12), 0, "power of two"),
        (ecreate(size=4096), 0, "power of two"),
        (ecreate(size=0), 0, "power of two"),
        (ecreate(frame=0), 0, "SSA frame size"),
        (ecreate()[:-1] + b"\1", 0, "reserved"),
        (ecreate() + ecreate(), 64, "expected an EADD"),
        (ecreate() + eadd(0) + ecreate(), 128, "second time"),
        (ecreate() + eextend(0), 64, "expected an EADD"),
        (ecreate() + eadd(1), 64, "unaligned"),
        (ecreate() + eadd(1 << 20), 64, "outside"),
        (ecreate() + eadd((1 << 64) - 4096), 64, "outside"),
        (ecreate() + eadd(0x1000) + eadd(0x1000), 128, "out of order"),
        (ecreate() + eadd(0x1000) + eadd(0), 128, "out of order"),
        (ecreate() + eadd(0, 0x000), 64, "SECINFO"),
        (ecreate() + eadd(0, 0x303), 64, "SECINFO"),
        (ecreate() + eadd(0, 0x20B), 64, "SECINFO"),
        (ecreate() + eadd(0, TCS | 1), 64, "no permissions"),
        (ecreate() + eadd(0, 0x202), 64, "must be readable"),
        (ecreate() + eadd(0)[:-1] + b"\1", 64, "reserved"),
        (ecreate() + eadd(0) + eextend(0x1000), 128, "outside page"),
        (ecreate() + eadd(0x1000) + eextend(0xF00), 128, "outside page"),
        (ecreate() + eadd(0) + eextend(8), 128, "unaligned"),
        (ecreate() + eadd(0) + eextend(0) + eextend(0), 448, "out of order"),
        (ecreate() + eadd(0) + eextend(256) + eextend(0), 448, "out of order"),
        (ecreate() + eadd(0) + eextend(0)[:63] + b"\1" + bytes(256), 128, "reserved"),
        (ecreate() + eadd(0) + eextend(0)[:-1], 128, "ends 1 bytes before"),
    ],
)
def test_a_stream_that_is_not_canonical_is_refused_with_the_reason_and_the_offset(data, at, what):
    with pytest.raises(Refused, match=rf"at offset {at}: .*{what}") as caught:
        read_sgxs(data)
    assert caught.value.hint


def outcome(data):
    try:
        return read_sgxs(data)
    except Refused as refusal:
        return refusal


@given(st.data())
def test_damaged_streams_are_read_or_refused_and_nothing_else_happens(data):
    base = bytearray(ecreate() + eadd(0) + b"".join(eextend(at) for at in range(0, 4096, 256)) + eadd(0x2000, TCS) + eextend(0x2000))
    for _ in range(data.draw(st.integers(1, 4))):
        base[data.draw(st.integers(0, len(base) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(base[: data.draw(st.integers(0, len(base)))])

    match outcome(cut):
        case Refused() as refusal:
            assert "at offset" in refusal.what
        case layout:
            assert measure(read_sgxs(stream(layout))) == measure(layout)


@given(st.binary(max_size=700))
def test_random_bytes_are_refused(data):
    with pytest.raises(Refused):
        read_sgxs(data)


def test_memory_is_bounded_by_the_file_whatever_it_claims():
    data = ecreate(size=1 << 63) + b"".join(eadd(page << 30) for page in range(20_000))

    tracemalloc.start()
    layout = read_sgxs(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert layout.page_count == 20_000
    assert peak_bytes < 8 * len(data)
