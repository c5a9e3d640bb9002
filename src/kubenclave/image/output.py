"""Write a file so that it is there whole or not at all.

Talks to the file system and turns its complaints into words.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kubenclave.errors import HostUnfit, KubenclaveError, NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the place of ``path`` when the block ends well, and vanishes when it does not.

    Raises:
        NotFound: The directory is not there.
        UsageError: The path is a directory.
        HostUnfit: The disk is full, a size limit is reached, or the directory may not be written to.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a directory.", "Name the file to write.")
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.", suffix=".partial")
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                # mkstemp gives 0600; an image is no secret and others import it.
                os.fchmod(file.fileno(), 0o644)
            partial.replace(path)
            _sync_directory(path.parent)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
    except OSError as exc:
        raise _in_words(exc, path) from exc


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises:
        NotFound: The directory of ``path`` is not there.
        UsageError: There is something at ``path`` already.
        HostUnfit: The disk is full or the place may not be written to.
    """
    # rename(2) lets an empty directory be replaced, and nothing else.
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise UsageError(f"{path} is there already.", "Name a new or empty directory for the image layout.")
    try:
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:64]}.", suffix=".partial"))
        try:
            yield partial
            partial.chmod(0o755)
            partial.replace(path)
            _sync_directory(path.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as exc:
        raise _in_words(exc, path) from exc


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_words(exc: OSError, path: Path) -> KubenclaveError:
    if exc.errno in _FULL:
        return HostUnfit(f"There is no room for {path}: {exc.strerror}.", "Free space there or write the file elsewhere.")
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(f"The directory {path.parent} does not exist.", "Create it or write the file elsewhere.")
    return HostUnfit(f"{path} cannot be written: {exc.strerror or exc}.", "Check the permissions of its directory or write it elsewhere.")
