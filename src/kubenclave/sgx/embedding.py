"""Put a signature, or what the signer was asked for, into an ELF file that holds an enclave. Pure: bytes in, bytes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.sgx.enclave import read_enclave
from kubenclave.sgx.open_enclave import configured
from kubenclave.sgx.signing import check_numbers
from kubenclave.sgx.sigstruct import FLAG_DEBUG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubenclave.sgx.enclave import Enclave
    from kubenclave.sgx.sigstruct import Sigstruct


def with_choices(
    data: bytes,
    sigstruct: bytes | None = None,
    *,
    isv_prod_id: int | None = None,
    isv_svn: int | None = None,
    allow_debug: bool | None = None,
) -> tuple[bytes, Enclave]:
    """Give the file as it is to be signed, and the enclave in it.

    Only an Open Enclave file changes: its measured ``.oeinfo`` repeats what the signature says, and its loader reads it there.

    Args:
        data: The file.
        sigstruct: The signature so far beside an SGXS stream, if there is one.
        isv_prod_id: Product number to be signed.
        isv_svn: Security version number to be signed.
        allow_debug: Whether a host may launch the enclave in debug mode.

    Raises:
        UsageError: A number does not fit its field.
        Refused: The file is of no known format, or damaged.
    """
    check_numbers(isv_prod_id=isv_prod_id, isv_svn=isv_svn)
    enclave = read_enclave(data, sigstruct)
    properties = enclave.properties
    if properties is None or enclave.known_pages is None:
        return data, enclave
    attributes = properties.attributes
    if allow_debug is not None:
        attributes = attributes | FLAG_DEBUG if allow_debug else attributes & ~FLAG_DEBUG
    prod_id = properties.isv_prod_id if isv_prod_id is None else isv_prod_id
    svn = properties.isv_svn if isv_svn is None else isv_svn
    changed = overwritten(data, configured(properties, isv_prod_id=prod_id, isv_svn=svn, attributes=attributes))
    return changed, read_enclave(changed)


def with_signatures(data: bytes, signatures: Mapping[int, Sigstruct]) -> bytes:
    """Give the file with SIGSTRUCTs at their offsets in it."""
    return overwritten(data, {at: sigstruct.to_bytes() for at, sigstruct in signatures.items()})


def overwritten(data: bytes, changes: Mapping[int, bytes]) -> bytes:
    """Give the file with other bytes at some offsets."""
    result = bytearray(data)
    for at, replacement in changes.items():
        result[at : at + len(replacement)] = replacement
    return bytes(result)
