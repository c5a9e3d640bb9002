"""Write files as one image layer whose bytes depend on their contents and paths alone.

Reads the files it is given, writes to a stream; decides the metadata. Format: OCI image-spec v1.1, layer.md; USTAR as POSIX.1-1988 has it,
because PAX headers carry process ids and fractions of seconds.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import tarfile
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.image.sysroot import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    Report = Callable[[str], None]

# Everything is readable by the image's user and writable by nobody but root.
_EXECUTABLE_MODE = 0o755
_FILE_MODE = 0o644
_DIRECTORY_MODE = 0o755
# Eleven octal digits of USTAR's size field.
MAX_FILE_BYTES = 8**11 - 1
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
class File:
    """Name a regular file of the image by its absolute path, with where its bytes come from: a file without links, or memory."""

    path: str
    source: Path | bytes
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
class FileSize:
    """Hold one file of the image and its size."""

    path: str
    role: Role
    size_bytes: int


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


def write_layer(entries: Sequence[Entry], stream: IO[bytes], *, epoch_seconds: int, report: Report) -> list[FileSize]:
    """Write arranged entries as an uncompressed layer and return the sizes of its files.

    Args:
        entries: As ``arrange`` returns them.
        stream: Where the tar goes; written from front to back.
        epoch_seconds: The time that every file bears.
        report: Told the name of each large file.

    Raises:
        Refused: A file changed while it was read, or is too large or its name too long for the format.
        NotFound: A file cannot be read.
    """
    sizes = []
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT, encoding="utf-8", errors="strict") as tar:
        for entry in entries:
            header = tarfile.TarInfo(entry.path.lstrip("/"))
            header.mtime = epoch_seconds
            if isinstance(entry, File):
                sizes.append(_write_file(tar, header, entry, report))
                continue
            if isinstance(entry, Link):
                header.type, header.linkname, header.mode = tarfile.SYMTYPE, entry.target, 0o777
            else:
                header.type, header.mode = tarfile.DIRTYPE, _DIRECTORY_MODE
            _add(tar, header, None, entry)
    return sizes


def _write_file(tar: tarfile.TarFile, header: tarfile.TarInfo, entry: File, report: Report) -> FileSize:
    header.mode = _EXECUTABLE_MODE if entry.executable else _FILE_MODE
    if isinstance(entry.source, bytes):
        header.size = len(entry.source)
        _add(tar, header, io.BytesIO(entry.source), entry)
        return FileSize(path=entry.path, role=entry.role, size_bytes=header.size)
    with open_regular(entry.source) as file:
        before = os.fstat(file.fileno())
        header.size = before.st_size
        if header.size >= _LARGE_BYTES:
            report(f"packing {entry.path}")
        _add(tar, header, file, entry)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _changed(entry)
    return FileSize(path=entry.path, role=entry.role, size_bytes=header.size)


def _add(tar: tarfile.TarFile, header: tarfile.TarInfo, content: IO[bytes] | None, entry: Entry) -> None:
    if header.size > MAX_FILE_BYTES:
        raise Refused(f"{entry.path} has {header.size} bytes; a layer's file can have {MAX_FILE_BYTES}.", "Mount it as a volume instead.")
    try:
        tar.addfile(header, content)
    except ValueError as exc:
        raise Refused(f"The path {entry.path} or its target is too long for an image layer.", "Shorten it.") from exc
    except OSError as exc:
        # tarfile's own complaint about a file that ended early bears no error number; one of the system's does.
        if exc.errno is None and isinstance(entry, File):
            raise _changed(entry) from exc
        raise


def _changed(entry: File) -> Refused:
    return Refused(f"{entry.path} changed while it was read.", "Build again when nothing writes to it.")
