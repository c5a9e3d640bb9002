import dataclasses
import datetime as dt
import gzip
import hashlib
import io
import json
import os
import tarfile

import pytest

from kubenclave.errors import NotFound, Refused, UsageError
from kubenclave.image import AddedFile, ImageSpec, build_image, parse_reference, read_enclave_input, source_date_epoch
from kubenclave.sgx import draft_sigstruct, generate_signing_key, measure, sign

LOADER = "/lib64/ld-linux-x86-64.so.2"


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getmembers()


class Opened:
    """An archive read back by its specification, every digest checked."""

    def __init__(self, archive):
        with tarfile.open(archive) as tar:
            self.files = {member.name: tar.extractfile(member).read() for member in tar.getmembers() if member.isfile()}
        for name, data in self.files.items():
            if name.startswith("blobs/sha256/"):
                assert hashlib.sha256(data).hexdigest() == name.removeprefix("blobs/sha256/")
        self.index = json.loads(self.files["index.json"])
        self.manifest = self._json(self.index["manifests"][0])
        self.config = self._json(self.manifest["config"])
        self.layers = [gzip.decompress(self._blob(layer)) for layer in self.manifest["layers"]]

    def _blob(self, descriptor):
        data = self.files[f"blobs/{descriptor['digest'].replace(':', '/')}"]
        assert len(data) == descriptor["size"]
        return data

    def _json(self, descriptor):
        return json.loads(self._blob(descriptor))

    def paths(self):
        return [member.name for layer in self.layers for member in members(layer) if not member.isdir()]


@pytest.fixture
def build(tmp_path, root, make_elf):
    place = root({LOADER: make_elf(soname="ld-linux-x86-64.so.2"), "/lib/libc.so.6": make_elf(soname="libc.so.6")}, name="system")

    def run(*, name="hello", program=None, archive=None, **more):
        host = tmp_path / name
        host.write_bytes(make_elf(interpreter=LOADER, needed=["libc.so.6"]) if program is None else program)
        archive = archive or tmp_path / "image.tar"
        spec = ImageSpec(reference=parse_reference("hello:1"), host=host, sysroot=place, **more)
        return build_image(spec, archive, lambda _: None)

    return run


@pytest.fixture
def enclave(tmp_path, enclave_bytes):
    stream, signature, _ = enclave_bytes
    (tmp_path / "hello.sgxs").write_bytes(stream)
    (tmp_path / "hello.sig").write_bytes(signature)
    return tmp_path / "hello.sgxs"


def test_the_image_of_a_static_program_holds_exactly_the_program(build, make_elf):
    image = build(program=make_elf())

    assert Opened(image.archive).paths() == ["app/hello"]
    assert [file.path for file in image.files] == ["/app/hello"]
    assert len(image.layers) == 1


def test_libraries_lie_below_the_application_in_a_layer_of_their_own(build):
    opened = Opened(build().archive)

    assert opened.paths() == ["lib/libc.so.6", "lib64/ld-linux-x86-64.so.2", "app/hello"]
    assert len(opened.layers) == 2


def test_the_configuration_names_layers_user_and_program(build):
    opened = Opened(build().archive)

    assert opened.config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in opened.layers]
    assert opened.config["config"] == {"Cmd": [], "Entrypoint": ["/app/hello"], "User": "65532:65532", "WorkingDir": "/app"}
    assert (opened.config["os"], opened.config["architecture"], opened.config["created"]) == ("linux", "amd64", "1970-01-01T00:00:00Z")


def test_the_index_bears_the_name_for_skopeo_and_for_containerd(build):
    image = build()
    entry = Opened(image.archive).index["manifests"][0]

    assert entry["annotations"] == {"io.containerd.image.name": "docker.io/library/hello:1", "org.opencontainers.image.ref.name": "1"}
    assert (entry["digest"], image.reference) == (image.digest, "docker.io/library/hello:1")


def test_an_image_carries_what_its_enclave_is_and_takes(build, enclave, enclave_bytes):
    stream, signature, _ = enclave_bytes

    image = build(enclaves=(read_enclave_input(enclave),))

    opened = Opened(image.archive)
    assert opened.manifest["annotations"] == image.annotations
    assert image.annotations == {
        "kubenclave.enclave.0.path": "/app/hello.sgxs",
        # An SGXS stream is what is measured; the signer is the hash of the key in the signature.
        "kubenclave.enclave.0.mrenclave": hashlib.sha256(stream).hexdigest(),
        "kubenclave.enclave.0.mrsigner": hashlib.sha256(signature[128:512]).hexdigest(),
        "kubenclave.enclave.0.isvprodid": "7",
        "kubenclave.enclave.0.isvsvn": "3",
        "kubenclave.enclave.0.debug-allowed": "false",
        # Three pages, SECS, one version array.
        "kubenclave.enclave.0.epc-bytes": str(5 * 4096),
        "kubenclave.enclave.0.threads": "0",
        "kubenclave.enclave.0.format": "sgxs",
    }
    assert image.epc_bytes == 5 * 4096


def test_the_program_gets_its_enclaves_files_as_arguments_unless_told_otherwise(build, enclave):
    given = read_enclave_input(enclave)

    assert Opened(build(enclaves=(given,)).archive).config["config"]["Cmd"] == ["/app/hello.sgxs", "/app/hello.sig"]
    assert Opened(build(enclaves=(given,), command=("--one",)).archive).config["config"]["Cmd"] == ["--one"]


def test_an_enclave_whose_signature_is_anothers_is_refused(build, enclave):
    stream = bytearray(enclave.read_bytes())
    stream[-1] ^= 1
    enclave.write_bytes(stream)

    with pytest.raises(Refused, match=r"hello.sgxs: the enclave measures"):
        read_enclave_input(enclave)


def test_an_unsigned_enclave_is_not_packed(enclave):
    enclave.with_suffix(".sig").unlink()

    with pytest.raises(NotFound, match=r"hello.sig, the signature of hello.sgxs, does not exist"):
        read_enclave_input(enclave)


def test_a_file_of_unknown_format_is_no_enclave_but_can_be_added(build, tmp_path):
    (tmp_path / "notes.txt").write_text("notes")

    with pytest.raises(Refused, match=r"notes.txt: .* is neither an ELF file nor an SGXS stream") as caught:
        read_enclave_input(tmp_path / "notes.txt")
    assert "--add" in caught.value.hint
    image = build(files=(AddedFile(source=tmp_path / "notes.txt", path="/etc/notes/"),))
    assert "etc/notes/notes.txt" in Opened(image.archive).paths()


def test_two_builds_in_two_directories_are_the_same_bytes(build, enclave, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    first = build(enclaves=(read_enclave_input(enclave),))
    for path in tmp_path.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))

    second = build(enclaves=(read_enclave_input(enclave),), archive=other / "x.tar")

    assert second.archive.read_bytes() == first.archive.read_bytes()


def test_the_chosen_time_is_everywhere(build):
    image = build(epoch_seconds=1_700_000_000)

    opened = Opened(image.archive)
    assert opened.config["created"] == "2023-11-14T22:13:20Z"
    for data in [image.archive.read_bytes(), *opened.layers]:
        assert {member.mtime for member in members(data)} == {1_700_000_000}


def test_a_changed_enclave_changes_the_layer_of_enclaves_alone(build, enclave, enclave_bytes):
    first = build(enclaves=(read_enclave_input(enclave),))
    signed = sign(draft_sigstruct(mrenclave=measure(enclave_bytes[2]), date=dt.date(2026, 1, 3)), generate_signing_key())
    enclave.with_suffix(".sig").write_bytes(signed.to_bytes())
    second = build(enclaves=(read_enclave_input(enclave),))

    assert [layer.comment for layer in first.layers] == ["libraries", "application", "enclaves"]
    assert second.layers[:2] == first.layers[:2]
    assert second.layers[2].digest != first.layers[2].digest


def test_sizes_add_up(build):
    image = build()

    assert image.uncompressed_bytes == sum(len(layer) for layer in Opened(image.archive).layers)
    assert image.compressed_bytes == sum(layer["size"] for layer in Opened(image.archive).manifest["layers"])


def test_a_directory_that_is_not_there_is_named(build, tmp_path):
    with pytest.raises(NotFound, match=r"nowhere does not exist"):
        build(archive=tmp_path / "nowhere" / "image.tar")


def test_a_directory_in_the_archives_place_is_a_usage_error(build, tmp_path):
    with pytest.raises(UsageError, match="is a directory"):
        build(archive=tmp_path)


def test_a_failed_build_leaves_the_old_archive_and_nothing_else(build, tmp_path):
    archive = build().archive
    before = archive.read_bytes()

    with pytest.raises(Refused, match="too long"):
        build(files=(AddedFile(source=archive, path="/" + "x" * 300),))

    assert archive.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_hostile_program_name_is_refused(build, tmp_path):
    with pytest.raises(Refused, match="control character"):
        build(name="hello\nroot")
    assert not (tmp_path / "image.tar").exists()


def test_two_files_for_one_place_are_refused(build, enclave):
    with pytest.raises(Refused, match="Two different files would be /app/hello"):
        build(files=(AddedFile(source=enclave, path="/app/hello"),))
    with pytest.raises(Refused, match=r"Two different files would be /lib/libc.so.6"):
        build(files=(AddedFile(source=enclave, path="/lib/libc.so.6"),))


@pytest.mark.parametrize(("user", "written"), [("0", "0:0"), ("1000:2000", "1000:2000"), ("065532", "65532:65532")])
def test_a_numeric_user_is_taken(build, user, written):
    assert Opened(build(user=user).archive).config["config"]["User"] == written


@pytest.mark.parametrize("user", ["root", "", "-1", "1:", "4294967295", "1:2:3", "1\n", "\u0661"])
def test_a_user_without_number_is_a_usage_error(build, user):
    with pytest.raises(UsageError, match="no numeric user"):
        build(user=user)


def test_a_relative_place_for_an_added_file_is_a_usage_error(build, enclave):
    with pytest.raises(UsageError, match="no absolute path"):
        build(files=(AddedFile(source=enclave, path="etc/x"),))


def test_a_file_to_add_that_is_not_there_is_named(build, tmp_path):
    with pytest.raises(NotFound, match="gone cannot be read"):
        build(files=(AddedFile(source=tmp_path / "gone", path="/x"),))


def test_the_time_comes_from_the_environment():
    assert source_date_epoch({}) == 0
    assert source_date_epoch({"SOURCE_DATE_EPOCH": "1700000000"}) == 1_700_000_000
    for wrong in ("yesterday", "-1", "1.5", "8589934592", "\u0661"):
        with pytest.raises(UsageError):
            source_date_epoch({"SOURCE_DATE_EPOCH": wrong})


def test_values_that_pass_between_rooms_cannot_be_changed(build):
    with pytest.raises(dataclasses.FrozenInstanceError):
        build().digest = ""
