"""Look into a folder as if it were ``/``: every symbolic link is followed inside it, none leads out.

Talks to the file system; reads only below its root.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from kubenclave.errors import NotFound, Refused, UsageError

if TYPE_CHECKING:
    from pathlib import Path

# MAXSYMLINKS of Linux (include/linux/namei.h): the kernel gives up after as many.
MAX_SYMLINKS = 40
# PATH_MAX of Linux: a path of more bytes cannot be opened. Bounds the parts of a path that grows by its links.
MAX_PATH_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Sysroot:
    """Name the root of the system whose files are wanted; ``/`` is this machine's own."""

    root: Path

    def __post_init__(self) -> None:
        if not self.root.is_absolute():
            raise UsageError(f"The system root {self.root} is a relative path.", "Give an absolute one.")

    def source(self, path: str) -> Path:
        """Return where a canonical path of this system lies on this machine."""
        return self.root / path.lstrip("/")

    def canonical(self, path: str) -> str | None:
        """Follow every symbolic link as the kernel would with this root, and return the path without any.

        None means that there is nothing, that it cannot be reached, or that the links go round in circles.
        """
        done: list[str] = []
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                # At the root, "up" stays at the root (path_resolution(7)): this is what keeps every path inside.
                del done[-1:]
                continue
            target = self._step([*done, part])
            if target is None:
                return None
            if target == "":
                done.append(part)
                continue
            links += 1
            if links > MAX_SYMLINKS or len(target) > MAX_PATH_BYTES:
                return None
            if target.startswith("/"):
                done.clear()
            todo.extend(step for step in reversed(target.split("/")) if step not in ("", "."))
        return "/" + "/".join(done)

    def _step(self, parts: list[str]) -> str | None:
        """Return the target of a link, an empty text for anything else that is there, None for nothing."""
        place = self.source("/".join(parts))
        try:
            return str(place.readlink())
        except OSError as exc:
            # EINVAL: it is there and no link.
            return "" if exc.errno == errno.EINVAL else None
        except ValueError:
            return None

    def open(self, path: str) -> IO[bytes]:
        """Open a regular file by its canonical path.

        Raises:
            NotFound: It is not there (any more) or may not be read.
            Refused: It is a device, a pipe or a directory.
        """
        return open_regular(self.source(path))

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory in byte order, nothing where there is none."""
        place = self.canonical(directory)
        try:
            return sorted((item.name for item in self.source(place).iterdir()), key=os.fsencode) if place else []
        except OSError:
            return []


def open_regular(place: Path) -> IO[bytes]:
    """Open a regular file by a path without symbolic links, without waiting on anything that is not one.

    No part of the path is followed if it is a link: what put one there since the path was found leads nowhere.

    Raises:
        NotFound: It is not there or may not be read.
        Refused: It is not a regular file, or a part of its path is a symbolic link.
    """
    try:
        descriptor = _open_without_links(place)
    except OSError as exc:
        # ENOTDIR is what a link gives where a directory is wanted.
        if exc.errno == errno.ELOOP or (exc.errno == errno.ENOTDIR and place.exists()):
            raise Refused(f"{place} became a symbolic link while it was read.", "Build again when nothing changes these files.") from exc
        raise NotFound(f"{place} cannot be read: {exc.strerror}.", "Check the path and its permissions.") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused(f"{place} is not a regular file.", "Only regular files can be part of an image.")
    return os.fdopen(descriptor, "rb")


def _open_without_links(place: Path) -> int:
    directory = os.open(place.anchor or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in place.parts[1 if place.anchor else 0 : -1]:
            below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = below
        # O_NONBLOCK: opening a pipe must not wait for its other end.
        return os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
