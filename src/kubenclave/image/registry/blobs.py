"""Bring one blob to a registry: look whether it is there, mount it from another repository, or upload it in pieces.

An upload that breaks goes on where the registry says it stands (distribution-spec v1.1, "Pushing a blob in chunks").
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, NotFound, Refused, Unreachable
from kubenclave.image.reading.source import open_blob
from kubenclave.image.registry.client import MAX_ATTEMPTS, Answer
from kubenclave.image.registry.parallel import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    import httpx2

    from kubenclave.image.oci.documents import Descriptor
    from kubenclave.image.reading.source import Source
    from kubenclave.image.registry.client import RegistryClient

    Moved = Callable[[Descriptor, int], None]
    """Told of a blob and how many of its bytes have arrived."""

# Large enough that a round trip more does not matter, small enough that little is sent again after a break.
CHUNK_BYTES = 16 * 1024 * 1024
# A registry may want larger pieces (OCI-Chunk-Min-Length); 5 MiB is what object stores ask for.
MAX_CHUNK_BYTES = 256 * 1024 * 1024
_PIECE_BYTES = 256 * 1024
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_OK, _CREATED, _ACCEPTED, _NO_CONTENT, _MISSING, _OUT_OF_RANGE = 200, 201, 202, 204, 404, 416


class How(StrEnum):
    """Say how a blob came to be in the repository."""

    THERE = "was there"
    MOUNTED = "mounted"
    SENT = "sent"


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be sent, and to whom."""

    client: RegistryClient
    source: Source
    blob: Descriptor
    moved: Moved

    @property
    def what(self) -> str:
        return f"Sending {self.blob.digest}"


@dataclass(slots=True)
class _Upload:
    """How far the registry has it."""

    url: httpx2.URL
    chunk_bytes: int
    offset: int = 0


def push_blob(
    client: RegistryClient, source: Source, blob: Descriptor, *, mount_from: Collection[str], moved: Moved, stopped: Callable[[], bool]
) -> How:
    """Bring a blob to the client's repository.

    Args:
        client: The registry.
        source: Where the blob lies; it is checked against its digest before anything is sent.
        blob: The blob.
        mount_from: Repositories of the same registry that may have it.
        moved: Told of progress.
        stopped: Says whether to give up.

    Raises:
        NotFound: The source does not have it, or there is no such repository.
        Refused: It is not what its digest says, or the registry does not take it.
        Unreachable: The registry does not answer as it should.
    """
    job = _Job(client, source, blob, moved)
    with open_blob(source, blob) as stream:
        stream.drain()
    if is_there(client, blob):
        moved(blob, blob.size_bytes)
        return How.THERE
    for repository in mount_from:
        answer = _start(job, mount=blob.digest, **{"from": repository})
        if answer.status == _CREATED:
            _check_digest(answer, blob, client)
            moved(blob, blob.size_bytes)
            return How.MOUNTED
        _abandon(job, answer)
    _upload(job, stopped)
    return How.SENT


def is_there(client: RegistryClient, blob: Descriptor) -> bool:
    """Say whether the repository has a blob."""
    answer = client.ask("HEAD", client.url(f"blobs/{blob.digest}"), what=f"Looking for {blob.digest}", expected=(_OK, _MISSING))
    if answer.status == _OK:
        _check_digest(answer, blob, client)
    return answer.status == _OK


def _start(job: _Job, **query: str) -> Answer:
    return job.client.ask("POST", job.client.url("blobs/uploads/", **query), what=job.what, expected=(_CREATED, _ACCEPTED))


def _abandon(job: _Job, answer: Answer) -> None:
    """Give up an upload that a registry began instead of mounting; not every registry lets us."""
    # If it does not, the upload runs out by itself.
    with suppress(KubenclaveError):
        url = job.client.location(answer, job.what)
        job.client.ask("DELETE", url, what=job.what, expected=(_NO_CONTENT, _ACCEPTED, _MISSING), again=False)


def _upload(job: _Job, stopped: Callable[[], bool]) -> None:
    upload = _begun(job)
    attempt = 0
    while upload.offset < job.blob.size_bytes:
        if stopped():
            raise Stopped
        try:
            _send_chunk(job, upload)
            attempt = 0
        except (Unreachable, Refused) as exc:
            attempt += 1
            if attempt >= MAX_ATTEMPTS or not _may_pass(exc):
                raise
            job.client.wait(attempt)
            upload = _resumed(job, upload)
            job.moved(job.blob, upload.offset)
    answer = job.client.ask(
        "PUT",
        upload.url.copy_with(params=[*upload.url.params.multi_items(), ("digest", job.blob.digest)]),
        what=job.what,
        expected=(_CREATED,),
        headers={"Content-Type": "application/octet-stream"},
        content=b"",
    )
    _check_digest(answer, job.blob, job.client)


def _may_pass(exc: KubenclaveError) -> bool:
    """Say whether an upload can go on after this: not after what the registry refused for good, but for a wrong range."""
    return isinstance(exc, Unreachable) or "answers with 416" in exc.what


def _begun(job: _Job) -> _Upload:
    answer = _start(job)
    least = answer.headers.get("OCI-Chunk-Min-Length", "")
    chunk = max(CHUNK_BYTES, int(least)) if least.isascii() and least.isdigit() and len(least) < 12 else CHUNK_BYTES  # noqa: PLR2004 - digits
    if chunk > MAX_CHUNK_BYTES:
        raise Unreachable(f"The registry {job.client.base.host} wants pieces of {chunk} bytes.", f"At most {MAX_CHUNK_BYTES} are sent.")
    return _Upload(job.client.location(answer, job.what), chunk)


def _send_chunk(job: _Job, upload: _Upload) -> None:
    size = min(upload.chunk_bytes, job.blob.size_bytes - upload.offset)
    begin = upload.offset

    def pieces() -> Iterator[bytes]:
        sent = 0
        for piece in _part(job.source, job.blob, begin, size):
            yield piece
            sent += len(piece)
            job.moved(job.blob, begin + sent)

    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size),
        "Content-Range": f"{begin}-{begin + size - 1}",
    }
    # Never sent again as it is: after a break the registry is asked first how far it got.
    expected = (_ACCEPTED, _CREATED, _NO_CONTENT)
    with job.client.stream("PATCH", upload.url, what=job.what, expected=expected, headers=headers, content=pieces, again=False) as response:
        answer = Answer(status=response.status_code, headers=response.headers, body=b"", url=response.url)
    upload.url = job.client.location(answer, job.what)
    upload.offset = begin + size


def _part(source: Source, blob: Descriptor, begin: int, size: int) -> Iterator[bytes]:
    with source.raw(blob) as stream:
        while begin:
            begin -= len(_some(stream.read(min(begin, _PIECE_BYTES)), blob))
        while size:
            piece = _some(stream.read(min(size, _PIECE_BYTES)), blob)
            size -= len(piece)
            yield piece


def _some(piece: bytes, blob: Descriptor) -> bytes:
    if not piece:
        raise Refused(f"{blob.digest} became shorter while it was sent.", "Push again when nothing writes to it.")
    return piece


def _resumed(job: _Job, upload: _Upload) -> _Upload:
    """Ask how far an upload got; begin anew where the registry knows nothing of it."""
    try:
        answer = job.client.ask("GET", upload.url, what=job.what, expected=(_NO_CONTENT, _OK, _ACCEPTED))
    except NotFound:
        return _begun(job)
    match = _RANGE.fullmatch(answer.headers.get("Range", ""))
    # "0-0" is one byte or none; with nothing confirmed it is none.
    offset = 0 if match is None or (match[1] == "0" and upload.offset == 0) else int(match[1]) + 1
    if offset > job.blob.size_bytes:
        hint = "It may be a faulty registry."
        raise Refused(f"The registry {job.client.base.host} claims to have more of {job.blob.digest} than there is.", hint)
    url = job.client.location(answer, job.what) if "Location" in answer.headers else upload.url
    return _Upload(url, upload.chunk_bytes, offset)


def _check_digest(answer: Answer, blob: Descriptor, client: RegistryClient) -> None:
    told = answer.headers.get("Docker-Content-Digest")
    if told is not None and told != blob.digest:
        raise Refused(
            f"The registry {client.base.host} says that {blob.digest} is {told[:80]}.", "Do not trust it; it may be a faulty registry."
        )
