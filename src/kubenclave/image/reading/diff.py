"""Tell what differs between two images: files, enclaves, how they start.

Pure: trees and notes in, rows out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kubenclave.image.reading.files import ImageFile
    from kubenclave.image.reading.image import Image
    from kubenclave.image.reading.inspect import EnclaveNote


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Hold one thing that differs: what it is, how it is in the first image and in the second; empty where it is not there."""

    what: str
    before: str
    after: str


def diff_files(before: Mapping[str, ImageFile], after: Mapping[str, ImageFile]) -> Iterator[Difference]:
    """Yield the files that differ, in the order of their paths."""
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old != new:
            yield Difference(what=f"file {path}", before=_file(old), after=_file(new))


def diff_enclaves(before: tuple[EnclaveNote, ...], after: tuple[EnclaveNote, ...]) -> Iterator[Difference]:
    """Yield what is annotated differently of the enclaves, which are the same ones if their paths are."""
    old, new = {note.path: note for note in before}, {note.path: note for note in after}
    for path in sorted({*old, *new}):
        for field in ("mrenclave", "mrsigner", "isvprodid", "isvsvn", "debug_allowed", "epc_bytes", "threads", "format"):
            first, second = (str(getattr(notes.get(path), field, "")) for notes in (old, new))
            if first != second:
                yield Difference(what=f"enclave {path} {field.replace('_', '-')}", before=first, after=second)


def diff_start(before: Image, after: Image) -> Iterator[Difference]:
    """Yield what differs in how containers of the images start."""
    for field in ("entrypoint", "command", "environment", "user", "working_directory", "architecture", "os"):
        first, second = getattr(before.config, field), getattr(after.config, field)
        if first != second:
            yield Difference(what=field.replace("_", " "), before=_words(first), after=_words(second))


def _file(file: ImageFile | None) -> str:
    if file is None:
        return ""
    content = f", {file.size_bytes} bytes, sha256 {file.sha256[:16]}" if file.sha256 else f" to {file.target}" if file.target else ""
    return f"{file.kind.value}{content}, mode {file.mode:04o}, {file.owner}"


def _words(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)
