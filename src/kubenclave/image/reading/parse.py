"""Turn the JSON of an image of anyone into values, or refuse it.

Pure. Formats: OCI image-spec v1.1; Docker's image manifest version 2, schema 2, which registries still hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec

from kubenclave.errors import Refused
from kubenclave.image.oci import documents
from kubenclave.image.oci.documents import Descriptor

if TYPE_CHECKING:
    from collections.abc import Mapping

# distribution-spec v1.1, "Pushing Manifests": registries should take at least 4 MiB, and do not take more.
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
# An image of Docker Hub with every platform and its attestations has some 20.
MAX_MANIFESTS = 256
# Docker stops at 127.
MAX_LAYERS = 512

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (documents.MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (documents.INDEX, DOCKER_INDEX)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HINT = "The image is damaged or made to do harm; get it again from where you trust it."


class _Platform(msgspec.Struct):
    architecture: str = ""
    os: str = ""


class _Descriptor(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None
    platform: _Platform | None = None


class _Manifest(msgspec.Struct, rename="camel"):
    config: _Descriptor
    layers: list[_Descriptor]
    media_type: str = documents.MANIFEST
    artifact_type: str | None = None
    subject: _Descriptor | None = None
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct, rename="camel"):
    manifests: list[_Descriptor]
    media_type: str = documents.INDEX
    annotations: dict[str, str] | None = None


class _Start(msgspec.Struct, rename={name: name.title() for name in ("cmd", "entrypoint", "env", "user")} | {"working_dir": "WorkingDir"}):
    cmd: list[str] | None = None
    entrypoint: list[str] | None = None
    env: list[str] | None = None
    user: str = ""
    working_dir: str = ""


class _Rootfs(msgspec.Struct):
    diff_ids: list[str] = []


class _History(msgspec.Struct):
    comment: str = ""
    empty_layer: bool = False


class _Config(msgspec.Struct):
    architecture: str = ""
    os: str = ""
    created: str | None = None
    config: _Start | None = None
    rootfs: _Rootfs | None = None
    history: list[_History] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Hold an image's manifest, or that of something attached to one."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None
    artifact_type: str | None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Hold an index of manifests."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Hold an image's configuration."""

    architecture: str
    os: str
    created: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: tuple[str, ...]
    user: str
    working_directory: str
    diff_ids: tuple[str, ...]
    comments: tuple[str, ...]


_Document = TypeVar("_Document")


def parse_manifest(data: bytes, what: str) -> Manifest:
    """Read a manifest.

    Args:
        data: Its bytes.
        what: How to call it in an error.

    Raises:
        Refused: It is no manifest.
    """
    raw = _decode(data, _Manifest, what)
    if len(raw.layers) > MAX_LAYERS:
        raise Refused(f"{what} names {len(raw.layers)} layers, more than {MAX_LAYERS}.", _HINT)
    return Manifest(
        media_type=raw.media_type,
        config=_descriptor(raw.config, what),
        layers=tuple(_descriptor(layer, what) for layer in raw.layers),
        subject=None if raw.subject is None else _descriptor(raw.subject, what),
        artifact_type=raw.artifact_type,
        annotations=raw.annotations or {},
    )


def parse_index(data: bytes, what: str) -> Index:
    """Read an index of manifests.

    Raises:
        Refused: It is none.
    """
    raw = _decode(data, _Index, what)
    if len(raw.manifests) > MAX_MANIFESTS:
        raise Refused(f"{what} names {len(raw.manifests)} manifests, more than {MAX_MANIFESTS}.", _HINT)
    return Index(
        media_type=raw.media_type, manifests=tuple(_descriptor(item, what) for item in raw.manifests), annotations=raw.annotations or {}
    )


def parse_config(data: bytes, what: str) -> Config:
    """Read an image's configuration.

    Raises:
        Refused: It is none.
    """
    raw = _decode(data, _Config, what)
    start = raw.config or _Start()
    return Config(
        architecture=raw.architecture,
        os=raw.os,
        created=raw.created or "",
        entrypoint=tuple(start.entrypoint or ()),
        command=tuple(start.cmd or ()),
        environment=tuple(start.env or ()),
        user=start.user,
        working_directory=start.working_dir,
        diff_ids=tuple(_checked(diff_id, what) for diff_id in (raw.rootfs or _Rootfs()).diff_ids),
        comments=tuple(item.comment for item in raw.history or () if not item.empty_layer),
    )


def is_digest(text: str) -> bool:
    """Say whether a text is a digest of the kind that is used here."""
    return _DIGEST.fullmatch(text) is not None


def _decode(data: bytes, kind: type[_Document], what: str) -> _Document:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise Refused(f"{what} is larger than {MAX_DOCUMENT_BYTES} bytes.", _HINT)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Refused(f"{what} is not what it should be: {str(exc)[:200]}.", _HINT) from exc


def _descriptor(raw: _Descriptor, what: str) -> Descriptor:
    if raw.size < 0:
        raise Refused(f"{what} names a blob of {raw.size} bytes.", _HINT)
    platform = None if raw.platform is None else {"architecture": raw.platform.architecture, "os": raw.platform.os}
    return Descriptor(
        media_type=raw.media_type,
        digest=_checked(raw.digest, what),
        size_bytes=raw.size,
        artifact_type=raw.artifact_type,
        annotations=raw.annotations or {},
        platform=platform,
    )


def _checked(digest: str, what: str) -> str:
    if not is_digest(digest):
        raise Refused(f"{what} names {digest[:80]!r}, which is no SHA-256 digest.", "Digests of other kinds are not supported.")
    return digest
