"""Fetch an image from a registry into an archive or layout: documents first, then blobs side by side, each checked by its digest."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.image.oci import documents
from kubenclave.image.oci.write import copied, named, open_sink
from kubenclave.image.reading.image import load_manifest
from kubenclave.image.reading.parse import INDEX_TYPES, parse_index
from kubenclave.image.reading.source import open_blob, read_document
from kubenclave.image.registry.parallel import Stopped, side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubenclave.image.oci.documents import Descriptor
    from kubenclave.image.reading.image import Artifact
    from kubenclave.image.registry.blobs import Moved
    from kubenclave.image.registry.client import RegistryClient
    from kubenclave.image.registry.remote import RemoteSource

_PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """Hold what became of an image that was pulled."""

    reference: str
    digest: str
    archive: Path
    compressed_bytes: int
    attached: tuple[str, ...]


def pull(client: RegistryClient, source: RemoteSource, archive: Path, *, layout: bool, moved: Moved) -> Pulled:
    """Fetch the image that the client's reference names, with what is attached to it.

    Args:
        client: The registry, and the reference there.
        source: The same, as a source.
        archive: The file, or the directory if ``layout``, to write; it is there whole or not at all.
        layout: Write a layout directory.
        moved: Told of progress.

    Raises:
        NotFound: There is no such image, or the directory of ``archive`` is not there.
        Refused: A blob is not what its digest says, or the registry does not let us.
        Unreachable: The registry does not answer as it should.
        HostUnfit: The disk is full or the place may not be written to.
    """
    image = source.index().manifests[0]
    below = parse_index(read_document(source, image), str(client.remote)).manifests if image.media_type in INDEX_TYPES else ()
    manifests = [*below, image] if below else [image]
    artifacts = source.artifacts(tuple(item.digest for item in manifests))
    wanted = [load_manifest(source, item) for item in manifests if item.media_type not in INDEX_TYPES]
    blobs = {
        blob.digest: blob for manifest in (*wanted, *(item.manifest for item in artifacts)) for blob in (manifest.config, *manifest.layers)
    }
    with open_sink(archive, layout=layout, epoch_seconds=0) as sink:
        folder = Path(tempfile.mkdtemp(dir=archive.parent, prefix=f".{archive.name[:64]}.", suffix=".blobs"))
        try:
            for blob, place in _fetched(source, list(blobs.values()), folder, moved):
                with place.open("rb") as file:
                    sink.streamed(blob.media_type, copied(file))
                place.unlink()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for item in (*manifests, *(artifact.descriptor for artifact in artifacts)):
            sink.blob(item.media_type, read_document(source, item))
        sink.end([_named(image, client), *(_artifact(item) for item in artifacts)])
    return Pulled(
        reference=str(client.remote),
        digest=image.digest,
        archive=archive,
        compressed_bytes=sum(blob.size_bytes for blob in blobs.values()),
        attached=tuple(item.descriptor.digest for item in artifacts),
    )


def _fetched(source: RemoteSource, blobs: list[Descriptor], folder: Path, moved: Moved) -> list[tuple[Descriptor, Path]]:
    def one(blob: Descriptor, stopped: Callable[[], bool]) -> tuple[Descriptor, Path]:
        place = folder / blob.digest.partition(":")[2]
        done = 0
        with open_blob(source, blob) as stream, place.open("wb") as file:
            while data := stream.read(_PIECE_BYTES):
                if stopped():
                    raise Stopped
                file.write(data)
                done += len(data)
                moved(blob, done)
            stream.drain()
        return blob, place

    return side_by_side(blobs, one)


def _named(image: Descriptor, client: RegistryClient) -> Descriptor:
    remote = client.remote
    plain = replace(image, annotations={}, platform=None)
    return named(plain, tag=remote.tag or "latest", name=f"{remote.name}:{remote.tag or 'latest'}")


def _artifact(item: Artifact) -> Descriptor:
    # The tag by which cosign finds a signature is made of its subject's digest.
    subject = item.manifest.subject
    is_signature = any(layer.annotations.get("dev.cosignproject.cosign/signature") for layer in item.manifest.layers)
    names = {documents.REF_NAME: documents.signature_tag(subject.digest)} if is_signature and subject else {}
    return replace(item.descriptor, artifact_type=item.kind, annotations={**item.manifest.annotations, **names})
