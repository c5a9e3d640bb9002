from __future__ import annotations

import io
import json
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import KubenclaveError, NotFound, Refused
from kubenclave.local.archives import image_names


def archive(path, name: str, content: bytes):
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return path


def index(*names: str) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": [{"annotations": {"io.containerd.image.name": name}} for name in names]}).encode()


def test_the_names_of_all_images_are_read(tmp_path):
    assert image_names(archive(tmp_path / "a.tar", "index.json", index("one:1", "two:2"))) == ("one:1", "two:2")


def test_an_archive_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        image_names(tmp_path / "none.tar")


@pytest.mark.parametrize(
    ("name", "content"),
    [("other", b"{}"), ("index.json", b"{"), ("index.json", b"[]"), ("index.json", index()), ("index.json", b'{"manifests": [{}]}')],
)
def test_an_archive_without_named_images_is_refused(tmp_path, name, content):
    with pytest.raises(Refused) as caught:
        image_names(archive(tmp_path / "a.tar", name, content))
    assert "a.tar" in caught.value.what


def test_an_index_of_endless_size_is_not_read(tmp_path):
    path = archive(tmp_path / "a.tar", "index.json", index("one:1") + b" " * (5 << 20))
    with pytest.raises(Refused):
        image_names(path)


@given(st.binary(max_size=2000))
def test_any_bytes_are_an_archive_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("archive") / "a.tar"
    path.write_bytes(content)
    with pytest.raises(KubenclaveError):
        image_names(path)
