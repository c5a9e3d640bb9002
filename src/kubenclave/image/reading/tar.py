"""Walk over a tar of anyone in bounded memory: names, kinds and sizes first, content only as it is asked for.

Python's tarfile reads a member's extended header whole, however large it claims to be; this does not. Formats: POSIX.1-2001 pax, USTAR,
GNU tar's long names and large numbers. A header block itself is decoded and its checksum checked by tarfile.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from kubenclave.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = tarfile.BLOCKSIZE
# A long name has at most PATH_MAX bytes; extended attributes (security labels, capabilities) at most 64 KiB each.
MAX_EXTENSION_BYTES = 1024 * 1024
# A root file system of a desktop has some 300 000 files.
MAX_MEMBERS = 1_000_000
_SKIP_BYTES = 1024 * 1024
_HINT = "The archive is damaged or made to do harm; get it again from where you trust it."


class Kind(StrEnum):
    """Name what a member is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    HARD_LINK = "hard link"
    DEVICE = "device"
    PIPE = "pipe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Hold the header of one member. ``target`` is what a link points to; ``size_bytes`` that of its content."""

    name: str
    kind: Kind
    size_bytes: int
    mode: int
    uid: int
    gid: int
    target: str = ""


class Readable(Protocol):
    """Gives bytes from front to back."""

    def read(self, size: int, /) -> bytes:
        """Give at most so many; fewer only where there are no more at the moment, none at the end."""


_KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.LINK,
    tarfile.LNKTYPE: Kind.HARD_LINK,
    tarfile.CHRTYPE: Kind.DEVICE,
    tarfile.BLKTYPE: Kind.DEVICE,
    tarfile.FIFOTYPE: Kind.PIPE,
}
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


class TarReader:
    """Walk over the members of a tar; the content of the current one is read with ``read``."""

    def __init__(self, stream: Readable, what: str) -> None:
        self._stream = stream
        self._what = what
        self._left = 0
        self._padding = 0
        self.position = 0
        """Bytes read so far, so the place of the current member's content before any of it is read."""

    def members(self) -> Iterator[Member]:
        """Yield each member; what of its content was not read by then is passed over.

        Raises:
            Refused: The tar is damaged, or has more members or larger headers than any real one.
        """
        count = 0
        extended: dict[str, str] = {}
        while (header := self._header()) is not None:
            count += 1
            if count > MAX_MEMBERS:
                raise Refused(f"{self._what} holds more than {MAX_MEMBERS} files.", _HINT)
            if header.type in _PAX:
                extended |= _pax_records(self._extension(header), self._what)
            elif header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                name = "path" if header.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
                extended[name] = self._extension(header).rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif header.type == tarfile.XGLTYPE:
                # Global records hold comments (git archive) in practice; ones that rename or resize would be a trick.
                self._extension(header)
            else:
                member = self._member(header, extended)
                extended = {}
                self._left, self._padding = member.size_bytes, -member.size_bytes % _BLOCK
                yield member
                self._pass_over()

    def read(self, size: int) -> bytes:
        """Return at most so many bytes of the current member's content, none at its end.

        Raises:
            Refused: The tar ends in the middle of it.
        """
        data = self._take(min(size, self._left))
        self._left -= len(data)
        return data

    def _take(self, size: int) -> bytes:
        if not size:
            return b""
        data = self._stream.read(size)
        if not data:
            raise self._cut_off()
        self.position += len(data)
        return data

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            parts.append(self._take(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def _pass_over(self) -> None:
        left = self._left + self._padding
        self._left = self._padding = 0
        while left:
            left -= len(self._take(min(left, _SKIP_BYTES)))

    def _header(self) -> tarfile.TarInfo | None:
        block = b""
        while len(block) < _BLOCK:
            data = self._stream.read(_BLOCK - len(block))
            self.position += len(data)
            if not data:
                if block:
                    raise self._cut_off()
                # Real archives are found without their final zero blocks.
                return None
            block += data
        if block == bytes(_BLOCK):
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as exc:
            raise Refused(f"{self._what} has no tar header at offset {self.position - _BLOCK}: {exc}.", _HINT) from exc

    def _extension(self, header: tarfile.TarInfo) -> bytes:
        if not 0 <= header.size <= MAX_EXTENSION_BYTES:
            raise Refused(f"{self._what} has an extended header of {header.size} bytes.", _HINT)
        return self._exactly(header.size + -header.size % _BLOCK)[: header.size]

    def _member(self, header: tarfile.TarInfo, extended: dict[str, str]) -> Member:
        kind = _KINDS.get(header.type)
        if kind is None or any(name.startswith("GNU.sparse") for name in extended):
            raise Refused(f"{self._what} holds {header.name[:200]!r} of a kind ({header.type!r}) that images do not have.", _HINT)
        size = extended.get("size", str(header.size))
        # int() takes blanks and underscores; a size is digits, and no more of them than 16 EiB has.
        if not (size.isascii() and size.isdigit() and len(size) <= 20):  # noqa: PLR2004 - digits of 2**64
            raise Refused(f"{self._what} holds {header.name[:200]!r} with the size {size[:40]!r}.", _HINT)
        found = Member(
            name=extended.get("path", header.name),
            kind=kind,
            size_bytes=int(size) if kind is Kind.FILE else 0,
            mode=header.mode & 0o7777,
            uid=header.uid,
            gid=header.gid,
            target=extended.get("linkpath", header.linkname) if kind in (Kind.LINK, Kind.HARD_LINK) else "",
        )
        return replace(found, kind=Kind.DIRECTORY, size_bytes=0) if kind is Kind.FILE and found.name.endswith("/") else found

    def _cut_off(self) -> Refused:
        return Refused(f"{self._what} ends too early, at offset {self.position}.", _HINT)


def _pax_records(data: bytes, what: str) -> dict[str, str]:
    """Read records of the form ``LENGTH NAME=VALUE newline`` (POSIX.1-2001, pax, "Extended Header")."""
    records: dict[str, str] = {}
    place = 0
    while place < len(data) and data[place] != 0:
        blank = data.find(b" ", place, place + 12)
        digits = data[place:blank] if blank > place else b""
        length = int(digits) if digits.isdigit() else 0
        record = data[blank + 1 : place + length]
        if length <= len(digits) + 1 or place + length > len(data) or not record.endswith(b"\n"):
            raise Refused(f"{what} has a damaged extended header.", _HINT)
        name, _, value = record[:-1].partition(b"=")
        records[name.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        place += length
    return records
