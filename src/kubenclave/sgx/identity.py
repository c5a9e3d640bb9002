"""Who an enclave is: what a verifier of a quote, a pod's annotation and the image room pass to each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveIdentity:
    """Name an enclave as EINIT enforces it and as a quote of it will show it.

    Attributes:
        mrenclave: SHA-256 of the enclave's build (32 bytes).
        mrsigner: SHA-256 of the signer's RSA modulus as stored, little-endian (32 bytes).
        isv_prod_id: Product number that the signer gave.
        isv_svn: Security version number that the signer gave.
        isv_family_id: Product family (16 bytes), zero where the signer gave none; seen in reports only with KSS.
        isv_ext_prod_id: Extended product id (16 bytes), zero where the signer gave none; seen in reports only with KSS.
        debug_allowed: Whether the signature lets a host launch the enclave in debug mode, where its memory can be read.
    """

    mrenclave: bytes
    mrsigner: bytes
    isv_prod_id: int
    isv_svn: int
    isv_family_id: bytes
    isv_ext_prod_id: bytes
    debug_allowed: bool
