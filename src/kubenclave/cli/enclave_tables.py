"""How ``kubenclave enclave`` shows an enclave to a person: its facts in words, in tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.cli.show import show, size, write

if TYPE_CHECKING:
    from kubenclave.sgx import EnclaveReport
    from kubenclave.sgx.difference import PageChange
    from kubenclave.sgx.report import Epc, Memory, Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPageRows:
    """Show the first page that differs."""

    first_page_that_differs: str
    what: str
    kind: str
    address: str
    section: str
    symbol: str

    @classmethod
    def of(cls, change: PageChange) -> FirstPageRows:
        """Bring it to words."""
        return cls(
            first_page_that_differs=f"{change.page_offset:#x}",
            what=change.what,
            kind=change.kind,
            address=f"{change.address:#x}",
            section=change.section or "-",
            symbol=change.symbol or "-",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _SignatureRows:
    """Show a SIGSTRUCT."""

    mrenclave: str
    mrsigner: str
    signer: str
    isv_prod_id: int
    isv_svn: int
    isv_family_id: str
    isv_ext_prod_id: str
    attributes: str
    attributes_mask: str
    xfrm: str
    miscselect: str
    debug_launch: str
    date: str
    vendor: str
    signature: str

    @classmethod
    def of(cls, signature: Signature) -> _SignatureRows:
        return cls(
            mrenclave=signature.mrenclave,
            mrsigner=signature.mrsigner,
            signer=signature.signer or "not a known one",
            isv_prod_id=signature.isv_prod_id,
            isv_svn=signature.isv_svn,
            isv_family_id=signature.isv_family_id,
            isv_ext_prod_id=signature.isv_ext_prod_id,
            attributes=f"{signature.flags} ({' '.join(signature.flag_names) or 'none'})",
            attributes_mask=signature.flags_mask,
            xfrm=f"{signature.xfrm}, mask {signature.xfrm_mask}",
            miscselect=f"{signature.miscselect}, mask {signature.miscselect_mask}",
            debug_launch="possible" if signature.debug_launch_possible else "impossible",
            date=signature.date or "-",
            vendor=signature.vendor or "-",
            signature="fits" if signature.is_valid else signature.fault,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _MemoryRows:
    """Show what the pages take."""

    measured_mrenclave: str
    threads: str
    heap: str
    stack_of_each_thread: str
    address_range: str
    epc_once_built: str
    epc_at_most: str

    @classmethod
    def of(cls, memory: Memory) -> _MemoryRows:
        grows = memory.max_epc != memory.epc
        return cls(
            measured_mrenclave=memory.mrenclave,
            threads=_span(*(str(count) for count in memory.threads)),
            heap="-" if memory.heap_bytes is None else _span(*(size(count) for count in memory.heap_bytes)),
            stack_of_each_thread="-" if memory.stack_bytes is None else size(memory.stack_bytes),
            address_range=size(memory.elrange_bytes),
            epc_once_built=_epc_text(memory.epc),
            epc_at_most=_epc_text(memory.max_epc) if grows else "the same",
        )


def _span(first: str, most: str) -> str:
    return first if first == most else f"{first} to {most}"


def _epc_text(epc: Epc) -> str:
    parts = f"{epc.enclave_pages} + SECS {epc.secs_pages} + version array {epc.version_array_pages} = {epc.pages} pages"
    return f"{epc.size_mib} MiB ({parts}, {epc.size_bytes} bytes)"


def show_report(report: EnclaveReport) -> None:
    """Write what ``inspect`` found to stdout, one table under another."""
    write(f"{report.format} {report.version}".strip() + "\n\n")
    if report.signature is not None:
        show(_SignatureRows.of(report.signature), output="table")
        write("\n")
    if report.memory is not None:
        show(_MemoryRows.of(report.memory), output="table")
        write("\n")
        show(report.memory.pages, output="table")
        write("\n")
    for rows in (report.other_blocks, report.findings):
        if rows:
            show(rows, output="table")
            write("\n")
