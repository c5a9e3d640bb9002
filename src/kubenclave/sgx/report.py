"""What there is to say about an enclave, in plain values: the result of ``kubenclave enclave inspect``.

Pure. The classes are the JSON form as well; ``enclave-report.schema.json`` in this package describes it, and the tests hold the two
together. Byte strings are hexadecimal digits and 64-bit masks are written in hexadecimal, since a JSON number need not hold 64 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.sgx.epc import epc_need
from kubenclave.sgx.findings import Finding, find
from kubenclave.sgx.pages import NO_CHUNKS, PAGE_BYTES, PageKind
from kubenclave.sgx.sigstruct import (
    FLAG_DEBUG,
    FLAG_EINITTOKEN_KEY,
    FLAG_INIT,
    FLAG_KSS,
    FLAG_MODE64,
    FLAG_PROVISION_KEY,
    VENDOR_INTEL,
    verify_signature,
)
from kubenclave.sgx.tables import known_signer

if TYPE_CHECKING:
    from kubenclave.sgx.enclave import Enclave
    from kubenclave.sgx.epc import EpcNeed
    from kubenclave.sgx.pages import EnclaveLayout
    from kubenclave.sgx.sigstruct import Sigstruct

_FLAG_NAMES = (
    (FLAG_INIT, "INIT"),
    (FLAG_DEBUG, "DEBUG"),
    (FLAG_MODE64, "MODE64BIT"),
    (FLAG_PROVISION_KEY, "PROVISIONKEY"),
    (FLAG_EINITTOKEN_KEY, "EINITTOKEN_KEY"),
    (FLAG_KSS, "KSS"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Show a SIGSTRUCT.

    Attributes:
        mrenclave: The measurement that is signed.
        mrsigner: SHA-256 of the signer's modulus.
        signer: Who that is, where it is known.
        isv_prod_id: Product number.
        isv_svn: Security version number.
        isv_family_id: Product family.
        isv_ext_prod_id: Extended product id.
        flags: ATTRIBUTES.FLAGS.
        flag_names: The bits that are set in them, by name.
        flags_mask: Which of them EINIT enforces.
        xfrm: ATTRIBUTES.XFRM.
        xfrm_mask: Which of them EINIT enforces.
        miscselect: MISCSELECT.
        miscselect_mask: Which of its bits EINIT enforces.
        debug_launch_possible: Whether flags and mask together let a host launch the enclave in debug mode.
        date: Day of the signature; empty where the field holds no date.
        vendor: Intel, or empty, as the field says; nobody checks it.
        is_valid: Whether the signature and its quotients fit the signed fields.
        fault: What does not fit.
    """

    mrenclave: str
    mrsigner: str
    signer: str
    isv_prod_id: int
    isv_svn: int
    isv_family_id: str
    isv_ext_prod_id: str
    flags: str
    flag_names: tuple[str, ...]
    flags_mask: str
    xfrm: str
    xfrm_mask: str
    miscselect: str
    miscselect_mask: str
    debug_launch_possible: bool
    date: str
    vendor: str
    is_valid: bool
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PageGroup:
    """Count the pages of one kind and manner.

    Attributes:
        kind: What they are for.
        permissions: As in ``rw-``.
        is_measured: Whether their content is part of MRENCLAVE (EEXTEND), at least in part.
        is_added_later: Whether the enclave may ask for them while it runs (SGX2), instead of having them from the start.
        page_count: How many there are.
        size_bytes: The same in bytes.
    """

    kind: str
    permissions: str
    is_measured: bool
    is_added_later: bool
    page_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Epc:
    """Show the EPC of one running instance.

    Attributes:
        enclave_pages: The enclave's own pages.
        secs_pages: Its control structure.
        version_array_pages: Pages that let the driver swap the others out.
        pages: The sum.
        size_bytes: The sum in bytes.
        size_mib: The sum in MiB, rounded up: what to ask Kubernetes for.
    """

    enclave_pages: int
    secs_pages: int
    version_array_pages: int
    pages: int
    size_bytes: int
    size_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Show the enclave's pages and what they take.

    Attributes:
        mrenclave: The measurement of the pages.
        elrange_bytes: The address range; not what the enclave takes.
        ssa_frame_pages: Pages of one state save area frame.
        threads: Threads that can be inside at once: from the start, and at most.
        heap_bytes: Heap from the start, and at most; empty where the file does not say which pages are heap.
        stack_bytes: Stack of each thread; empty where the file does not say which pages are stack.
        pages: The pages by kind and manner.
        removable_page_count: Pages that are given back once the enclave runs, where the processor can (SGX2).
        epc: EPC once the enclave is built.
        max_epc: EPC when it has asked for all that it may ask for; the same where it cannot ask.
    """

    mrenclave: str
    elrange_bytes: int
    ssa_frame_pages: int
    threads: tuple[int, int]
    heap_bytes: tuple[int, int] | None
    stack_bytes: int | None
    pages: tuple[PageGroup, ...]
    removable_page_count: int
    epc: Epc
    max_epc: Epc


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Show a further metadata block of an SDK file, for another generation of loaders.

    Attributes:
        version: Version of the block.
        mrenclave: The measurement of the pages by this block; empty where they are not known.
        signed_mrenclave: The measurement that its own SIGSTRUCT signs; empty where it has none.
        max_epc_mib: EPC at most, in MiB rounded up; None where the pages are not known.
    """

    version: str
    mrenclave: str
    signed_mrenclave: str
    max_epc_mib: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveReport:
    """Show an enclave file.

    Attributes:
        format: The kind of file.
        version: Version of that form; empty where there is none.
        signature: The SIGSTRUCT; None where there is none.
        memory: The pages; None where the file does not tell them.
        memory_gap: Why it does not.
        other_blocks: Further metadata blocks of an SDK file.
        findings: What a person should know before running it, gravest first.
    """

    format: str
    version: str
    signature: Signature | None
    memory: Memory | None
    memory_gap: str
    other_blocks: tuple[Block, ...]
    findings: tuple[Finding, ...]


def describe(enclave: Enclave, *, epc_limit_bytes: int | None = None) -> EnclaveReport:
    """Say what there is to say about an enclave; this measures it and checks its signature.

    Args:
        enclave: The enclave.
        epc_limit_bytes: EPC of the machine it is meant for; None asks for no comparison.
    """
    signature = None if enclave.sigstruct is None else _signature(enclave.sigstruct)
    return EnclaveReport(
        format=str(enclave.format),
        version=enclave.version,
        signature=signature,
        memory=None if enclave.known_pages is None else _memory(enclave, enclave.layout),
        memory_gap=enclave.layout_gap,
        other_blocks=tuple(_block(block) for block in enclave.other_blocks),
        findings=find(enclave, signature_fault="" if signature is None else signature.fault, epc_limit_bytes=epc_limit_bytes),
    )


def _signature(sigstruct: Sigstruct) -> Signature:
    fault = ""
    try:
        verify_signature(sigstruct)
    except Refused as refusal:
        fault = refusal.what
    signer = known_signer(sigstruct.mrsigner)
    return Signature(
        mrenclave=sigstruct.mrenclave.hex(),
        mrsigner=sigstruct.mrsigner.hex(),
        signer="" if signer is None else signer.name,
        isv_prod_id=sigstruct.isv_prod_id,
        isv_svn=sigstruct.isv_svn,
        isv_family_id=sigstruct.isv_family_id.hex(),
        isv_ext_prod_id=sigstruct.isv_ext_prod_id.hex(),
        flags=f"{sigstruct.flags:#018x}",
        flag_names=tuple(name for bit, name in _FLAG_NAMES if sigstruct.flags & bit),
        flags_mask=f"{sigstruct.flags_mask:#018x}",
        xfrm=f"{sigstruct.xfrm:#018x}",
        xfrm_mask=f"{sigstruct.xfrm_mask:#018x}",
        miscselect=f"{sigstruct.miscselect:#010x}",
        miscselect_mask=f"{sigstruct.miscmask:#010x}",
        debug_launch_possible=sigstruct.debug_allowed,
        date="" if sigstruct.date is None else sigstruct.date.isoformat(),
        vendor="Intel" if sigstruct.vendor == VENDOR_INTEL else "",
        is_valid=not fault,
        fault=fault,
    )


def _memory(enclave: Enclave, layout: EnclaveLayout) -> Memory:
    return Memory(
        mrenclave=enclave.mrenclave.hex(),
        elrange_bytes=layout.elrange_bytes,
        ssa_frame_pages=layout.ssa_frame_pages,
        threads=(layout.thread_count, layout.max_thread_count),
        heap_bytes=_heap_bytes(layout),
        stack_bytes=_stack_bytes(layout),
        pages=page_groups(layout),
        removable_page_count=layout.removable_page_count,
        epc=_epc(enclave.epc_need),
        max_epc=_epc(enclave.max_epc_need),
    )


def page_groups(layout: EnclaveLayout) -> tuple[PageGroup, ...]:
    """Count the pages by kind and manner, in the order of the kinds."""
    counts: dict[tuple[PageKind, str, bool, bool], int] = {}
    for later, runs in ((False, layout.runs), (True, layout.later_runs)):
        for run in runs:
            key = (run.kind, "" if run.is_tcs else run.permissions, run.measured_chunks != NO_CHUNKS, later)
            counts[key] = counts.get(key, 0) + run.page_count
    order = list(PageKind)
    return tuple(
        PageGroup(
            kind=str(kind),
            permissions=permissions,
            is_measured=measured,
            is_added_later=later,
            page_count=count,
            size_bytes=count * PAGE_BYTES,
        )
        for (kind, permissions, measured, later), count in sorted(
            counts.items(), key=lambda item: (item[0][3], order.index(item[0][0]), item[0])
        )
    )


def _heap_bytes(layout: EnclaveLayout) -> tuple[int, int] | None:
    """Heap pages from the start and at most; the label tells, so a stream without labels says nothing."""
    if not any(run.label is not None for run in layout.runs):
        return None
    first = sum(run.page_count for run in layout.runs if run.kind is PageKind.HEAP)
    later = sum(run.page_count for run in layout.later_runs if run.kind is PageKind.HEAP)
    return first * PAGE_BYTES, (first + later) * PAGE_BYTES


def _stack_bytes(layout: EnclaveLayout) -> int | None:
    """Stack of the largest kind of thread: all stack pages, from the start or later, by the threads that can be."""
    pages = sum(run.page_count for run in (*layout.runs, *layout.later_runs) if run.kind is PageKind.STACK)
    threads = layout.max_thread_count
    return pages * PAGE_BYTES // threads if pages and threads else None


def _epc(need: EpcNeed) -> Epc:
    return Epc(
        enclave_pages=need.added_pages,
        secs_pages=need.secs_pages,
        version_array_pages=need.version_array_pages,
        pages=need.pages,
        size_bytes=need.epc_bytes,
        size_mib=need.epc_mib,
    )


def _block(block: Enclave) -> Block:
    return Block(
        version=block.version,
        mrenclave="" if block.known_pages is None else block.mrenclave.hex(),
        signed_mrenclave="" if block.sigstruct is None else block.sigstruct.mrenclave.hex(),
        max_epc_mib=None if block.known_pages is None else epc_need(block.layout.max_page_count).epc_mib,
    )
