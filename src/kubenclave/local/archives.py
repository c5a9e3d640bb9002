"""The names that an OCI archive gives its images, for asking a node's containerd about them after an import."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import msgspec

from kubenclave.errors import NotFound, Refused

if TYPE_CHECKING:
    from pathlib import Path

# An index holds one descriptor an image; the specification bounds nothing, and registries refuse manifests of more than 4 MiB.
_MAX_INDEX_BYTES = 4 << 20
_NAME = "io.containerd.image.name"


class _Descriptor(msgspec.Struct):
    annotations: dict[str, str] = {}


class _Index(msgspec.Struct):
    manifests: list[_Descriptor] = []


def image_names(archive: Path) -> tuple[str, ...]:
    """Give the names of the images in an OCI archive (OCI image layout, index.json).

    Raises:
        NotFound: The archive is not there.
        Refused: It is no OCI archive, or none of its images has a name.
    """
    if not archive.is_file():
        raise NotFound(f"The image archive {archive} is not there.", "Make one with: kubenclave image build ... -o FILE.tar")
    hint = "Make it with kubenclave image build, or with skopeo copy ... oci-archive:FILE:NAME."
    try:
        with tarfile.open(archive, "r:") as tar:
            member = tar.getmember("index.json")
            content = tar.extractfile(member)
            if content is None or member.size > _MAX_INDEX_BYTES:
                raise Refused(f"{archive}: index.json is no file of at most {_MAX_INDEX_BYTES} bytes.", hint)
            index = msgspec.json.decode(content.read(), type=_Index)
    except (tarfile.TarError, KeyError, msgspec.DecodeError) as exc:
        raise Refused(f"{archive} is no OCI archive: {exc}", hint) from exc
    names = tuple(name for manifest in index.manifests if (name := manifest.annotations.get(_NAME)))
    if not names:
        raise Refused(f"{archive}: no image in index.json carries the annotation {_NAME}.", hint)
    return names
