"""Decompress a layer of anyone as a stream, and stop one that grows beyond all measure.

Formats: gzip (also of many members, as lazy-pulling tools write it), zstd (also of many frames), and plain.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

from backports import zstd

from kubenclave.errors import Refused

if TYPE_CHECKING:
    from kubenclave.image.reading.tar import Readable

# The largest images (machine learning) unpack to some 20 GB in all; one layer of more is not looked into.
MAX_UNPACKED_BYTES = 64 * 1024**3
# Deflate makes at most 1032 bytes of one (a run of zeros), zstd more; programs and texts unpack to three to ten times their size. Beyond
# the first part, which may be a sparse file's zeros, more than this is a bomb.
MAX_RATIO = 200
RATIO_AFTER_BYTES = 256 * 1024**2
# 128 MiB, what the zstd program itself allows unless told otherwise (zstd(1), --memory): a frame may ask for any window.
_MAX_WINDOW_LOG = 27
_CHUNK_BYTES = 256 * 1024
_HINT = "The layer is damaged or made to do harm; get the image again from where you trust it."


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Deflate:
    """Gives zlib's decompressor the shape of the others of the standard library."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class Unpacked:
    """Give the uncompressed form of a layer, by its media type."""

    def __init__(self, stream: Readable, media_type: str, what: str) -> None:
        self._stream = stream
        self._what = what
        self._kind = media_type.rpartition("+" if "+" in media_type else ".")[2]
        if self._kind not in ("tar", "gzip", "zstd"):
            raise Refused(f"{what} is of the kind {media_type[:100]!r}, which is no image layer.", "Only tar layers can be looked into.")
        self._decoder: _Decoder | None = None
        self._pending = b""
        self._ended = False
        self._read_bytes = 0
        self._written_bytes = 0

    def read(self, size: int) -> bytes:
        """Return at most so many bytes, none at the end.

        Raises:
            Refused: The layer is damaged, cut off, or grows beyond all measure.
        """
        size = min(size, _CHUNK_BYTES)
        data = self._more() if self._kind == "tar" and not self._pending else b""
        if self._kind == "tar":
            data, self._pending = (self._pending + data)[:size], (self._pending + data)[size:]
        else:
            data = self._decoded(size)
        self._written_bytes += len(data)
        limit = max(RATIO_AFTER_BYTES, self._read_bytes * MAX_RATIO)
        if self._written_bytes > min(limit, MAX_UNPACKED_BYTES):
            raise Refused(f"{self._what} unpacks to more than {self._written_bytes} bytes from {self._read_bytes}.", _HINT)
        return data

    def _more(self) -> bytes:
        data = self._stream.read(_CHUNK_BYTES)
        self._read_bytes += len(data)
        return data

    def _decoded(self, size: int) -> bytes:
        while not self._ended:
            if self._decoder is None:
                self._pending = self._pending or self._more()
                if not self._pending:
                    self._ended = True
                    break
                self._decoder = self._new_decoder()
            decoder = self._decoder
            if decoder.needs_input and not self._pending:
                self._pending = self._more()
                if not self._pending:
                    raise Refused(f"{self._what} ends too early, at offset {self._read_bytes}.", _HINT)
            try:
                data = decoder.decompress(self._pending, size)
            except (zlib.error, zstd.ZstdError, ValueError) as exc:
                raise Refused(f"{self._what} cannot be decompressed: {exc}.", _HINT) from exc
            self._pending = b""
            if decoder.eof:
                # Another member or frame may follow.
                self._pending, self._decoder = decoder.unused_data, None
            if data:
                return data
        return b""

    def _new_decoder(self) -> _Decoder:
        if self._kind == "gzip":
            return _Deflate()
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG})
