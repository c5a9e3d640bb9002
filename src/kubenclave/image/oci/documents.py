"""The JSON documents of an image, written canonically: the same values are the same bytes.

Pure. Formats: OCI image-spec v1.1 (manifest.md, config.md, image-index.md, annotations.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeAlias

Json: TypeAlias = Mapping[str, "Json"] | Sequence["Json"] | str | int | None

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
# image-spec, manifest.md, "Guidance for an Empty Descriptor".
EMPTY_CONTENT = b"{}"

# The first is the specification's, by which skopeo finds an image; containerd names an image by the second.
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
CREATED = "org.opencontainers.image.created"
# containers/image, internal/manifest/oci_index.go: marks the zstd instance among instances for the same platform.
ZSTD_INSTANCE = "io.github.containers.compression.zstd"

PLATFORM: Json = {"architecture": "amd64", "os": "linux"}


class Compression(StrEnum):
    """Name how layers are compressed. Every runtime reads gzip; zstd is smaller and faster (containerd 1.5, Docker 23, Podman 4)."""

    GZIP = "gzip"
    ZSTD = "zstd"

    @property
    def media_type(self) -> str:
        """Name the media type of a layer compressed so."""
        return f"application/vnd.oci.image.layer.v1.tar+{self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Point to a blob: its ``sha256:`` digest, its size and what it is."""

    media_type: str
    digest: str
    size_bytes: int
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Json = None

    def to_json(self) -> Json:
        """Return the descriptor as documents hold it."""
        optional: dict[str, Json] = {
            "annotations": dict(self.annotations),
            "artifactType": self.artifact_type,
            "platform": self.platform,
        }
        required: dict[str, Json] = {"digest": self.digest, "mediaType": self.media_type, "size": self.size_bytes}
        return required | {name: value for name, value in optional.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSize:
    """Hold one written layer; ``diff_id`` is the digest of its uncompressed form, which no version of a compressor changes."""

    comment: str
    media_type: str
    digest: str
    diff_id: str
    compressed_bytes: int
    uncompressed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Say how a container of the image starts. ``user`` is ``uid:gid``, ``environment`` holds ``NAME=value``."""

    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    working_directory: str
    environment: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """Hold what was attached to an image: what it is, and the manifest that holds it."""

    kind: str
    descriptor: Descriptor


def digest_of(data: bytes) -> str:
    """Return the digest of bytes, as in ``sha256:e3b0...``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def signature_tag(digest: str) -> str:
    """Return the tag under which cosign looks for the signatures of a digest."""
    return f"{digest.replace(':', '-')}.sig"


def describe(media_type: str, data: bytes) -> Descriptor:
    """Return the descriptor of bytes."""
    return Descriptor(media_type=media_type, digest=digest_of(data), size_bytes=len(data))


def rfc3339(epoch_seconds: int) -> str:
    """Return a time as the specification writes it."""
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def config(run: RunConfig, layers: Sequence[LayerSize], epoch_seconds: int) -> bytes:
    """Return an image's configuration."""
    created = rfc3339(epoch_seconds)
    start: dict[str, Json] = {
        "Cmd": list(run.command),
        "Entrypoint": list(run.entrypoint),
        "User": run.user,
        "WorkingDir": run.working_directory,
    }
    if run.environment:
        start["Env"] = list(run.environment)
    return canonical(
        {
            "architecture": "amd64",
            "config": start,
            "created": created,
            "history": [{"comment": layer.comment, "created": created, "created_by": "kubenclave image build"} for layer in layers],
            "os": "linux",
            "rootfs": {"diff_ids": [layer.diff_id for layer in layers], "type": "layers"},
        }
    )


def manifest(config_of: Descriptor, layers: Sequence[LayerSize], annotations: Mapping[str, str]) -> bytes:
    """Return an image's manifest."""
    return canonical(
        {
            "annotations": dict(annotations),
            "config": config_of.to_json(),
            "layers": [{"digest": layer.digest, "mediaType": layer.media_type, "size": layer.compressed_bytes} for layer in layers],
            "mediaType": MANIFEST,
            "schemaVersion": 2,
        }
    )


def artifact(
    artifact_type: str, contents: Sequence[Descriptor], subject: Descriptor, *, config_of: Descriptor, annotations: Mapping[str, str]
) -> bytes:
    """Return the manifest of something that is attached to an image (a referrer; manifest.md, "Guidelines for Artifact Usage")."""
    plain_subject = Descriptor(media_type=subject.media_type, digest=subject.digest, size_bytes=subject.size_bytes)
    return canonical(
        {
            "annotations": dict(annotations),
            "artifactType": artifact_type,
            "config": config_of.to_json(),
            "layers": [item.to_json() for item in contents],
            "mediaType": MANIFEST,
            "schemaVersion": 2,
            "subject": plain_subject.to_json(),
        }
    )


def index(entries: Sequence[Descriptor], annotations: Mapping[str, str] | None = None) -> bytes:
    """Return an index of manifests."""
    document: dict[str, Json] = {"manifests": [entry.to_json() for entry in entries], "mediaType": INDEX, "schemaVersion": 2}
    return canonical(document | ({"annotations": dict(annotations)} if annotations else {}))


def canonical(value: Json) -> bytes:
    """Return JSON as bytes, with sorted names and without blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
