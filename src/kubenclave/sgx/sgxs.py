"""SGXS: an enclave as the stream of bytes that is measured, so that SHA-256 of the stream is MRENCLAVE.

Reads, checks and writes. Records are those of ``measurement``; one more, UNMEASRD, carries the content of a chunk that is loaded but not
measured, and is left out of the hash. Streams must be canonical: ECREATE first and once, pages in ascending order, the chunks of a page
directly behind it in ascending order, which is also the order in which Linux's driver measures them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from kubenclave.errors import Refused
from kubenclave.sgx.measurement import (
    EADD_RECORD,
    EEXTEND_HEADER,
    MEASURED_PAGE_BYTES,
    PIECE_PAGES,
    SECOND_BYTE,
    TAG_EADD,
    TAG_ECREATE,
    TAG_EEXTEND,
    THIRD_BYTE,
    digest_of,
    measured_run,
    measured_stream,
    page_bytes,
)
from kubenclave.sgx.pages import (
    ALL_CHUNKS,
    CHUNK_BYTES,
    CHUNKS_PER_PAGE,
    NO_CHUNKS,
    PAGE_BYTES,
    SECINFO_PAGE_TYPE,
    SECINFO_PERMISSIONS,
    SECINFO_R,
    SECINFO_REG,
    SECINFO_TCS,
    SECINFO_W,
    EnclaveLayout,
    PageRun,
    is_tcs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD_BYTES: Final = 64
TAG_UNMEASURED: Final = b"UNMEASRD"
TAG_UNSIZED: Final = b"UNSIZED\0"

_RECORD = struct.Struct("<8sQ48s")
_ECREATE = struct.Struct("<8sIQ44s")
_EADD = struct.Struct("<8sQQ40s")
_ZERO_CHUNK = bytes(CHUNK_BYTES)
_ZERO_PAGE = bytes(PAGE_BYTES)
_PAGE_CHUNKS = struct.Struct(f"{RECORD_BYTES}x" + f"{RECORD_BYTES}x{CHUNK_BYTES}s" * CHUNKS_PER_PAGE)
_PAGE_RECORDS = struct.Struct(f"{RECORD_BYTES}s" + f"{RECORD_BYTES}s{CHUNK_BYTES}x" * CHUNKS_PER_PAGE)
_MIN_ELRANGE_BYTES = 2 * PAGE_BYTES


def is_sgxs(data: bytes) -> bool:
    """Say whether the bytes begin as an SGXS stream does."""
    return data[:8] in {TAG_ECREATE, TAG_UNSIZED}


def write_sgxs(layout: EnclaveLayout) -> Iterator[bytes | bytearray]:
    """Give the SGXS stream of an enclave in pieces; unmeasured chunks that are zero need no record."""
    stream = measured_stream(layout)
    yield next(stream)
    for run in layout.runs:
        if run.measured_chunks == ALL_CHUNKS or not run.content:
            yield from measured_run(run)
        else:
            yield from _partly_measured(run)


def _partly_measured(run: PageRun) -> Iterator[bytes]:
    for page in range(run.page_count):
        offset = run.offset + page * PAGE_BYTES
        parts = [EADD_RECORD.pack(TAG_EADD, offset, run.secinfo)]
        for chunk in range(CHUNKS_PER_PAGE):
            at = chunk * CHUNK_BYTES
            content = bytes(run.page(page)[at : at + CHUNK_BYTES])
            measured = run.measured_chunks >> chunk & 1
            if measured or content != _ZERO_CHUNK:
                tag = TAG_EEXTEND if measured else TAG_UNMEASURED
                parts += EEXTEND_HEADER.pack(tag, offset + chunk * CHUNK_BYTES), content
        yield b"".join(parts)


def read_sgxs(data: bytes) -> EnclaveLayout:
    """Read an SGXS stream; memory and time stay within a small multiple of its length.

    Raises:
        Refused: The stream is truncated, damaged or not canonical; the message names the record and its offset in the stream.
    """
    reader = _Reader(data, with_content=True)
    runs = _RunCollector()
    for pages, _measured in reader.parts():
        for page in pages:
            runs.add(page)
    return EnclaveLayout(elrange_bytes=reader.elrange_bytes, ssa_frame_pages=reader.ssa_frame_pages, runs=runs.finish())


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxsStream:
    """Hold a stream that was checked from front to back, and what its pages are without a second copy of them.

    Attributes:
        data: The stream.
        mrenclave: SHA-256 of what of it is measured.
        page_count: The added pages.
        thread_count: The thread control structures among them.
    """

    data: bytes
    mrenclave: bytes
    page_count: int
    thread_count: int

    def layout(self) -> EnclaveLayout:
        """Read the pages, which takes as much memory again as they do."""
        return read_sgxs(self.data)


def check_sgxs(data: bytes) -> SgxsStream:
    """Check and measure an SGXS stream in memory that does not grow with it.

    Raises:
        Refused: As ``read_sgxs``.
    """
    page_count = thread_count = 0

    def measured() -> Iterator[bytes | memoryview]:
        nonlocal page_count, thread_count
        reader = _Reader(data, with_content=False)
        for pages, pieces in reader.parts():
            page_count += len(pages)
            thread_count += sum(is_tcs(page.secinfo) for page in pages)
            yield from pieces

    mrenclave = digest_of(measured(), expected_pages=len(data) // MEASURED_PAGE_BYTES)
    return SgxsStream(data=data, mrenclave=mrenclave, page_count=page_count, thread_count=thread_count)


@dataclass(frozen=True, slots=True)
class _Page:
    """One page as it stands in the stream; its content is empty where nobody wants it."""

    offset: int
    secinfo: int
    measured_chunks: int
    content: bytes


class _Reader:
    """Walk over a stream once, front to back."""

    def __init__(self, data: bytes, *, with_content: bool) -> None:
        self._data = data
        self._with_content = with_content
        self._view = memoryview(data)
        self._at = 0
        self._next_page = 0
        self.elrange_bytes = 0
        self.ssa_frame_pages = 0

    def parts(self) -> Iterator[tuple[list[_Page], list[memoryview]]]:
        """Give the stream in parts: the pages that stand in each, and what of its bytes is measured."""
        self.ssa_frame_pages = self._read_ecreate()
        yield [], [self._view[: self._at]]
        while self._at < len(self._data):
            start = self._at
            pages = self._read_full_pages()
            if pages:
                yield pages, [self._view[start : self._at]]
                continue
            page, unmeasured = self._read_page()
            yield [page], self._without(start, unmeasured)

    def _without(self, start: int, unmeasured: list[int]) -> list[memoryview]:
        """Give what stands from ``start`` to here but for the unmeasured chunks, which begin at these offsets of the stream."""
        ends = [*unmeasured, self._at]
        starts = [start, *(offset + RECORD_BYTES + CHUNK_BYTES for offset in unmeasured)]
        return [self._view[first:end] for first, end in zip(starts, ends, strict=True) if end > first]

    def _refuse(self, what: str, at: int | None = None) -> NoReturn:
        where = self._at if at is None else at
        raise Refused(f"SGXS stream at offset {where}: {what}", "Build the enclave again, or get an undamaged copy of it.")

    def _record(self, length: int = RECORD_BYTES) -> bytes:
        record = self._data[self._at : self._at + length]
        if len(record) < length:
            self._refuse(f"the stream ends {length - len(record)} bytes before the record does")
        return record

    def _read_ecreate(self) -> int:
        tag, ssa_frame_pages, size, reserved = _ECREATE.unpack(self._record())
        if tag == TAG_UNSIZED:
            self._refuse("the stream leaves the size of the enclave open (UNSIZED), so it has no measurement")
        if tag != TAG_ECREATE:
            self._refuse("the stream does not begin with ECREATE")
        if size < _MIN_ELRANGE_BYTES or size & (size - 1):
            self._refuse(f"ECREATE size {size:#x} is not a power of two of at least {_MIN_ELRANGE_BYTES:#x}")
        if ssa_frame_pages == 0:
            self._refuse("ECREATE has an SSA frame size of 0 pages")
        if any(reserved):
            self._refuse("ECREATE has reserved bytes that are not zero")
        self.elrange_bytes = size
        self._at += RECORD_BYTES
        return int(ssa_frame_pages)

    def _read_page(self) -> tuple[_Page, list[int]]:
        tag, offset, secinfo, reserved = _EADD.unpack(self._record())
        if tag != TAG_EADD:
            self._refuse(f"expected an EADD record, found the tag {tag!r}")
        if offset % PAGE_BYTES or not self._next_page <= offset <= self.elrange_bytes - PAGE_BYTES:
            self._refuse(f"EADD of page {offset:#x} is unaligned, out of order or outside the enclave's {self.elrange_bytes:#x} bytes")
        if any(reserved):
            self._refuse("EADD has reserved bytes that are not zero")
        self._check_secinfo(secinfo)
        self._at += RECORD_BYTES
        self._next_page = offset + PAGE_BYTES
        measured, content, unmeasured = self._read_chunks(offset)
        return _Page(offset, secinfo, measured, content), unmeasured

    def _check_secinfo(self, secinfo: int) -> None:
        permissions, page_type = secinfo & SECINFO_PERMISSIONS, secinfo & SECINFO_PAGE_TYPE
        if secinfo & ~(SECINFO_PERMISSIONS | SECINFO_PAGE_TYPE) or page_type not in {SECINFO_TCS, SECINFO_REG}:
            self._refuse(f"EADD has SECINFO flags {secinfo:#x}; only regular and TCS pages can be added")
        if page_type == SECINFO_TCS and permissions:
            self._refuse(f"EADD has SECINFO flags {secinfo:#x}; a TCS page has no permissions")
        if permissions & SECINFO_W and not permissions & SECINFO_R:
            self._refuse(f"EADD has SECINFO flags {secinfo:#x}; a writable page must be readable")

    def _read_full_pages(self) -> list[_Page]:
        """Take pages that continue each other and are measured as a whole at once, which most are; none where they do not stand so."""
        last = len(self._data) - MEASURED_PAGE_BYTES
        if self._at > last:
            return []
        tag, offset, secinfo, reserved = _EADD.unpack_from(self._data, self._at)
        if tag != TAG_EADD or offset % PAGE_BYTES or offset < self._next_page:
            return []
        most = PIECE_PAGES - offset // PAGE_BYTES % PIECE_PAGES
        starts = range(self._at, last + 1, MEASURED_PAGE_BYTES)[:most]
        count = 0
        while count < len(starts) and _EADD.unpack_from(self._data, starts[count]) == (tag, offset + count * PAGE_BYTES, secinfo, reserved):
            count += 1
        if offset + count * PAGE_BYTES > self.elrange_bytes:
            return []
        self._check_secinfo(secinfo)
        records = b"".join([b"".join(_PAGE_RECORDS.unpack_from(self._data, start)) for start in starts[:count]])
        # Nothing else stands between the contents than what is written there for such pages.
        if records != _page_records(offset, count, secinfo):
            return []
        contents = [b"".join(_PAGE_CHUNKS.unpack_from(self._data, start)) if self._with_content else b"" for start in starts[:count]]
        self._at += count * MEASURED_PAGE_BYTES
        self._next_page = offset + count * PAGE_BYTES
        return [_Page(offset + index * PAGE_BYTES, secinfo, ALL_CHUNKS, content) for index, content in enumerate(contents)]

    def _read_chunks(self, page: int) -> tuple[int, bytes, list[int]]:
        """Read the chunk records of one page, one by one; the last value is where in the stream the unmeasured ones stand."""
        content = bytearray(PAGE_BYTES)
        measured = NO_CHUNKS
        unmeasured: list[int] = []
        next_chunk = 0
        while self._at < len(self._data):
            tag, offset, reserved = _RECORD.unpack(self._record())
            if tag == TAG_EADD:
                break
            if tag not in {TAG_EEXTEND, TAG_UNMEASURED}:
                self._refuse("ECREATE appears a second time" if tag == TAG_ECREATE else f"unknown record tag {tag!r}")
            name = tag.rstrip(b"\0").decode()
            if offset % CHUNK_BYTES or not page + next_chunk <= offset < page + PAGE_BYTES:
                self._refuse(f"{name} of chunk {offset:#x} is unaligned, out of order or outside page {page:#x}")
            if any(reserved):
                self._refuse(f"{name} has reserved bytes that are not zero")
            chunk = self._record(RECORD_BYTES + CHUNK_BYTES)[RECORD_BYTES:]
            content[offset - page : offset - page + CHUNK_BYTES] = chunk
            if tag == TAG_EEXTEND:
                measured |= 1 << (offset - page) // CHUNK_BYTES
            else:
                unmeasured.append(self._at)
            next_chunk = offset - page + CHUNK_BYTES
            self._at += RECORD_BYTES + CHUNK_BYTES
        return measured, bytes(content), unmeasured


def _page_records(offset: int, pages: int, secinfo: int) -> bytearray:
    """Join the records, without the contents, of fully measured pages that lie in one piece (``measurement.PIECE_PAGES``)."""
    common = offset & ~0xFF_FFFF
    page = EADD_RECORD.pack(TAG_EADD, common, secinfo) + EEXTEND_HEADER.pack(TAG_EEXTEND, common) * CHUNKS_PER_PAGE
    records = bytearray(page * pages)
    seconds, thirds = page_bytes(offset, pages)
    for chunk, start in enumerate(range(0, len(page), RECORD_BYTES), start=-1):
        records[start + SECOND_BYTE :: len(page)] = seconds[max(chunk, 0)]
        records[start + THIRD_BYTE :: len(page)] = thirds
    return records


class _RunCollector:
    """Gather pages that continue each other in one run; zero pages are counted, not stored."""

    def __init__(self) -> None:
        self._runs: list[PageRun] = []
        self._first: _Page | None = None
        self._count = 0
        self._content = bytearray()
        self._zero = True

    def add(self, page: _Page) -> None:
        first = self._first
        zero = page.content == _ZERO_PAGE
        if (
            first is None
            or page.offset != first.offset + self._count * PAGE_BYTES
            or (page.secinfo, page.measured_chunks, zero) != (first.secinfo, first.measured_chunks, self._zero)
        ):
            self._close()
            self._first, self._zero = page, zero
        self._count += 1
        if not zero:
            self._content += page.content

    def finish(self) -> tuple[PageRun, ...]:
        self._close()
        return tuple(self._runs)

    def _close(self) -> None:
        if self._first is not None:
            self._runs.append(
                PageRun(
                    offset=self._first.offset,
                    page_count=self._count,
                    secinfo=self._first.secinfo,
                    measured_chunks=self._first.measured_chunks,
                    content=memoryview(self._content).toreadonly() if self._content else b"",
                )
            )
        self._first, self._count, self._content = None, 0, bytearray()
