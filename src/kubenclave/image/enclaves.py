"""Read an enclave file and its signature for an image, with the facts that the image will carry.

Reads two files; what they mean is decided by ``kubenclave.sgx``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import NotFound, Refused
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveFacts:
    """Hold what an enclave is and takes: its checked identity and the EPC of one running instance."""

    identity: EnclaveIdentity
    epc_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveInput:
    """Hold the files of one enclave by name, in the order in which a host program takes them, and the facts read from these bytes."""

    files: tuple[tuple[str, bytes], ...]
    facts: EnclaveFacts


def read_enclave_input(path: Path) -> EnclaveInput:
    """Read an SGXS stream and the SIGSTRUCT beside it (same name, ending ``.sig``).

    Raises:
        NotFound: The file or its signature is not there.
        Refused: The file is of no known format, damaged, or its signature is not one of this enclave.
    """
    signature = path.with_suffix(".sig")
    data = _read(path, MAX_ENCLAVE_BYTES)
    sigstruct = _read(signature, _MAX_SIGNATURE_BYTES) if signature.exists() and signature != path else None
    try:
        enclave = read_enclave(data, sigstruct)
        if sigstruct is None:
            raise NotFound(f"{signature}, the signature of {path.name}, does not exist.", "Sign the enclave; the .sig file lies beside it.")
        facts = EnclaveFacts(identity=enclave.verified_identity(), epc_bytes=enclave.epc_need.epc_bytes)
    except Refused as exc:
        raise Refused(f"{path}: {exc.what}", f"{exc.hint} A file that is no enclave is added with --add.".lstrip()) from exc
    return EnclaveInput(files=((path.name, data), (signature.name, sigstruct)), facts=facts)


def _read(path: Path, limit_bytes: int) -> bytes:
    with open_regular(path.resolve()) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise Refused(f"{path} is larger than {limit_bytes} bytes.", "Check that it is the file you mean.")
    return data
