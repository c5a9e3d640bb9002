"""The layout step: a linked ELF image becomes the pages of an enclave.

Pure: ELF bytes in, ``EnclaveLayout`` out. This is the layout of kubenclave's own enclaves (``examples/hello-enclave``)::

    0            the ELF's PT_LOAD segments, with their permissions, measured
                 per thread:
                   guard | stack | guard | TCS | SSA frames | guard | thread page
                 guard
                 heap: added as zero pages, not measured

Guards are holes in the address range and cost no EPC. An enclave finds its stack one guard page below its TCS (RBX at entry) and its
thread page by GS; ``THREAD_PAGE`` says what stands there. Nothing is relocated at load time, so the image must be position independent.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kubenclave.errors import Refused, UsageError
from kubenclave.sgx.elf import (
    DT_NEEDED,
    DT_PLTRELSZ,
    DT_RELASZ,
    DT_RELRSZ,
    DT_RELSZ,
    PF_R,
    PF_W,
    PF_X,
    PT_INTERP,
    PT_TLS,
    check_order,
    name_of,
    read_elf,
    segment_runs,
)
from kubenclave.sgx.pages import (
    NO_CHUNKS,
    PAGE_BYTES,
    SECINFO_R,
    SECINFO_REG,
    SECINFO_TCS,
    SECINFO_W,
    SECINFO_X,
    EnclaveLayout,
    PageKind,
    PageRun,
)
from kubenclave.sgx.tcs import TCS, UNLIMITED

if TYPE_CHECKING:
    from kubenclave.sgx.elf import ElfFile, Segment

MAX_ELRANGE_BYTES: Final = 1 << 36
"""64 GiB, the largest address range that SGX1 processors allow in 64-bit mode (CPUID leaf 12H, MaxEnclaveSize_64)."""
MAX_THREADS: Final = 1024
MAX_STACK_PAGES: Final = 1 << 18
"""1 GiB a thread, measured; beyond any use."""

SSA_FRAME_PAGES: Final = 1
"""One page holds the x87 and SSE state and the registers (SDM, SSA frame)."""
SSA_FRAMES: Final = 2

THREAD_PAGE: Final = struct.Struct("<QQQQQQQ")
"""ELRANGE bytes, TCS offset, heap offset, heap bytes, stack offset, stack bytes, thread number."""

_LINK_HINT = "Link the enclave with -static-pie -nostdlib, and without data that holds addresses."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """What the layout needs of an ELF file."""

    runs: tuple[PageRun, ...]
    entry: int
    end: int


def lay_out(elf: bytes, *, heap_pages: int, stack_pages: int, threads: int) -> EnclaveLayout:
    """Place an ELF image, threads and a heap in an enclave's address range.

    Args:
        elf: A static, position-independent x86-64 ELF file without relocations.
        heap_pages: Zero pages behind everything else, readable and writable, not measured.
        stack_pages: Pages of each thread's stack, measured.
        threads: How many threads can be inside at once, each with its TCS.

    Raises:
        UsageError: A number is out of range.
        Refused: The ELF file is damaged or not fit to be an enclave; the message names the field or segment.
    """
    _check_range("heap_pages", heap_pages, 0, MAX_ELRANGE_BYTES // PAGE_BYTES)
    _check_range("stack_pages", stack_pages, 1, MAX_STACK_PAGES)
    _check_range("threads", threads, 1, MAX_THREADS)
    image = _read_image(elf)
    thread_bytes = (stack_pages + SSA_FRAMES * SSA_FRAME_PAGES + 5) * PAGE_BYTES
    heap_offset = image.end + threads * thread_bytes + PAGE_BYTES
    end = heap_offset + heap_pages * PAGE_BYTES
    elrange_bytes = 1 << (end - 1).bit_length()
    if elrange_bytes > MAX_ELRANGE_BYTES:
        raise UsageError(f"the enclave would need an address range of {elrange_bytes:#x} bytes", "Ask for less heap, stack or threads.")
    runs = list(image.runs)
    for number in range(threads):
        offset = image.end + number * thread_bytes
        facts = (elrange_bytes, heap_offset, heap_pages * PAGE_BYTES, number)
        runs += _thread_runs(offset, stack_pages=stack_pages, entry=image.entry, facts=facts)
    if heap_pages:
        data = SECINFO_REG | SECINFO_R | SECINFO_W
        heap = PageRun(offset=heap_offset, page_count=heap_pages, secinfo=data, measured_chunks=NO_CHUNKS, label=PageKind.HEAP)
        runs.append(heap)
    return EnclaveLayout(elrange_bytes=elrange_bytes, ssa_frame_pages=SSA_FRAME_PAGES, runs=tuple(runs))


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"{name} is {value}, outside {least} to {most}", f"Choose {name} within that range.")


def _thread_runs(offset: int, *, stack_pages: int, entry: int, facts: tuple[int, int, int, int]) -> list[PageRun]:
    """Place one thread, guard first."""
    elrange_bytes, heap_offset, heap_bytes, number = facts
    stack = offset + PAGE_BYTES
    tcs = stack + (stack_pages + 1) * PAGE_BYTES
    ssa = tcs + PAGE_BYTES
    thread_page = ssa + (SSA_FRAMES * SSA_FRAME_PAGES + 1) * PAGE_BYTES
    tcs_content = TCS.pack(0, 0, ssa, 0, SSA_FRAMES, entry, 0, thread_page, thread_page, UNLIMITED, UNLIMITED)
    thread_content = THREAD_PAGE.pack(elrange_bytes, tcs, heap_offset, heap_bytes, stack, stack_pages * PAGE_BYTES, number)
    data = SECINFO_REG | SECINFO_R | SECINFO_W
    return [
        PageRun(offset=stack, page_count=stack_pages, secinfo=data, label=PageKind.STACK),
        PageRun(offset=tcs, page_count=1, secinfo=SECINFO_TCS, content=_padded(tcs_content)),
        PageRun(offset=ssa, page_count=SSA_FRAMES * SSA_FRAME_PAGES, secinfo=data, label=PageKind.SSA),
        PageRun(offset=thread_page, page_count=1, secinfo=data, content=_padded(thread_content), label=PageKind.THREAD_DATA),
    ]


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % PAGE_BYTES)


def _read_image(data: bytes) -> _Image:
    elf = read_elf(data)
    for segment in elf.segments:
        if segment.type in {PT_INTERP, PT_TLS}:
            what = "asks for a program interpreter (PT_INTERP)" if segment.type == PT_INTERP else "has thread-local data (PT_TLS)"
            raise Refused(f"the enclave's ELF file {what}, which nothing inside an enclave provides", _LINK_HINT)
    for tag, value in elf.dynamic():
        _check_dynamic(tag, value)
    check_order(elf.loads)
    runs = [run for segment in elf.loads for run in _segment_runs(elf, segment)]
    if not runs:
        raise Refused("the enclave's ELF file has no PT_LOAD segment with content", _LINK_HINT)
    if not any(run.secinfo & SECINFO_X and run.offset <= elf.entry < run.end for run in runs):
        raise Refused(f"the ELF field e_entry at offset 24 is {elf.entry:#x}, which lies in no executable segment", _LINK_HINT)
    return _Image(runs=tuple(runs), entry=elf.entry, end=runs[-1].end)


def _check_dynamic(tag: int, value: int) -> None:
    """Refuse what would have to be done at load time: libraries and relocations would change measured pages."""
    if tag == DT_NEEDED:
        raise Refused("the enclave's ELF file needs a shared library (DT_NEEDED)", _LINK_HINT)
    if tag in {DT_RELASZ, DT_RELSZ, DT_RELRSZ, DT_PLTRELSZ} and value:
        raise Refused(f"the enclave's ELF file has {value} bytes of relocations left (dynamic tag {tag})", _LINK_HINT)


def _segment_runs(elf: ElfFile, segment: Segment) -> list[PageRun]:
    if segment.flags & PF_W and segment.flags & PF_X:
        raise Refused(f"{name_of(segment)} is writable and executable", "Link with -z separate-code and without executable data.")
    if not segment.flags & PF_R:
        raise Refused(f"{name_of(segment)} is not readable (p_flags {segment.flags:#x})", _LINK_HINT)
    return segment_runs(elf, segment)
