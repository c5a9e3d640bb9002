"""Sign an image's digest with a local key, as cosign does with ``cosign sign --key``, and check such signatures.

Format: "simple signing" JSON as a blob, the signature over it as an annotation of its descriptor, in a manifest that bears the tag
``sha256-<digest>.sig`` (cosign, specs/SIGNATURE_SPEC.md). Keys are ECDSA on P-256, cosign's own kind, as plain PEM. No transparency log
takes part: whoever verifies says so (``cosign verify --insecure-ignore-tlog``).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from kubenclave.errors import NotFound, Refused, UsageError
from kubenclave.image.oci.documents import canonical
from kubenclave.image.sysroot import open_regular

if TYPE_CHECKING:
    from pathlib import Path

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"
SIGNATURE_TYPE = "application/vnd.dev.cosign.artifact.sig.v1+json"
# A PEM file of an EC key has some hundred bytes.
_MAX_KEY_BYTES = 64 * 1024
_MAKE_ONE = "Make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem"


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """Hold a private key; it is never shown."""

    private: ec.EllipticCurvePrivateKey


def read_signing_key(path: Path) -> SigningKey:
    """Read an unencrypted ECDSA P-256 private key in PEM.

    Raises:
        NotFound: The file is not there.
        UsageError: It holds another kind of key, an encrypted one, or none.
    """
    try:
        key = load_pem_private_key(_read(path), password=None)
    except TypeError as exc:
        hint = "Decrypt it for this with: openssl pkey -in key.pem -out plain.pem"
        raise UsageError(f"The key in {path} is encrypted.", hint) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise UsageError(f"{path} holds no private key in PEM that can be read.", _MAKE_ONE) from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UsageError(f"The key in {path} is not one of ECDSA on P-256.", _MAKE_ONE)
    return SigningKey(key)


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read an ECDSA P-256 public key in PEM.

    Raises:
        NotFound: The file is not there.
        UsageError: It holds no such key.
    """
    hint = "Get it with: openssl pkey -in key.pem -pubout -out key.pub"
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise UsageError(f"{path} holds no public key in PEM.", hint) from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UsageError(f"The key in {path} is not one of ECDSA on P-256.", hint)
    return key


def _read(path: Path) -> bytes:
    if not path.exists():
        raise NotFound(f"The key {path} does not exist.", _MAKE_ONE)
    with open_regular(path.resolve()) as file:
        return file.read(_MAX_KEY_BYTES)


def payload(*, repository: str, digest: str) -> bytes:
    """Return what is signed: the digest of an image and the name of its repository."""
    return canonical(
        {
            "critical": {
                "identity": {"docker-reference": repository},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": None,
        }
    )


def sign(key: SigningKey, signed: bytes) -> str:
    """Return the signature over a payload in base64, the same each time (RFC 6979)."""
    return base64.b64encode(key.private.sign(signed, ec.ECDSA(SHA256(), deterministic_signing=True))).decode()


def verify(key: ec.EllipticCurvePublicKey, signed: bytes, signature: str) -> None:
    """Check a signature over a payload.

    Raises:
        Refused: It is not one by this key.
    """
    try:
        key.verify(base64.b64decode(signature, validate=True), signed, ec.ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError) as exc:
        raise Refused("The signature is not one by this key.", "Check that it is the signer's public key.") from exc
