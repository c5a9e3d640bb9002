"""Write an image as an OCI archive: a tar of an OCI image layout, the same bytes for the same content.

Writes one file from front to back; blobs are hashed while they are written, so nothing is held in memory or written twice. Formats:
OCI image-spec v1.1 (image-layout.md, manifest.md, config.md, annotations.md).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING

from kubenclave.image.layer import FileSize, write_layer
from kubenclave.image.output import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from kubenclave.image.layer import Entry, Report
    from kubenclave.image.reference import Reference

    Json = Mapping[str, "Json"] | Sequence["Json"] | str | int

_BLOCK_BYTES = 512
# zlib's 9 costs three times the time of 6 for one part in a hundred of the size.
_GZIP_LEVEL = 6
# A window of 32 KiB in a gzip frame that names no file, no time and no system of its own (zlib.h, deflateInit2).
_GZIP_WINDOW_BITS = 31

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Point to a blob: its ``sha256:`` digest and its size."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSize:
    """Hold one written layer; ``diff_id`` is the digest of its uncompressed form, which no version of zlib changes."""

    comment: str
    digest: str
    diff_id: str
    compressed_bytes: int
    uncompressed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Say how a container of the image starts. ``user`` is ``uid:gid``."""

    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    user: str
    working_directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Hold what became of an image: its manifest, its layers, its files."""

    manifest: Descriptor
    layers: tuple[LayerSize, ...]
    files: tuple[FileSize, ...]


def write_archive(
    path: Path,
    *,
    reference: Reference,
    run: RunConfig,
    layers: Sequence[tuple[str, Sequence[Entry]]],
    annotations: Mapping[str, str],
    epoch_seconds: int,
    report: Report,
) -> Written:
    """Write the image; the file is there whole or not at all.

    Args:
        path: The archive's file.
        reference: The name that the image bears when it is imported.
        run: How its containers start.
        layers: A comment and the arranged entries of each layer, the lowest first.
        annotations: Facts that the manifest carries.
        epoch_seconds: The time that everything in it bears.
        report: Told in a sentence what is being written.

    Raises:
        HostUnfit: The disk is full or the place may not be written to.
        NotFound: The directory of ``path`` or an input file is not there.
        Refused: An input file changed while it was read or does not fit the format.
    """
    with whole_file(path) as file:
        archive = _Archive(file, epoch_seconds)
        archive.file("oci-layout", _canonical({"imageLayoutVersion": "1.0.0"}))
        sizes: list[LayerSize] = []
        files: list[FileSize] = []
        for comment, entries in layers:
            report(f"packing {comment}")
            layer, layer_files = archive.layer(comment, entries, report)
            sizes.append(layer)
            files += layer_files
        config = archive.blob(_canonical(_config(run, sizes, epoch_seconds)))
        manifest = archive.blob(_canonical(_manifest(config, sizes, annotations)))
        archive.file("index.json", _canonical(_index(manifest, reference)))
        archive.end()
    return Written(manifest=manifest, layers=tuple(sizes), files=tuple(files))


class _Hashing(io.RawIOBase):
    """Pass bytes on, counted and hashed."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes) -> int:  # type: ignore[override] # narrower than any buffer: only bytes arrive here
        self._sha256.update(data)
        self.size_bytes += len(data)
        self._write(data)
        return len(data)

    def descriptor(self) -> Descriptor:
        return Descriptor(digest=f"sha256:{self._sha256.hexdigest()}", size_bytes=self.size_bytes)


class _Archive:
    """The tar around the layout. A blob's header is written over a gap once the blob's digest and size are known."""

    def __init__(self, file: IO[bytes], epoch_seconds: int) -> None:
        self._file = file
        self._epoch_seconds = epoch_seconds
        for name in ("blobs", "blobs/sha256"):
            file.write(self._header(name, 0, tarfile.DIRTYPE, 0o755))

    def _header(self, name: str, size_bytes: int, kind: bytes = tarfile.REGTYPE, mode: int = 0o644) -> bytes:
        header = tarfile.TarInfo(name)
        header.size, header.type, header.mode, header.mtime = size_bytes, kind, mode, self._epoch_seconds
        return header.tobuf(tarfile.USTAR_FORMAT)

    def file(self, name: str, data: bytes) -> None:
        self._file.write(self._header(name, len(data)) + data + bytes(-len(data) % _BLOCK_BYTES))

    def blob(self, data: bytes) -> Descriptor:
        digest = hashlib.sha256(data).hexdigest()
        self.file(f"blobs/sha256/{digest}", data)
        return Descriptor(digest=f"sha256:{digest}", size_bytes=len(data))

    def layer(self, comment: str, entries: Sequence[Entry], report: Report) -> tuple[LayerSize, list[FileSize]]:
        start = self._file.tell()
        self._file.write(bytes(_BLOCK_BYTES))
        compressed = _Hashing(self._file.write)
        gzip = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW_BITS)
        plain = _Hashing(lambda data: compressed.write(gzip.compress(data)))
        files = write_layer(entries, plain, epoch_seconds=self._epoch_seconds, report=report)  # type: ignore[arg-type] # tarfile only writes
        compressed.write(gzip.flush())
        blob = compressed.descriptor()
        self._file.write(bytes(-blob.size_bytes % _BLOCK_BYTES))
        end = self._file.tell()
        self._file.seek(start)
        self._file.write(self._header(f"blobs/{blob.digest.replace(':', '/')}", blob.size_bytes))
        self._file.seek(end)
        size = LayerSize(
            comment=comment,
            digest=blob.digest,
            diff_id=plain.descriptor().digest,
            compressed_bytes=blob.size_bytes,
            uncompressed_bytes=plain.size_bytes,
        )
        return size, files

    def end(self) -> None:
        self._file.write(bytes(2 * _BLOCK_BYTES))


def _config(run: RunConfig, layers: Sequence[LayerSize], epoch_seconds: int) -> Json:
    created = datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "architecture": "amd64",
        "config": {
            "Cmd": list(run.command),
            "Entrypoint": list(run.entrypoint),
            "User": run.user,
            "WorkingDir": run.working_directory,
        },
        "created": created,
        "history": [{"comment": layer.comment, "created": created, "created_by": "kubenclave image build"} for layer in layers],
        "os": "linux",
        "rootfs": {"diff_ids": [layer.diff_id for layer in layers], "type": "layers"},
    }


def _manifest(config: Descriptor, layers: Sequence[LayerSize], annotations: Mapping[str, str]) -> Json:
    return {
        "annotations": dict(annotations),
        "config": {"digest": config.digest, "mediaType": _CONFIG, "size": config.size_bytes},
        "layers": [{"digest": layer.digest, "mediaType": _LAYER, "size": layer.compressed_bytes} for layer in layers],
        "mediaType": _MANIFEST,
        "schemaVersion": 2,
    }


def _index(manifest: Descriptor, reference: Reference) -> Json:
    # The first annotation is the specification's, by which skopeo finds an image; containerd names an image by the second.
    names = {"org.opencontainers.image.ref.name": reference.tag, "io.containerd.image.name": str(reference)}
    entry: Json = {
        "annotations": names,
        "digest": manifest.digest,
        "mediaType": _MANIFEST,
        "platform": {"architecture": "amd64", "os": "linux"},
        "size": manifest.size_bytes,
    }
    return {"manifests": [entry], "mediaType": _INDEX, "schemaVersion": 2}


def _canonical(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
