"""Images of anyone, read from archives and layouts: hostile tars, bombs, tricks with paths, damaged documents."""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import os
import tarfile

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import KubenclaveError, NotFound, Refused, UsageError
from kubenclave.image import ImageSpec, build_image, compare, look_at, open_image, parse_reference, read_enclave_input
from kubenclave.image.reading import files, source, unpack
from kubenclave.image.reading.files import image_path
from kubenclave.image.reading.parse import MAX_DOCUMENT_BYTES, MAX_LAYERS, MAX_MANIFESTS, parse_config, parse_index, parse_manifest
from kubenclave.image.reading.tar import MAX_EXTENSION_BYTES, Kind, TarReader
from kubenclave.image.reading.unpack import Unpacked

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
PLAIN = "application/vnd.oci.image.layer.v1.tar"


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar_of(*members):
    """Make a tar: (name, bytes) is a file, (name, kind, more...) anything else."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, *rest in members:
            info = tarfile.TarInfo(name)
            if isinstance(rest[0], bytes) and len(rest) == 1:
                info.size = len(rest[0])
                tar.addfile(info, io.BytesIO(rest[0]))
                continue
            info.type = rest[0]
            info.linkname = rest[1] if len(rest) > 1 else ""
            tar.addfile(info)
    return stream.getvalue()


def image_of(*layers, annotations=None, pack=gzip.compress, kind=GZIP, diff_ids=None):
    """Return the blobs and the index of an image with these uncompressed layers."""
    packed = [pack(layer) for layer in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/x"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [digest(layer) for layer in layers]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": kind, "digest": digest(data), "size": len(data)} for data in packed],
            "annotations": annotations or {},
        }
    ).encode()
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(manifest), "size": len(manifest)}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    return {digest(data): data for data in (config, manifest, *packed)}, index


@pytest.fixture
def archive(tmp_path):
    def write(blobs, index, name="image.tar", more=()):
        path = tmp_path / name
        members = [(f"blobs/sha256/{key.partition(':')[2]}", data) for key, data in blobs.items()]
        path.write_bytes(tar_of(("oci-layout", b"{}"), *members, ("index.json", index), *more))
        return path

    return write


def read(path):
    with open_image(str(path)) as opened:
        return opened.image, files.read_tree(opened.source, opened.image)


# --- tars ----------------------------------------------------------------------------------------------------------------------------


def walked(data):
    reader = TarReader(io.BytesIO(data), "a tar")
    return [(member, reader.read(10_000)) for member in reader.members()]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_every_common_format_are_read(form):
    stream = io.BytesIO()
    long = "d" * 60 + "/" + "n" * (90 if form == tarfile.USTAR_FORMAT else 300)
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        info = tarfile.TarInfo(long)
        info.size, info.mode, info.uid, info.gid = 5, 0o4755, 3, 4
        tar.addfile(info, io.BytesIO(b"hello"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * (90 if form == tarfile.USTAR_FORMAT else 200)
        tar.addfile(link)

    (first, content), (second, _) = walked(stream.getvalue())

    assert (first.name, first.size_bytes, first.mode, first.uid, first.gid, content) == (long, 5, 0o4755, 3, 4, b"hello")
    assert (second.kind, second.target) == (Kind.LINK, link.linkname)


def test_an_extended_header_of_any_size_is_not_read_into_memory():
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8 * 1024**3 - 1

    with pytest.raises(Refused, match="an extended header of 8589934591 bytes"):
        walked(header.tobuf(tarfile.USTAR_FORMAT))
    assert MAX_EXTENSION_BYTES < 8 * 1024**3


@pytest.mark.parametrize("record", [b"99 path=x\n", b"0 path=x\n", b"x path=y\n", b"9 path=x", b"10 path=xyz"])
def test_a_damaged_extended_header_is_refused(record):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    data = header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + tar_of(("y", b""))

    with pytest.raises(Refused, match="damaged extended header"):
        walked(data)


@pytest.mark.parametrize("size", ["-1", "1_0", " 1", "9" * 40, "1e3", "٣"])
def test_a_size_that_is_no_number_is_refused(size):
    line = f" size={size}\n"
    record = line.encode()
    length = len(record) + 2
    record = f"{length}{line}".encode()
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(record)

    with pytest.raises(Refused):
        walked(header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + tar_of(("y", b"")))


def test_a_sparse_file_of_old_kinds_is_refused():
    header = tarfile.TarInfo("x")
    header.type = tarfile.GNUTYPE_SPARSE

    with pytest.raises(Refused, match="that images do not have"):
        walked(header.tobuf(tarfile.GNU_FORMAT))


@given(data=st.data())
def test_a_damaged_tar_ends_in_members_or_in_a_refusal(data):
    raw = bytearray(tar_of(("a", b"content"), ("n" * 200, b"x" * 600), ("l", tarfile.SYMTYPE, "a"), ("h", tarfile.LNKTYPE, "a")))
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=6)):
        raw[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Refused):
        walked(bytes(raw[: data.draw(st.integers(0, len(raw)))]))


# --- layers --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "pack"), [(GZIP, gzip.compress), (ZSTD, zstd.compress), (PLAIN, bytes)])
def test_layers_of_every_kind_are_read(archive, kind, pack):
    _, tree = read(archive(*image_of(tar_of(("etc/x", b"content")), pack=pack, kind=kind)))

    assert tree.files["/etc/x"].sha256 == hashlib.sha256(b"content").hexdigest()


@pytest.mark.parametrize(("kind", "pack"), [(GZIP, gzip.compress), (ZSTD, zstd.compress)])
def test_layers_in_several_members_or_frames_are_read_whole(archive, kind, pack):
    layer = tar_of(("a", b"1"), ("b", b"2" * 5000))

    _, tree = read(
        archive(*image_of(layer, pack=lambda data: b"".join(pack(data[i : i + 700]) for i in range(0, len(data), 700)), kind=kind))
    )

    assert tree.files.keys() == {"/a", "/b"}


@pytest.mark.parametrize(("kind", "pack"), [(GZIP, gzip.compress), (ZSTD, zstd.compress)])
def test_a_bomb_is_stopped_early(kind, pack):
    bomb = pack(bytes(4 << 20)) * 200

    class Counted(io.BytesIO):
        pass

    stream = Unpacked(Counted(bomb), kind, "a bomb")
    seen = 0
    with pytest.raises(Refused, match="unpacks to more than"):
        while data := stream.read(1 << 20):
            seen += len(data)
    assert seen <= unpack.RATIO_AFTER_BYTES + (1 << 20)


def test_a_frame_that_asks_for_a_huge_window_is_refused():
    parameter = zstd.CompressionParameter
    greedy = zstd.ZstdCompressor(options={parameter.window_log: 30, parameter.enable_long_distance_matching: 1})
    # Without its size a frame keeps the window that was asked for.
    data = greedy.compress(os.urandom(1000)) + greedy.flush()

    with pytest.raises(Refused, match="cannot be decompressed"):
        Unpacked(io.BytesIO(data), ZSTD, "a layer").read(1000)


@pytest.mark.parametrize(("kind", "pack"), [(GZIP, gzip.compress), (ZSTD, zstd.compress)])
@pytest.mark.parametrize("spoil", [lambda data: data[:-5], lambda data: b"nonsense" + data])
def test_a_layer_that_cannot_be_decompressed_is_refused(kind, pack, spoil):
    stream = Unpacked(io.BytesIO(spoil(pack(b"content" * 1000))), kind, "a layer")

    with pytest.raises(Refused, match=r"ends too early|cannot be decompressed"):
        while stream.read(100):
            pass


def test_a_layer_of_an_unknown_kind_is_refused(archive):
    with pytest.raises(Refused, match="is no image layer"):
        read(archive(*image_of(tar_of(("x", b"")), kind="application/x-shellscript")))


def test_a_layer_that_unpacks_to_something_else_than_the_configuration_says_is_refused(archive):
    with pytest.raises(Refused, match="but the configuration says"):
        read(archive(*image_of(tar_of(("x", b"")), diff_ids=[f"sha256:{'0' * 64}"])))


def test_layers_and_diff_ids_must_be_as_many(archive):
    with pytest.raises(Refused, match="tells of 2 layers, its manifest of 1"):
        read(archive(*image_of(tar_of(("x", b"")), diff_ids=[f"sha256:{'0' * 64}"] * 2)))


def test_layers_lie_over_each_other_as_the_specification_says(archive):
    lower = tar_of(("a", b"1"), ("d/x", b"2"), ("d/y", b"3"), ("e/z", b"4"))
    upper = tar_of(("a", b"new"), ("d/.wh.x", b""), ("e/.wh..wh..opq", b""), ("e/n", b"5"), ("h", tarfile.LNKTYPE, "d/y"))

    _, tree = read(archive(*image_of(lower, upper)))

    assert {path for path, file in tree.files.items() if file.kind is Kind.FILE} == {"/a", "/d/y", "/e/n", "/h"}
    assert tree.files["/a"].sha256 == hashlib.sha256(b"new").hexdigest()
    assert tree.files["/h"].sha256 == tree.files["/d/y"].sha256


@pytest.mark.parametrize(
    ("name", "path"), [("../../etc/passwd", "/etc/passwd"), ("/abs", "/abs"), ("a/../../b", "/b"), ("./x/./y", "/x/y"), ("//x", "/x")]
)
def test_names_lead_nowhere_out_of_the_image(name, path):
    assert image_path(name) == path


def test_devices_links_and_names_of_any_kind_are_listed_and_nothing_is_made(archive, tmp_path):
    layer = tar_of(
        ("dev/null", tarfile.CHRTYPE),
        ("p", tarfile.FIFOTYPE),
        ("out", tarfile.SYMTYPE, "/etc/passwd"),
        ("line\nbreak", b"x"),
        ("../../up", b"y"),
    )
    path = archive(*image_of(layer))
    before = set(tmp_path.iterdir())

    _, tree = read(path)

    assert tree.files["/out"].target == "/etc/passwd"
    assert {"/dev/null", "/p", "/line\nbreak", "/up"} < set(tree.files)
    assert set(tmp_path.iterdir()) == before


def test_more_files_than_any_image_has_are_refused(archive, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILES", 3)

    with pytest.raises(Refused, match="more than 3 files"):
        read(archive(*image_of(tar_of(*[(f"f{n}", b"") for n in range(5)]))))


# --- archives and layouts ------------------------------------------------------------------------------------------------------------


def test_a_blob_that_is_not_its_digest_is_refused(archive):
    blobs, index = image_of(tar_of(("x", b"")))
    key = next(key for key, data in blobs.items() if data.startswith(b"\x1f\x8b"))
    blobs[key] = bytes([*blobs[key][:-1], blobs[key][-1] ^ 1])

    with pytest.raises(Refused, match=r"is not what its digest says|cannot be decompressed"):
        read(archive(blobs, index))


def test_a_missing_blob_is_named(archive):
    blobs, index = image_of(tar_of(("x", b"")))
    gone = next(key for key, data in blobs.items() if data.startswith(b"\x1f\x8b"))
    del blobs[gone]

    with pytest.raises(NotFound, match=gone):
        read(archive(blobs, index))


def test_an_archive_with_a_blob_twice_is_refused(archive):
    blobs, index = image_of(tar_of(("x", b"")))

    with pytest.raises(Refused, match=r"holds index.json twice"):
        read(archive(blobs, index, more=(("index.json", index),)))


def test_an_archive_without_an_index_is_none(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_of(("manifest.json", b"[]")))

    with pytest.raises(Refused, match="is no OCI archive"):
        read(tmp_path / "x.tar")


def test_links_in_an_archive_are_no_blobs(archive):
    blobs, index = image_of(tar_of(("x", b"")))
    key = next(key for key, data in blobs.items() if data.startswith(b"\x1f\x8b"))
    del blobs[key]

    with pytest.raises(NotFound):
        read(archive(blobs, index, more=((f"blobs/sha256/{key.partition(':')[2]}", tarfile.SYMTYPE, "/etc/passwd"),)))


def test_more_members_than_any_archive_has_are_refused(archive, monkeypatch):
    monkeypatch.setattr(source, "MAX_ARCHIVE_MEMBERS", 3)

    with pytest.raises(Refused, match="more than 3 files"):
        read(archive(*image_of(tar_of(("x", b"")))))


def test_a_layout_whose_blobs_are_links_is_read_inside_itself_only(tmp_path):
    blobs, index = image_of(tar_of(("x", b"")))
    layout = tmp_path / "layout"
    (layout / "blobs" / "sha256").mkdir(parents=True)
    (layout / "index.json").write_bytes(index)
    outside = tmp_path / "outside"
    outside.mkdir()
    for key, data in blobs.items():
        (outside / key.partition(":")[2]).write_bytes(data)
        (layout / "blobs/sha256" / key.partition(":")[2]).symlink_to(outside / key.partition(":")[2])

    with pytest.raises(NotFound):
        read(layout)


def test_a_pipe_in_a_layout_does_not_stop_us(tmp_path):
    (tmp_path / "layout").mkdir()
    os.mkfifo(tmp_path / "layout" / "index.json")

    with pytest.raises(Refused, match="not a regular file"):
        read(tmp_path / "layout")


def test_several_images_need_a_name(archive):
    (first, index), (second, other) = image_of(tar_of(("x", b"1"))), image_of(tar_of(("x", b"2")))
    entries = [json.loads(text)["manifests"][0] for text in (index, other)]
    entries[0]["annotations"] = {"org.opencontainers.image.ref.name": "one"}
    path = archive(first | second, json.dumps({"manifests": entries}).encode())

    with pytest.raises(UsageError, match="several images") as caught, open_image(str(path)):
        pass
    assert "one" in caught.value.hint
    with open_image(str(path), name="one") as opened:
        assert opened.image.descriptor.digest == entries[0]["digest"]


# --- documents -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parse", [parse_manifest, parse_index, parse_config])
@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{" * 10_000, b'{"a":' * 10_000, b'{"config":1,"manifests":1}', b"\xff"])
def test_what_is_no_document_is_refused(parse, data):
    with pytest.raises(Refused, match="is not what it should be"):
        parse(data, "it")


def test_documents_are_bounded_in_size_and_number():
    blob = {"mediaType": "x", "digest": digest(b""), "size": 0}

    with pytest.raises(Refused, match="is larger than"):
        parse_index(b" " * (MAX_DOCUMENT_BYTES + 1), "it")
    with pytest.raises(Refused, match="manifests, more than"):
        parse_index(json.dumps({"manifests": [blob] * (MAX_MANIFESTS + 1)}).encode(), "it")
    with pytest.raises(Refused, match="layers, more than"):
        parse_manifest(json.dumps({"config": blob, "layers": [blob] * (MAX_LAYERS + 1)}).encode(), "it")


@pytest.mark.parametrize("wrong", ["sha256:../../../etc/passwd", "sha256:ABC", "sha512:" + "0" * 128, "", "sha256:" + "0" * 63])
def test_a_digest_that_is_none_is_refused(wrong):
    blob = {"mediaType": "x", "digest": wrong, "size": 0}

    with pytest.raises(Refused, match="is no SHA-256 digest"):
        parse_index(json.dumps({"manifests": [blob]}).encode(), "it")


def test_a_negative_size_is_refused():
    with pytest.raises(Refused, match="a blob of -1 bytes"):
        parse_index(json.dumps({"manifests": [{"mediaType": "x", "digest": digest(b""), "size": -1}]}).encode(), "it")


@given(st.binary(max_size=300))
def test_no_bytes_break_a_parser(data):
    for parse in (parse_manifest, parse_index, parse_config):
        with contextlib.suppress(KubenclaveError):
            parse(data, "it")


# --- what an image says of itself ----------------------------------------------------------------------------------------------------


@pytest.fixture
def enclave_image(tmp_path, make_elf, enclave_bytes):
    stream, signature, _ = enclave_bytes
    (tmp_path / "hello").write_bytes(make_elf())
    (tmp_path / "e.sgxs").write_bytes(stream)
    (tmp_path / "e.sig").write_bytes(signature)

    def build(name="enclave.tar", **more):
        spec = ImageSpec(
            reference=parse_reference("hello:1"), host=tmp_path / "hello", enclaves=(read_enclave_input(tmp_path / "e.sgxs"),), **more
        )
        return build_image(spec, tmp_path / name, lambda _: None)

    return build


def test_inspection_reads_the_enclaves_back_and_measures_them_again(enclave_image):
    built = enclave_image()

    with open_image(str(built.archive)) as opened:
        plain, checked = look_at(opened), look_at(opened, check=True)

    assert plain.enclaves[0].mrenclave == built.annotations["kubenclave.enclave.0.mrenclave"]
    assert (plain.enclaves[0].checked, checked.enclaves[0].checked) == (None, "measured again: as annotated")


@pytest.mark.parametrize("name", ["mrenclave", "mrsigner", "isvsvn", "debug-allowed", "epc-bytes", "path"])
def test_an_annotation_that_is_not_true_is_found(enclave_image, archive, name):
    built = enclave_image()
    with tarfile.open(built.archive) as tar:
        blobs = {f"sha256:{m.name.rpartition('/')[2]}": tar.extractfile(m).read() for m in tar if m.isfile() and "sha256" in m.name}
        index = json.loads(tar.extractfile("index.json").read())
    entry = index["manifests"][0]
    manifest = json.loads(blobs[entry["digest"]])
    manifest["annotations"][f"kubenclave.enclave.0.{name}"] = "/app/hello" if name == "path" else "99"
    data = json.dumps(manifest).encode()
    blobs[digest(data)] = data
    entry["digest"], entry["size"] = digest(data), len(data)

    with (
        open_image(str(archive(blobs, json.dumps(index).encode(), name="lie.tar"))) as opened,
        pytest.raises(Refused, match="in the image"),
    ):
        look_at(opened, check=True)


def test_a_difference_of_enclave_start_and_files_is_told(enclave_image, tmp_path):
    first = enclave_image()
    (tmp_path / "hello").write_bytes((tmp_path / "hello").read_bytes() + b"!")
    second = enclave_image("second.tar", user="7")

    with open_image(str(first.archive)) as before, open_image(str(second.archive)) as after:
        found = {item.what: item for item in compare(before, after)}

    assert found.keys() == {"user", "file /app/hello"}
    assert (found["user"].before, found["user"].after) == ("65532:65532", "7:7")


def test_a_changed_enclave_is_told_by_its_measurement():
    from kubenclave.image.reading.diff import diff_enclaves  # noqa: PLC0415
    from kubenclave.image.reading.inspect import enclave_notes  # noqa: PLC0415

    facts = {"kubenclave.enclave.0.path": "/app/e", "kubenclave.enclave.0.mrenclave": "aa", "kubenclave.enclave.0.isvsvn": "1"}
    before, after = enclave_notes(facts), enclave_notes(facts | {"kubenclave.enclave.0.mrenclave": "bb"})

    assert [dataclasses.astuple(item) for item in diff_enclaves(before, after)] == [("enclave /app/e mrenclave", "aa", "bb")]


@given(st.dictionaries(st.sampled_from(["kubenclave.enclave.0.path", "kubenclave.enclave.0.epc-bytes", "x"]), st.text(max_size=30)))
def test_annotations_of_any_kind_are_read(annotations):
    from kubenclave.image.reading.inspect import enclave_notes  # noqa: PLC0415

    assert len(enclave_notes(annotations)) <= 1
