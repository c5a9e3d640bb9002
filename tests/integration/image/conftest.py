"""Programs made with the C compiler, and images unpacked and entered."""

import contextlib
import dataclasses
import datetime as dt
import gzip
import io
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from backports import zstd
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kubenclave.sgx import EnclaveLayout, PageRun, draft_sigstruct, generate_signing_key, measure, sign, write_sgxs

UNPACK = {"gzip": gzip.decompress, "zstd": zstd.decompress, "application/vnd.oci.image.layer.v1.tar": bytes}


@pytest.fixture
def compile_c(tmp_path):
    """Compile C text to a file, its directory made on the way."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")

    def run(text, path, *options):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        source = target.with_name(f"{target.name}.c")
        source.write_text(text)
        subprocess.run(["gcc", "-o", target, source, *options], check=True, cwd=tmp_path)
        return target

    return run


@pytest.fixture
def unpack(tmp_path):
    """Unpack an archive's layers into an empty directory, as a runtime would."""

    def run(archive):
        place = tmp_path / f"{archive.stem}.rootfs"
        place.mkdir()
        with tarfile.open(archive) as outer:

            def blob(digest):
                return outer.extractfile(f"blobs/{digest.replace(':', '/')}").read()

            index = json.load(outer.extractfile("index.json"))
            manifest = json.loads(blob(index["manifests"][0]["digest"]))
            for layer in manifest["layers"]:
                unpacked = UNPACK[layer["mediaType"].rpartition("+")[2]](blob(layer["digest"]))
                with tarfile.open(fileobj=io.BytesIO(unpacked)) as inner:
                    inner.extractall(place)  # noqa: S202 - an archive of our own making
        return place

    return run


@pytest.fixture
def inside():
    """Run a command with an unpacked image as its whole world, as another user than root, without a variable.

    ``proc`` mounts /proc there, which every container has and the loader needs for $ORIGIN; the mount ends with the command.
    """
    if os.geteuid() != 0:
        pytest.skip("entering an image needs root")

    def run(place, *command, proc=False):
        words = ["chroot", "--userspec=65532:65532", place, *command]
        if proc:
            (place / "proc").mkdir(exist_ok=True)
            words = ["unshare", "--mount", "sh", "-c", 'mount --bind /proc "$0/proc" && exec "$@"', place, *words]
        done = subprocess.run(words, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority of the tests' own, and a certificate by it for this machine."""

    ca: Path
    certificate: Path
    key: Path


def _certificate(name, issuer, key, issuer_key, *, ca, addresses=()):
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        names = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def make_authority(folder, *addresses):
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    found = Authority(ca=folder / "ca.pem", certificate=folder / "server.pem", key=folder / "server.key")
    authority = _certificate("tests' own authority", "tests' own authority", ca_key, ca_key, ca=True)
    server = _certificate("registry", "tests' own authority", key, ca_key, ca=False, addresses=("127.0.0.1", *addresses))
    found.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    found.certificate.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    found.key.write_bytes(key.private_bytes(*pem))
    return found


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("authority"))


def free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """Debian's docker-registry, running on this machine."""

    host: str
    folder: Path

    def blobs(self):
        """Return the digests of the blobs that it keeps."""
        place = self.folder / "data/docker/registry/v2/blobs/sha256"
        return {path.parent.name for path in place.glob("*/*/data")}

    def tags(self, repository):
        place = self.folder / "data/docker/registry/v2/repositories" / repository / "_manifests/tags"
        return {path.name for path in place.iterdir()} if place.exists() else set()


@contextlib.contextmanager
def running_registry(folder, authority, *, auth="", address="127.0.0.1", name="localhost"):
    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port(address)
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {folder}/data}}\n  delete: {{enabled: true}}\n"
        f"http:\n  addr: {address}:{port}\n  secret: of-the-tests\n"
        f"  tls: {{certificate: {authority.certificate}, key: {authority.key}}}\n{auth}"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
                    break
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            yield Registry(host=f"{name}:{port}", folder=folder)
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def registry(tmp_path_factory, authority):
    """A registry with TLS that lets anybody in."""
    with running_registry(tmp_path_factory.mktemp("registry"), authority) as running:
        yield running


@pytest.fixture(scope="session")
def start_registry():
    """Give what starts a registry, as a context manager."""
    return running_registry


@pytest.fixture(scope="session")
def new_authority():
    """Give what makes a certificate authority in a folder, for further addresses of this machine."""
    return make_authority


@pytest.fixture
def enclave_files():
    """Write a small signed enclave, as ``NAME.sgxs`` and ``NAME.sig``, into a folder."""

    def write(folder, name):
        folder.mkdir(parents=True, exist_ok=True)
        run = PageRun(offset=0, page_count=3, secinfo=0x203, content=b"secret".ljust(3 * 4096, b"\0"))
        layout = EnclaveLayout(elrange_bytes=0x4000, ssa_frame_pages=1, runs=(run,))
        draft = draft_sigstruct(mrenclave=measure(layout), date=dt.date(2026, 1, 2), isv_prod_id=7, isv_svn=3)
        (folder / f"{name}.sgxs").write_bytes(b"".join(write_sgxs(layout)))
        (folder / f"{name}.sig").write_bytes(sign(draft, generate_signing_key()).to_bytes())
        return folder / f"{name}.sgxs"

    return write
