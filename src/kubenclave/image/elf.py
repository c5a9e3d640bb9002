"""Read from an ELF file what its loader would read, and no more: interpreter, needed libraries, search paths.

Knows streams and bytes; opens and runs nothing. Only headers and names are read, never the whole file, and every walk is bounded, because
the file may be hostile. Sources: System V ABI (gABI) chapters 4 and 5; the x86-64 psABI.
"""

from __future__ import annotations

import io
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, NamedTuple

from kubenclave.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Linux refuses a program whose program headers exceed one page (fs/binfmt_elf.c, load_elf_phdrs): 4096 / 56 bytes.
MAX_SEGMENTS = 73
# Real programs have below 100 entries, each needed library taking one; the largest seen in a desktop distribution have a few hundred.
MAX_DYNAMIC_ENTRIES = 4096
# PATH_MAX of Linux (limits.h): a longer name cannot be opened.
MAX_NAME_BYTES = 4096
# C++ programs of some hundred MB have some ten MB of names.
MAX_STRINGS_BYTES = 32 * 1024 * 1024

# gABI figures 4-3, 5-1 and 5-9, for 64-bit files.
# e_phoff, e_phentsize and e_phnum.
_HEADER = struct.Struct("<32xQ14xHH6x")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC_ENTRY = struct.Struct("<QQ")
_E_MACHINE = slice(18, 20)
# Class 64, little-endian; EM_X86_64.
_OURS = (b"\x02\x01", (62).to_bytes(2, "little"))
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 14, 15, 29
_DT_FLAGS_1 = 0x6FFF_FFFB
_WANTED_TAGS = frozenset({_DT_NEEDED, _DT_SONAME, _DT_RPATH, _DT_RUNPATH, _DT_STRTAB, _DT_STRSZ, _DT_FLAGS_1})
_TAGS_WITH_NAMES = frozenset({_DT_NEEDED, _DT_SONAME, _DT_RPATH, _DT_RUNPATH, _DT_STRSZ})
_DF_1_NODEFLIB = 0x800


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfFacts:
    """Hold what one ELF file asks of its loader.

    ``interpreter`` is None for a static program and for a library; ``rpath`` is empty where ``runpath`` replaces it (ld.so(8)).
    """

    interpreter: str | None
    dynamic: bool
    soname: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    no_default_libs: bool


class NotElf(Exception):  # noqa: N818 - says what the file is
    """Report a file that does not begin as an ELF file does; callers decide whether that matters."""


class OtherMachine(Exception):  # noqa: N818
    """Report an ELF file for another class, byte order or machine than x86-64, which the loader passes over."""


class _Segment(NamedTuple):
    kind: int
    offset: int
    address: int
    size_bytes: int


class _Elf(NamedTuple):
    stream: IO[bytes]
    name: str
    segments_at: int
    segments: list[_Segment]


def read_elf(stream: IO[bytes], name: str) -> ElfFacts:
    """Read the facts of an x86-64 ELF file.

    Args:
        stream: The file, seekable.
        name: How to call it in an error.

    Raises:
        NotElf: It does not begin with the ELF magic.
        OtherMachine: It is not little-endian 64-bit x86-64 code.
        Refused: It is damaged: a table lies outside the file or beyond a limit.
    """
    with _in_words(name):
        return _facts(_open(stream, name))


def dynamic_names(stream: IO[bytes], name: str) -> frozenset[bytes]:
    """Return the names in an ELF file's dynamic string table: what it imports and exports, among others; none if it is no such file.

    Raises:
        Refused: It is damaged.
    """
    try:
        with _in_words(name):
            elf = _open(stream, name)
            tags = _dynamic_tags(elf)
            if _DT_STRSZ not in tags:
                return frozenset()
            stream.seek(_strings_offset(elf, tags))
            return frozenset(stream.read(min(tags[_DT_STRSZ][0], MAX_STRINGS_BYTES)).split(b"\0"))
    except (NotElf, OtherMachine):
        return frozenset()


def _open(stream: IO[bytes], name: str) -> _Elf:
    stream.seek(0)
    header = stream.read(_HEADER.size)
    if header[:4] != b"\x7fELF":
        raise NotElf(name)
    # Any other class has a shorter header, and what is not even that long is damaged.
    if len(header) >= _E_MACHINE.stop and (header[4:6], header[_E_MACHINE]) != _OURS:
        raise OtherMachine(name)
    segments_at, size, count = _HEADER.unpack(header)
    if count > MAX_SEGMENTS:
        raise _damaged(name, f"it claims {count} program headers, more than Linux loads ({MAX_SEGMENTS})")
    if count and size != _SEGMENT.size:
        raise _damaged(name, f"field e_phentsize is {size}")
    stream.seek(segments_at)
    fields = _SEGMENT.iter_unpack(_read(stream, count * _SEGMENT.size))
    segments = [_Segment(kind, offset, address, size_bytes) for kind, _, offset, address, _, size_bytes, _, _ in fields]
    return _Elf(stream, name, segments_at, segments)


def _read(stream: IO[bytes], size_bytes: int) -> bytes:
    data = stream.read(size_bytes)
    if len(data) < size_bytes:
        raise EOFError
    return data


@contextmanager
def _in_words(name: str) -> Iterator[None]:
    try:
        yield
    except (struct.error, EOFError) as exc:
        raise _damaged(name, "it ends too early") from exc
    except (UnicodeDecodeError, OverflowError, ValueError, OSError) as exc:
        raise _damaged(name, str(exc)) from exc


def _facts(elf: _Elf) -> ElfFacts:
    tags = _dynamic_tags(elf)
    table = _strings_offset(elf, tags)
    return ElfFacts(
        interpreter=next((_text_at(elf, segment.offset) for segment in elf.segments if segment.kind == _PT_INTERP), None),
        dynamic=any(segment.kind == _PT_DYNAMIC for segment in elf.segments),
        soname=next(iter(_texts(elf, table, tags.get(_DT_SONAME, ()))), None),
        needed=tuple(_texts(elf, table, tags.get(_DT_NEEDED, ()))),
        rpath=() if _DT_RUNPATH in tags else _paths(elf, table, tags.get(_DT_RPATH, ())),
        runpath=_paths(elf, table, tags.get(_DT_RUNPATH, ())),
        no_default_libs=any(value & _DF_1_NODEFLIB for value in tags.get(_DT_FLAGS_1, ())),
    )


def _dynamic_tags(elf: _Elf) -> dict[int, list[int]]:
    tags: dict[int, list[int]] = {}
    segment = next((segment for segment in elf.segments if segment.kind == _PT_DYNAMIC), None)
    if segment is None:
        return tags
    count = segment.size_bytes // _DYNAMIC_ENTRY.size
    if count > MAX_DYNAMIC_ENTRIES:
        raise _damaged(elf.name, f"its dynamic table has {count} entries, more than {MAX_DYNAMIC_ENTRIES}")
    elf.stream.seek(segment.offset)
    for tag, value in _DYNAMIC_ENTRY.iter_unpack(_read(elf.stream, count * _DYNAMIC_ENTRY.size)):
        if tag == _DT_NULL:
            break
        if tag in _WANTED_TAGS:
            tags.setdefault(tag, []).append(value)
    return tags


def _strings_offset(elf: _Elf, tags: Mapping[int, Sequence[int]]) -> int:
    """Turn the string table's address into its place in the file, as the loader does through the loaded segments."""
    if not tags.keys() & _TAGS_WITH_NAMES:
        return 0
    address = next(iter(tags.get(_DT_STRTAB, ())), None)
    for segment in elf.segments:
        if segment.kind == _PT_LOAD and address is not None:
            within = address - segment.address
            if 0 <= within < segment.size_bytes:
                return segment.offset + within
    raise _damaged(elf.name, "its dynamic table names no string table that is loaded")


def _texts(elf: _Elf, table: int, offsets: Sequence[int]) -> Iterator[str]:
    return (_text_at(elf, table + offset) for offset in offsets)


def _paths(elf: _Elf, table: int, offsets: Sequence[int]) -> tuple[str, ...]:
    return tuple(part for text in _texts(elf, table, offsets) for part in text.split(":") if part)


def _text_at(elf: _Elf, offset: int) -> str:
    elf.stream.seek(offset)
    text, end, _ = elf.stream.read(MAX_NAME_BYTES).partition(b"\0")
    if not end:
        raise _damaged(elf.name, f"the name at offset {offset} has no end within {MAX_NAME_BYTES} bytes")
    return text.decode("utf-8")


def _damaged(name: str, why: str) -> Refused:
    return Refused(f"{name} is a damaged ELF file: {why}.", "Build or fetch the file again.")


# ELF-64 header fields (gABI, figure 4-3): e_shoff, then e_shnum and e_shstrndx side by side.
_E_SHOFF = slice(40, 48)
_E_SHNUM_AND_SHSTRNDX = slice(60, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedPart:
    """Say what of an ELF file a loader maps: its first ``size_bytes``, of which ``head`` replaces the first."""

    size_bytes: int
    head: bytes


def mapped_part(stream: IO[bytes], name: str) -> MappedPart:
    """Find an x86-64 ELF file without what no loader maps: debug information, symbol tables, section headers.

    The file is cut behind its last segment and its header says that there are no sections. For programs and libraries only; an enclave
    file must never pass through here, since its signature and measurement may lie in sections.

    Raises:
        NotElf: It does not begin with the ELF magic.
        OtherMachine: It is for another machine.
        Refused: It is damaged.
    """
    with _in_words(name):
        elf = _open(stream, name)
        ends = [segment.offset + segment.size_bytes for segment in elf.segments]
        end = max([elf.segments_at + len(elf.segments) * _SEGMENT.size, _E_SHNUM_AND_SHSTRNDX.stop, *ends])
    size_bytes = stream.seek(0, io.SEEK_END)
    if end > size_bytes:
        raise _damaged(name, f"a segment ends at {end}, behind the end of the file")
    stream.seek(0)
    head = bytearray(stream.read(_E_SHNUM_AND_SHSTRNDX.stop))
    head[_E_SHOFF] = bytes(8)
    head[_E_SHNUM_AND_SHSTRNDX] = bytes(4)
    return MappedPart(size_bytes=end, head=bytes(head))
