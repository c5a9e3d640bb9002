"""Read enclave files and what they are. The room ``sgx`` knows the formats; this opens the files and calls it.

An SGXS stream ``x.sgxs`` comes with its signature ``x.sig``. An ELF enclave carries its own: the loaders of Open Enclave and of the Intel
SDK read it there and nowhere else, so a file beside one is no part of it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import NotFound, Refused
from kubenclave.image.layer import CheckedFile
from kubenclave.image.sysroot import open_regular
from kubenclave.sgx import read_enclave

if TYPE_CHECKING:
    from pathlib import Path

    from kubenclave.sgx import EnclaveIdentity

# An enclave's measured content is all in the file; the largest EPC offered for a whole machine of one socket holds 512 GiB, but a file of
# more than this would take minutes to measure and to start.
MAX_ENCLAVE_BYTES = 4 * 1024**3
# Larger than a SIGSTRUCT (1808 bytes), so that a wrong file is still told by its size.
_MAX_SIGNATURE_BYTES = 64 * 1024
# More enclaves in one image are a mistake of the directory named.
MAX_ENCLAVES = 256
_SIGNATURE_ENDING = ".sig"
_ELF = b"\x7fELF"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveFacts:
    """Hold what an enclave is and takes: its checked identity, the EPC of one running instance, its threads and its file's format.

    ``format`` is ``open-enclave``, ``intel-sdk`` or ``sgxs``.
    """

    identity: EnclaveIdentity
    epc_bytes: int
    threads: int
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveInput:
    """Hold the files of one enclave by name, in the order in which a host program takes them, and the facts read from them."""

    files: tuple[tuple[str, CheckedFile], ...]
    facts: EnclaveFacts


def read_enclave_inputs(path: Path) -> tuple[EnclaveInput, ...]:
    """Read an enclave file, or every enclave of a directory in the order of their names.

    Raises:
        NotFound: A file or its signature is not there, or the directory holds no enclave.
        Refused: A file is of no known format, damaged, or its signature is not one of this enclave.
    """
    if not path.is_dir():
        return (read_enclave_input(path),)
    found = sorted(item for item in path.iterdir() if item.suffix != _SIGNATURE_ENDING and not item.name.startswith("."))
    if not found:
        raise NotFound(f"The directory {path} holds no enclave.", "Name a directory with enclave files and nothing else.")
    if len(found) > MAX_ENCLAVES:
        raise Refused(
            f"The directory {path} holds more than {MAX_ENCLAVES} files.", "Name a directory with enclave files and nothing else."
        )
    return tuple(read_enclave_input(item) for item in found)


def read_enclave_input(path: Path) -> EnclaveInput:
    """Read an enclave file and the SIGSTRUCT beside it (same name, ending ``.sig``), if there is one.

    Raises:
        NotFound: The file is not there, or has no signature.
        Refused: The file is of no known format, damaged, or its signature is not one of this enclave.
    """
    signature = path.with_suffix(_SIGNATURE_ENDING)
    data = _read(path, MAX_ENCLAVE_BYTES)
    is_elf = data.startswith(_ELF)
    beside = signature.exists() and signature != path
    sigstruct = _read(signature, _MAX_SIGNATURE_BYTES) if beside and not is_elf else None
    try:
        facts = enclave_facts(data, sigstruct)
    except NotFound as exc:
        if is_elf:
            raise _unsigned_elf(path, signature if beside else None) from exc
        raise NotFound(f"{signature}, the signature of {path.name}, does not exist.", exc.hint) from exc
    except Refused as exc:
        raise Refused(f"{path}: {exc.what}", f"{exc.hint} A file that is no enclave is added with --add.".lstrip()) from exc
    files = [(path, data)] if sigstruct is None else [(path, data), (signature, sigstruct)]
    return EnclaveInput(files=tuple((file.name, _checked(file, content)) for file, content in files), facts=facts)


def _checked(path: Path, data: bytes) -> CheckedFile:
    # What is packed later must be what was measured, without holding it until then.
    return CheckedFile(path=path.resolve(), sha256=hashlib.sha256(data).digest())


def _unsigned_elf(path: Path, beside: Path | None) -> NotFound:
    unused = f" {beside.name} beside it does not help: what loads such a file reads the signature in it." if beside else ""
    return NotFound(
        f"{path} is an enclave without a signature.{unused}",
        f"Sign it with `kubenclave enclave sign {path} --key KEY.pem`, or with the tool that signs your builds; "
        "where the key is elsewhere, in two steps with --dump-digest and --signature.",
    )


def enclave_facts(data: bytes, sigstruct: bytes | None) -> EnclaveFacts:
    """Measure an enclave, check its signature and return what it is.

    Raises:
        NotFound: It has no signature.
        Refused: It is of no known format, damaged, or its signature is not one of this enclave.
    """
    enclave = read_enclave(data, sigstruct)
    if enclave.sigstruct is None:
        raise NotFound("The enclave has no signature.", "Sign the enclave; the .sig file of an SGXS stream lies beside it.")
    return EnclaveFacts(
        identity=enclave.verified_identity(),
        epc_bytes=enclave.epc_need.epc_bytes,
        threads=enclave.thread_count,
        format=enclave.format.name.lower().replace("_", "-"),
    )


def _read(path: Path, limit_bytes: int) -> bytes:
    with open_regular(path.resolve()) as file:
        # A buffer of the limit's size would be asked of the machine otherwise.
        size_bytes = os.fstat(file.fileno()).st_size
        data = file.read(size_bytes + 1) if size_bytes <= limit_bytes else b""
    if size_bytes > limit_bytes:
        raise Refused(f"{path} is larger than {limit_bytes} bytes.", "Check that it is the file you mean.")
    if len(data) != size_bytes:
        raise Refused(f"{path} changed while it was read.", "Build again when nothing writes to it.")
    return data
