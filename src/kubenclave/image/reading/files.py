"""List the files of an image of anyone: layers read one after the other, each file hashed, nothing unpacked to disk.

Rules for layers over each other: OCI image-spec v1.1, layer.md ("Whiteouts").
"""

from __future__ import annotations

import hashlib
import io
import posixpath
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.image.reading.source import open_blob
from kubenclave.image.reading.tar import Kind, Readable, TarReader
from kubenclave.image.reading.unpack import Unpacked

if TYPE_CHECKING:
    from collections.abc import Collection

    from kubenclave.image.reading.image import Image
    from kubenclave.image.reading.source import Source

# Some hundred MiB of memory; the largest images have half a million.
MAX_FILES = 1_000_000
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_CHUNK_BYTES = 256 * 1024
# Signatures and enclaves that are measured again; an enclave of more is compared by its hash alone.
MAX_KEPT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """Hold one thing in an image's file system. ``sha256`` is that of a file's content, ``target`` what a link points to."""

    path: str
    kind: Kind
    mode: int
    owner: str
    size_bytes: int = 0
    sha256: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTree:
    """Hold an image's file system, and the contents of the files that were asked for."""

    files: dict[str, ImageFile]
    contents: dict[str, bytes]


def read_tree(source: Source, image: Image, keep: Collection[str] = ()) -> ImageTree:
    """Read the file system of an image, checking every layer's digest and the digest of its uncompressed form.

    Args:
        source: Where it lies.
        image: The image.
        keep: Paths of files whose contents are wanted; one of more than ``MAX_KEPT_BYTES`` is left out.

    Raises:
        NotFound: A layer is not there.
        Refused: A layer is damaged, not what its digest says, or made to do harm.
    """
    reading = _Reading(frozenset(keep))
    for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
        what = f"The layer {layer.digest} in {source.label}"
        with open_blob(source, layer) as blob:
            plain = _Hashed(Unpacked(blob, layer.media_type, what))
            reading.layer(TarReader(plain, what))
            plain.drain()
            blob.drain()
        if plain.digest() != diff_id:
            raise Refused(
                f"{what} unpacks to {plain.digest()}, but the configuration says {diff_id}.",
                "The image is damaged or made to do harm; get it again from where you trust it.",
            )
    return ImageTree(files=reading.files, contents=reading.contents)


class _Hashed:
    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._sha256.update(data)
        return data

    def drain(self) -> None:
        while self.read(_CHUNK_BYTES):
            pass

    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


class _Reading:
    def __init__(self, keep: frozenset[str]) -> None:
        self._keep = keep
        self.files: dict[str, ImageFile] = {}
        self.contents: dict[str, bytes] = {}

    def layer(self, tar: TarReader) -> None:
        below = set(self.files)
        for member in tar.members():
            path = image_path(member.name)
            name = posixpath.basename(path)
            if name == _OPAQUE:
                self._remove(posixpath.dirname(path), below, itself=False)
                continue
            if name.startswith(_WHITEOUT):
                self._remove(posixpath.join(posixpath.dirname(path), name.removeprefix(_WHITEOUT)), below, itself=True)
                continue
            if path == "/":
                continue
            found = ImageFile(
                path=path,
                kind=member.kind,
                mode=member.mode,
                owner=f"{member.uid}:{member.gid}",
                size_bytes=member.size_bytes,
                target=member.target,
            )
            if member.kind is Kind.FILE:
                found = replace(found, sha256=self._hash(tar, path, member.size_bytes))
            if member.kind is Kind.HARD_LINK:
                found = self._linked(found, image_path(member.target))
            self.files[path] = found
            below.discard(path)
            if len(self.files) > MAX_FILES:
                raise Refused(f"The image holds more than {MAX_FILES} files.", "Images of more are not looked into.")

    def _hash(self, tar: TarReader, path: str, size_bytes: int) -> str:
        sha256 = hashlib.sha256()
        # Grows in place and is handed over as it is: an enclave is in memory once.
        kept = io.BytesIO() if path in self._keep and size_bytes <= MAX_KEPT_BYTES else None
        self.contents.pop(path, None)
        while data := tar.read(_CHUNK_BYTES):
            sha256.update(data)
            if kept is not None:
                kept.write(data)
        if kept is not None:
            self.contents[path] = kept.getvalue()
        return sha256.hexdigest()

    def _linked(self, link: ImageFile, target: str) -> ImageFile:
        """Take a hard link for what it is: the same file by another name."""
        found = self.files.get(target)
        if found is None or found.kind is not Kind.FILE:
            return replace(link, target=target)
        return replace(found, path=link.path)

    def _remove(self, path: str, below: set[str], *, itself: bool) -> None:
        inside = path.rstrip("/") + "/"
        for known in [known for known in below if known.startswith(inside) or (itself and known == path)]:
            del self.files[known]
            self.contents.pop(known, None)
            below.discard(known)


def image_path(name: str) -> str:
    """Return a member's name as an absolute path of the image; ``..`` leads nowhere above its root, as for a runtime."""
    return posixpath.normpath(f"/{name.lstrip('/')}")
