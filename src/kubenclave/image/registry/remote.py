"""An image in a registry as a ``Source``: documents and blobs are fetched when they are asked for, and go on after a break.

Also finds what is attached to an image there (distribution-spec v1.1, "Listing Referrers", and its fallback by tag).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2

from kubenclave.errors import NotFound, Refused, Unreachable
from kubenclave.image.oci.documents import CONTAINERD_NAME, Descriptor, digest_of, signature_tag
from kubenclave.image.reading.image import Artifact, load_manifest
from kubenclave.image.reading.parse import INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT_BYTES, Index, parse_index
from kubenclave.image.registry.challenge import origin
from kubenclave.image.registry.client import MAX_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.image.reading.tar import Readable
    from kubenclave.image.registry.client import Answer, RegistryClient

# An image has an SBOM, a provenance statement, some signatures.
MAX_REFERRERS = 64
_NEXT = re.compile(r'<([^>]+)>\s*;[^,]*\brel="?next\b')
_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
_OK, _PARTIAL, _MISSING = 200, 206, 404


class RemoteSource:
    """Holds the one image that the client's reference names."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client
        self._documents: dict[str, bytes] = {}

    @property
    def label(self) -> str:
        """Name the repository."""
        return self._client.remote.name

    def index(self) -> Index:
        """Give the image that the reference names.

        Raises:
            NotFound: There is none of that name.
            Refused: It is not what its digest says, or no image.
            Unreachable: The registry does not answer as it should.
        """
        remote = self._client.remote
        found = self.manifest(remote.digest or remote.tag or "latest")
        named = Descriptor(
            media_type=found.media_type, digest=found.digest, size_bytes=found.size_bytes, annotations={CONTAINERD_NAME: str(remote)}
        )
        return Index(media_type=INDEX_TYPES[0], manifests=(named,))

    def manifest(self, name: str) -> Descriptor:
        """Fetch a manifest or index by tag or digest.

        Raises:
            NotFound: There is none of that name.
            Refused: It is not what its digest says.
            Unreachable: The registry does not answer as it should.
        """
        what = f"Fetching {name}"
        answer = self._client.ask(
            "GET",
            self._client.url(f"manifests/{name}"),
            what=what,
            expected=(_OK,),
            headers={"Accept": _ACCEPT},
            limit_bytes=MAX_DOCUMENT_BYTES,
        )
        digest = digest_of(answer.body)
        told = answer.headers.get("Docker-Content-Digest", digest)
        if digest != (name if ":" in name else digest) or told != digest:
            raise Refused(
                f"{what}: the registry {self._client.base.host} sends {digest} for {told[:80] if told != digest else name}.",
                "Do not trust it; it may be a faulty registry.",
            )
        self._documents[digest] = answer.body
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return Descriptor(media_type=kind, digest=digest, size_bytes=len(answer.body))

    @contextmanager
    def raw(self, blob: Descriptor) -> Iterator[Readable]:
        """Open a blob whose digest nobody has checked.

        Raises:
            NotFound: It is not there.
            Refused: The registry does not let us.
            Unreachable: It does not answer as it should.
        """
        if blob.media_type in (*MANIFEST_TYPES, *INDEX_TYPES):
            if blob.digest not in self._documents:
                self.manifest(blob.digest)
            yield _Memory(self._documents[blob.digest])
            return
        stream = _Fetched(self._client, blob)
        try:
            yield stream
        finally:
            stream.close()

    def artifacts(self, digests: tuple[str, ...]) -> tuple[Artifact, ...]:
        """Fetch the manifests of what is attached to images of this repository.

        Raises:
            NotFound: One that is listed is not there.
            Refused: A document is damaged, or more are listed than any image has.
            Unreachable: The registry does not answer as it should.
        """
        found: dict[str, Descriptor] = {}
        for digest in digests:
            for item in (*self.referrers(digest), *self._signatures(digest)):
                if item.media_type in MANIFEST_TYPES:
                    found[item.digest] = item
        if len(found) > MAX_REFERRERS:
            raise self._too_many()
        return tuple(Artifact(descriptor=item, manifest=load_manifest(self, item)) for item in found.values())

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """List what is attached to a manifest, by the registry's list or by the tag that stands in for it."""
        what = f"Listing what is attached to {digest}"
        found: list[Descriptor] = []
        url: httpx2.URL | None = self._client.url(f"referrers/{digest}")
        pages = 0
        while url is not None:
            if max(len(found), pages) > MAX_REFERRERS:
                raise self._too_many()
            answer = self._client.ask(
                "GET",
                url,
                what=what,
                expected=(_OK,) if pages else (_OK, _MISSING),
                headers={"Accept": INDEX_TYPES[0]},
                limit_bytes=MAX_DOCUMENT_BYTES,
            )
            if answer.status == _MISSING:
                return self.listed(referrers_tag(digest))
            found += parse_index(answer.body, what).manifests
            pages += 1
            url = self._next_page(answer, what)
        return tuple(found)

    def _too_many(self) -> Refused:
        return Refused(f"More than {MAX_REFERRERS} things are attached to the image in {self.label}.", "Look at them with another tool.")

    def _next_page(self, answer: Answer, what: str) -> httpx2.URL | None:
        """Return where a list goes on (RFC 8288), nothing where it ends.

        Raises:
            Unreachable: It goes on at another server.
        """
        link = _NEXT.search(answer.headers.get("Link", ""))
        if link is None:
            return None
        try:
            url = answer.url.join(link[1])
        except (httpx2.InvalidURL, ValueError):
            return None
        if origin(url) != origin(self._client.base):
            raise Unreachable(f"{what}: the registry {self._client.base.host} leads elsewhere.", "Check that it is the registry you mean.")
        return url

    def listed(self, tag: str) -> tuple[Descriptor, ...]:
        """Return what the index of a tag lists; nothing where there is no such tag."""
        try:
            found = self.manifest(tag)
        except NotFound:
            return ()
        return parse_index(self._documents[found.digest], f"The index {tag} in {self.label}").manifests

    def _signatures(self, digest: str) -> tuple[Descriptor, ...]:
        try:
            return (self.manifest(signature_tag(digest)),)
        except NotFound:
            return ()


def referrers_tag(digest: str) -> str:
    """Return the tag that stands in for the list of referrers where a registry has none ("Referrers Tag Schema")."""
    return digest.replace(":", "-")


class _Memory:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int) -> bytes:
        data, self._data = self._data[:size], self._data[size:]
        return data


class _Fetched:
    """A blob that is being fetched; after a break the rest of it is asked for."""

    def __init__(self, client: RegistryClient, blob: Descriptor) -> None:
        self._client = client
        self._blob = blob
        self._what = f"Fetching {blob.digest}"
        self._offset = 0
        self._pending = b""
        self._attempt = 0
        self._response: httpx2.Response | None = None
        self._parts: Iterator[bytes] | None = None

    def read(self, size: int) -> bytes:
        while not self._pending and self._offset < self._blob.size_bytes + 1:
            try:
                part = next(self._opened(), b"")
            except httpx2.TransportError as exc:
                self._break(exc)
                continue
            if not part:
                if self._offset >= self._blob.size_bytes or not self._offset:
                    return b""
                self._break(httpx2.ReadError("it ended too early"))
                continue
            self._attempt = 0
            self._offset += len(part)
            self._pending = part
        data, self._pending = self._pending[:size], self._pending[size:]
        return data

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _opened(self) -> Iterator[bytes]:
        if self._parts is None:
            headers = {"Range": f"bytes={self._offset}-"} if self._offset else {}
            url = self._client.url(f"blobs/{self._blob.digest}")
            expected = (_PARTIAL,) if self._offset else (_OK,)
            self._response = self._client.send("GET", url, what=self._what, expected=expected, headers=headers)
            self._parts = self._response.iter_raw()
        return self._parts

    def _break(self, exc: httpx2.TransportError) -> None:
        self.close()
        self._parts = None
        self._attempt += 1
        if self._attempt >= MAX_ATTEMPTS:
            raise self._client.broken(exc, self._what) from exc
        self._client.wait(self._attempt)
