"""One door to a registry: push an image that lies on this machine, pull one from there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.image.reading.image import choose
from kubenclave.image.reading.source import open_local
from kubenclave.image.registry.client import RegistryClient
from kubenclave.image.registry.pull import Pulled, pull
from kubenclave.image.registry.push import Pushed, push
from kubenclave.image.registry.remote import RemoteSource

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from kubenclave.image.reference import Remote
    from kubenclave.image.registry.blobs import Moved
    from kubenclave.image.registry.client import Access


def push_image(
    path: Path, remote: Remote, access: Access, *, name: str | None = None, mount_from: Collection[str] = (), moved: Moved
) -> Pushed:
    """Bring an image of an archive or layout to a registry; see ``push``.

    Args:
        path: The archive or layout.
        remote: The name there.
        access: How the registry is reached.
        name: Which image is meant, where there are several.
        mount_from: Repositories of the same registry that may have its blobs.
        moved: Told of progress.

    Raises:
        NotFound: The image is not there, or there is no such repository.
        Refused: It is damaged, or the registry does not take it.
        Unreachable: The registry does not answer as it should.
        UsageError: There are several images and no name.
    """
    with open_local(path) as source:
        image = choose(source, name)
        client = RegistryClient(remote, access, actions="pull,push", also_pull=mount_from)
        try:
            return push(client, source, image, mount_from=mount_from, moved=moved)
        finally:
            client.close()


def pull_image(remote: Remote, archive: Path, access: Access, *, layout: bool, moved: Moved) -> Pulled:
    """Fetch an image from a registry into an archive or layout; see ``pull``.

    Raises:
        NotFound: There is no such image.
        Refused: It is not what its digest says, or the registry does not let us.
        Unreachable: The registry does not answer as it should.
        HostUnfit: The archive cannot be written.
    """
    client = RegistryClient(remote, access, actions="pull")
    try:
        return pull(client, RemoteSource(client), archive, layout=layout, moved=moved)
    finally:
        client.close()
