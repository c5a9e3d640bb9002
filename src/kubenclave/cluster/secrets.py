"""Where a service principal's secret is kept on this machine: the operating system's keyring, or a file that only its owner may read.

Azure tells a secret once. It is needed between its creation and the cluster's, and later by whoever signs in as the service principal;
it is kept until ``kubenclave cluster down``. It appears nowhere else: not in state, logs, plans, arguments of programs or errors.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kubenclave.errors import HostUnfit, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyring.backend import KeyringBackend

SERVICE = "kubenclave"
_CLIENT = re.compile(r"[0-9a-fA-F-]{1,64}")
_LARGEST_BYTES = 4096  # a secret has 40 characters
# Keyrings that an operating system or desktop guards. Others, such as those that write plain files, keep nothing better than we do.
_GUARDED = ("keyring.backends.macOS", "keyring.backends.SecretService", "keyring.backends.Windows", "keyring.backends.kwallet",
            "keyring.backends.libsecret")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Hold a service principal's secret. Its representation does not show the secret.

    Attributes:
        expires: Azure's own text.
        key_id: By which the directory names it.
        sent: Whether AKS took it from this machine as the one of the cluster; it takes no other one later.
    """

    value: str = field(repr=False)
    expires: str
    key_id: str = ""
    sent: bool = False


def expiry(secret: Secret) -> datetime | None:
    """Return when a secret ends; None where Azure's text is no time."""
    try:
        found = datetime.fromisoformat(secret.expires)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def is_expired(secret: Secret, now: datetime) -> bool:
    """Say whether a secret has ended, at a time with its zone; one of which that is not known has not."""
    ends = expiry(secret)
    return ends is not None and ends <= now


class Store(Protocol):
    """Keep secrets by client ID."""

    @property
    def where(self) -> str:
        """Say where secrets are kept, in words for people."""

    def keep(self, client_id: str, secret: Secret) -> None:
        """Keep a secret in the place of any before."""

    def find(self, client_id: str) -> Secret | None:
        """Return the secret that is kept, if any."""

    def forget(self, client_id: str) -> None:
        """Remove a secret; nothing happens where there is none."""


def store(folder: Path) -> Store:
    """Return the operating system's keyring where there is one, else files in a folder."""
    backend = _guarded_keyring()
    return Files(folder) if backend is None else Keyring(backend)


def holds(kept: Store, client_id: str, now: datetime) -> bool:
    """Say whether a secret is kept that has not ended: one that has counts as none.

    Raises:
        HostUnfit: It cannot be read.
        Refused: Others may read it.
    """
    secret = kept.find(client_id)
    return secret is not None and not is_expired(secret, now)


class Files:
    """Keep each secret in a file with mode 0600, in a folder with mode 0700."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def where(self) -> str:
        """Say where secrets are kept, in words for people."""
        return f"a file in {self._folder}, for its owner only"

    def keep(self, client_id: str, secret: Secret) -> None:
        """Keep a secret; the file is there whole or not at all.

        Raises:
            HostUnfit: The folder cannot be written to.
            Refused: The folder belongs to someone else.
        """
        path = self._path(client_id)
        partial: Path | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._check_folder()
            handle, name = tempfile.mkstemp(dir=self._folder, prefix=f"{path.stem}.partial-")  # mode 0600, and never through a link
            partial = Path(name)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(_encoded(secret))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as exc:
            if partial is not None:
                with suppress(OSError):
                    partial.unlink()
            raise HostUnfit(
                f"The secret cannot be kept in {self._folder}: {exc.strerror}.", "Free space there, or set XDG_STATE_HOME."
            ) from exc

    def find(self, client_id: str) -> Secret | None:
        """Return the secret that is kept; None where there is none, or something that is no secret.

        Raises:
            HostUnfit: The file cannot be read.
            Refused: Others may read it, so that it is a secret no more.
        """
        path = self._path(client_id)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise HostUnfit(f"The secret's file {path} cannot be read: {exc.strerror}.", f"Remove it: rm {path}") from exc
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Refused(f"{path} is no ordinary file.", f"Remove it: rm {path}")
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise Refused(f"Others may read the secret in {path}.", f"Remove it, and a new secret is made: rm {path}")
            return _decoded(file.read(_LARGEST_BYTES))

    def forget(self, client_id: str) -> None:
        """Remove a secret; nothing happens where there is none.

        Raises:
            HostUnfit: It cannot be removed.
        """
        path = self._path(client_id)
        try:
            path.unlink(missing_ok=True)
            for partial in path.parent.glob(f"{path.stem}.partial-*"):
                partial.unlink(missing_ok=True)
        except OSError as exc:
            raise HostUnfit(f"The secret's file {path} cannot be removed: {exc.strerror}.", f"Remove it: rm {path}") from exc

    def _check_folder(self) -> None:
        status = self._folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise Refused(f"{self._folder} is no folder of this user.", "Set XDG_STATE_HOME to a folder of yours.")
        if status.st_mode & 0o077:
            self._folder.chmod(0o700)

    def _path(self, client_id: str) -> Path:
        if not _CLIENT.fullmatch(client_id):
            # From an untrusted reply; it becomes a file's name.
            raise Refused(f"{client_id[:64]!r} is no client ID.", "This is not Azure's answer.")
        return self._folder / f"{client_id.lower()}.json"


class Keyring:
    """Keep secrets in the operating system's keyring."""

    def __init__(self, backend: KeyringBackend) -> None:
        self._backend = backend

    @property
    def where(self) -> str:
        """Say where secrets are kept, in words for people."""
        return f"the keyring ({type(self._backend).__module__.rpartition('.')[2]})"

    def keep(self, client_id: str, secret: Secret) -> None:
        """Keep a secret.

        Raises:
            HostUnfit: The keyring did not take it.
        """
        with _keyring_errors("keep"):
            self._backend.set_password(SERVICE, client_id.lower(), _encoded(secret))

    def find(self, client_id: str) -> Secret | None:
        """Return the secret that is kept, if any.

        Raises:
            HostUnfit: The keyring is locked.
        """
        with _keyring_errors("give"):
            found = self._backend.get_password(SERVICE, client_id.lower())
        return None if found is None else _decoded(found.encode())

    def forget(self, client_id: str) -> None:
        """Remove a secret; nothing happens where there is none.

        Raises:
            HostUnfit: The keyring is locked.
        """
        with _keyring_errors("remove"):
            if self._backend.get_password(SERVICE, client_id.lower()) is not None:
                self._backend.delete_password(SERVICE, client_id.lower())


@contextmanager
def _keyring_errors(doing: str) -> Iterator[None]:
    from keyring.errors import KeyringError  # noqa: PLC0415 - only where a keyring is used

    try:
        yield
    except KeyringError as exc:
        # The keyring's own words are left out, here and in a traceback: they may quote what it was given.
        raise HostUnfit(
            f"The keyring did not {doing} the secret ({type(exc).__name__}).",
            "Unlock it; or keep secrets in a file: PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring",
        ) from None


def _guarded_keyring() -> KeyringBackend | None:
    try:
        import keyring  # noqa: PLC0415 - comes with the extra named azure
        from keyring.backends.chainer import ChainerBackend  # noqa: PLC0415
    except ImportError:
        return None
    chosen = keyring.get_keyring()
    candidates = chosen.backends if isinstance(chosen, ChainerBackend) else (chosen,)
    return next((each for each in candidates if type(each).__module__ in _GUARDED), None)


def _encoded(secret: Secret) -> str:
    return json.dumps({"secret": secret.value, "expires": secret.expires, "keyId": secret.key_id, "sent": secret.sent})


def _decoded(raw: bytes) -> Secret | None:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    value, expires = (found.get("secret"), found.get("expires")) if isinstance(found, dict) else (None, None)
    if not isinstance(value, str) or not isinstance(expires, str) or not value:
        return None
    key_id = found.get("keyId")
    return Secret(value=value, expires=expires, key_id=key_id if isinstance(key_id, str) else "", sent=found.get("sent") is True)
