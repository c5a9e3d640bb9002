"""Join images into one index: the same image in several compressions, or several builds of one program under one name.

Reads images through ``Source`` and copies their blobs; none is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import UsageError
from kubenclave.image.oci import documents
from kubenclave.image.oci.documents import Compression, Descriptor
from kubenclave.image.oci.write import copied, named, open_sink
from kubenclave.image.reading.image import attached_to, choose, load_image
from kubenclave.image.reading.source import open_blob, open_local, read_document

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kubenclave.image.layer import Report
    from kubenclave.image.oci.write import Sink
    from kubenclave.image.reading.image import Artifact, Image
    from kubenclave.image.reading.source import Source
    from kubenclave.image.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Hold an index of images that lies in a file or layout directory."""

    reference: str
    digest: str
    archive: Path
    images: tuple[str, ...]


def join_images(
    sources: Sequence[Path], archive: Path, *, reference: Reference, layout: bool, epoch_seconds: int, report: Report
) -> Joined:
    """Write the images of several archives or layouts as one index, with what is attached to them.

    A runtime takes the first image of an index that is for its platform. Images whose layers are all zstd are marked as those that a
    runtime of the containers/image family (Podman, CRI-O) prefers; put one with gzip first, for the others.

    Args:
        sources: Archives or layouts with one image each, in the order of the index.
        archive: The file, or the directory if ``layout``, to write.
        reference: The index's name.
        layout: Write a layout directory.
        epoch_seconds: The time that the members of an archive bear.
        report: Told in a sentence what is being done.

    Raises:
        NotFound: A source is not there.
        Refused: A source is damaged.
        UsageError: A source holds several images, or the same image comes twice.
        HostUnfit: The archive cannot be written.
    """
    entries: list[Descriptor] = []
    artifacts: list[Descriptor] = []
    with open_sink(archive, layout=layout, epoch_seconds=epoch_seconds) as sink:
        for path in sources:
            report(f"copying {path.name}")
            with open_local(path) as source:
                image = load_image(source, choose(source))
                entry = _instance(image)
                if entry.digest in {known.digest for known in entries}:
                    raise UsageError(f"{path} holds an image that the index has already.", "Name each image once.")
                entries.append(entry)
                attached = attached_to(source, [entry.digest])
                _copy(source, image, attached, sink)
                artifacts += [item.descriptor for item in attached]
        index = sink.blob(documents.INDEX, documents.index(entries))
        sink.end([named(index, tag=reference.tag, name=str(reference)), *artifacts])
    return Joined(reference=str(reference), digest=index.digest, archive=archive, images=tuple(entry.digest for entry in entries))


def _instance(image: Image) -> Descriptor:
    zstd = all(layer.media_type == Compression.ZSTD.media_type for layer in image.manifest.layers)
    return Descriptor(
        media_type=image.descriptor.media_type,
        digest=image.descriptor.digest,
        size_bytes=image.descriptor.size_bytes,
        annotations={documents.ZSTD_INSTANCE: "true"} if zstd else {},
        platform={"architecture": image.config.architecture, "os": image.config.os},
    )


def _copy(source: Source, image: Image, artifacts: Sequence[Artifact], sink: Sink) -> None:
    blobs = [image.manifest.config, *image.manifest.layers]
    blobs += [blob for item in artifacts for blob in (item.manifest.config, *item.manifest.layers)]
    for blob in {blob.digest: blob for blob in blobs}.values():
        with open_blob(source, blob) as stream:
            sink.streamed(blob.media_type, copied(stream))
            stream.drain()
    for item in (image.descriptor, *(artifact.descriptor for artifact in artifacts)):
        sink.blob(item.media_type, read_document(source, item))
