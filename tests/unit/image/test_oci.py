"""Compressed layers, archives, layouts, indexes, names in registries, the Dockerfile."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import zlib

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import NotFound, Refused, UsageError
from kubenclave.image import (
    Compression,
    ImageSpec,
    build_image,
    compare,
    dockerfile,
    join_images,
    open_image,
    parse_reference,
    parse_remote,
)
from kubenclave.image.oci import compress
from kubenclave.image.oci.compress import compressor
from kubenclave.image.sysroot import open_regular


def packed(kind, *pieces):
    out = io.BytesIO()
    one = compressor(kind, out.write)
    for piece in pieces:
        one.write(piece)
    one.finish()
    return out.getvalue()


@pytest.mark.parametrize(("kind", "unpack"), [(Compression.GZIP, gzip.decompress), (Compression.ZSTD, zstd.decompress)])
@pytest.mark.parametrize("size", [0, 1, compress.BLOCK_BYTES - 1, compress.BLOCK_BYTES, 3 * compress.BLOCK_BYTES + 7])
def test_what_is_compressed_comes_back(kind, unpack, size):
    data = (os.urandom(1000) * (size // 1000 + 1))[:size]

    assert unpack(packed(kind, data)) == data


@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_how_a_stream_is_cut_into_pieces_changes_nothing(pieces):
    whole = packed(Compression.GZIP, b"".join(pieces))

    assert packed(Compression.GZIP, *pieces) == whole
    assert gzip.decompress(whole) == b"".join(pieces)


def test_the_number_of_processors_changes_nothing(monkeypatch):
    data = b"".join(str(n).encode() for n in range(400_000))
    found = set()
    for count in (1, 2, 8):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        found.add(packed(Compression.GZIP, data))

    assert len(found) == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_zstds_workers_changes_nothing(monkeypatch, workers):
    data = b"".join(str(n).encode() for n in range(800_000))
    before = packed(Compression.ZSTD, data)

    monkeypatch.setattr(compress, "_ZSTD_WORKERS", workers)

    assert packed(Compression.ZSTD, data) == before


@pytest.mark.parametrize("size", [1000, 65_536, 1_000_003])
def test_how_a_stream_is_cut_into_pieces_changes_nothing_in_zstd(size):
    data = b"".join(str(n).encode() for n in range(500_000))

    assert packed(Compression.ZSTD, *(data[at : at + size] for at in range(0, len(data), size))) == packed(Compression.ZSTD, data)


def test_blocks_side_by_side_cost_next_to_nothing():
    """What repeats at a distance is found across the blocks' borders, too."""
    data = os.urandom(20_000) * 200

    assert len(packed(Compression.GZIP, data)) < 1.02 * len(zlib.compress(data, 6)) + 100


def test_it_is_one_gzip_member_that_names_nothing():
    data = packed(Compression.GZIP, b"x" * 2_000_000)
    one = zlib.decompressobj(wbits=31)

    assert one.decompress(data) == b"x" * 2_000_000
    assert (one.eof, one.unused_data) == (True, b"")
    assert data[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


@pytest.fixture
def build(tmp_path, make_elf):
    (tmp_path / "hello").write_bytes(make_elf())

    def run(name, **more):
        layout = more.pop("layout", False)
        spec = ImageSpec(reference=parse_reference("hello:1"), host=tmp_path / "hello", **more)
        return build_image(spec, tmp_path / name, lambda _: None, layout=layout)

    return run


def test_a_layout_holds_what_the_archive_holds(build, tmp_path):
    archive, layout = build("a.tar"), build("a", layout=True)

    with tarfile.open(archive.archive) as tar:
        inside = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
    assert inside == {str(path.relative_to(tmp_path / "a")): path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert archive.digest == layout.digest
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "a").rglob("*") if path.is_file()} <= {"0o644", "0o600"}


def test_a_layout_takes_the_place_of_nothing(build, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(b"precious")

    with pytest.raises(UsageError, match="is there already"):
        build("there", layout=True)
    assert (tmp_path / "there" / "file").read_bytes() == b"precious"


def test_a_layout_that_fails_leaves_nothing(build, tmp_path, make_elf):
    (tmp_path / "hello").write_bytes(make_elf(needed=["libgone.so"], interpreter="/lib64/ld.so"))
    before = set(tmp_path.iterdir())

    with pytest.raises(NotFound):
        build("new", layout=True)
    assert set(tmp_path.iterdir()) == before


def test_zstd_layers_say_so(build):
    image = build("z.tar", compression=Compression.ZSTD)

    assert {layer.media_type for layer in image.layers} == {"application/vnd.oci.image.layer.v1.tar+zstd"}
    with open_image(str(image.archive)) as zipped, open_image(str(build("g.tar").archive)) as plain:
        assert compare(zipped, plain) == ()


def test_compression_changes_no_diff_id(build):
    first, second = build("g.tar"), build("z.tar", compression=Compression.ZSTD)

    assert [layer.diff_id for layer in first.layers] == [layer.diff_id for layer in second.layers]


def test_images_are_joined_into_one_index_that_marks_zstd(build, tmp_path):
    first, second = build("g.tar"), build("z.tar", compression=Compression.ZSTD)

    joined = join_images(
        [first.archive, second.archive],
        tmp_path / "both.tar",
        reference=parse_reference("both:1"),
        layout=False,
        epoch_seconds=0,
        report=lambda _: None,
    )

    with tarfile.open(joined.archive) as tar:
        data = tar.extractfile(f"blobs/sha256/{joined.digest[7:]}").read()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == joined.digest
    index = json.loads(data)
    assert [item["digest"] for item in index["manifests"]] == [first.digest, second.digest]
    assert [bool(item.get("annotations")) for item in index["manifests"]] == [False, True]
    with open_image(str(joined.archive)) as opened:
        assert opened.image.descriptor.digest == first.digest
        assert opened.image.top.digest == joined.digest


def test_an_image_is_joined_once(build, tmp_path):
    first = build("g.tar")

    with pytest.raises(UsageError, match="has already"):
        join_images(
            [first.archive, first.archive],
            tmp_path / "x.tar",
            reference=parse_reference("x"),
            layout=False,
            epoch_seconds=0,
            report=lambda _: None,
        )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hello", ("docker.io", "library/hello", "latest", None)),
        ("registry.example:5000/a/b:1", ("registry.example:5000", "a/b", "1", None)),
        (f"localhost/x@sha256:{'a' * 64}", ("localhost", "x", None, f"sha256:{'a' * 64}")),
        (f"localhost/x:1@sha256:{'a' * 64}", ("localhost", "x", "1", f"sha256:{'a' * 64}")),
    ],
)
def test_names_in_registries_are_read_with_tag_and_digest(text, parts):
    found = parse_remote(text)

    assert (found.registry, found.repository, found.tag, found.digest) == parts


@pytest.mark.parametrize(
    "text", ["x@sha256:abc", "x@", "x@sha512:" + "a" * 128, "../x", "http://x/y", "x:y:z", "a b", "x@sha256:" + "A" * 64]
)
def test_what_is_no_name_is_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_remote(text)


def test_the_dockerfile_ends_in_this_builder():
    text = dockerfile(host="host/app", enclave="enclave/app.signed", tag="registry.example/team/app:1")

    stages = [line for line in text.splitlines() if line.startswith("FROM ")]
    assert len(stages) == 3
    assert "--host /target/src/build/host/app" in text
    assert "--enclave /target/src/build/enclave/app.signed" in text
    assert "kubenclave image build" in text
    assert "16.04" not in text
    assert "@" not in text


@pytest.mark.parametrize("host", ["/abs", "a b", "a;rm -rf /", "../x", "a\nRUN x", "$HOME", "-x", ""])
def test_what_a_dockerfile_would_misread_is_a_usage_error(host):
    with pytest.raises(UsageError, match="does not fit into a Dockerfile"):
        dockerfile(host=host, enclave="e", tag="t")


# --- files of this machine -----------------------------------------------------------------------------------------------------------


def test_a_directory_that_became_a_link_leads_nowhere(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "libx.so").write_bytes(b"secret")
    (tmp_path / "lib").symlink_to(tmp_path / "outside")

    with pytest.raises(Refused, match="became a symbolic link"):
        open_regular(tmp_path / "lib" / "libx.so")


def test_hard_links_become_files_of_their_own(tmp_path, build):
    from kubenclave.image import AddedFile  # noqa: PLC0415

    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"content")
    os.link(tmp_path / "d" / "a", tmp_path / "d" / "b")

    image = build("x.tar", files=(AddedFile(source=tmp_path / "d", path="/d"),))

    hashes = {file.path: file.sha256 for file in image.files}
    assert hashes["/d/a"] == hashes["/d/b"] == hashlib.sha256(b"content").hexdigest()


@pytest.mark.parametrize("name", ["line\nbreak", "bell\a", "escape\x1b[31m", "tab\t"])
def test_a_name_that_would_draw_on_a_terminal_is_refused(tmp_path, build, name):
    from kubenclave.image import AddedFile  # noqa: PLC0415

    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(b"")

    with pytest.raises(Refused, match="control character") as caught:
        build("x.tar", files=(AddedFile(source=tmp_path / "d", path="/d"),))
    assert name not in caught.value.what
    assert not (tmp_path / "x.tar").exists()


def test_a_pipe_or_device_in_an_added_directory_is_refused(tmp_path, build):
    from kubenclave.image import AddedFile  # noqa: PLC0415

    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "pipe")

    with pytest.raises(Refused, match="is a pipe"):
        build("x.tar", files=(AddedFile(source=tmp_path / "d", path="/d"),))


def test_setuid_bits_are_not_kept(tmp_path, build):
    (tmp_path / "hello").chmod(0o6755)
    image = build("x.tar")

    with tarfile.open(image.archive) as tar:
        layer = tar.extractfile(f"blobs/sha256/{image.layers[0].digest[7:]}").read()
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as inner:
        assert oct(inner.getmember("app/hello").mode) == "0o755"
