"""Bring an image to a registry: its blobs side by side, then its manifest, what is attached to it, and its tag last.

So a tag is never seen before all that it stands for is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.image.oci import documents
from kubenclave.image.oci.documents import Descriptor
from kubenclave.image.reading.image import attached_to, load_manifest
from kubenclave.image.reading.parse import INDEX_TYPES, parse_index
from kubenclave.image.reading.source import read_document
from kubenclave.image.registry.blobs import How, push_blob
from kubenclave.image.registry.parallel import side_by_side
from kubenclave.image.registry.remote import RemoteSource, referrers_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kubenclave.image.reading.source import Source
    from kubenclave.image.registry.blobs import Moved
    from kubenclave.image.registry.client import RegistryClient

_CREATED = 201


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedBlob:
    """Hold a blob of a pushed image and how it came to be there."""

    digest: str
    size_bytes: int
    how: How


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """Hold what became of an image that was pushed."""

    reference: str
    digest: str
    blobs: tuple[PushedBlob, ...]
    attached: tuple[str, ...]

    @property
    def sent_bytes(self) -> int:
        """Count what was sent of layers and configurations."""
        return sum(blob.size_bytes for blob in self.blobs if blob.how is How.SENT)


def push(client: RegistryClient, source: Source, image: Descriptor, *, mount_from: Collection[str] = (), moved: Moved) -> Pushed:
    """Bring an image, or an index with its images, and what its source attaches to it, to the client's repository and tag.

    Args:
        client: The registry, and the repository and tag there.
        source: Where the image lies.
        image: The image.
        mount_from: Repositories of the same registry that may have its blobs.
        moved: Told of progress.

    Raises:
        NotFound: A blob is not in the source, or there is no such repository.
        Refused: A blob is not what its digest says, or the registry does not take it.
        Unreachable: The registry does not answer as it should.
    """
    manifests = [*_below(source, image), image]
    artifacts = attached_to(source, [item.digest for item in manifests])
    blobs = {blob.digest: blob for item in manifests if item.media_type not in INDEX_TYPES for blob in _blobs(source, item)}
    blobs |= {blob.digest: blob for item in artifacts for blob in (item.manifest.config, *item.manifest.layers)}
    pushed = _push_blobs(client, source, list(blobs.values()), mount_from, moved)
    for item in manifests:
        _put(client, source, item, item.digest)
    for artifact in artifacts:
        tag = artifact.descriptor.annotations.get(documents.REF_NAME)
        has_list = _put(client, source, artifact.descriptor, artifact.descriptor.digest)
        if tag is not None:
            _put(client, source, artifact.descriptor, tag)
        if not has_list and artifact.manifest.subject is not None:
            entry = Descriptor(
                media_type=artifact.descriptor.media_type,
                digest=artifact.descriptor.digest,
                size_bytes=artifact.descriptor.size_bytes,
                artifact_type=artifact.kind,
                annotations=artifact.manifest.annotations,
            )
            _list(client, entry, artifact.manifest.subject.digest)
    tag = client.remote.tag
    if tag is not None:
        _put(client, source, image, tag)
    return Pushed(
        reference=f"{client.remote.name}{f':{tag}' if tag else ''}@{image.digest}",
        digest=image.digest,
        blobs=tuple(pushed),
        attached=tuple(item.descriptor.digest for item in artifacts),
    )


def _below(source: Source, image: Descriptor) -> list[Descriptor]:
    if image.media_type not in INDEX_TYPES:
        return []
    found = parse_index(read_document(source, image), f"The index {image.digest} in {source.label}").manifests
    nested = [item for item in found if item.media_type in INDEX_TYPES]
    if nested:
        raise Refused(f"The index {image.digest} holds another index, {nested[0].digest}.", "Push the images in it one by one.")
    return list(found)


def _blobs(source: Source, image: Descriptor) -> list[Descriptor]:
    manifest = load_manifest(source, image)
    return [manifest.config, *manifest.layers]


def _push_blobs(
    client: RegistryClient, source: Source, blobs: list[Descriptor], mount_from: Collection[str], moved: Moved
) -> list[PushedBlob]:
    def one(blob: Descriptor, stopped: Callable[[], bool]) -> PushedBlob:
        how = push_blob(client, source, blob, mount_from=mount_from, moved=moved, stopped=stopped)
        return PushedBlob(digest=blob.digest, size_bytes=blob.size_bytes, how=how)

    return side_by_side(blobs, one)


def _put(client: RegistryClient, source: Source, item: Descriptor, name: str) -> bool:
    """Put a manifest under a tag or digest; say whether the registry itself lists it for its subject."""
    return _put_bytes(client, item, read_document(source, item), name)


def _put_bytes(client: RegistryClient, item: Descriptor, data: bytes, name: str) -> bool:
    answer = client.ask(
        "PUT",
        client.url(f"manifests/{name}"),
        what=f"Sending the manifest {name}",
        expected=(_CREATED,),
        headers={"Content-Type": item.media_type},
        content=data,
    )
    told = answer.headers.get("Docker-Content-Digest", item.digest)
    if told != item.digest:
        raise Refused(
            f"The registry {client.base.host} took {item.digest} for {told[:80]}.", "Do not trust it; it may be a faulty registry."
        )
    return "OCI-Subject" in answer.headers


def _list(client: RegistryClient, entry: Descriptor, subject: str) -> None:
    """Add an entry to the index that stands in for a registry's own list of referrers."""
    tag = referrers_tag(subject)
    known = RemoteSource(client).listed(tag)
    if any(item.digest == entry.digest for item in known):
        return
    data = documents.index([*known, entry])
    _put_bytes(client, documents.describe(documents.INDEX, data), data, tag)
