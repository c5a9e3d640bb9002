"""Our signatures against a real cosign, built from its pinned Go module; skipped where nobody built it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kubenclave.image import Access, ImageSpec, build_image, parse_reference, parse_remote, push_image, read_signing_key

pytestmark = pytest.mark.integration


@pytest.fixture(scope="session")
def cosign():
    """Find cosign: named by KUBENCLAVE_COSIGN, on PATH, or in the cache (tests/tools/cosign says how to build it)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubenclave" / "tools" / "cosign"
    found = os.environ.get("KUBENCLAVE_COSIGN") or shutil.which("cosign") or (str(cache) if cache.exists() else None)
    if found is None:
        pytest.skip(f"needs cosign: cd tests/tools/cosign && go build -o {cache} github.com/sigstore/cosign/v3/cmd/cosign")
    return found


def test_cosign_verifies_our_signature_and_no_other_key(cosign, registry, authority, tmp_path):
    keys = []
    for name in ("ours", "strangers"):
        made = ec.generate_private_key(ec.SECP256R1())
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        pem = serialization.Encoding.PEM
        private.write_bytes(made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        public.write_bytes(made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
        keys.append((private, public))
    name = f"{registry.host}/team/cosigned:1"
    spec = ImageSpec(reference=parse_reference(name), host=Path("/bin/true"), signing_key=read_signing_key(keys[0][0]))
    built = build_image(spec, tmp_path / "x.tar", lambda _: None)
    pushed = push_image(built.archive, parse_remote(name), Access(ca=authority.ca), moved=lambda _blob, _done: None)

    def verify(public):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SSL_CERT_FILE": str(authority.ca)}
        # No transparency log takes part in signing with a local key here; cosign has to be told.
        words = ["verify", "--insecure-ignore-tlog=true", "--key", public, f"{registry.host}/team/cosigned@{pushed.digest}"]
        return subprocess.run([cosign, *words], capture_output=True, text=True, env=environment, timeout=60, check=False)

    ours, strangers = verify(keys[0][1]), verify(keys[1][1])

    assert ours.returncode == 0, ours.stderr
    assert built.digest in ours.stdout
    assert strangers.returncode != 0
