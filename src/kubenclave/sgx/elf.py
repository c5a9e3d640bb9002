"""The few structures of a 64-bit x86-64 ELF file that an enclave's layout depends on.

Pure: bytes in, values out. Each table is checked against the file's end when the file is read, each piece of content when it is asked
for; nothing is believed before. Structures: System V gABI, chapters 4 and 5; relocation types: x86-64 psABI, table 4.9.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from kubenclave.errors import Refused
from kubenclave.sgx.pages import (
    PAGE_BYTES,
    SECINFO_R,
    SECINFO_REG,
    SECINFO_W,
    SECINFO_X,
    PageRun,
    permission_kind,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MAX_IMAGE_BYTES: Final = 1 << 30
"""Code and data of an enclave; all of it is hashed, so a larger claim is refused before it costs time."""

MAGIC: Final = b"\x7fELF"
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_TLS = 1, 2, 3, 7
PF_X, PF_W, PF_R = 1, 2, 4
DT_NULL, DT_NEEDED, DT_PLTRELSZ, DT_RELA, DT_RELASZ, DT_RELSZ, DT_TEXTREL, DT_JMPREL, DT_RELRSZ = 0, 1, 2, 7, 8, 18, 22, 23, 35
R_X86_64_NONE, R_X86_64_TPOFF64 = 0, 18
SHN_UNDEF: Final = 0
STT_SECTION: Final = 3
RELA: Final = struct.Struct("<QQq")
"""r_offset, r_info, r_addend."""

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_DYN = struct.Struct("<qQ")
_CLASS_64, _LITTLE_ENDIAN, _EM_X86_64, _ET_DYN = 2, 1, 62, 3
_SHT_NOBITS = 8
MAX_LOADS: Final = 64
"""Linkers write four or five; the work per page grows with their number."""
MAX_SYMBOLS: Final = 1 << 20
_MAX_DYNAMIC_ENTRIES = 1024
"""Linkers write some thirty."""
_MAX_NAME_BYTES = 256
"""Section and symbol names are compared and shown; the longest that a C++ compiler gives a section is about this."""
_HINT = "Give an undamaged, linked x86-64 ELF file."


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Hold one program header; ``at`` is its own offset in the file."""

    at: int
    type: int
    flags: int
    offset: int
    address: int
    file_bytes: int
    memory_bytes: int
    alignment: int

    @property
    def end(self) -> int:
        """Give the first address behind the segment."""
        return self.address + self.memory_bytes

    @property
    def secinfo(self) -> int:
        """Give the SECINFO flags of a regular page with the segment's permissions."""
        pairs = ((PF_R, SECINFO_R), (PF_W, SECINFO_W), (PF_X, SECINFO_X))
        return SECINFO_REG | sum(bit for flag, bit in pairs if self.flags & flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Hold one section header; ``at`` is its own offset in the file."""

    at: int
    name: str
    type: int
    address: int
    offset: int
    size: int
    link: int
    alignment: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """Hold one entry of a symbol table."""

    name: str
    type: int
    section: int
    address: int
    size: int


@dataclass(frozen=True, kw_only=True)
class ElfFile:
    """Hold an ELF file and its headers.

    Attributes:
        data: The whole file.
        entry: e_entry.
        segments: The program headers in their order.
        sections: The section headers in their order; none where the file has none.
    """

    data: bytes
    entry: int
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]

    @property
    def loads(self) -> tuple[Segment, ...]:
        """Give the PT_LOAD segments that take memory."""
        return tuple(segment for segment in self.segments if segment.type == PT_LOAD and segment.memory_bytes)

    def section(self, name: str) -> Section | None:
        """Find the first section of a name."""
        return next((section for section in self.sections if section.name == name), None)

    def content(self, section: Section) -> memoryview:
        """Give a section's bytes in the file.

        Raises:
            Refused: They do not lie in the file.
        """
        if section.type == _SHT_NOBITS:
            refuse(f"the ELF section {section.name} (header at offset {section.at:#x}) has no content in the file (SHT_NOBITS)")
        if section.offset + section.size > len(self.data):
            refuse(
                f"the ELF section {section.name} (header at offset {section.at:#x}) has sh_size {section.size:#x} from sh_offset "
                f"{section.offset:#x}, past the file's {len(self.data):#x} bytes"
            )
        return memoryview(self.data)[section.offset : section.offset + section.size]

    def dynamic(self) -> Iterator[tuple[int, int]]:
        """Give the entries (tag, value) of PT_DYNAMIC up to DT_NULL.

        Raises:
            Refused: The segment does not lie in the file, or is longer than any linker makes it.
        """
        for segment in self.segments:
            if segment.type == PT_DYNAMIC:
                content = self.segment_content(segment)
                if len(content) > _MAX_DYNAMIC_ENTRIES * _DYN.size:
                    refuse(f"{name_of(segment)} has p_filesz {len(content):#x}, more than {_MAX_DYNAMIC_ENTRIES} entries")
                for tag, value in _DYN.iter_unpack(content[: len(content) - len(content) % _DYN.size]):
                    if tag == DT_NULL:
                        return
                    yield tag, value
                return

    def segment_content(self, segment: Segment) -> memoryview:
        """Give a segment's bytes in the file.

        Raises:
            Refused: They do not lie in the file.
        """
        if segment.offset + segment.file_bytes > len(self.data):
            refuse(
                f"{name_of(segment)} has p_filesz {segment.file_bytes:#x} from p_offset {segment.offset:#x}, "
                f"past the file's {len(self.data):#x} bytes"
            )
        return memoryview(self.data)[segment.offset : segment.offset + segment.file_bytes]

    def at_address(self, address: int, size: int, what: str) -> memoryview:
        """Give the file's bytes that are loaded to an address.

        Raises:
            Refused: They are not all from one PT_LOAD segment of the file.
        """
        for segment in self.loads:
            start = address - segment.address
            if start >= 0 and start + size <= segment.file_bytes:
                return self.segment_content(segment)[start : start + size]
        raise Refused(f"{what} at address {address:#x} with {size:#x} bytes lies in no PT_LOAD segment's file content", _HINT)

    def symbols(self, table: str) -> Iterator[Symbol]:
        """Give the entries of ``.dynsym`` or ``.symtab``; none where the file has no such section.

        Raises:
            Refused: The table or its names do not lie in the file.
        """
        section = self.section(table)
        if section is None:
            return
        names = bytes(self.content(self._linked(section)))
        content = self.content(section)
        if len(content) > MAX_SYMBOLS * _SYM.size:
            refuse(
                f"the ELF section {table} (header at offset {section.at:#x}) has sh_size {section.size:#x}, more than {MAX_SYMBOLS} symbols"
            )
        for name, info, _, index, address, size in _SYM.iter_unpack(content[: len(content) - len(content) % _SYM.size]):
            yield Symbol(name=_string(names, name), type=info & 0xF, section=index, address=address, size=size)

    def _linked(self, section: Section) -> Section:
        if section.link >= len(self.sections):
            refuse(f"the ELF section {section.name} (header at offset {section.at:#x}) has sh_link {section.link}, which is no section")
        return self.sections[section.link]


def read_elf(data: bytes) -> ElfFile:
    """Read the headers of an ELF file.

    Raises:
        Refused: It is not a 64-bit little-endian x86-64 shared object or PIE, or a table leaves the file; the message names field and
            offset.
    """
    if len(data) < _EHDR.size:
        refuse(f"the enclave's ELF file cannot be read: it ends after {len(data)} bytes, within the ELF header")
    ident, kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx = _EHDR.unpack_from(data)
    if not ident.startswith(MAGIC):
        refuse("the enclave's ELF file cannot be read: it does not begin with the ELF magic at offset 0")
    if ident[4] != _CLASS_64 or ident[5] != _LITTLE_ENDIAN or machine != _EM_X86_64:
        what = f"EI_CLASS {ident[4]}, EI_DATA {ident[5]} at offset 4, e_machine {machine} at offset 18"
        raise Refused(f"the enclave's ELF file is not x86-64: it has {what}", "Compile the enclave for x86-64.")
    if kind != _ET_DYN:
        hint = "Link the enclave as a shared object or with -static-pie."
        raise Refused(f"the enclave's ELF file has e_type {kind} at offset 16, not ET_DYN, so it is bound to one address", hint)
    _check_table(data, ("e_phoff", 32, phoff), ("e_phentsize", 54, phentsize), count=phnum, expected=_PHDR.size)
    segments = tuple(_segments(data, phoff, phnum))
    loads = sum(segment.type == PT_LOAD for segment in segments)
    if loads > MAX_LOADS:
        refuse(f"the ELF field e_phnum at offset 56 is {phnum}, with {loads} PT_LOAD segments: more than {MAX_LOADS}")
    sections: tuple[Section, ...] = ()
    if shoff and shnum:
        _check_table(data, ("e_shoff", 40, shoff), ("e_shentsize", 58, shentsize), count=shnum, expected=_SHDR.size)
        sections = tuple(_sections(data, shoff, shnum, shstrndx))
    return ElfFile(data=data, entry=entry, segments=segments, sections=sections)


def name_of(segment: Segment) -> str:
    """Name a segment in a message."""
    known = {PT_LOAD: "PT_LOAD", PT_DYNAMIC: "PT_DYNAMIC", PT_INTERP: "PT_INTERP", PT_TLS: "PT_TLS"}
    kind = known.get(segment.type, f"of type {segment.type:#x}")
    return f"the ELF segment {kind} at address {segment.address:#x} (header at offset {segment.at:#x})"


def refuse(what: str, hint: str = _HINT) -> NoReturn:
    """Raise the room's error for a damaged ELF file."""
    raise Refused(what, hint)


def segment_runs(elf: ElfFile, segment: Segment, *, writable_pages: frozenset[int] = frozenset()) -> list[PageRun]:
    """Turn a PT_LOAD segment into pages: zeros in front of it up to the page, its bytes, zeros behind them.

    Args:
        elf: The file that the segment is of.
        segment: The segment.
        writable_pages: Offsets of pages that are writable beyond what the segment says, where they hold bytes of the file.

    Raises:
        Refused: Its sizes contradict each other, leave the file or pass a limit.
    """
    if segment.file_bytes > segment.memory_bytes:
        refuse(f"{name_of(segment)} has p_filesz {segment.file_bytes:#x}, past its memory: p_memsz is {segment.memory_bytes:#x}")
    if segment.end > MAX_IMAGE_BYTES:
        refuse(f"{name_of(segment)} has p_memsz {segment.memory_bytes:#x}, past the {MAX_IMAGE_BYTES:#x} bytes that an image may take")
    content = elf.segment_content(segment)
    first = segment.address - segment.address % PAGE_BYTES
    lead = segment.address - first
    runs: list[PageRun] = []

    def add(count: int, data: bytes | memoryview = b"") -> None:
        if count:
            offset = runs[-1].end if runs else first
            label = permission_kind(segment.secinfo)
            runs.append(PageRun(offset=offset, page_count=count, secinfo=segment.secinfo, content=data, label=label))

    if lead and content:
        head = bytes(lead) + bytes(content[: PAGE_BYTES - lead])
        add(1, head.ljust(PAGE_BYTES, b"\0"))
        content = content[PAGE_BYTES - lead :]
    whole = len(content) - len(content) % PAGE_BYTES
    add(whole // PAGE_BYTES, content[:whole])
    if whole < len(content):
        add(1, bytes(content[whole:]).ljust(PAGE_BYTES, b"\0"))
    backed_pages = sum(run.page_count for run in runs)
    add(-(-(lead + segment.memory_bytes) // PAGE_BYTES) - backed_pages)
    backed = frozenset(offset for offset in writable_pages if first <= offset < first + backed_pages * PAGE_BYTES)
    return [part for run in runs for part in _with_writable(run, backed)]


def check_order(segments: Iterable[Segment]) -> None:
    """Check that segments follow each other without sharing a page, as every loader of enclaves demands.

    Raises:
        Refused: One is out of order or overlaps the one before it.
    """
    end = 0
    for segment in segments:
        if segment.address - segment.address % PAGE_BYTES < end:
            refuse(f"{name_of(segment)} is out of order or shares a page with the segment before it")
        end = -(-segment.end // PAGE_BYTES) * PAGE_BYTES


def symbol_addresses(elf: ElfFile, names: Iterable[str]) -> Mapping[str, int]:
    """Find defined dynamic symbols by name; those that are not there are left out.

    Raises:
        Refused: The symbol table does not lie in the file.
    """
    wanted = frozenset(names)
    found: dict[str, int] = {}
    for symbol in elf.symbols(".dynsym"):
        if symbol.name in wanted and symbol.section != SHN_UNDEF:
            found.setdefault(symbol.name, symbol.address)
    return found


def _with_writable(run: PageRun, writable_pages: frozenset[int]) -> Iterator[PageRun]:
    """Split a run where pages become writable."""
    here = sorted((offset - run.offset) // PAGE_BYTES for offset in writable_pages if run.offset <= offset < run.end)
    if not here or run.secinfo & SECINFO_W:
        yield run
        return
    done = 0
    for index in here:
        if index > done:
            yield run.part(done, index - done)
        part = run.part(index, 1)
        secinfo = part.secinfo | SECINFO_W
        yield PageRun(offset=part.offset, page_count=1, secinfo=secinfo, content=part.content, label=part.label)
        done = index + 1
    if done < run.page_count:
        yield run.part(done, run.page_count - done)


def _check_table(data: bytes, start: tuple[str, int, int], entry: tuple[str, int, int], *, count: int, expected: int) -> None:
    """Check a table of headers, whose start and entry size are fields of a name, at an offset, with a value."""
    name, at, size = entry
    if count and size != expected:
        refuse(f"the ELF field {name} at offset {at} is {size}, not {expected}")
    name, at, offset = start
    if offset + count * expected > len(data):
        refuse(f"the ELF field {name} at offset {at} is {offset:#x}: the table of {count} headers leaves the file's {len(data):#x} bytes")


def _segments(data: bytes, offset: int, count: int) -> Iterator[Segment]:
    for index in range(count):
        at = offset + index * _PHDR.size
        kind, flags, start, address, _, file_bytes, memory_bytes, alignment = _PHDR.unpack_from(data, at)
        yield Segment(
            at=at,
            type=kind,
            flags=flags,
            offset=start,
            address=address,
            file_bytes=file_bytes,
            memory_bytes=memory_bytes,
            alignment=alignment,
        )


def _sections(data: bytes, offset: int, count: int, names_index: int) -> Iterator[Section]:
    headers = [_SHDR.unpack_from(data, offset + index * _SHDR.size) for index in range(count)]
    names = b""
    if 0 < names_index < count:
        names_offset, names_bytes = headers[names_index][4:6]
        if names_offset + names_bytes > len(data):
            refuse(f"the ELF section of section names (e_shstrndx {names_index} at offset 62) leaves the file's {len(data):#x} bytes")
        names = data[names_offset : names_offset + names_bytes]
    for index, (name, kind, _, address, start, size, link, _, alignment, _) in enumerate(headers):
        yield Section(
            at=offset + index * _SHDR.size,
            name=_string(names, name),
            type=kind,
            address=address,
            offset=start,
            size=size,
            link=link,
            alignment=alignment,
        )


def _string(table: bytes, offset: int) -> str:
    """Take a name out of a string table; one that is not there is empty, one that does not end is cut."""
    end = table.find(b"\0", offset, offset + _MAX_NAME_BYTES)
    return table[offset : end if end >= 0 else offset + _MAX_NAME_BYTES].decode("utf-8", "replace")
