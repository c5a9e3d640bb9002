"""Where a service principal's secret is kept on this machine: the operating system's keyring, or a file that only its owner may read.

Azure tells a secret once. It is needed between its creation and the cluster's, and later by whoever signs in as the service principal;
it is kept until ``kubenclave cluster down``. It appears nowhere else: not in state, logs, plans, arguments of programs or errors.
"""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from kubenclave.errors import HostUnfit, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keyring.backend import KeyringBackend

SERVICE = "kubenclave"
_CLIENT = re.compile(r"[0-9a-fA-F-]{1,64}")
_LARGEST_BYTES = 4096  # a secret has 40 characters
# Keyrings that an operating system or desktop guards. Others, such as those that write plain files, keep nothing better than we do.
_GUARDED = ("keyring.backends.macOS", "keyring.backends.SecretService", "keyring.backends.Windows", "keyring.backends.kwallet",
            "keyring.backends.libsecret")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Hold a service principal's secret; ``expires`` is Azure's own text. Its representation does not show the secret."""

    value: str = field(repr=False)
    expires: str


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
        partial = path.with_suffix(f".partial-{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._check_folder()
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(_encoded(secret))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as exc:
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
    return json.dumps({"secret": secret.value, "expires": secret.expires})


def _decoded(raw: bytes) -> Secret | None:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    value, expires = (found.get("secret"), found.get("expires")) if isinstance(found, dict) else (None, None)
    return Secret(value=value, expires=expires) if isinstance(value, str) and isinstance(expires, str) and value else None
