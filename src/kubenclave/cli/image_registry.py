"""``kubenclave image push|pull|inspect|diff|index``: images of anyone, in archives, layouts and registries."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path  # noqa: TC003 - the command line reads its options' types
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kubenclave.cli.progress import say, step
from kubenclave.cli.show import OutputOption, show, write
from kubenclave.errors import NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kubenclave.image import Access, Pushed, Remote
    from kubenclave.image.oci.documents import Descriptor


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryOptions:
    """How a registry is reached. Logins are those of docker login: $DOCKER_CONFIG or ~/.docker/config.json, and its credential helpers."""

    ca: Annotated[Path | None, Parameter(help="A file with the certificate authorities to trust, instead of the system's.")] = None
    plain_http: Annotated[bool, Parameter(help="Speak without encryption. A login is then sent to this machine itself only.")] = False
    auth_host: Annotated[
        tuple[str, ...],
        Parameter(
            help="A token server of another name than the registry's that may be told the login. Can be given again.", show_default=False
        ),
    ] = ()
    entra_token_file: Annotated[
        Path | None, Parameter(help="A file with a Microsoft Entra access token, for Azure Container Registry; - reads it from stdin.")
    ] = None
    mount_from: Annotated[
        tuple[str, ...],
        Parameter(help="A repository of the same registry that may have the layers already. Can be given again.", show_default=False),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Summary:
    """The part of an ``Inspection`` that is one row each."""

    image: str
    digest: str
    index_digest: str | None
    created: str
    platform: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: tuple[str, ...]
    user: str
    working_directory: str
    compressed_bytes: int
    file_count: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _PushSummary:
    reference: str
    sent_bytes: int
    attached: tuple[str, ...]


# A token of Microsoft Entra with many groups has some ten KiB.
_MAX_TOKEN_BYTES = 64 * 1024
ImageOption = Annotated[str | None, Parameter(help="Which image of an archive or layout is meant, where it holds several.")]


def push(
    source: Annotated[Path, Parameter(help="An OCI archive or layout directory.")],
    reference: Annotated[str, Parameter(help="The name in the registry, as in registry.example/team/hello:1.0.")],
    *,
    image: ImageOption = None,
    registry: RegistryOptions = RegistryOptions(),
    output: OutputOption = "table",
) -> None:
    """Bring an image to a registry; its tag is set when all else is there."""
    pushed = push_to(source, reference, registry, name=image)
    if output == "json":
        show(pushed, output=output)
        return
    show(pushed.blobs, output=output)
    write("\n")
    show(_PushSummary(reference=pushed.reference, sent_bytes=pushed.sent_bytes, attached=pushed.attached), output=output)


def pull(
    reference: Annotated[str, Parameter(help="The name in the registry, with a tag or a digest.")],
    *,
    archive: Annotated[Path | None, Parameter(name=["-o", "--archive"], help="Write an OCI archive to this file.")] = None,
    layout: Annotated[Path | None, Parameter(help="Write an OCI layout to this new directory.")] = None,
    registry: RegistryOptions = RegistryOptions(),
    output: OutputOption = "table",
) -> None:
    """Fetch an image, and what is attached to it, from a registry."""
    from kubenclave.image import parse_remote, pull_image  # noqa: PLC0415 - loaded when it runs

    place = archive or layout
    if place is None or (archive is not None and layout is not None):
        raise UsageError("The image is to be written to one place.", "Give -o FILE or --layout DIRECTORY.")
    remote = parse_remote(reference)
    with _transfer(f"pulling {remote}") as moved:
        pulled = pull_image(remote, place, access_to(remote, registry), layout=archive is None, moved=moved)
    show(pulled, output=output)


def inspect(
    image_or_file: Annotated[str, Parameter(name="IMAGE", help="An OCI archive, a layout directory, or a name in a registry.")],
    *,
    image: ImageOption = None,
    check: Annotated[bool, Parameter(help="Read the layers, measure the enclaves again, and compare with what the image says.")] = False,
    key: Annotated[Path | None, Parameter(help="A public key in PEM; an image without a signature by it is refused.")] = None,
    registry: RegistryOptions = RegistryOptions(),
    output: OutputOption = "table",
) -> None:
    """Show what an image is: enclaves, layers, how it starts, and what is attached to it."""
    from kubenclave.image import look_at, open_image, read_public_key  # noqa: PLC0415

    public = None if key is None else read_public_key(key)
    with open_image(image_or_file, access=_access(image_or_file, registry), name=image) as opened:
        found = look_at(opened, check=check, key=public)
    if output == "json":
        show(found, output=output)
        return
    show(_Summary(**{field.name: getattr(found, field.name) for field in fields(_Summary)}), output=output)
    for heading, rows in (("layers", found.layers), ("enclaves", found.enclaves), ("attached", found.attached)):
        if rows:
            write(f"\n{heading}\n")
        for row in rows:
            show(row, output=output)


def diff(
    before: Annotated[str, Parameter(help="An OCI archive, a layout directory, or a name in a registry.")],
    after: Annotated[str, Parameter(help="The other.")],
    *,
    registry: RegistryOptions = RegistryOptions(),
    output: OutputOption = "table",
) -> None:
    """Show what differs between two images: enclaves, how they start, files. Nothing is shown where nothing does."""
    from kubenclave.image import compare, open_image  # noqa: PLC0415

    with (
        open_image(before, access=_access(before, registry)) as first,
        open_image(after, access=_access(after, registry)) as second,
    ):
        found = compare(first, second)
    show(found, output=output)


def index(
    *sources: Annotated[Path, Parameter(help="OCI archives or layout directories with one image each, the one for old runtimes first.")],
    tag: Annotated[str, Parameter(help="The name of the index.")],
    archive: Annotated[Path | None, Parameter(name=["-o", "--archive"], help="Write an OCI archive to this file.")] = None,
    layout: Annotated[Path | None, Parameter(help="Write an OCI layout to this new directory.")] = None,
    output: OutputOption = "table",
) -> None:
    """Join images into one index under one name, such as the same image with gzip and with zstd layers."""
    from kubenclave.image import join_images, parse_reference, source_date_epoch  # noqa: PLC0415

    place = archive or layout
    if place is None or (archive is not None and layout is not None) or not sources:
        raise UsageError("Several images go to one place.", "Give archives, and -o FILE or --layout DIRECTORY.")
    reference = parse_reference(tag)
    with step(f"joining {reference}") as report:
        joined = join_images(
            sources, place, reference=reference, layout=archive is None, epoch_seconds=source_date_epoch(os.environ), report=report
        )
    show(joined, output=output)


def push_to(source: Path, reference: str, registry: RegistryOptions, *, name: str | None) -> Pushed:
    """Push an image and show how far it is."""
    from kubenclave.image import parse_remote, push_image  # noqa: PLC0415

    remote = parse_remote(reference)
    if remote.digest is not None:
        raise UsageError("An image is pushed under a tag.", "Leave out the digest, which is known when it is there.")
    with _transfer(f"pushing {remote}") as moved:
        return push_image(source, remote, access_to(remote, registry), name=name, mount_from=registry.mount_from, moved=moved)


def access_to(remote: Remote, registry: RegistryOptions) -> Access:
    """Say how a registry is reached: by the options, and with the login that is found for it."""
    from kubenclave.image import Access, find_credentials  # noqa: PLC0415

    token = _entra_token(registry.entra_token_file)
    return Access(
        credentials=None if token else find_credentials(remote.registry, os.environ),
        entra_token=token,
        auth_hosts=registry.auth_host,
        ca=registry.ca,
        plain_http=registry.plain_http,
    )


def _access(text: str, registry: RegistryOptions) -> Access | None:
    from kubenclave.image import is_local, parse_remote  # noqa: PLC0415

    return None if is_local(text) else access_to(parse_remote(text), registry)


def _entra_token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        data = sys.stdin.buffer.read(_MAX_TOKEN_BYTES) if str(path) == "-" else path.read_bytes()[:_MAX_TOKEN_BYTES]
    except OSError as exc:
        raise NotFound(f"The token file {path} cannot be read: {exc.strerror}.", "Check its path.") from exc
    text = data.decode("utf-8", "replace").strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        hint = "It is what az account get-access-token --query accessToken -o tsv prints."
        raise UsageError(f"{path} holds no access token.", hint)
    return text


@contextmanager
def _transfer(what: str) -> Iterator[Callable[[Descriptor, int], None]]:
    """Show a bar for each blob on a terminal, and a line for each finished one elsewhere."""
    if not sys.stderr.isatty():
        with step(what) as report:
            lock = threading.Lock()
            told: set[str] = set()

            def arrived(blob: Descriptor, done_bytes: int) -> None:
                with lock:
                    if done_bytes >= blob.size_bytes and blob.digest not in told:
                        told.add(blob.digest)
                        report(f"{blob.digest[:19]} {blob.size_bytes} bytes")

            yield arrived
        return
    from rich.console import Console  # noqa: PLC0415 - costs time that only a terminal is worth
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    say(what)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}
        guard = threading.Lock()

        def moved(blob: Descriptor, done_bytes: int) -> None:
            with guard:
                if blob.digest not in tasks:
                    tasks[blob.digest] = progress.add_task(blob.digest[:19], total=blob.size_bytes)
            progress.update(tasks[blob.digest], completed=done_bytes)

        yield moved
