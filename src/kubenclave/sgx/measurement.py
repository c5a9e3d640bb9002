"""MRENCLAVE: the SHA-256 that the processor computes while an enclave is built.

Pure; works on an ``EnclaveLayout`` of any origin. The hashed stream is the one of the SDM's pseudo code for ECREATE, EADD and EEXTEND:
one 64-byte block for ECREATE, one for each EADD, and for each measured 256-byte chunk a 64-byte header and the chunk. The same bytes
written to a file are an SGXS stream (``sgxs``).
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from kubenclave.sgx.pages import ALL_CHUNKS, CHUNK_BYTES, CHUNKS_PER_PAGE, NO_CHUNKS, PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.sgx.pages import EnclaveLayout, PageRun

TAG_ECREATE = b"ECREATE\0"
TAG_EADD = b"EADD\0\0\0\0"
TAG_EEXTEND = b"EEXTEND\0"

ECREATE_RECORD = struct.Struct("<8sIQ44x")
EADD_RECORD = struct.Struct("<8sQQ40x")
EEXTEND_HEADER = struct.Struct("<8sQ48x")

# Headers of neighbouring chunks differ in the low 16 bits of the offset only, as long as they lie within one 64-KiB group; the rest is
# made once per group. This keeps the interpreter's share of the work far below that of SHA-256.
_GROUP_BYTES = 1 << 16
_GROUP_PAGES = _GROUP_BYTES // PAGE_BYTES
_HEADER_STARTS = tuple(TAG_EEXTEND + low.to_bytes(2, "little") for low in range(0, _GROUP_BYTES, CHUNK_BYTES))
_ZERO_CHUNK = bytes(CHUNK_BYTES)
_CHUNK_SPLITTERS = tuple(struct.Struct(f"{CHUNK_BYTES}s" * (CHUNKS_PER_PAGE * pages)) for pages in range(_GROUP_PAGES + 1))


def measure(layout: EnclaveLayout) -> bytes:
    """Compute MRENCLAVE (32 bytes) in memory that does not grow with the enclave."""
    digest = hashlib.sha256()
    for piece in measured_stream(layout):
        digest.update(piece)
    return digest.digest()


def measured_stream(layout: EnclaveLayout) -> Iterator[bytes]:
    """Give the bytes that MRENCLAVE is the hash of, in pieces of at most about 80 KiB."""
    yield ECREATE_RECORD.pack(TAG_ECREATE, layout.ssa_frame_pages, layout.elrange_bytes)
    for run in layout.runs:
        yield from measured_run(run)


def measured_run(run: PageRun) -> Iterator[bytes]:
    """Give the measured bytes of one run of pages."""
    page = 0
    while page < run.page_count:
        offset = run.offset + page * PAGE_BYTES
        pages = min(run.page_count - page, _GROUP_PAGES - (offset % _GROUP_BYTES) // PAGE_BYTES)
        if run.measured_chunks == NO_CHUNKS:
            yield b"".join(EADD_RECORD.pack(TAG_EADD, offset + index * PAGE_BYTES, run.secinfo) for index in range(pages))
        elif run.measured_chunks == ALL_CHUNKS:
            yield _whole_pages(run, page, pages)
        else:
            for index in range(pages):
                yield _partial_page(run, page + index)
        page += pages


def _whole_pages(run: PageRun, first: int, pages: int) -> bytes:
    """Join the records of fully measured pages that lie in one 64-KiB group."""
    offset = run.offset + first * PAGE_BYTES
    chunks: tuple[bytes, ...] = (_ZERO_CHUNK,) * (CHUNKS_PER_PAGE * pages)
    if run.content:
        chunks = _CHUNK_SPLITTERS[pages].unpack_from(run.content, first * PAGE_BYTES)
    start = (offset % _GROUP_BYTES) // CHUNK_BYTES
    parts = [b""] * (3 * len(chunks))
    parts[0::3] = _HEADER_STARTS[start : start + len(chunks)]
    parts[1::3] = [(offset // _GROUP_BYTES).to_bytes(6, "little") + bytes(48)] * len(chunks)
    parts[2::3] = chunks
    for index in range(pages):
        at = 3 * CHUNKS_PER_PAGE * index
        parts[at] = EADD_RECORD.pack(TAG_EADD, offset + index * PAGE_BYTES, run.secinfo) + parts[at]
    return b"".join(parts)


def _partial_page(run: PageRun, page: int) -> bytes:
    """Join the records of a page of which only some chunks are measured."""
    offset = run.offset + page * PAGE_BYTES
    parts = [EADD_RECORD.pack(TAG_EADD, offset, run.secinfo)]
    for chunk in range(CHUNKS_PER_PAGE):
        if run.measured_chunks >> chunk & 1:
            at = page * PAGE_BYTES + chunk * CHUNK_BYTES
            parts.append(EEXTEND_HEADER.pack(TAG_EEXTEND, offset + chunk * CHUNK_BYTES))
            parts.append(run.content[at : at + CHUNK_BYTES] if run.content else _ZERO_CHUNK)
    return b"".join(parts)
