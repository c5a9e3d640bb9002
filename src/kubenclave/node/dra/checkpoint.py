"""Remember which claims are prepared: one JSON file in the driver's folder, read and written whole under a lock.

Nothing of it is kept in memory: while an agent is replaced by the next, both work on the same file. A file that is not as it was written
is never replaced: it is all that is known of what running pods hold.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from typing import TYPE_CHECKING

import msgspec

from kubenclave.errors import HostUnfit, Refused
from kubenclave.node.dra.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = 1
# A prepared claim takes some 400 bytes and a node runs 110 pods, some with several claims.
_LARGEST_BYTES = 16 << 20


class PreparedDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device that was prepared, as the kubelet was told of it, and the EPC that goes with it; 0 where it is none."""

    request: str
    device: str
    share_id: str
    epc_bytes: int = 0


class PreparedClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that was prepared."""

    namespace: str
    name: str
    pool: str
    devices: tuple[PreparedDevice, ...]


class _Content(msgspec.Struct):
    version: int
    sha256: str
    claims: msgspec.Raw


class Claims:
    """The prepared claims by UID, as long as the lock is held; each change is on disk when its call returns."""

    def __init__(self, path: Path, claims: dict[str, PreparedClaim]) -> None:
        self._path = path
        self._claims = claims

    def __iter__(self) -> Iterator[tuple[str, PreparedClaim]]:
        return iter(list(self._claims.items()))

    def get(self, uid: str) -> PreparedClaim | None:
        """Return a claim, if it is prepared."""
        return self._claims.get(uid)

    def put(self, uid: str, claim: PreparedClaim) -> None:
        """Note that a claim is prepared.

        Raises:
            HostUnfit: The file cannot be written; it is as it was.
        """
        self._write({**self._claims, uid: claim})

    def remove(self, uid: str) -> None:
        """Note that a claim is no longer prepared.

        Raises:
            HostUnfit: The file cannot be written; it is as it was.
        """
        if uid in self._claims:
            self._write({known: claim for known, claim in self._claims.items() if known != uid})

    def _write(self, claims: dict[str, PreparedClaim]) -> None:
        body = msgspec.json.encode(claims, order="sorted")
        content = _Content(version=VERSION, sha256=hashlib.sha256(body).hexdigest(), claims=msgspec.Raw(body))
        write_whole(self._path, msgspec.json.encode(content))
        self._claims = claims


class Checkpoint:
    """The checkpoint of the driver whose folder this is."""

    def __init__(self, driver_dir: Path) -> None:
        self.path = driver_dir / "checkpoint.json"
        self._lock = driver_dir / "checkpoint.lock"

    @contextlib.contextmanager
    def locked(self) -> Iterator[Claims]:
        """Read the checkpoint and hold its lock.

        Raises:
            Refused: It is damaged, or of another version.
            HostUnfit: It cannot be read.
        """
        with contextlib.ExitStack() as stack:
            try:
                descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                claims = self._read()
            except OSError as exc:
                raise HostUnfit(f"{exc.filename or self._lock} cannot be read: {exc.strerror}", "see its folder's owner and disk") from exc
            yield Claims(self.path, claims)

    def _read(self) -> dict[str, PreparedClaim]:
        try:
            with self.path.open("rb") as file:
                text = file.read(_LARGEST_BYTES + 1)
        except FileNotFoundError:
            return {}
        try:
            content = msgspec.json.decode(text, type=_Content)
            if content.version != VERSION:
                raise self._damaged(f"is of version {content.version}, not {VERSION}")
            if hashlib.sha256(content.claims).hexdigest() != content.sha256:
                raise self._damaged("does not match its own checksum")
            return msgspec.json.decode(content.claims, type=dict[str, PreparedClaim])
        except msgspec.MsgspecError as exc:
            raise self._damaged(f"is damaged: {exc}") from exc

    def _damaged(self, how: str) -> Refused:
        return Refused(
            f"the checkpoint {self.path} {how}",
            hint="drain the node, delete the file and start the agent again; or put back the file as it was",
        )
