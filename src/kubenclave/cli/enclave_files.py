"""Read and write the files of ``kubenclave enclave``, and run the command that holds a signing key. Talks to files and processes."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from kubenclave.errors import HostUnfit, NotFound, Refused, Unreachable, UsageError

MAX_ENCLAVE_BYTES: Final = 4 << 30
"""What an enclave of this size holds takes seconds to measure; the reader has limits of its own within it."""
MAX_SMALL_BYTES: Final = 1 << 16
"""Keys, signatures and digests; larger ones are refused by their size."""
KEY_COMMAND_SECONDS: Final = 120
"""A person may have to touch a token."""


def read_file(path: Path, limit_bytes: int = MAX_ENCLAVE_BYTES) -> bytes:
    """Read a regular file as a whole.

    Raises:
        NotFound: It is not there or may not be read.
        Refused: It is not a regular file, or larger than the limit.
    """
    try:
        # Without waiting on what is no file, such as a pipe that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise Refused(f"{path} is not a regular file", "Give the path of a file.")
        with os.fdopen(descriptor, "rb") as file:
            if status.st_size > limit_bytes:
                raise Refused(f"{path} has {status.st_size} bytes, more than {limit_bytes}", "Check that it is the file you mean.")
            return file.read(limit_bytes)
    except OSError as exc:
        raise NotFound(f"{path} cannot be read: {exc.strerror}", "Check the path and its permissions.") from exc


def write_file(path: Path, data: bytes, *, mode: int = 0o644, replace: bool = True) -> None:
    """Write a file that is there whole or not at all; one that is replaced keeps its permissions.

    Raises:
        UsageError: The file is there and must not be replaced.
        HostUnfit: It cannot be written.
    """
    try:
        if path.exists():
            if not replace:
                raise UsageError(f"{path} is there already", "Give another path, or move that file away.")
            mode = stat.S_IMODE(path.stat().st_mode)
        # A link stays one: what it leads to is replaced.
        target = path.resolve()
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise HostUnfit(f"{path} cannot be written: {exc.strerror}", "Check the directory, its permissions and its free space.") from exc


def signature_beside(path: Path) -> bytes | None:
    """Read the signature that lies beside an SGXS stream (same name, ending ``.sig``), if one does."""
    beside = path.with_suffix(".sig")
    return read_file(beside, MAX_SMALL_BYTES) if beside != path and beside.exists() else None


def run_key_command(command: str, digest: bytes) -> bytes:
    """Run a command that signs: the SHA-256 digest on its stdin, the raw signature on its stdout.

    Raises:
        UsageError: The command cannot be split into words.
        NotFound: Its program is not there.
        Unreachable: It fails, or does not end in time.
    """
    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise UsageError(f"the key command cannot be read: {exc}", "Quote it as for a shell.") from exc
    if not words:
        raise UsageError("the key command is empty", "Give a program and its arguments.")
    try:
        done = subprocess.run(words, input=digest, capture_output=True, timeout=KEY_COMMAND_SECONDS, check=False)
    except OSError as exc:
        raise NotFound(f"the key command {words[0]} cannot be run: {exc.strerror}", "Check its path.") from exc
    except subprocess.TimeoutExpired as exc:
        raise Unreachable(f"the key command {words[0]} did not end within {KEY_COMMAND_SECONDS} s", "Try again.") from exc
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise Unreachable(f"the key command {words[0]} failed: {said[-1]}", "It gets a 32-byte SHA-256 digest on stdin and must sign that.")
    return done.stdout
