"""Where images lie: an OCI archive or a layout directory on this machine; ``kubenclave.image.registry`` has registries.

Reads only below the directory or inside the archive; every blob is checked against its digest while it is read.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from kubenclave.errors import NotFound, Refused
from kubenclave.image.reading.parse import MAX_DOCUMENT_BYTES, Index, parse_index
from kubenclave.image.reading.tar import Kind, Readable, TarReader
from kubenclave.image.sysroot import Sysroot, open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from kubenclave.image.oci.documents import Descriptor

_BLOB = re.compile(r"(?:\./)?blobs/sha256/([0-9a-f]{64})")
_DOCUMENTS = re.compile(r"(?:\./)?(index\.json|oci-layout)")
# An archive holds a handful of blobs for each image.
MAX_ARCHIVE_MEMBERS = 10_000
_HINT = "It is damaged or made to do harm; get it again from where you trust it."


class Source(Protocol):
    """Holds images; gives the index of them and each blob."""

    @property
    def label(self) -> str:
        """Name the place for people."""

    def index(self) -> Index:
        """Give what is there.

        Raises:
            Refused: It is damaged.
        """

    def raw(self, blob: Descriptor) -> AbstractContextManager[Readable]:
        """Open a blob whose digest nobody has checked.

        Raises:
            NotFound: It is not there.
        """


class Verified:
    """Give a blob's bytes, and refuse it at its end if they are not those of its digest."""

    def __init__(self, stream: Readable, blob: Descriptor, what: str) -> None:
        self._stream = stream
        self._blob = blob
        self._what = what
        self._sha256 = hashlib.sha256()
        self._left = blob.size_bytes

    def read(self, size: int = -1) -> bytes:
        """Return at most so many bytes, none at the end.

        Raises:
            Refused: There are more or fewer bytes than the descriptor says, or they have another digest.
        """
        wanted = min(size, self._left) if size >= 0 else self._left
        data = self._stream.read(wanted) if wanted else b""
        self._sha256.update(data)
        self._left -= len(data)
        if wanted and not data:
            raise Refused(f"{self._what} ends {self._left} bytes too early.", _HINT)
        if not self._left:
            if not data and self._stream.read(1):
                raise Refused(f"{self._what} is larger than the {self._blob.size_bytes} bytes that it should have.", _HINT)
            if f"sha256:{self._sha256.hexdigest()}" != self._blob.digest:
                raise Refused(f"{self._what} is not what its digest says: it has sha256:{self._sha256.hexdigest()}.", _HINT)
        return data

    def drain(self) -> None:
        """Read what is left, so that the digest is checked."""
        while self.read(1 << 20):
            pass


@contextmanager
def open_blob(source: Source, blob: Descriptor) -> Iterator[Verified]:
    """Open a blob for reading from front to back.

    Raises:
        NotFound: It is not there.
    """
    what = f"{blob.digest} in {source.label}"
    with source.raw(blob) as stream:
        yield Verified(stream, blob, what)


def read_document(source: Source, blob: Descriptor) -> bytes:
    """Read a blob that is a document, checked against its digest.

    Raises:
        NotFound: It is not there.
        Refused: It is larger than any document, or not what its digest says.
    """
    if blob.size_bytes > MAX_DOCUMENT_BYTES:
        raise Refused(f"{blob.digest} in {source.label} would have {blob.size_bytes} bytes; documents have {MAX_DOCUMENT_BYTES}.", _HINT)
    with open_blob(source, blob) as stream:
        parts = []
        while part := stream.read(1 << 16):
            parts.append(part)
        stream.drain()
    return b"".join(parts)


@contextmanager
def open_local(path: Path) -> Iterator[Source]:
    """Open an OCI archive or layout directory.

    Raises:
        NotFound: It is not there.
        Refused: It is neither, or damaged.
    """
    if path.is_dir():
        yield _Layout(path)
        return
    with open_regular(path.resolve()) as file:
        yield _Archive(file, str(path))


class _Layout:
    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self._root = Sysroot(path.resolve())

    def _open(self, name: str) -> IO[bytes]:
        # Links inside the layout are followed inside it, like those of a system root.
        canonical = self._root.canonical(name)
        if canonical is None:
            raise NotFound(f"{self.label} holds no {name.lstrip('/')}.", "Check that it is a complete OCI image layout.")
        return self._root.open(canonical)

    def index(self) -> Index:
        with self._open("/index.json") as file:
            return parse_index(file.read(MAX_DOCUMENT_BYTES + 1), f"index.json of {self.label}")

    @contextmanager
    def raw(self, blob: Descriptor) -> Iterator[Readable]:
        with self._open(f"/blobs/{blob.digest.replace(':', '/')}") as file:
            yield file


class _Archive:
    """An OCI archive, whose members are found once and read where they lie."""

    def __init__(self, file: IO[bytes], label: str) -> None:
        self.label = label
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}
        size_bytes = os.fstat(file.fileno()).st_size
        tar = _Seekable(file, size_bytes)
        reader = TarReader(tar, label)
        for count, member in enumerate(reader.members()):
            if count >= MAX_ARCHIVE_MEMBERS:
                raise Refused(f"{label} holds more than {MAX_ARCHIVE_MEMBERS} files.", "Check that it is an OCI archive.")
            match = _BLOB.fullmatch(member.name) or _DOCUMENTS.fullmatch(member.name)
            # Anything else that lies in it is not looked at: nothing of an archive is ever unpacked.
            if match is not None and member.kind is Kind.FILE:
                if match[1] in self._places:
                    raise Refused(f"{label} holds {match[1]} twice.", _HINT)
                self._places[match[1]] = (tar.tell(), member.size_bytes)
            tar.skip(member.size_bytes)
        if "index.json" not in self._places:
            raise Refused(f"{label} is no OCI archive: it holds no index.json.", "Archives of docker save become one with skopeo copy.")

    def index(self) -> Index:
        place, size = self._places["index.json"]
        self._file.seek(place)
        return parse_index(self._file.read(min(size, MAX_DOCUMENT_BYTES + 1)), f"index.json of {self.label}")

    @contextmanager
    def raw(self, blob: Descriptor) -> Iterator[Readable]:
        place = self._places.get(blob.digest.removeprefix("sha256:"))
        if place is None:
            raise NotFound(f"{self.label} holds no blob {blob.digest}.", "Check that it is a complete OCI archive.")
        yield _Part(self._file.fileno(), *place)


class _Seekable:
    """A file that passes over a member's content without reading it, when the tar reader asks for it next."""

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._skip_bytes = 0

    def tell(self) -> int:
        return self._file.tell()

    def skip(self, size_bytes: int) -> None:
        self._skip_bytes = min(size_bytes, self._size_bytes - self._file.tell())

    def read(self, size: int) -> bytes:
        if self._skip_bytes and size <= self._skip_bytes:
            self._skip_bytes -= size
            self._file.seek(size, os.SEEK_CUR)
            return bytes(size)
        skipped, self._skip_bytes = self._skip_bytes, 0
        self._file.seek(skipped, os.SEEK_CUR)
        return bytes(skipped) + self._file.read(size - skipped)


class _Part:
    """Part of a file, read without moving the file's own place, so that several threads can read at once."""

    def __init__(self, descriptor: int, place: int, size_bytes: int) -> None:
        self._descriptor = descriptor
        self._place = place
        self._left = size_bytes

    def read(self, size: int) -> bytes:
        data = os.pread(self._descriptor, min(size, self._left), self._place)
        self._place += len(data)
        self._left -= len(data)
        return data


def is_local(text: str) -> bool:
    """Say whether a text means an archive or layout on this machine: something is there, or it is written like a path."""
    return text.startswith(("/", "./", "../")) or text.endswith(".tar") or Path(text).exists()
