"""Take a directory of this machine into an image: regular files, directories, and links that stay inside it.

Reads names and kinds only; contents are read when the layer is written.
"""

from __future__ import annotations

import os
import posixpath
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.errors import NotFound, Refused
from kubenclave.image.layer import Directory, File, Link, Role

if TYPE_CHECKING:
    from kubenclave.image.layer import Entry

# A Python installation has some ten thousand files; a root file system some hundred thousand.
MAX_TREE_FILES = 500_000
_KINDS = {stat.S_IFBLK: "a device", stat.S_IFCHR: "a device", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def tree_entries(directory: Path, path: str, *, left_out: frozenset[str] = frozenset()) -> list[Entry]:
    """Return the entries for a directory and all below it, with ``path`` as its place in the image.

    Args:
        directory: A directory, by a path without links.
        path: Its absolute path in the image.
        left_out: Names that are passed over, wherever they are.

    Raises:
        NotFound: A directory below it cannot be read.
        Refused: A link leads out of it, or there is a device, pipe or socket in it, or too many files.
    """
    entries: list[Entry] = []
    # Not by recursion: directories can be nested deeper than Python's stack.
    todo = [(directory, path)]
    while todo:
        place, inside = todo.pop()
        entries.append(Directory(path=inside))
        for item in _listed(place):
            if item.name in left_out:
                continue
            if item.is_dir(follow_symlinks=False):
                todo.append((Path(item.path), posixpath.join(inside, item.name)))
            else:
                entries.append(_entry(directory, item, posixpath.join(inside, item.name)))
        if len(entries) > MAX_TREE_FILES:
            raise Refused(f"{directory} holds more than {MAX_TREE_FILES} files.", "Add only what the program reads.")
    return entries


def _listed(directory: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(directory))
    except OSError as exc:
        raise NotFound(f"The directory {directory} cannot be read: {exc.strerror}.", "Check the path and its permissions.") from exc


def _entry(top: Path, item: os.DirEntry[str], inside: str) -> Entry:
    place = Path(item.path)
    if item.is_symlink():
        return _link(top, place, inside)
    mode = item.stat(follow_symlinks=False).st_mode
    if not stat.S_ISREG(mode):
        raise Refused(f"{place} is {_KINDS.get(stat.S_IFMT(mode), 'no file')}.", "Only files, directories and links can be added.")
    return File(path=inside, source=place, role=Role.FILE, executable=bool(mode & stat.S_IXUSR))


def _link(top: Path, place: Path, inside: str) -> Link:
    """Take a link whose target, by its text alone, lies in the same directory; the text is kept."""
    target = str(place.readlink())
    reached = posixpath.normpath(posixpath.join(str(place.parent), target))
    if target.startswith("/") or not Path(reached).is_relative_to(top):
        raise Refused(f"The link {place} leads out of {top}, to {target!r}.", "Add what it points to as a file of its own.")
    return Link(path=inside, target=target)
