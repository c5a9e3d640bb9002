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

import io
import struct
from dataclasses import dataclass
from typing import Final

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from kubenclave.errors import Refused, UsageError
from kubenclave.sgx.pages import (
    NO_CHUNKS,
    PAGE_BYTES,
    SECINFO_R,
    SECINFO_REG,
    SECINFO_TCS,
    SECINFO_W,
    SECINFO_X,
    EnclaveLayout,
    PageRun,
)

MAX_IMAGE_BYTES: Final = 1 << 30
"""Code and data of an enclave; all of it is hashed, so a larger claim is refused before it costs time."""
MAX_ELRANGE_BYTES: Final = 1 << 36
"""64 GiB, the largest address range that SGX1 processors allow in 64-bit mode (CPUID leaf 12H, MaxEnclaveSize_64)."""
MAX_THREADS: Final = 1024
MAX_STACK_PAGES: Final = 1 << 18
"""1 GiB a thread, measured; beyond any use."""

SSA_FRAME_PAGES: Final = 1
"""One page holds the x87 and SSE state and the registers (SDM, SSA frame)."""
SSA_FRAMES: Final = 2

TCS: Final = struct.Struct("<QQQIIQQQQII")
"""STATE, FLAGS, OSSA, CSSA, NSSA, OENTRY, AEP, OFSBASE, OGSBASE, FSLIMIT, GSLIMIT (SDM, TCS)."""
THREAD_PAGE: Final = struct.Struct("<QQQQQQQ")
"""ELRANGE bytes, TCS offset, heap offset, heap bytes, stack offset, stack bytes, thread number."""

_SEGMENT_LIMIT = 0xFFFF_FFFF
_PF_X, _PF_W, _PF_R = 1, 2, 4
_DYNAMIC = struct.Struct("<qQ")
_MAX_DYNAMIC_ENTRIES = 1024
_DT_NULL, _DT_NEEDED, _DT_PLTRELSZ, _DT_RELASZ, _DT_RELSZ, _DT_RELRSZ = 0, 1, 2, 8, 18, 35
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
        heap = PageRun(offset=heap_offset, page_count=heap_pages, secinfo=SECINFO_REG | SECINFO_R | SECINFO_W, measured_chunks=NO_CHUNKS)
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
    tcs_content = TCS.pack(0, 0, ssa, 0, SSA_FRAMES, entry, 0, thread_page, thread_page, _SEGMENT_LIMIT, _SEGMENT_LIMIT)
    thread_content = THREAD_PAGE.pack(elrange_bytes, tcs, heap_offset, heap_bytes, stack, stack_pages * PAGE_BYTES, number)
    data = SECINFO_REG | SECINFO_R | SECINFO_W
    return [
        PageRun(offset=stack, page_count=stack_pages, secinfo=data),
        PageRun(offset=tcs, page_count=1, secinfo=SECINFO_TCS, content=_padded(tcs_content)),
        PageRun(offset=ssa, page_count=SSA_FRAMES * SSA_FRAME_PAGES, secinfo=data),
        PageRun(offset=thread_page, page_count=1, secinfo=data, content=_padded(thread_content)),
    ]


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % PAGE_BYTES)


def _read_image(elf: bytes) -> _Image:
    try:
        file = ELFFile(io.BytesIO(elf))
        header = {key: file[key] for key in ("e_machine", "e_type", "e_entry")}
        segments = [dict(segment.header) for segment in file.iter_segments()]
    except (ELFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, UnicodeError) as exc:
        raise Refused(f"the enclave's ELF file cannot be read: {exc}", "Give a linked x86-64 ELF file.") from exc
    if file.elfclass != 64 or not file.little_endian or header["e_machine"] != "EM_X86_64":  # noqa: PLR2004 - the class number is the name
        raise Refused(f"the enclave's ELF file is for {header['e_machine']}, not x86-64", "Compile the enclave for x86-64.")
    if header["e_type"] != "ET_DYN":
        raise Refused(f"the enclave's ELF file is of type {header['e_type']}, which is bound to one address", _LINK_HINT)
    runs: list[PageRun] = []
    for segment in segments:
        _check_segment(segment, elf)
        if segment["p_type"] == "PT_LOAD":
            # Before its bytes are taken, so that overlapping segments cannot multiply them.
            if runs and _int(segment, "p_vaddr") < runs[-1].end:
                raise Refused(f"the ELF segment PT_LOAD at address {segment['p_vaddr']:#x} is out of order or shares a page", _LINK_HINT)
            runs += _segment_runs(segment, elf)
    if not runs:
        raise Refused("the enclave's ELF file has no PT_LOAD segment with content", _LINK_HINT)
    if not any(run.secinfo & SECINFO_X and run.offset <= header["e_entry"] < run.end for run in runs):
        raise Refused(f"the ELF field e_entry is {header['e_entry']:#x}, which lies in no executable segment", _LINK_HINT)
    return _Image(runs=tuple(runs), entry=header["e_entry"], end=runs[-1].end)


def _check_segment(segment: dict[str, object], elf: bytes) -> None:
    kind = segment["p_type"]
    if kind in {"PT_INTERP", "PT_TLS"}:
        what = "asks for a program interpreter" if kind == "PT_INTERP" else "has thread-local data"
        raise Refused(f"the enclave's ELF file {what} ({kind}), which nothing inside an enclave provides", _LINK_HINT)
    if kind == "PT_DYNAMIC":
        _check_dynamic(segment, elf)


def _check_dynamic(segment: dict[str, object], elf: bytes) -> None:
    """Refuse what would have to be done at load time: libraries and relocations would change measured pages."""
    start, size = _int(segment, "p_offset"), _int(segment, "p_filesz")
    if size > _MAX_DYNAMIC_ENTRIES * _DYNAMIC.size or start + size > len(elf):
        raise Refused(
            f"the ELF segment PT_DYNAMIC at offset {start:#x} is {size:#x} bytes long, past its limit or the file's end", _LINK_HINT
        )
    for tag, value in _DYNAMIC.iter_unpack(elf[start : start + size - size % _DYNAMIC.size]):
        if tag == _DT_NULL:
            return
        if tag == _DT_NEEDED:
            raise Refused("the enclave's ELF file needs a shared library (DT_NEEDED)", _LINK_HINT)
        if tag in {_DT_RELASZ, _DT_RELSZ, _DT_RELRSZ, _DT_PLTRELSZ} and value:
            raise Refused(f"the enclave's ELF file has {value} bytes of relocations left (dynamic tag {tag})", _LINK_HINT)


def _segment_runs(segment: dict[str, object], elf: bytes) -> list[PageRun]:
    """Turn one PT_LOAD segment into its file-backed pages and its zero pages."""
    address, start = _int(segment, "p_vaddr"), _int(segment, "p_offset")
    file_bytes, memory_bytes, flags = _int(segment, "p_filesz"), _int(segment, "p_memsz"), _int(segment, "p_flags")
    name = f"the ELF segment PT_LOAD at address {address:#x}"
    if start + file_bytes > len(elf) or file_bytes > memory_bytes:
        raise Refused(f"{name} has p_filesz {file_bytes:#x} from offset {start:#x}, past its memory or the file's end", _LINK_HINT)
    if address + memory_bytes > MAX_IMAGE_BYTES:
        raise Refused(f"{name} has p_memsz {memory_bytes:#x}, past the {MAX_IMAGE_BYTES:#x} bytes that an image may take", _LINK_HINT)
    if (address - start) % PAGE_BYTES:
        raise Refused(f"{name} is not aligned to pages as its file offset {start:#x} is", _LINK_HINT)
    if flags & _PF_W and flags & _PF_X:
        raise Refused(f"{name} is writable and executable", "Link with -z separate-code and without executable data.")
    if not flags & _PF_R:
        raise Refused(f"{name} is not readable (p_flags {flags:#x})", _LINK_HINT)
    secinfo = SECINFO_REG | SECINFO_R | (SECINFO_W if flags & _PF_W else 0) | (SECINFO_X if flags & _PF_X else 0)
    lead = address % PAGE_BYTES
    first = address - lead
    content = _padded(bytes(lead) + elf[start : start + file_bytes]) if file_bytes else b""
    pages = -(-(lead + memory_bytes) // PAGE_BYTES)
    backed = len(content) // PAGE_BYTES
    runs = [PageRun(offset=first, page_count=backed, secinfo=secinfo, content=content)] if backed else []
    if pages > backed:
        runs.append(PageRun(offset=first + backed * PAGE_BYTES, page_count=pages - backed, secinfo=secinfo))
    return runs


def _int(segment: dict[str, object], field: str) -> int:
    value = segment[field]
    if not isinstance(value, int):
        raise Refused(f"the ELF program header field {field} is not a number", _LINK_HINT)
    return value
