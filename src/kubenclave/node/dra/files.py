"""Write files so that they are whole or not there: to a file beside, to disk, then under their name."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from kubenclave.errors import HostUnfit

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or leave what was there as it was.

    Raises:
        HostUnfit: It cannot be written, as on a full disk.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            fresh.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        sync_folder(path.parent)
    except OSError as exc:
        raise HostUnfit(
            f"{path} cannot be written: {exc.strerror}", hint="see whether its disk is full and its folder belongs to root"
        ) from exc


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        HostUnfit: It cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as exc:
        raise HostUnfit(f"{path} cannot be removed: {exc.strerror}", hint="see whether its folder belongs to root") from exc


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
