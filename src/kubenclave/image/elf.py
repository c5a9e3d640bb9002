"""Read from an ELF file what its loader would read, and no more: interpreter, needed libraries, search paths.

Knows streams and bytes; opens and runs nothing. Layouts come from pyelftools; the walk is bounded here, because the file may be hostile.
Sources: System V ABI (gABI) chapters 4 and 5; the x86-64 psABI.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

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
_DYNAMIC_ENTRY_BYTES = 16

_WANTED_TAGS = frozenset({"DT_NEEDED", "DT_SONAME", "DT_RPATH", "DT_RUNPATH", "DT_STRTAB", "DT_STRSZ", "DT_FLAGS_1"})
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
        return _facts(_open(stream, name), name)


def dynamic_names(stream: IO[bytes], name: str) -> frozenset[bytes]:
    """Return the names in an ELF file's dynamic string table: what it imports and exports, among others; none if it is no such file.

    Raises:
        Refused: It is damaged.
    """
    try:
        with _in_words(name):
            elf = _open(stream, name)
            segments = _segments(elf, name)
            dynamic = _first(segments, "PT_DYNAMIC")
            tags = _dynamic_tags(elf, dynamic, name) if dynamic else {}
            if "DT_STRSZ" not in tags:
                return frozenset()
            stream.seek(_strings_offset(segments, tags, name))
            return frozenset(stream.read(min(tags["DT_STRSZ"][0], MAX_STRINGS_BYTES)).split(b"\0"))
    except (NotElf, OtherMachine):
        return frozenset()


def _open(stream: IO[bytes], name: str) -> ELFFile:
    stream.seek(0)
    if stream.read(4) != b"\x7fELF":
        raise NotElf(name)
    elf = ELFFile(stream)
    if elf.elfclass != 64 or not elf.little_endian or elf["e_machine"] != "EM_X86_64":  # noqa: PLR2004 - bits of a word
        raise OtherMachine(name)
    return elf


@contextmanager
def _in_words(name: str) -> Iterator[None]:
    try:
        yield
    except (ELFError, UnicodeDecodeError, OverflowError, ValueError) as exc:
        raise _damaged(name, str(exc) or "it ends too early") from exc


def _facts(elf: ELFFile, name: str) -> ElfFacts:
    segments = _segments(elf, name)
    dynamic = _first(segments, "PT_DYNAMIC")
    tags = _dynamic_tags(elf, dynamic, name) if dynamic else {}
    table = _strings_offset(segments, tags, name)
    runpath = _paths(elf.stream, table, tags.get("DT_RUNPATH", ()), name)
    return ElfFacts(
        interpreter=_interpreter(elf.stream, segments, name),
        dynamic=dynamic is not None,
        soname=next(iter(_texts(elf.stream, table, tags.get("DT_SONAME", ()), name)), None),
        needed=tuple(_texts(elf.stream, table, tags.get("DT_NEEDED", ()), name)),
        rpath=() if "DT_RUNPATH" in tags else _paths(elf.stream, table, tags.get("DT_RPATH", ()), name),
        runpath=runpath,
        no_default_libs=any(value & _DF_1_NODEFLIB for value in tags.get("DT_FLAGS_1", ())),
    )


def _segments(elf: ELFFile, name: str) -> list[Mapping[str, int | str]]:
    count, size = elf["e_phnum"], elf["e_phentsize"]
    if count > MAX_SEGMENTS:
        raise _damaged(name, f"it claims {count} program headers, more than Linux loads ({MAX_SEGMENTS})")
    if count and size != elf.structs.Elf_Phdr.sizeof():
        raise _damaged(name, f"field e_phentsize is {size}")
    return [struct_parse(elf.structs.Elf_Phdr, elf.stream, elf["e_phoff"] + n * size) for n in range(count)]


def _first(segments: Sequence[Mapping[str, int | str]], kind: str) -> Mapping[str, int | str] | None:
    return next((segment for segment in segments if segment["p_type"] == kind), None)


def _interpreter(stream: IO[bytes], segments: Sequence[Mapping[str, int | str]], name: str) -> str | None:
    segment = _first(segments, "PT_INTERP")
    return _text_at(stream, int(segment["p_offset"]), name) if segment else None


def _dynamic_tags(elf: ELFFile, segment: Mapping[str, int | str], name: str) -> dict[str, list[int]]:
    tags: dict[str, list[int]] = {}
    count = int(segment["p_filesz"]) // _DYNAMIC_ENTRY_BYTES
    if count > MAX_DYNAMIC_ENTRIES:
        raise _damaged(name, f"its dynamic table has {count} entries, more than {MAX_DYNAMIC_ENTRIES}")
    for n in range(count):
        entry = struct_parse(elf.structs.Elf_Dyn, elf.stream, int(segment["p_offset"]) + n * _DYNAMIC_ENTRY_BYTES)
        if entry["d_tag"] == "DT_NULL":
            break
        if entry["d_tag"] in _WANTED_TAGS:
            tags.setdefault(entry["d_tag"], []).append(entry["d_val"])
    return tags


def _strings_offset(segments: Sequence[Mapping[str, int | str]], tags: Mapping[str, Sequence[int]], name: str) -> int:
    """Turn the string table's address into its place in the file, as the loader does through the loaded segments."""
    if not tags.keys() & {"DT_NEEDED", "DT_SONAME", "DT_RPATH", "DT_RUNPATH", "DT_STRSZ"}:
        return 0
    address = next(iter(tags.get("DT_STRTAB", ())), None)
    for segment in segments:
        if segment["p_type"] == "PT_LOAD" and address is not None:
            within = address - int(segment["p_vaddr"])
            if 0 <= within < int(segment["p_filesz"]):
                return int(segment["p_offset"]) + within
    raise _damaged(name, "its dynamic table names no string table that is loaded")


def _texts(stream: IO[bytes], table: int, offsets: Sequence[int], name: str) -> Iterator[str]:
    return (_text_at(stream, table + offset, name) for offset in offsets)


def _paths(stream: IO[bytes], table: int, offsets: Sequence[int], name: str) -> tuple[str, ...]:
    return tuple(part for text in _texts(stream, table, offsets, name) for part in text.split(":") if part)


def _text_at(stream: IO[bytes], offset: int, name: str) -> str:
    stream.seek(offset)
    text, end, _ = stream.read(MAX_NAME_BYTES).partition(b"\0")
    if not end:
        raise _damaged(name, f"the name at offset {offset} has no end within {MAX_NAME_BYTES} bytes")
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
        segments = _segments(elf, name)
        ends = [int(segment["p_offset"]) + int(segment["p_filesz"]) for segment in segments]
        end = max([elf["e_phoff"] + elf["e_phnum"] * elf["e_phentsize"], _E_SHNUM_AND_SHSTRNDX.stop, *ends])
    size_bytes = stream.seek(0, io.SEEK_END)
    if end > size_bytes:
        raise _damaged(name, f"a segment ends at {end}, behind the end of the file")
    stream.seek(0)
    head = bytearray(stream.read(_E_SHNUM_AND_SHSTRNDX.stop))
    head[_E_SHOFF] = bytes(8)
    head[_E_SHNUM_AND_SHSTRNDX] = bytes(4)
    return MappedPart(size_bytes=end, head=bytes(head))
