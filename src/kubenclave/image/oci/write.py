"""Write blobs into an OCI archive (a tar of an image layout) or into a layout directory, whole or not at all.

Talks to the file system. Blobs are hashed while they are written, so nothing is held in memory or written twice. Format: OCI image-spec
v1.1, image-layout.md.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from kubenclave.image.layer import write_layer
from kubenclave.image.oci import documents
from kubenclave.image.oci.compress import compressor
from kubenclave.image.oci.documents import Compression, Descriptor, Json, LayerSize
from kubenclave.image.output import whole_directory, whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kubenclave.image.layer import Entry, FileFacts, Report
    from kubenclave.image.reading.tar import Readable

_BLOCK_BYTES = 512
_COPY_BYTES = 1 << 20
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Sink(Protocol):
    """Takes an image's blobs, each once, and its index at the end."""

    def blob(self, media_type: str, data: bytes) -> Descriptor:
        """Write a blob that is in memory."""

    def streamed(self, media_type: str, fill: Callable[[Callable[[bytes], object]], None]) -> Descriptor:
        """Write a blob that ``fill`` produces piece by piece."""

    def end(self, entries: Sequence[Descriptor]) -> None:
        """Write the index of the layout."""


@contextmanager
def open_sink(path: Path, *, layout: bool, epoch_seconds: int) -> Iterator[Sink]:
    """Open an archive or a layout directory, which is there when the block ends well and not at all when it does not.

    Args:
        path: The file or directory to write.
        layout: Write a directory.
        epoch_seconds: The time that the members of an archive bear.

    Raises:
        HostUnfit: The disk is full or the place may not be written to.
        NotFound: The directory of ``path`` is not there.
        UsageError: A directory is where a file is to be written, or one that is not empty where a layout is.
    """
    if layout:
        with whole_directory(path) as directory:
            yield _Directory(directory)
        return
    with whole_file(path) as file:
        yield _Archive(file, epoch_seconds)


def write_layer_blob(
    sink: Sink, comment: str, entries: Sequence[Entry], compression: Compression, *, epoch_seconds: int, report: Report
) -> tuple[LayerSize, list[FileFacts]]:
    """Write arranged entries as a compressed layer.

    Raises:
        NotFound: An input file is not there.
        Refused: An input file changed while it was read or does not fit the format.
    """
    plain = hashlib.sha256()
    size_bytes = 0
    files: list[FileFacts] = []

    def fill(write: Callable[[bytes], object]) -> None:
        nonlocal size_bytes
        packed = compressor(compression, write)

        def take(data: bytes) -> None:
            nonlocal size_bytes
            plain.update(data)
            size_bytes += len(data)
            packed.write(data)

        try:
            files.extend(write_layer(entries, take, epoch_seconds=epoch_seconds, report=report))
        except BaseException:
            packed.abandon()
            raise
        packed.finish()

    blob = sink.streamed(compression.media_type, fill)
    layer = LayerSize(
        comment=comment,
        media_type=blob.media_type,
        digest=blob.digest,
        diff_id=f"sha256:{plain.hexdigest()}",
        compressed_bytes=blob.size_bytes,
        uncompressed_bytes=size_bytes,
    )
    return layer, files


def copied(source: Readable) -> Callable[[Callable[[bytes], object]], None]:
    """Return what fills a blob with the rest of a stream."""

    def fill(write: Callable[[bytes], object]) -> None:
        while data := source.read(_COPY_BYTES):
            write(data)

    return fill


class _Hashing:
    def __init__(self, media_type: str, write: Callable[[bytes], object]) -> None:
        self._media_type = media_type
        self._write = write
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0

    def write(self, data: bytes) -> None:
        self._sha256.update(data)
        self._size_bytes += len(data)
        self._write(data)

    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self._media_type, digest=f"sha256:{self._sha256.hexdigest()}", size_bytes=self._size_bytes)


class _Archive:
    """The tar around the layout. A blob's header is written over a gap once the blob's digest and size are known."""

    def __init__(self, file: IO[bytes], epoch_seconds: int) -> None:
        self._file = file
        self._epoch_seconds = epoch_seconds
        self._written: set[str] = set()
        for name in ("blobs", "blobs/sha256"):
            file.write(self._header(name, 0, tarfile.DIRTYPE, 0o755))
        self._member("oci-layout", _LAYOUT)

    def _header(self, name: str, size_bytes: int, kind: bytes = tarfile.REGTYPE, mode: int = 0o644) -> bytes:
        header = tarfile.TarInfo(name)
        header.size, header.type, header.mode, header.mtime = size_bytes, kind, mode, self._epoch_seconds
        # A blob of more than 8 GiB needs GNU's way of writing its size.
        return header.tobuf(tarfile.USTAR_FORMAT if size_bytes < 8**11 else tarfile.GNU_FORMAT)

    def _member(self, name: str, data: bytes) -> None:
        self._file.write(self._header(name, len(data)) + data + bytes(-len(data) % _BLOCK_BYTES))

    def blob(self, media_type: str, data: bytes) -> Descriptor:
        described = documents.describe(media_type, data)
        if described.digest not in self._written:
            self._written.add(described.digest)
            self._member(_blob_name(described), data)
        return described

    def streamed(self, media_type: str, fill: Callable[[Callable[[bytes], object]], None]) -> Descriptor:
        start = self._file.tell()
        self._file.write(bytes(_BLOCK_BYTES))
        hashing = _Hashing(media_type, self._file.write)
        fill(hashing.write)
        described = hashing.descriptor()
        if described.digest in self._written:
            self._file.seek(start)
            self._file.truncate()
            return described
        self._written.add(described.digest)
        self._file.write(bytes(-described.size_bytes % _BLOCK_BYTES))
        end = self._file.tell()
        self._file.seek(start)
        self._file.write(self._header(_blob_name(described), described.size_bytes))
        self._file.seek(end)
        return described

    def end(self, entries: Sequence[Descriptor]) -> None:
        self._member("index.json", documents.index(entries))
        self._file.write(bytes(2 * _BLOCK_BYTES))


class _Directory:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "blobs" / "sha256").mkdir(parents=True)
        (directory / "oci-layout").write_bytes(_LAYOUT)

    def blob(self, media_type: str, data: bytes) -> Descriptor:
        described = documents.describe(media_type, data)
        (self._directory / _blob_name(described)).write_bytes(data)
        return described

    def streamed(self, media_type: str, fill: Callable[[Callable[[bytes], object]], None]) -> Descriptor:
        descriptor, name = tempfile.mkstemp(dir=self._directory)
        with os.fdopen(descriptor, "wb") as file:
            hashing = _Hashing(media_type, file.write)
            fill(hashing.write)
            os.fchmod(file.fileno(), 0o644)
        described = hashing.descriptor()
        Path(name).replace(self._directory / _blob_name(described))
        return described

    def end(self, entries: Sequence[Descriptor]) -> None:
        (self._directory / "index.json").write_bytes(documents.index(entries))


def _blob_name(described: Descriptor) -> str:
    return f"blobs/{described.digest.replace(':', '/')}"


def named(described: Descriptor, *, tag: str, name: str | None = None, platform: Json = None) -> Descriptor:
    """Return a descriptor with the names under which programs find an image in a layout."""
    names = {documents.REF_NAME: tag} | ({documents.CONTAINERD_NAME: name} if name else {})
    return replace(described, annotations={**described.annotations, **names}, platform=platform or described.platform)
