"""SIGSTRUCT: the 1808 bytes by which a signer vouches for an enclave and EINIT checks it.

Parses, serialises and verifies; creating one is the work of ``signing``. Layout and checks: Intel SDM volume 3D, SIGSTRUCT (section 36.15
of the 2023 edition) and EINIT.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.sgx.identity import EnclaveIdentity

if TYPE_CHECKING:
    from collections.abc import Mapping

SIGSTRUCT_BYTES = 1808
RSA_BYTES = 384
"""EINIT accepts RSA-3072 and nothing else."""
RSA_EXPONENT = 3

HEADER = bytes.fromhex("06000000E100000000000100")
HEADER2 = bytes.fromhex("01010000600000006000000001000000")
TYPE_RELEASE = 0
TYPE_DEBUG = 0x8000_0000
VENDOR_INTEL = 0x8086

FLAG_INIT = 0x01
FLAG_DEBUG = 0x02
FLAG_MODE64 = 0x04
FLAG_PROVISION_KEY = 0x10
FLAG_EINITTOKEN_KEY = 0x20
FLAG_KSS = 0x80

# In the order of the structure; a name with "reserved" must be zero.
_FIELDS: tuple[tuple[str, str], ...] = (
    ("header", "12s"),
    ("type", "I"),
    ("vendor", "I"),
    ("date_bcd", "I"),
    ("header2", "16s"),
    ("swdefined", "I"),
    ("reserved1", "84s"),
    ("modulus", "384s"),
    ("exponent", "I"),
    ("signature", "384s"),
    ("miscselect", "I"),
    ("miscmask", "I"),
    ("cet_attributes", "B"),
    ("cet_attributes_mask", "B"),
    ("reserved2", "2s"),
    ("isv_family_id", "16s"),
    ("flags", "Q"),
    ("xfrm", "Q"),
    ("flags_mask", "Q"),
    ("xfrm_mask", "Q"),
    ("mrenclave", "32s"),
    ("reserved3", "16s"),
    ("isv_ext_prod_id", "16s"),
    ("isv_prod_id", "H"),
    ("isv_svn", "H"),
    ("reserved4", "12s"),
    ("q1", "384s"),
    ("q2", "384s"),
)
_STRUCT = struct.Struct("<" + "".join(code for _, code in _FIELDS))
_SIGNED_SLICES = (slice(0, 128), slice(900, 1028))


def _field_offsets() -> Mapping[str, int]:
    offsets, at = {}, 0
    for name, code in _FIELDS:
        offsets[name] = at
        at += struct.calcsize("<" + code)
    return offsets


FIELD_OFFSETS = _field_offsets()
"""Where each field starts, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigstruct:
    """Hold every field of a SIGSTRUCT; the constant headers and reserved bytes are implied.

    Attributes:
        type: 0, or 0x80000000 on old debug signatures.
        vendor: 0, or 0x8086 for Intel's own enclaves.
        date_bcd: Signing date, packed decimal yyyymmdd.
        swdefined: Free for the signer.
        modulus: The signer's RSA-3072 modulus, little-endian.
        exponent: Always 3.
        signature: RSASSA-PKCS1-v1_5 over ``signed_bytes``, little-endian.
        miscselect: Extra information that SSA frames must hold.
        miscmask: Which bits of it EINIT enforces.
        cet_attributes: Control-flow enforcement attributes.
        cet_attributes_mask: Which of them EINIT enforces.
        isv_family_id: Product family, for KSS.
        flags: ATTRIBUTES.FLAGS that the enclave must be launched with.
        xfrm: ATTRIBUTES.XFRM that it must be launched with.
        flags_mask: Which bits of ``flags`` EINIT enforces.
        xfrm_mask: Which bits of ``xfrm`` EINIT enforces.
        mrenclave: The measurement that is signed (ENCLAVEHASH).
        isv_ext_prod_id: Extended product id, for KSS.
        isv_prod_id: Product number.
        isv_svn: Security version number.
        q1: floor(signature^2 / modulus), little-endian.
        q2: floor((signature^3 - q1 * signature * modulus) / modulus), little-endian.
    """

    type: int
    vendor: int
    date_bcd: int
    swdefined: int
    modulus: bytes
    exponent: int
    signature: bytes
    miscselect: int
    miscmask: int
    cet_attributes: int
    cet_attributes_mask: int
    isv_family_id: bytes
    flags: int
    xfrm: int
    flags_mask: int
    xfrm_mask: int
    mrenclave: bytes
    isv_ext_prod_id: bytes
    isv_prod_id: int
    isv_svn: int
    q1: bytes
    q2: bytes

    def to_bytes(self) -> bytes:
        """Serialise to the 1808 bytes that EINIT reads."""
        values: dict[str, object] = {"header": HEADER, "header2": HEADER2}
        values |= {field.name: getattr(self, field.name) for field in fields(self)}
        return _STRUCT.pack(*(values.get(name, b"") for name, _ in _FIELDS))

    @property
    def signed_bytes(self) -> bytes:
        """Give the 256 bytes that the signature covers."""
        raw = self.to_bytes()
        return b"".join(raw[part] for part in _SIGNED_SLICES)

    @property
    def mrsigner(self) -> bytes:
        """Compute MRSIGNER: SHA-256 of the modulus as stored."""
        return hashlib.sha256(self.modulus).digest()

    @property
    def date(self) -> dt.date | None:
        """Give the signing date, or None where the field holds no date; the processor does not look at it."""
        try:
            return dt.datetime.strptime(f"{self.date_bcd:08x}", "%Y%m%d").replace(tzinfo=dt.UTC).date()
        except ValueError:
            return None

    @property
    def debug_allowed(self) -> bool:
        """Say whether the enclave can be launched in debug mode: EINIT compares only the bits in the mask."""
        return bool(self.flags & FLAG_DEBUG) or not self.flags_mask & FLAG_DEBUG

    @property
    def identity(self) -> EnclaveIdentity:
        """Give the identity that this signature claims; ``verify_signature`` says whether to believe it."""
        return EnclaveIdentity(
            mrenclave=self.mrenclave,
            mrsigner=self.mrsigner,
            isv_prod_id=self.isv_prod_id,
            isv_svn=self.isv_svn,
            isv_family_id=self.isv_family_id,
            isv_ext_prod_id=self.isv_ext_prod_id,
            debug_allowed=self.debug_allowed,
        )


def parse_sigstruct(data: bytes, *, at: int = 0) -> Sigstruct:
    """Parse the 1808 bytes of a SIGSTRUCT, checking what EINIT checks of its form.

    Args:
        data: The bytes.
        at: Where they stand in their file, for messages.

    Raises:
        Refused: The length, a constant field or a reserved field is not as EINIT demands; the message names field and offset.
    """
    if len(data) != SIGSTRUCT_BYTES:
        raise _refused(f"SIGSTRUCT is {len(data)} bytes long, not {SIGSTRUCT_BYTES}")
    values = dict(zip(FIELD_OFFSETS, _STRUCT.unpack(data), strict=True))
    for name in [name for name in values if name.startswith("reserved")]:
        if any(values.pop(name)):
            raise _refused(f"SIGSTRUCT field {name} at offset {at + FIELD_OFFSETS[name]} is not zero")
    accepted: dict[str, tuple[object, ...]] = {
        "header": (HEADER,),
        "type": (TYPE_RELEASE, TYPE_DEBUG),
        "vendor": (0, VENDOR_INTEL),
        "header2": (HEADER2,),
        "exponent": (RSA_EXPONENT,),
    }
    for name, constants in accepted.items():
        value = values[name]
        if value not in constants:
            shown = value.hex() if isinstance(value, bytes) else f"{value:#x}"
            raise _refused(f"SIGSTRUCT field {name} at offset {at + FIELD_OFFSETS[name]} is {shown}, which EINIT does not accept")
    del values["header"], values["header2"]
    return Sigstruct(**values)


def verify_signature(sigstruct: Sigstruct) -> None:
    """Check the signature as EINIT does: RSASSA-PKCS1-v1_5 with SHA-256, and the two quotients q1 and q2.

    Raises:
        Refused: The signature does not fit the signed fields, or a quotient is wrong; the message names field and offset.
    """
    # Imported here so that reading an enclave's facts does not cost the start of a crypto library.
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers  # noqa: PLC0415 - see above

    modulus = int.from_bytes(sigstruct.modulus, "little")
    signature = int.from_bytes(sigstruct.signature, "little")
    if modulus.bit_length() != RSA_BYTES * 8 or modulus % 2 == 0:
        raise _refused(f"SIGSTRUCT field modulus at offset {FIELD_OFFSETS['modulus']} is not an RSA-3072 modulus")
    if signature >= modulus:
        raise _refused(f"SIGSTRUCT field signature at offset {FIELD_OFFSETS['signature']} is not below the modulus")
    try:
        public_key = RSAPublicNumbers(RSA_EXPONENT, modulus).public_key()
        public_key.verify(signature.to_bytes(RSA_BYTES, "big"), sigstruct.signed_bytes, PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, ValueError) as exc:
        raise _refused(f"SIGSTRUCT field signature at offset {FIELD_OFFSETS['signature']} does not fit the signed fields") from exc
    for name, quotient in zip(("q1", "q2"), quotients(modulus, signature), strict=True):
        if getattr(sigstruct, name) != quotient:
            raise _refused(f"SIGSTRUCT field {name} at offset {FIELD_OFFSETS[name]} is not the quotient that EINIT computes with")


def quotients(modulus: int, signature: int) -> tuple[bytes, bytes]:
    """Compute q1 and q2, which spare the processor a division (SDM, SIGSTRUCT.Q1 and .Q2)."""
    q1, remainder = divmod(signature * signature, modulus)
    q2 = signature * remainder // modulus
    return q1.to_bytes(RSA_BYTES, "little"), q2.to_bytes(RSA_BYTES, "little")


def _refused(what: str) -> Refused:
    return Refused(what, "Sign the enclave again, or get an undamaged copy of the signature.")
