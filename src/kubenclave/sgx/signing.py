"""Creating a SIGSTRUCT: RSA-3072 with exponent 3 over the 256 signed bytes.

Deterministic: the same key and the same draft give the same bytes. Signing has two halves (a draft, then ``complete`` with a signature),
so that the key may live where this code does not run; ``sign`` is both at once with a key in memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from kubenclave.errors import Refused, UsageError
from kubenclave.sgx.sigstruct import FLAG_DEBUG, FLAG_MODE64, RSA_BYTES, RSA_EXPONENT, TYPE_RELEASE, Sigstruct, quotients, verify_signature

if TYPE_CHECKING:
    import datetime as dt

    from kubenclave.sgx.enclave import Enclave
    from kubenclave.sgx.open_enclave import OpenEnclaveProperties

MAX_KEY_PEM_BYTES: Final = 1 << 16
"""An RSA-3072 key in PEM is about 2.5 kB; nothing longer is worth parsing."""

XFRM_LEGACY: Final = 0x3
"""x87 and SSE state: the least that XFRM may hold (SDM, XFRM)."""
_MASK32 = 0xFFFF_FFFF
_MASK64 = 0xFFFF_FFFF_FFFF_FFFF
_UINT16_MAX = 0xFFFF
_FIRST_BCD_YEAR = 1000


def generate_signing_key() -> rsa.RSAPrivateKey:
    """Make a new RSA-3072 key with exponent 3, the only kind that EINIT accepts."""
    return rsa.generate_private_key(public_exponent=RSA_EXPONENT, key_size=RSA_BYTES * 8)


def signing_key_pem(key: rsa.RSAPrivateKey) -> bytes:
    """Serialise a key as unencrypted PKCS #8 PEM; whoever stores it keeps it from others' eyes."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def load_signing_key(pem: bytes) -> rsa.RSAPrivateKey:
    """Read an unencrypted PEM key.

    Raises:
        Refused: It is not a PEM key, it is encrypted, or it is not RSA-3072 with exponent 3.
    """
    hint = "Make one with `openssl genrsa -3 3072`, or leave the key out to get a new one."
    if len(pem) > MAX_KEY_PEM_BYTES:
        raise Refused(f"the signing key is {len(pem)} bytes long, more than the {MAX_KEY_PEM_BYTES} that any RSA-3072 key takes", hint)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise Refused("the signing key is not an unencrypted private key in PEM form", hint) from exc
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Refused("the signing key is not an RSA key", hint)
    if key.key_size != RSA_BYTES * 8 or key.public_key().public_numbers().e != RSA_EXPONENT:
        exponent = key.public_key().public_numbers().e
        raise Refused(f"the signing key is RSA-{key.key_size} with exponent {exponent}; SGX accepts RSA-3072 with exponent 3 only", hint)
    return key


def check_numbers(**numbers: int | None) -> None:
    """Check that numbers fit the 16 bits that a SIGSTRUCT has for them.

    Raises:
        UsageError: One does not.
    """
    for name, value in numbers.items():
        if value is not None and not 0 <= value <= _UINT16_MAX:
            raise UsageError(f"{name} is {value}, outside 0 to {_UINT16_MAX}", "Choose a 16-bit number.")


def draft_sigstruct(*, mrenclave: bytes, date: dt.date, isv_prod_id: int = 0, isv_svn: int = 0, unsafe_debug: bool = False) -> Sigstruct:
    """Fill in everything of a SIGSTRUCT but the key and the signature.

    All attribute bits are enforced: without ``unsafe_debug`` no host can launch the enclave in debug mode.

    Raises:
        UsageError: A number or the date does not fit its field.
    """
    check_numbers(isv_prod_id=isv_prod_id, isv_svn=isv_svn)
    if date.year < _FIRST_BCD_YEAR:
        raise UsageError(f"the signing date {date.isoformat()} does not fit the field", "Give a date with a four-digit year.")
    return Sigstruct(
        type=TYPE_RELEASE,
        vendor=0,
        date_bcd=int(date.strftime("%Y%m%d"), 16),
        swdefined=0,
        modulus=bytes(RSA_BYTES),
        exponent=RSA_EXPONENT,
        signature=bytes(RSA_BYTES),
        miscselect=0,
        miscmask=_MASK32,
        cet_attributes=0,
        cet_attributes_mask=0,  # a processor without CET takes these bytes for reserved ones
        isv_family_id=bytes(16),
        flags=FLAG_MODE64 | (FLAG_DEBUG if unsafe_debug else 0),
        xfrm=XFRM_LEGACY,
        flags_mask=_MASK64,
        xfrm_mask=_MASK64,
        mrenclave=mrenclave,
        isv_ext_prod_id=bytes(16),
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        q1=bytes(RSA_BYTES),
        q2=bytes(RSA_BYTES),
    )


def load_public_modulus(pem: bytes) -> int:
    """Read the modulus of a public key in PEM form.

    Raises:
        Refused: It is not a public key, or not RSA-3072 with exponent 3.
    """
    hint = "Give the public key as PEM: openssl rsa -in KEY.pem -pubout"
    if len(pem) > MAX_KEY_PEM_BYTES:
        raise Refused(f"the public key is {len(pem)} bytes long, more than the {MAX_KEY_PEM_BYTES} that any RSA-3072 key takes", hint)
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise Refused("the public key is not a public key in PEM form", hint) from exc
    if not isinstance(key, rsa.RSAPublicKey):
        raise Refused("the public key is not an RSA key", hint)
    if key.key_size != RSA_BYTES * 8 or key.public_numbers().e != RSA_EXPONENT:
        exponent = key.public_numbers().e
        raise Refused(f"the public key is RSA-{key.key_size} with exponent {exponent}; SGX accepts RSA-3072 with exponent 3 only", hint)
    return key.public_numbers().n


def public_key_pem(key: rsa.RSAPrivateKey) -> bytes:
    """Serialise the public half of a key as PEM."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def redraft(
    enclave: Enclave, *, date: dt.date, isv_prod_id: int | None = None, isv_svn: int | None = None, allow_debug: bool | None = None
) -> Sigstruct:
    """Draft a new signature of an enclave: its measurement as it is now, everything else as it was signed before where nothing is asked.

    Args:
        enclave: The enclave; without a signature, ``.oeinfo`` says what is not asked, or else nothing is: product 0, SVN 0, no debugging.
        date: Day of the signature.
        isv_prod_id: Product number.
        isv_svn: Security version number.
        allow_debug: True lets a host launch the enclave in debug mode or out of it, False out of it only.

    Raises:
        UsageError: A number or the date does not fit its field.
        Refused: The pages of the enclave are not known.
    """
    fresh = draft_sigstruct(mrenclave=enclave.mrenclave, date=date, isv_prod_id=isv_prod_id or 0, isv_svn=isv_svn or 0)
    draft = fresh
    if enclave.sigstruct is not None:
        # The vendor field says Intel on Intel's own signatures, which this is none of.
        old = dataclasses.replace(enclave.sigstruct, vendor=0, type=TYPE_RELEASE, mrenclave=fresh.mrenclave, date_bcd=fresh.date_bcd)
        draft = dataclasses.replace(old, modulus=fresh.modulus, signature=fresh.signature, q1=fresh.q1, q2=fresh.q2)
    elif enclave.properties is not None:
        draft = _by_properties(fresh, enclave.properties)
    if isv_prod_id is not None:
        draft = dataclasses.replace(draft, isv_prod_id=isv_prod_id)
    if isv_svn is not None:
        draft = dataclasses.replace(draft, isv_svn=isv_svn)
    if allow_debug is not None:
        draft = _with_debug(draft, allow=allow_debug)
    return draft


def _by_properties(draft: Sigstruct, properties: OpenEnclaveProperties) -> Sigstruct:
    """Take over what ``.oeinfo`` asks the signer for; its loader takes XFRM from the processor, so that is not enforced."""
    asked = dataclasses.replace(
        draft,
        isv_prod_id=properties.isv_prod_id,
        isv_svn=properties.isv_svn,
        isv_family_id=properties.isv_family_id,
        isv_ext_prod_id=properties.isv_ext_prod_id,
        flags=properties.attributes,
        xfrm_mask=0,
        miscselect=int(properties.capture_pf_gp),
        # A processor that cannot report page faults to the enclave may start it all the same.
        miscmask=_MASK32 & ~int(properties.capture_pf_gp),
    )
    return _with_debug(asked, allow=bool(properties.attributes & FLAG_DEBUG))


def _with_debug(draft: Sigstruct, *, allow: bool) -> Sigstruct:
    """Leave DEBUG open, or shut it: in the attributes and in the mask, since EINIT compares only what the mask names."""
    if allow:
        return dataclasses.replace(draft, flags=draft.flags | FLAG_DEBUG, flags_mask=draft.flags_mask & ~FLAG_DEBUG)
    return dataclasses.replace(draft, flags=draft.flags & ~FLAG_DEBUG, flags_mask=draft.flags_mask | FLAG_DEBUG)


def digest_to_sign(draft: Sigstruct) -> bytes:
    """Give the 32 bytes of SHA-256 that RSASSA-PKCS1-v1_5 signs, for a key that is elsewhere."""
    return hashlib.sha256(draft.signed_bytes).digest()


def complete(draft: Sigstruct, *, modulus: int, signature: int) -> Sigstruct:
    """Put a signature made elsewhere over ``draft.signed_bytes`` into the draft.

    Raises:
        Refused: The signature is not one by this modulus over this draft.
    """
    if modulus.bit_length() != RSA_BYTES * 8 or not 0 <= signature < modulus:
        raise Refused("the signature is not one of an RSA-3072 key", "Sign with an RSA-3072 key of exponent 3.")
    q1, q2 = quotients(modulus, signature)
    signed = dataclasses.replace(
        draft, modulus=modulus.to_bytes(RSA_BYTES, "little"), signature=signature.to_bytes(RSA_BYTES, "little"), q1=q1, q2=q2
    )
    verify_signature(signed)
    return signed


def sign(draft: Sigstruct, key: rsa.RSAPrivateKey) -> Sigstruct:
    """Sign a draft with a key in memory.

    Raises:
        Refused: The key is not RSA-3072 with exponent 3.
    """
    signature = int.from_bytes(key.sign(draft.signed_bytes, PKCS1v15(), hashes.SHA256()), "big")
    return complete(draft, modulus=key.public_key().public_numbers().n, signature=signature)
