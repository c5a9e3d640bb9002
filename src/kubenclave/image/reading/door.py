"""One door to an image wherever it lies: an archive, a layout directory, a registry."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.image.reading.diff import diff_enclaves, diff_files, diff_start
from kubenclave.image.reading.files import read_tree
from kubenclave.image.reading.image import Artifact, Image, attached_to, choose, load_image
from kubenclave.image.reading.inspect import enclave_notes, inspect
from kubenclave.image.reading.source import is_local, open_local
from kubenclave.image.reference import parse_remote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric import ec

    from kubenclave.image.reading.diff import Difference
    from kubenclave.image.reading.inspect import Inspection
    from kubenclave.image.reading.source import Source
    from kubenclave.image.registry.client import Access


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenImage:
    """Hold an image that can be read, and what is attached to it."""

    source: Source
    image: Image
    artifacts: tuple[Artifact, ...]


@contextmanager
def open_image(text: str, *, access: Access | None = None, name: str | None = None) -> Iterator[OpenImage]:
    """Open an image.

    Args:
        text: The path of an archive or layout; or, if nothing of that name is on this machine, a name in a registry.
        access: How the registry is reached; None reaches it without a login.
        name: Which image of an archive or layout is meant, where it holds several.

    Raises:
        NotFound: It is not there.
        Refused: It is damaged, or the registry does not let us.
        Unreachable: The registry does not answer as it should.
        UsageError: The text names nothing, or there are several images and no name.
    """
    if is_local(text):
        with open_local(Path(text)) as source:
            image = load_image(source, choose(source, name))
            yield OpenImage(source=source, image=image, artifacts=attached_to(source, _digests(image)))
        return
    from kubenclave.image.registry.client import Access, RegistryClient  # noqa: PLC0415 - the HTTP client costs 0.1 s
    from kubenclave.image.registry.remote import RemoteSource  # noqa: PLC0415

    client = RegistryClient(parse_remote(text), access or Access(), actions="pull")
    try:
        remote = RemoteSource(client)
        image = load_image(remote, remote.index().manifests[0])
        yield OpenImage(source=remote, image=image, artifacts=remote.artifacts(_digests(image)))
    finally:
        client.close()


def look_at(opened: OpenImage, *, check: bool = False, key: ec.EllipticCurvePublicKey | None = None) -> Inspection:
    """Tell what an image is; see ``inspect``."""
    return inspect(opened.source, opened.image, opened.artifacts, check=check, key=key)


def compare(before: OpenImage, after: OpenImage) -> tuple[Difference, ...]:
    """Tell what differs between two images.

    Raises:
        NotFound: A layer is not there.
        Refused: A layer is damaged or made to do harm.
    """
    old, new = (enclave_notes(one.image.manifest.annotations) for one in (before, after))
    trees = [read_tree(one.source, one.image).files for one in (before, after)]
    return (*diff_enclaves(old, new), *diff_start(before.image, after.image), *diff_files(*trees))


def _digests(image: Image) -> tuple[str, ...]:
    return (image.descriptor.digest,) if image.top == image.descriptor else (image.descriptor.digest, image.top.digest)
