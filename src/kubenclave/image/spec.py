"""What a user wants of an image, checked as far as words go. Values; nothing is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.errors import UsageError
from kubenclave.image.layer import MAX_FILE_BYTES
from kubenclave.image.oci.documents import Compression

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubenclave.image.attest.cosign import SigningKey
    from kubenclave.image.enclaves import EnclaveInput
    from kubenclave.image.needs.surroundings import Surrounding
    from kubenclave.image.reference import Reference

# The user that distroless images call "nonroot"; a number, so that Kubernetes can tell that it is not root (runAsNonRoot).
NON_ROOT_USER = "65532:65532"
APPLICATION_DIRECTORY = "/app"
_USER = re.compile(r"([0-9]{1,10})(?::([0-9]{1,10}))?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedFile:
    """Name a file or directory of this machine and where it goes in the image; a place that ends in ``/`` keeps the name."""

    source: Path
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """Say what an image is made of.

    Attributes:
        reference: The image's name.
        host: The program that a container starts; it needs no enclave.
        enclaves: The enclaves that it loads.
        files: Further files and directories; what of them is x86-64 code gets its libraries, too.
        libraries: Names of libraries that it opens by name.
        allow_missing: Names of libraries that may be missing.
        surroundings: What it gets of the system around it.
        entrypoint: What a container starts; None starts the program.
        command: Its arguments; None gives it the paths of the enclave files in their order.
        environment: Its variables.
        working_directory: Where it starts.
        sysroot: The system whose libraries it gets.
        user: ``uid:gid`` of its process.
        strip: Leave symbols and debug information out of the program and the libraries.
        compression: How layers are compressed.
        attest: Attach a list of what is in it (CycloneDX) and a statement of how it was built (SLSA).
        signing_key: Sign its digest with this key.
        epoch_seconds: The time that everything in the image bears.
    """

    reference: Reference
    host: Path
    enclaves: tuple[EnclaveInput, ...] = ()
    files: tuple[AddedFile, ...] = ()
    libraries: tuple[str, ...] = ()
    allow_missing: tuple[str, ...] = ()
    surroundings: tuple[Surrounding, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    environment: Mapping[str, str] | None = None
    working_directory: str = APPLICATION_DIRECTORY
    sysroot: Path = Path("/")
    user: str = NON_ROOT_USER
    strip: bool = False
    compression: Compression = Compression.GZIP
    attest: bool = False
    signing_key: SigningKey | None = None
    epoch_seconds: int = 0


def numeric_user(text: str) -> str:
    """Return ``uid:gid`` for a user written as ``uid`` or ``uid:gid``.

    Raises:
        UsageError: It is a name, which an image without /etc/passwd cannot resolve.
    """
    match = _USER.fullmatch(text)
    if match is None or any(int(number) >= 2**32 - 1 for number in match.groups() if number):
        raise UsageError(f"{text!r} is no numeric user.", f"Write uid or uid:gid, as in {NON_ROOT_USER}.")
    return f"{int(match[1])}:{int(match[2] or match[1])}"


def source_date_epoch(environment: Mapping[str, str]) -> int:
    """Return the time that everything in an image bears: SOURCE_DATE_EPOCH in seconds, or 0 where it is not set.

    Raises:
        UsageError: It is not a number that the format can hold.
    """
    text = environment.get("SOURCE_DATE_EPOCH") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 11 and int(text) <= MAX_FILE_BYTES):  # noqa: PLR2004 - octal digits of the field
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {text[:40]!r}, which is no time in seconds since 1970.", "Set it to a whole number or unset it."
        )
    return int(text)


def image_variables(environment: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return variables as ``NAME=value``.

    Raises:
        UsageError: A name is none that every shell can hold, or a value holds a null byte.
    """
    for name, value in (environment or {}).items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise UsageError(f"{name[:80]!r} is no name of an environment variable.", "Write it as in --env SGX_AESM_ADDR=1.")
    return tuple(f"{name}={value}" for name, value in (environment or {}).items())


def absolute(path: str, what: str) -> str:
    """Return a path of the image if it is an absolute one.

    Raises:
        UsageError: It is not.
    """
    if not path.startswith("/"):
        raise UsageError(f"{path!r} is no absolute path in the image.", f"Begin it with a slash, as in {what}.")
    return path
