"""What changed between two builds of an enclave. Pure: two enclaves in, values out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from kubenclave.sgx.elf import STT_SECTION
from kubenclave.sgx.pages import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.sgx.elf import ElfFile, Symbol
    from kubenclave.sgx.enclave import Enclave
    from kubenclave.sgx.pages import EnclaveLayout, PageRun


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """Show one field that differs."""

    field: str
    first: str
    second: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PageChange:
    """Show the first page that differs.

    Attributes:
        page_offset: Where it lies in the enclave's address range.
        what: ``content``, ``permissions``, ``measured``, or ``only in the first`` or second.
        kind: What the page is for.
        address: The first byte that differs; the page's own where it is not its content that does.
        section: The ELF section that the byte lies in; empty where there is none.
        symbol: The ELF symbol that it lies in or behind, with the distance; empty where there is none.
    """

    page_offset: int
    what: str
    kind: str
    address: int
    section: str
    symbol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Hold what differs; ``is_same`` where nothing does.

    Attributes:
        fields: Identity, attributes and sizes that differ.
        pages: Counts of pages by kind and permissions that differ.
        first_page: The first page that differs.
        unknown: Why the pages could not be compared; empty where they were.
    """

    fields: tuple[FieldChange, ...]
    pages: tuple[FieldChange, ...]
    first_page: PageChange | None
    unknown: str

    @property
    def is_same(self) -> bool:
        """Say whether the two are one enclave, signed alike."""
        return not (self.fields or self.pages or self.first_page)


def compare(first: Enclave, second: Enclave) -> Difference:
    """Compare two enclaves: what is signed, how many pages of which kind, and the pages themselves in the order of their addresses."""
    fields = [FieldChange(field=name, first=one, second=other) for name, one, other in _fields(first, second) if one != other]
    if first.known_pages is None or second.known_pages is None:
        unknown = first.layout_gap or second.layout_gap
        return Difference(fields=tuple(fields), pages=(), first_page=None, unknown=unknown)
    return Difference(
        fields=tuple(fields),
        pages=tuple(_counts(first.layout, second.layout)),
        first_page=_first_page(first, second, first.layout, second.layout),
        unknown="",
    )


def _fields(first: Enclave, second: Enclave) -> Iterator[tuple[str, str, str]]:
    yield "format", f"{first.format} {first.version}".strip(), f"{second.format} {second.version}".strip()
    if first.known_pages is not None and second.known_pages is not None:
        yield "measured MRENCLAVE", first.mrenclave.hex(), second.mrenclave.hex()
        yield "address range", f"{first.layout.elrange_bytes:#x}", f"{second.layout.elrange_bytes:#x}"
        yield "SSA frame pages", str(first.layout.ssa_frame_pages), str(second.layout.ssa_frame_pages)
        yield "EPC pages", str(first.epc_need.pages), str(second.epc_need.pages)
        yield "EPC pages at most", str(first.max_epc_need.pages), str(second.max_epc_need.pages)
    one, other = _signed(first), _signed(second)
    for name in {**one, **other}:
        yield name, one.get(name, "unsigned"), other.get(name, "unsigned")


def _signed(enclave: Enclave) -> dict[str, str]:
    sigstruct = enclave.sigstruct
    if sigstruct is None:
        return {}
    return {
        "signed MRENCLAVE": sigstruct.mrenclave.hex(),
        "MRSIGNER": sigstruct.mrsigner.hex(),
        "ISVPRODID": str(sigstruct.isv_prod_id),
        "ISVSVN": str(sigstruct.isv_svn),
        "ISVFAMILYID": sigstruct.isv_family_id.hex(),
        "ISVEXTPRODID": sigstruct.isv_ext_prod_id.hex(),
        "ATTRIBUTES.FLAGS": f"{sigstruct.flags:#x} mask {sigstruct.flags_mask:#x}",
        "ATTRIBUTES.XFRM": f"{sigstruct.xfrm:#x} mask {sigstruct.xfrm_mask:#x}",
        "MISCSELECT": f"{sigstruct.miscselect:#x} mask {sigstruct.miscmask:#x}",
        "date": f"{sigstruct.date_bcd:08x}",
    }


def _counts(first: EnclaveLayout, second: EnclaveLayout) -> Iterator[FieldChange]:
    one, other = _page_counts(first), _page_counts(second)
    for name in {**one, **other}:
        if one.get(name, 0) != other.get(name, 0):
            yield FieldChange(field=name, first=str(one.get(name, 0)), second=str(other.get(name, 0)))


def _page_counts(layout: EnclaveLayout) -> dict[str, int]:
    counts: dict[str, int] = {}
    for when, runs in (("", layout.runs), (" later", layout.later_runs)):
        for run in runs:
            name = f"{run.kind} {'' if run.is_tcs else run.permissions}".strip() + when
            counts[name] = counts.get(name, 0) + run.page_count
    return counts


def _first_page(first: Enclave, second: Enclave, one: EnclaveLayout, other: EnclaveLayout) -> PageChange | None:
    for offset, count, left, right in _side_by_side(one, other):
        run = left or right
        if run is None:
            continue
        if left is None or right is None:
            elf = first.elf if left else second.elf
            return _change(elf, run, offset, "only in the first" if left else "only in the second")
        if left.secinfo != right.secinfo:
            return _change(second.elf, right, offset, "permissions")
        if left.measured_chunks != right.measured_chunks:
            return _change(second.elf, right, offset, "measured")
        address = _first_byte(left, right, offset, count)
        if address is not None:
            return _change(second.elf, right, address, "content")
    return None


def _side_by_side(one: EnclaveLayout, other: EnclaveLayout) -> Iterator[tuple[int, int, PageRun | None, PageRun | None]]:
    """Cut both address ranges at every border of a run in either: offset, number of pages, the run there in each."""
    left, right = sorted(one.runs, key=lambda run: run.offset), sorted(other.runs, key=lambda run: run.offset)
    borders = sorted({border for run in (*left, *right) for border in (run.offset, run.end)})
    at = [0, 0]
    for start, end in pairwise(borders):
        here: list[PageRun | None] = []
        for side, runs in enumerate((left, right)):
            while at[side] < len(runs) and runs[at[side]].end <= start:
                at[side] += 1
            run = runs[at[side]] if at[side] < len(runs) else None
            here.append(run if run is not None and run.offset <= start else None)
        yield start, (end - start) // PAGE_BYTES, here[0], here[1]


def _first_byte(left: PageRun, right: PageRun, offset: int, count: int) -> int | None:
    """Find the address of the first byte in which two runs differ between an offset and ``count`` pages on."""
    if len(left.content) <= PAGE_BYTES and len(right.content) <= PAGE_BYTES:
        # All of the pages alike on both sides.
        count = 1
    for index in range(count):
        at = offset + index * PAGE_BYTES
        one = bytes(left.page((at - left.offset) // PAGE_BYTES))
        other = bytes(right.page((at - right.offset) // PAGE_BYTES))
        if one != other:
            return at + next(place for place in range(PAGE_BYTES) if one[place] != other[place])
    return None


def _change(elf: ElfFile | None, run: PageRun, address: int, what: str) -> PageChange:
    section, symbol = ("", "") if elf is None else _place(elf, address)
    return PageChange(
        page_offset=address - address % PAGE_BYTES, what=what, kind=str(run.kind), address=address, section=section, symbol=symbol
    )


def _place(elf: ElfFile, address: int) -> tuple[str, str]:
    """Name the section and the symbol that an address of the image lies in."""
    section = next(
        (section.name for section in elf.sections if section.address and section.address <= address < section.address + section.size), ""
    )
    best: Symbol | None = None
    for table in (".symtab", ".dynsym"):
        for symbol in elf.symbols(table):
            if symbol.type == STT_SECTION or not symbol.name or not symbol.section or symbol.address > address:
                continue
            # Of symbols at one place the one with a size: the others mark where something starts.
            if best is None or (symbol.address, symbol.size) > (best.address, best.size):
                best = symbol
        if best is not None:
            break
    if best is None or not section:
        return section, ""
    distance = address - best.address
    return section, f"{best.name}+{distance:#x}" if distance else best.name
