"""What is attached to an image: SBOM, provenance, signature."""

import base64
import json
import tarfile

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from kubenclave.errors import NotFound, Refused, UsageError
from kubenclave.image import (
    ImageSpec,
    build_image,
    look_at,
    open_image,
    parse_reference,
    read_enclave_input,
    read_public_key,
    read_signing_key,
)
from kubenclave.image.attest import cosign, dpkg
from kubenclave.image.attest.dpkg import packages_of
from kubenclave.image.sysroot import Sysroot

LOADER = "/lib64/ld-linux-x86-64.so.2"
STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 2.36-9+deb12u10
Description: GNU C Library
 A folded line: of no interest

Package: base-files
Architecture: amd64
Version: 12.4
"""


def system_tree(make_elf):
    return {
        LOADER: make_elf(soname="ld-linux-x86-64.so.2"),
        "/usr/lib/x86_64-linux-gnu/libc.so.6": make_elf(soname="libc.so.6"),
        "/lib/x86_64-linux-gnu": "/usr/lib/x86_64-linux-gnu",
        "/etc/os-release": b'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n',
        "/var/lib/dpkg/status": STATUS,
        # The package still lists its files under the directory that has become a link.
        "/var/lib/dpkg/info/libc6:amd64.list": f"/.\n/lib/x86_64-linux-gnu/libc.so.6\n{LOADER}\n".encode(),
        "/var/lib/dpkg/info/base-files.list": b"/etc\n",
    }


@pytest.fixture
def build(tmp_path, root, make_elf, enclave_bytes):
    place = root(system_tree(make_elf), name="system")
    stream, signature, _ = enclave_bytes
    (tmp_path / "host").write_bytes(make_elf(interpreter=LOADER, needed=["libc.so.6"]))
    (tmp_path / "e.sgxs").write_bytes(stream)
    (tmp_path / "e.sig").write_bytes(signature)

    def run(name="image.tar", **more):
        spec = ImageSpec(
            reference=parse_reference("team/hello:1"),
            host=tmp_path / "host",
            enclaves=(read_enclave_input(tmp_path / "e.sgxs"),),
            sysroot=place,
            **{"attest": True, **more},
        )
        return build_image(spec, tmp_path / name, lambda _: None)

    return run


def documents(image):
    """Return what is attached to an image, by kind of blob, with the manifest around it."""
    with tarfile.open(image.archive) as tar:
        blobs = {member.name.rpartition("/")[2]: tar.extractfile(member).read() for member in tar if member.isfile()}
    found = {}
    for item in image.attached:
        manifest = json.loads(blobs[item.descriptor.digest.partition(":")[2]])
        for layer in manifest["layers"]:
            found[layer["mediaType"]] = (manifest, layer, blobs[layer["digest"].partition(":")[2]])
    return found


def write_key(path, key=None, *, password=None):
    key = key or ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    public = path.with_suffix(".pub")
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path, public


def test_the_sbom_names_each_files_package_and_hash(build):
    image = build()

    bom = json.loads(documents(image)["application/vnd.cyclonedx+json"][2])

    package = next(item for item in bom["components"] if item["name"] == "libc6")
    assert package["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12"
    assert {item["name"] for item in package["components"]} == {LOADER, "/lib/x86_64-linux-gnu/libc.so.6"}
    listed = [file for item in bom["components"] for file in ([item] if item["type"] == "file" else item["components"])]
    assert {file["name"]: file["hashes"] for file in listed} == {
        file.path: [{"alg": "SHA-256", "content": file.sha256}] for file in image.files
    }
    enclave = next(file for file in listed if file["name"] == "/app/e.sgxs")
    properties = {item["name"]: item["value"] for item in enclave["properties"]}
    assert properties["kubenclave:enclave:mrenclave"] == image.annotations["kubenclave.enclave.0.mrenclave"]


def test_the_sbom_keeps_to_its_schema(build):
    pytest.importorskip("jsonschema", reason="the library's schema validator needs jsonschema")
    data = documents(build())["application/vnd.cyclonedx+json"][2].decode()

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data) is None


def test_the_provenance_names_every_input_by_its_digest_and_no_place_of_this_machine(build, tmp_path):
    image = build(environment={"SECRET": "not to be told"})

    data = documents(image)["application/vnd.in-toto+json"][2]
    statement = json.loads(data)

    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [{"name": "docker.io/team/hello", "digest": {"sha256": image.digest.partition(":")[2]}}]
    definition = statement["predicate"]["buildDefinition"]
    assert {item["name"]: item["digest"]["sha256"] for item in definition["resolvedDependencies"]} == {
        file.path: file.sha256 for file in image.files
    }
    assert definition["externalParameters"]["variables"] == ["SECRET"]
    assert str(tmp_path).encode() not in data
    assert b"not to be told" not in data


def test_all_that_is_attached_refers_to_the_image(build, tmp_path):
    key, _ = write_key(tmp_path / "key.pem")
    image = build(signing_key=read_signing_key(key))

    found = documents(image)

    assert len(found) == len(image.attached) == 3
    assert {manifest["subject"]["digest"] for manifest, _, _ in found.values()} == {image.digest}


def test_attached_documents_are_the_same_bytes_twice(build, tmp_path):
    key, _ = write_key(tmp_path / "key.pem")

    first, second = (build(name, signing_key=read_signing_key(key)) for name in ("a.tar", "b.tar"))

    assert first.archive.read_bytes() == second.archive.read_bytes()


def test_the_same_image_has_the_same_digest_with_and_without_what_is_attached(build):
    assert build().digest == build("plain.tar", attest=False).digest


def test_a_signature_is_over_the_digest_in_the_form_that_cosign_reads(build, tmp_path):
    key, public = write_key(tmp_path / "key.pem")
    image = build(signing_key=read_signing_key(key))

    _, layer, payload = documents(image)["application/vnd.dev.cosign.simplesigning.v1+json"]

    assert json.loads(payload)["critical"] == {
        "identity": {"docker-reference": "docker.io/team/hello"},
        "image": {"docker-manifest-digest": image.digest},
        "type": "cosign container image signature",
    }
    cosign.verify(read_public_key(public), payload, layer["annotations"]["dev.cosignproject.cosign/signature"])
    tags = [item.descriptor.annotations.get("org.opencontainers.image.ref.name") for item in image.attached]
    assert f"sha256-{image.digest[7:]}.sig" in tags


def test_inspection_checks_the_signature(build, tmp_path):
    key, public = write_key(tmp_path / "key.pem")
    _, strangers = write_key(tmp_path / "other.pem")
    image = build(signing_key=read_signing_key(key))

    with open_image(str(image.archive)) as opened:
        found = look_at(opened, key=read_public_key(public))
        with pytest.raises(Refused, match="no signature by the key"):
            look_at(opened, key=read_public_key(strangers))

    assert [note.signed for note in found.attached].count(True) == 1
    assert any(note.says.startswith("CycloneDX 1.6: 5 files, 1 packages") for note in found.attached)


@pytest.mark.parametrize("signature", ["", "not base64!", base64.b64encode(b"x" * 70).decode()])
def test_a_signature_that_is_none_is_refused(tmp_path, signature):
    _, public = write_key(tmp_path / "key.pem")

    with pytest.raises(Refused, match="not one by this key"):
        cosign.verify(read_public_key(public), b"payload", signature)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: write_key(path, rsa.generate_private_key(65537, 2048)), "not one of ECDSA on P-256"),
        (lambda path: write_key(path, ec.generate_private_key(ec.SECP384R1())), "not one of ECDSA on P-256"),
        (lambda path: write_key(path, password=b"secret"), "is encrypted"),
        (lambda path: path.write_text("nonsense"), "no private key in PEM"),
    ],
)
def test_a_key_of_another_kind_is_a_usage_error(tmp_path, make, what):
    make(tmp_path / "key.pem")

    with pytest.raises(UsageError, match=what):
        read_signing_key(tmp_path / "key.pem")


def test_a_key_that_is_not_there_is_not_found_and_one_that_is_is_not_shown(tmp_path):
    with pytest.raises(NotFound):
        read_signing_key(tmp_path / "gone.pem")
    key, _ = write_key(tmp_path / "key.pem")
    shown = repr(ImageSpec(reference=parse_reference("x"), host=key, signing_key=read_signing_key(key)))
    assert str(read_signing_key(key).private.private_numbers().private_value) not in shown


def test_a_system_without_dpkg_has_no_packages(root):
    assert packages_of(["/usr/lib/x"], Sysroot(root({"/usr/lib/x": b""}))) == {}


def test_a_database_that_leads_out_of_the_system_is_not_read(root, tmp_path):
    (tmp_path / "status").write_bytes(STATUS)

    assert packages_of(["/usr/lib/x"], Sysroot(root({"/var/lib/dpkg/status": str(tmp_path / "status")}))) == {}


def test_a_database_beyond_all_measure_is_refused(root, monkeypatch):
    monkeypatch.setattr(dpkg, "MAX_STATUS_BYTES", 10)

    with pytest.raises(Refused, match="is larger than 10 bytes"):
        packages_of(["/usr/lib/x"], Sysroot(root({"/var/lib/dpkg/status": STATUS})))
