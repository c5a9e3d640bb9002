"""What an enclave is made of before it is measured: its address range and the pages added to it.

Values only. Reading them from a file is the work of the format modules, hashing them that of ``measurement``.
Bit meanings: Intel SDM volume 3D, SECINFO (section 36.10 of the 2023 edition) and TCS (36.8).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from kubenclave.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PAGE_BYTES = 4096
CHUNK_BYTES = 256
"""What one EEXTEND measures (SDM, EEXTEND)."""
CHUNKS_PER_PAGE = PAGE_BYTES // CHUNK_BYTES

SECINFO_R = 0x1
SECINFO_W = 0x2
SECINFO_X = 0x4
SECINFO_PERMISSIONS = SECINFO_R | SECINFO_W | SECINFO_X
SECINFO_TCS = 0x100
SECINFO_REG = 0x200
SECINFO_PAGE_TYPE = 0xFF00

ALL_CHUNKS = (1 << CHUNKS_PER_PAGE) - 1
NO_CHUNKS = 0

MAX_PAGES = 1 << 24
"""64 GiB of EPC for one enclave: the largest address range that SGX1 processors allow (CPUID leaf 12H, MaxEnclaveSize_64)."""
MAX_MEASURED_PAGES = 1 << 20
"""4 GiB: a few seconds of SHA-256. A file of a few kilobytes can claim any number of pages."""


class PageKind(StrEnum):
    """What a page is for; the processor knows only its type and permissions."""

    CODE = "code"
    CONSTANTS = "constants"
    DATA = "data"
    RELOCATIONS = "relocations"
    HEAP = "heap"
    STACK = "stack"
    TCS = "TCS"
    SSA = "SSA"
    THREAD_DATA = "thread data"
    RESERVED = "reserved memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRun:
    """Describe consecutive pages that are added in one manner.

    Attributes:
        offset: Where the first page lies, in bytes from the start of the enclave's address range.
        page_count: How many pages there are, at least one.
        secinfo: SECINFO.FLAGS of each page: permissions and page type.
        measured_chunks: Bit i says whether 256-byte chunk i of each page is measured (EEXTEND).
        content: The pages' bytes; one page's where they are all alike; empty where they are all zero.
        label: What the file says that the pages are for; None where it does not say. Not part of what the pages are.
    """

    offset: int
    page_count: int
    secinfo: int
    measured_chunks: int = ALL_CHUNKS
    content: bytes | memoryview = b""
    label: PageKind | None = field(default=None, compare=False)

    @property
    def end(self) -> int:
        """Give the offset of the first byte behind the run."""
        return self.offset + self.page_count * PAGE_BYTES

    @property
    def is_tcs(self) -> bool:
        """Say whether the pages are thread control structures."""
        return is_tcs(self.secinfo)

    @property
    def kind(self) -> PageKind:
        """Give the label, or where there is none what the permissions suggest."""
        if self.is_tcs:
            return PageKind.TCS
        return self.label or permission_kind(self.secinfo)

    @property
    def permissions(self) -> str:
        """Write the permissions as in ``rw-``; a TCS page has none."""
        letters = ((SECINFO_R, "r"), (SECINFO_W, "w"), (SECINFO_X, "x"))
        return "".join(letter if self.secinfo & bit else "-" for bit, letter in letters)

    def page(self, index: int) -> bytes | memoryview:
        """Give the 4096 bytes of one page of the run."""
        if len(self.content) <= PAGE_BYTES:
            return self.content or bytes(PAGE_BYTES)
        return self.content[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]

    def part(self, first: int, count: int) -> PageRun:
        """Give ``count`` of the run's pages as a run of their own."""
        content = self.content
        if len(content) > PAGE_BYTES:
            content = memoryview(content)[first * PAGE_BYTES : (first + count) * PAGE_BYTES]
        return replace(self, offset=self.offset + first * PAGE_BYTES, page_count=count, content=content)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveLayout:
    """Describe an enclave as ECREATE and the EADDs after it see it.

    Attributes:
        elrange_bytes: Size of the enclave's address range (SECS.SIZE), a power of two. It is *not* what the enclave needs of EPC.
        ssa_frame_pages: Pages of one state save area frame (SECS.SSAFRAMESIZE).
        runs: The pages in the order in which they are added.
        removable_page_count: How many of these are given back once the enclave runs, on processors that can (SGX2).
        later_runs: Pages that the enclave may ask for while it runs (SGX2); no part of its measurement.
    """

    elrange_bytes: int
    ssa_frame_pages: int
    runs: tuple[PageRun, ...]
    removable_page_count: int = 0
    later_runs: tuple[PageRun, ...] = ()

    @property
    def page_count(self) -> int:
        """Count the added pages; holes in the address range (guards) are not pages."""
        return sum(run.page_count for run in self.runs)

    @property
    def max_page_count(self) -> int:
        """Count the pages that the enclave can hold at once: those added at the start, or those kept and those asked for later."""
        kept = self.page_count - self.removable_page_count
        return max(self.page_count, kept + sum(run.page_count for run in self.later_runs))

    @property
    def thread_count(self) -> int:
        """Count the thread control structures, i.e. how many threads can be inside at once."""
        return sum(run.page_count for run in self.runs if run.is_tcs)

    @property
    def max_thread_count(self) -> int:
        """Count the threads with those whose TCS the enclave may add later."""
        return self.thread_count + sum(run.page_count for run in self.later_runs if run.kind is PageKind.TCS)


def is_tcs(secinfo: int) -> bool:
    """Say whether SECINFO.FLAGS are those of a thread control structure."""
    return secinfo & SECINFO_PAGE_TYPE == SECINFO_TCS


def permission_kind(secinfo: int) -> PageKind:
    """Say what a regular page of these permissions is for, as far as they tell."""
    if secinfo & SECINFO_X:
        return PageKind.CODE
    return PageKind.DATA if secinfo & SECINFO_W else PageKind.CONSTANTS


def check_weight(layout: EnclaveLayout) -> EnclaveLayout:
    """Return the layout if its pages can be counted and hashed in reasonable time, and none is added twice.

    Raises:
        Refused: There are too many, or two lie at one place; the message says which.
    """
    hint = "No enclave is built like that; get an undamaged copy of the file."
    if layout.max_page_count > MAX_PAGES:
        raise Refused(f"the enclave claims {layout.max_page_count} pages, more than the {MAX_PAGES} of 64 GiB", hint)
    measured = sum(run.page_count for run in layout.runs if run.measured_chunks)
    if measured > MAX_MEASURED_PAGES:
        raise Refused(f"the enclave claims {measured} measured pages, more than the {MAX_MEASURED_PAGES} of 4 GiB", hint)
    end = 0
    for run in sorted(layout.runs, key=lambda run: run.offset):
        if run.offset < end:
            raise Refused(f"the enclave's page {run.offset:#x} is added twice", hint)
        if run.end > layout.elrange_bytes:
            raise Refused(f"the enclave's page {run.end - PAGE_BYTES:#x} lies outside its {layout.elrange_bytes:#x} bytes", hint)
        end = run.end
    return layout


def patched(runs: Iterable[PageRun], patches: Iterable[tuple[int, bytes]]) -> list[PageRun]:
    """Overwrite bytes of runs that do not overlap.

    Args:
        runs: The pages.
        patches: An address and the bytes that stand there afterwards, in order; what lies outside the runs is dropped.
    """
    by_page: dict[int, list[tuple[int, bytes]]] = {}
    for address, data in patches:
        for page in range(address // PAGE_BYTES, (address + len(data) - 1) // PAGE_BYTES + 1):
            by_page.setdefault(page * PAGE_BYTES, []).append((address - page * PAGE_BYTES, data))
    offsets = sorted(by_page)
    result: list[PageRun] = []
    for run in runs:
        here = offsets[bisect_left(offsets, run.offset) : bisect_left(offsets, run.end)]
        result += _patched_run(run, here, by_page)
    return result


def _patched_run(run: PageRun, touched: list[int], by_page: Mapping[int, list[tuple[int, bytes]]]) -> list[PageRun]:
    parts: list[PageRun] = []
    done = 0
    for index in ((offset - run.offset) // PAGE_BYTES for offset in touched):
        if index > done:
            parts.append(run.part(done, index - done))
        content = bytearray(run.page(index))
        for start, data in by_page[run.offset + index * PAGE_BYTES]:
            low, high = max(start, 0), min(start + len(data), PAGE_BYTES)
            content[low:high] = data[low - start : high - start]
        parts.append(replace(run.part(index, 1), content=bytes(content)))
        done = index + 1
    if done < run.page_count:
        parts.append(run if done == 0 else run.part(done, run.page_count - done))
    return parts
