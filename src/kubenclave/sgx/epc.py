"""How much enclave page cache (EPC) a running enclave takes.

Arithmetic only. The rule is that of Linux's driver (arch/x86/kernel/cpu/sgx, ``sgx_encl_grow``): each added page and the SECS take a
page, and one version array (VA) page serves 512 of them. Nobody has compared it with a running machine yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubenclave.sgx.pages import PAGE_BYTES

PAGES_PER_VERSION_ARRAY = 512
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EpcNeed:
    """State the EPC of one running instance of an enclave.

    Attributes:
        added_pages: Pages added to the enclave (EADD).
        secs_pages: The enclave's control structure, always one.
        version_array_pages: Pages that the driver keeps so that the others can be swapped out.
    """

    added_pages: int
    secs_pages: int
    version_array_pages: int

    @property
    def pages(self) -> int:
        """Give the sum in pages of 4 KiB."""
        return self.added_pages + self.secs_pages + self.version_array_pages

    @property
    def epc_bytes(self) -> int:
        """Give the sum in bytes."""
        return self.pages * PAGE_BYTES

    @property
    def epc_mib(self) -> int:
        """Give the sum in MiB, rounded up: the unit in which a pod asks for EPC."""
        return -(-self.epc_bytes // MIB)


def epc_need(added_pages: int) -> EpcNeed:
    """Work out the EPC that an enclave of this many added pages takes."""
    tracked = added_pages + 1
    return EpcNeed(added_pages=added_pages, secs_pages=1, version_array_pages=-(-tracked // PAGES_PER_VERSION_ARRAY))
