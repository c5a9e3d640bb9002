"""Leave out of programs and libraries what no loader maps: symbol tables and debug information. Never out of an enclave.

This is done by the program headers alone, without binutils: nothing foreign runs, the result is the same on every machine, and section
headers go, too, which ``strip`` keeps.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.image.elf import NotElf, OtherMachine, mapped_part
from kubenclave.image.layer import CutFile, File, Role
from kubenclave.image.sysroot import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kubenclave.image.layer import Entry

_STRIPPED_ROLES = frozenset({Role.PROGRAM, Role.LIBRARY, Role.LOADER})


def stripped(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries whose programs and libraries are without symbols; whatever else is there stays as it is."""
    return [
        replace(entry, source=without_symbols(entry.source))
        if isinstance(entry, File) and entry.role in _STRIPPED_ROLES and isinstance(entry.source, Path)
        else entry
        for entry in entries
    ]


def without_symbols(source: Path) -> Path | CutFile:
    """Return the part of a program or library that is mapped, or all of it where there is nothing to leave out.

    Raises:
        NotFound: It cannot be read.
        Refused: It is a damaged ELF file.
    """
    with open_regular(source) as file:
        size_bytes = file.seek(0, 2)
        try:
            part = mapped_part(file, str(source))
        except (NotElf, OtherMachine) as exc:
            raise Refused(f"{source} is not x86-64 code any more.", "Build again when nothing changes these files.") from exc
    if part.size_bytes == size_bytes:
        return source
    return CutFile(path=source, size_bytes=part.size_bytes, head=part.head, saved_bytes=size_bytes - part.size_bytes)
