"""MRENCLAVE: the SHA-256 that the processor computes while an enclave is built.

Pure; works on an ``EnclaveLayout`` of any origin. The hashed stream is the one of the SDM's pseudo code for ECREATE, EADD and EEXTEND:
one 64-byte block for ECREATE, one for each EADD, and for each measured 256-byte chunk a 64-byte header and the chunk. The same bytes
written to a file are an SGXS stream (``sgxs``).
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final

from kubenclave.sgx.pages import ALL_CHUNKS, CHUNK_BYTES, CHUNKS_PER_PAGE, NO_CHUNKS, PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.sgx.pages import EnclaveLayout, PageRun

TAG_ECREATE: Final = b"ECREATE\0"
TAG_EADD: Final = b"EADD\0\0\0\0"
TAG_EEXTEND: Final = b"EEXTEND\0"

ECREATE_RECORD: Final = struct.Struct("<8sIQ44x")
EADD_RECORD: Final = struct.Struct("<8sQQ40x")
EEXTEND_HEADER: Final = struct.Struct("<8sQ48x")

MEASURED_PAGE_BYTES: Final = EADD_RECORD.size + CHUNKS_PER_PAGE * (EEXTEND_HEADER.size + CHUNK_BYTES)
"""5184 bytes of stream for each fully measured page."""
PIECE_PAGES: Final = 256
"""Pages of which the stream is made at a time, aligned to 1 MiB: few enough to stay in a processor's cache."""

# Where the second and third byte of an offset stand within a record: within a piece no other byte of an offset changes but these.
SECOND_BYTE: Final = 9
THIRD_BYTE: Final = 10
_CHUNK_STREAM_BYTES = EEXTEND_HEADER.size + CHUNK_BYTES
_ZERO_CHUNK = bytes(CHUNK_BYTES)
_PAGE_SPLITTER = struct.Struct(f"{CHUNK_BYTES}s" * CHUNKS_PER_PAGE)
_PIECE_SPLITTER = struct.Struct(f"{CHUNK_BYTES}s" * (CHUNKS_PER_PAGE * PIECE_PAGES))

_PIECES_IN_FLIGHT = 2
_LEAST_PAGES_FOR_A_THREAD = 8 * PIECE_PAGES
"""Below 8 MiB the whole measurement takes a few milliseconds, and a thread gains nothing."""


def measure(layout: EnclaveLayout) -> bytes:
    """Compute MRENCLAVE (32 bytes) in memory that does not grow with the enclave."""
    return digest_of(measured_stream(layout), expected_pages=layout.page_count)


def digest_of(stream: Iterator[bytes | bytearray | memoryview], *, expected_pages: int) -> bytes:
    """Compute SHA-256 of the measured bytes of about so many pages, which come in pieces."""
    if expected_pages >= _LEAST_PAGES_FOR_A_THREAD:
        return _digest_beside(stream)
    digest = hashlib.sha256()
    for piece in stream:
        digest.update(piece)
    return digest.digest()


def _digest_beside(stream: Iterator[bytes | bytearray | memoryview]) -> bytes:
    """Hash in a thread, which ``hashlib`` lets run beside this one, while the next piece of the stream is made here."""
    import queue  # noqa: PLC0415 - only a large enclave needs it
    import threading  # noqa: PLC0415 - as above

    digest = hashlib.sha256()
    pieces: queue.SimpleQueue[bytes | bytearray | memoryview | None] = queue.SimpleQueue()
    room = threading.Semaphore(_PIECES_IN_FLIGHT)

    def hash_pieces() -> None:
        while (piece := pieces.get()) is not None:
            digest.update(piece)
            room.release()

    hasher = threading.Thread(target=hash_pieces, name="sha256", daemon=True)
    hasher.start()
    try:
        for piece in stream:
            room.acquire()
            pieces.put(piece)
    finally:
        pieces.put(None)
        hasher.join()
    return digest.digest()


def measured_stream(layout: EnclaveLayout) -> Iterator[bytes | bytearray]:
    """Give the bytes that MRENCLAVE is the hash of, in pieces of at most ``PIECE_PAGES`` pages."""
    yield ECREATE_RECORD.pack(TAG_ECREATE, layout.ssa_frame_pages, layout.elrange_bytes)
    for run in layout.runs:
        yield from measured_run(run)


def measured_run(run: PageRun) -> Iterator[bytes | bytearray]:
    """Give the measured bytes of one run of pages."""
    page = 0
    while page < run.page_count:
        offset = run.offset + page * PAGE_BYTES
        pages = min(run.page_count - page, PIECE_PAGES - offset // PAGE_BYTES % PIECE_PAGES)
        if run.measured_chunks == NO_CHUNKS:
            yield b"".join(EADD_RECORD.pack(TAG_EADD, offset + index * PAGE_BYTES, run.secinfo) for index in range(pages))
        elif run.measured_chunks == ALL_CHUNKS:
            yield _whole_pages(run, page, pages)
        else:
            yield b"".join(_partial_page(run, page + index) for index in range(pages))
        page += pages


def _whole_pages(run: PageRun, first: int, pages: int) -> bytearray:
    """Join the records of fully measured pages that lie in one piece.

    The chunks are joined by one EEXTEND header that is right for none of them, and the two bytes in which the headers differ are put in
    afterwards, all those of one place in their pages at once. So the interpreter's share of the work stays far below that of SHA-256.
    """
    offset = run.offset + first * PAGE_BYTES
    common = offset & ~0xFF_FFFF
    eadd = EADD_RECORD.pack(TAG_EADD, common, run.secinfo)
    parts: list[bytes] = [eadd, *_chunks(run, first, pages)]
    parts[CHUNKS_PER_PAGE:-1:CHUNKS_PER_PAGE] = [chunk + eadd for chunk in parts[CHUNKS_PER_PAGE:-1:CHUNKS_PER_PAGE]]
    stream = bytearray(EEXTEND_HEADER.pack(TAG_EEXTEND, common)).join(parts)
    seconds, thirds = page_bytes(offset, pages)
    # The EADD record of each page, then its 16 EEXTEND records.
    for chunk, start in enumerate((0, *range(EADD_RECORD.size, MEASURED_PAGE_BYTES, _CHUNK_STREAM_BYTES)), start=-1):
        stream[start + SECOND_BYTE :: MEASURED_PAGE_BYTES] = seconds[max(chunk, 0)]
        stream[start + THIRD_BYTE :: MEASURED_PAGE_BYTES] = thirds
    return stream


def _chunks(run: PageRun, first: int, pages: int) -> tuple[bytes, ...]:
    if not run.content:
        return (_ZERO_CHUNK,) * (CHUNKS_PER_PAGE * pages)
    if len(run.content) == PAGE_BYTES:
        return _PAGE_SPLITTER.unpack(run.content) * pages
    splitter = _PIECE_SPLITTER if pages == PIECE_PAGES else struct.Struct(f"{CHUNK_BYTES}s" * (CHUNKS_PER_PAGE * pages))
    return splitter.unpack_from(run.content, first * PAGE_BYTES)


_SECONDS = bytes(range(256)) * (PIECE_PAGES // CHUNKS_PER_PAGE + 1)


def page_bytes(offset: int, pages: int) -> tuple[list[bytes], bytes]:
    """Give the second byte of the offset of each page's chunk i, for each i, and the third, which a page's chunks share."""
    start = offset // CHUNK_BYTES % 256
    seconds = [_SECONDS[start + chunk : start + chunk + CHUNKS_PER_PAGE * pages : CHUNKS_PER_PAGE] for chunk in range(CHUNKS_PER_PAGE)]
    return seconds, bytes((offset + page * PAGE_BYTES) >> 16 & 0xFF for page in range(pages))


def _partial_page(run: PageRun, page: int) -> bytes:
    """Join the records of a page of which only some chunks are measured."""
    offset = run.offset + page * PAGE_BYTES
    content = run.page(page)
    parts = [EADD_RECORD.pack(TAG_EADD, offset, run.secinfo)]
    for chunk in range(CHUNKS_PER_PAGE):
        if run.measured_chunks >> chunk & 1:
            at = chunk * CHUNK_BYTES
            parts += EEXTEND_HEADER.pack(TAG_EEXTEND, offset + at), bytes(content[at : at + CHUNK_BYTES])
    return b"".join(parts)
