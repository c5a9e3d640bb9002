"""Find an image in a source, and what is attached to it.

Reads documents through a ``Source``; layers are opened by ``files``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import NotFound, Refused, UsageError
from kubenclave.image.oci.documents import CONTAINERD_NAME, REF_NAME
from kubenclave.image.reading.parse import INDEX_TYPES, MANIFEST_TYPES, Config, Index, Manifest, parse_config, parse_index, parse_manifest
from kubenclave.image.reading.source import read_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.image.oci.documents import Descriptor
    from kubenclave.image.reading.source import Source

_MAX_NAMES_SHOWN = 10
_SIGNATURE_TAG_PREFIX = "sha256-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Hold an image for one platform: the descriptor by which it was found, its manifest and its configuration.

    ``top`` is the descriptor of the index around it, where there is one, else its own.
    """

    name: str
    top: Descriptor
    descriptor: Descriptor
    manifest: Manifest
    config: Config
    instances: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Hold something attached to an image: the manifest of an SBOM, a provenance statement, a signature."""

    descriptor: Descriptor
    manifest: Manifest

    @property
    def kind(self) -> str:
        """Name what it is: its artifact type, or that of its configuration (manifest.md, "Guidelines for Artifact Usage")."""
        return self.manifest.artifact_type or self.manifest.config.media_type


def images_of(source: Source) -> tuple[Descriptor, ...]:
    """Return the descriptors of the images in a source, without what is attached to them.

    Raises:
        Refused: A document is damaged.
    """
    index = source.index()
    return tuple(item for item in index.manifests if not _is_attachment(source, item))


def choose(source: Source, name: str | None = None) -> Descriptor:
    """Return the descriptor of the image that is meant.

    Args:
        source: Where it lies.
        name: Its full name, its tag or its digest; None where there is but one.

    Raises:
        NotFound: There is no image, or none of that name.
        UsageError: There are several, and no name.
    """
    found = images_of(source)
    if name is not None:
        found = tuple(item for item in found if name in (*_names(item), item.digest))
    if not found:
        raise NotFound(f"{source.label} holds no image{'' if name is None else f' {name}'}.", _told(images_of(source)))
    if len(found) > 1:
        raise UsageError(f"{source.label} holds several images.", f"Say which one: --image NAME. {_told(found)}")
    return found[0]


def load_image(source: Source, descriptor: Descriptor) -> Image:
    """Read the manifest and configuration of an image; of an index, those of its first image for amd64 Linux.

    Raises:
        NotFound: A document is not there, or the index has no image for amd64 Linux.
        Refused: A document is damaged.
    """
    name = next(iter(_names(descriptor)), descriptor.digest)
    top = descriptor
    instances: tuple[Descriptor, ...] = ()
    if descriptor.media_type in INDEX_TYPES:
        index = _index(source, descriptor)
        instances = index.manifests
        descriptor = _for_amd64(instances, source)
    manifest = load_manifest(source, descriptor)
    config = parse_config(read_document(source, manifest.config), f"The configuration of {name}")
    if len(config.diff_ids) != len(manifest.layers):
        raise Refused(
            f"The configuration of {name} tells of {len(config.diff_ids)} layers, its manifest of {len(manifest.layers)}.",
            "The image is damaged or made to do harm; get it again from where you trust it.",
        )
    return Image(name=name, top=top, descriptor=descriptor, manifest=manifest, config=config, instances=instances)


def load_manifest(source: Source, descriptor: Descriptor) -> Manifest:
    """Read a manifest.

    Raises:
        NotFound: It is not there.
        Refused: It is damaged, or no manifest.
    """
    what = f"The manifest {descriptor.digest} in {source.label}"
    if descriptor.media_type not in MANIFEST_TYPES:
        raise Refused(f"{what} is of the kind {descriptor.media_type[:100]!r}.", "Only OCI and Docker schema 2 images are supported.")
    return parse_manifest(read_document(source, descriptor), what)


def attached_to(source: Source, digests: Sequence[str]) -> tuple[Artifact, ...]:
    """Return what the index of a source attaches to images.

    Args:
        source: An archive or layout.
        digests: The images' digests.

    Raises:
        Refused: A document is damaged.
    """
    artifacts = []
    for item in source.index().manifests:
        if item.media_type in MANIFEST_TYPES:
            manifest = load_manifest(source, item)
            if manifest.subject is not None and manifest.subject.digest in digests:
                artifacts.append(Artifact(descriptor=item, manifest=manifest))
    return tuple(artifacts)


def _is_attachment(source: Source, item: Descriptor) -> bool:
    if item.artifact_type is not None or item.annotations.get(REF_NAME, "").startswith(_SIGNATURE_TAG_PREFIX):
        return True
    return item.media_type in MANIFEST_TYPES and load_manifest(source, item).subject is not None


def _names(descriptor: Descriptor) -> tuple[str, ...]:
    return tuple(descriptor.annotations[key] for key in (CONTAINERD_NAME, REF_NAME) if key in descriptor.annotations)


def _told(found: Sequence[Descriptor]) -> str:
    names = [next(iter(_names(item)), item.digest) for item in found[:_MAX_NAMES_SHOWN]]
    return f"It holds {', '.join(names)}." if names else "It holds none."


def _index(source: Source, descriptor: Descriptor) -> Index:
    return parse_index(read_document(source, descriptor), f"The index {descriptor.digest} in {source.label}")


def _for_amd64(instances: Sequence[Descriptor], source: Source) -> Descriptor:
    for item in instances:
        if item.media_type in MANIFEST_TYPES and item.platform in (None, {"architecture": "amd64", "os": "linux"}):
            return item
    raise NotFound(f"The index in {source.label} holds no image for amd64 Linux.", "SGX enclaves run on no other platform.")
