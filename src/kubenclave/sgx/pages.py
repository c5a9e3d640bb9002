"""What an enclave is made of before it is measured: its address range and the pages added to it.

Values only. Reading them from a file is the work of the format modules, hashing them that of ``measurement``.
Bit meanings: Intel SDM volume 3D, SECINFO (section 36.10 of the 2023 edition) and TCS (36.8).
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRun:
    """Describe consecutive pages that are added in one manner.

    Attributes:
        offset: Where the first page lies, in bytes from the start of the enclave's address range.
        page_count: How many pages there are, at least one.
        secinfo: SECINFO.FLAGS of each page: permissions and page type.
        measured_chunks: Bit i says whether 256-byte chunk i of each page is measured (EEXTEND).
        content: The pages' bytes, ``page_count`` pages long; empty where they are all zero.
    """

    offset: int
    page_count: int
    secinfo: int
    measured_chunks: int = ALL_CHUNKS
    content: bytes = b""

    @property
    def end(self) -> int:
        """Give the offset of the first byte behind the run."""
        return self.offset + self.page_count * PAGE_BYTES

    @property
    def is_tcs(self) -> bool:
        """Say whether the pages are thread control structures."""
        return self.secinfo & SECINFO_PAGE_TYPE == SECINFO_TCS


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveLayout:
    """Describe an enclave as ECREATE and the EADDs after it see it.

    Attributes:
        elrange_bytes: Size of the enclave's address range (SECS.SIZE), a power of two. It is *not* what the enclave needs of EPC.
        ssa_frame_pages: Pages of one state save area frame (SECS.SSAFRAMESIZE).
        runs: The pages in the order in which they are added.
    """

    elrange_bytes: int
    ssa_frame_pages: int
    runs: tuple[PageRun, ...]

    @property
    def page_count(self) -> int:
        """Count the added pages; holes in the address range (guards) are not pages."""
        return sum(run.page_count for run in self.runs)

    @property
    def thread_count(self) -> int:
        """Count the thread control structures, i.e. how many threads can be inside at once."""
        return sum(run.page_count for run in self.runs if run.is_tcs)
