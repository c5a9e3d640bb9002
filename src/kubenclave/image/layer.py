"""Write files as one image layer whose bytes depend on their contents and paths alone.

Reads the files it is given, writes to a stream; decides the metadata. Format: OCI image-spec v1.1, layer.md; USTAR as POSIX.1-1988 has it,
because PAX headers carry process ids and fractions of seconds.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import re
import tarfile
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.image.sysroot import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Report = Callable[[str], None]

# Everything is readable by the image's user and writable by nobody but root.
_EXECUTABLE_MODE = 0o755
_FILE_MODE = 0o644
_DIRECTORY_MODE = 0o755
# Eleven octal digits of USTAR's size field.
MAX_FILE_BYTES = 8**11 - 1
_COPY_BYTES = 256 * 1024
# Files of this size and more are named while they are written: they take a second or so.
_LARGE_BYTES = 32 * 1024 * 1024


class Role(StrEnum):
    """Say why a file is in the image."""

    PROGRAM = "program"
    ENCLAVE = "enclave"
    LOADER = "loader"
    LIBRARY = "library"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutFile:
    """Name a file of this machine that is taken in part: its first ``size_bytes``, of which ``head`` replaces the first.

    ``saved_bytes`` is what is left out.
    """

    path: Path
    size_bytes: int
    head: bytes
    saved_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFile:
    """Name a file of this machine that was looked at before, with the SHA-256 that it had then and must have when it is packed."""

    path: Path = field(compare=False)
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """Name a regular file of the image by its absolute path, with where its bytes come from.

    That is a file by a path without links, a part of one, one that was looked at before, or memory.
    """

    path: str
    source: Path | CutFile | CheckedFile | bytes
    role: Role
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Name a symbolic link of the image."""

    path: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """Name a directory of the image that must be there although nothing lies in it."""

    path: str


Entry = File | Link | Directory


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """Hold one file of the image, its size and the SHA-256 of its content in hexadecimal."""

    path: str
    role: Role
    size_bytes: int
    sha256: str


def arrange(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries of a layer, each path once, with all parent directories, in the order in which they are written.

    Raises:
        Refused: A path is unfit for an image, or two different things want the same path.
    """
    by_path: dict[str, Entry] = {}
    for entry in entries:
        _check_path(entry.path)
        known = by_path.setdefault(entry.path, entry)
        if known != entry:
            raise Refused(f"Two different files would be {entry.path} in the image.", "Leave one of them out or give it another place.")
    for path in list(by_path):
        parent = posixpath.dirname(path)
        while parent != "/":
            if not isinstance(by_path.setdefault(parent, Directory(path=parent)), Directory):
                raise Refused(f"{parent} would be both a file and the directory of {path} in the image.", "Give one another place.")
            parent = posixpath.dirname(parent)
    return sorted(by_path.values(), key=lambda entry: os.fsencode(entry.path))


def _check_path(path: str) -> None:
    hint = "Rename the file or give it another place in the image."
    if not path.isprintable():
        raise Refused(f"The path {path!r} holds a control character or bytes that are no text.", hint)
    if not re.fullmatch(r"(/[^/]+)+", path) or posixpath.normpath(path) != path:
        raise Refused(f"{path!r} is no plain absolute path of a file.", hint)


def write_layer(entries: Sequence[Entry], write: Callable[[bytes], object], *, epoch_seconds: int, report: Report) -> list[FileFacts]:
    """Write arranged entries as an uncompressed layer and return the facts of its files.

    Args:
        entries: As ``arrange`` returns them.
        write: Where the tar goes, piece by piece.
        epoch_seconds: The time that every file bears.
        report: Told the name of each large file.

    Raises:
        Refused: A file changed while it was read, or is too large or its name too long for the format.
        NotFound: A file cannot be read.
    """
    files = []
    for entry in entries:
        header = tarfile.TarInfo(entry.path.lstrip("/"))
        header.mtime = epoch_seconds
        if isinstance(entry, File):
            files.append(_write_file(write, header, entry, report))
            continue
        if isinstance(entry, Link):
            header.type, header.linkname, header.mode = tarfile.SYMTYPE, entry.target, 0o777
        else:
            header.type, header.mode = tarfile.DIRTYPE, _DIRECTORY_MODE
        write(_header_block(header, entry))
    write(bytes(2 * tarfile.BLOCKSIZE))
    return files


def _write_file(write: Callable[[bytes], object], header: tarfile.TarInfo, entry: File, report: Report) -> FileFacts:
    header.mode = _EXECUTABLE_MODE if entry.executable else _FILE_MODE
    if isinstance(entry.source, bytes):
        header.size = len(entry.source)
        write(_header_block(header, entry))
        sha256 = _copy(io.BytesIO(entry.source), header.size, b"", write, entry)
        write(_padding(header.size))
        return _facts(entry, header.size, sha256)
    cut = entry.source if isinstance(entry.source, CutFile) else None
    place = entry.source if isinstance(entry.source, Path) else entry.source.path
    with open_regular(place) as file:
        before = os.fstat(file.fileno())
        header.size = before.st_size if cut is None else cut.size_bytes
        if header.size >= _LARGE_BYTES:
            report(f"packing {entry.path}")
        write(_header_block(header, entry))
        sha256 = _copy(file, header.size, b"" if cut is None else cut.head, write, entry)
        after = os.fstat(file.fileno())
    expected = entry.source.sha256 if isinstance(entry.source, CheckedFile) else sha256
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or sha256 != expected:
        raise _changed(entry)
    write(_padding(header.size))
    return _facts(entry, header.size, sha256)


def _copy(file: IO[bytes], size_bytes: int, head: bytes, write: Callable[[bytes], object], entry: Entry) -> bytes:
    sha256 = hashlib.sha256(head)
    write(head)
    file.seek(len(head))
    left = size_bytes - len(head)
    while left:
        data = file.read(min(left, _COPY_BYTES))
        if not data:
            raise _changed(entry)
        sha256.update(data)
        write(data)
        left -= len(data)
    return sha256.digest()


def _facts(entry: File, size_bytes: int, sha256: bytes) -> FileFacts:
    return FileFacts(path=entry.path, role=entry.role, size_bytes=size_bytes, sha256=sha256.hex())


def _header_block(header: tarfile.TarInfo, entry: Entry) -> bytes:
    if header.size > MAX_FILE_BYTES:
        raise Refused(f"{entry.path} has {header.size} bytes; a layer's file can have {MAX_FILE_BYTES}.", "Mount it as a volume instead.")
    try:
        return header.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as exc:
        raise Refused(f"The path {entry.path} or its target is too long for an image layer.", "Shorten it.") from exc


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)


def _changed(entry: Entry) -> Refused:
    return Refused(f"{entry.path} changed while it was read.", "Build again when nothing writes to it.")
