"""The cluster file: read, checked against ``spec.py``, and its JSON schema. What the types cannot say is in ``rules.py``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import msgspec

from kubenclave.cluster.file.fields import faults
from kubenclave.cluster.file.yaml_document import parse, path_text
from kubenclave.cluster.spec import ClusterSpec
from kubenclave.errors import NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kubenclave.cluster.file.fields import Fault

# A hundred pools with ten labels and taints each take half of this; the slowest text found of this size takes some 4 s to refuse.
_MAX_FILE_BYTES = 128 * 1024
# More than this many mistakes in one go are seldom read.
_MAX_FAULTS = 10
_DOCUMENTATION = "docs/reference/cluster-file.md describes every field"


def read_cluster_file(path: Path) -> ClusterSpec:
    """Read a cluster file.

    Raises:
        UsageError: It cannot be read, is no YAML, or does not fit; each mistake is told as ``file:line: field: what``.
        NotFound: There is no such file.
    """
    return parse_cluster(_text(path), str(path))


def parse_cluster(text: str, source: str) -> ClusterSpec:
    """Return the cluster that a cluster file's text describes.

    Args:
        text: YAML.
        source: Where it is from, for messages.

    Raises:
        UsageError: As ``read_cluster_file``.
    """
    document = parse(text, source)

    def told(fault: Fault) -> str:
        # A field that is missing has no line; what it is missing from has one.
        line = next(document.lines[fault.path[:end]] for end in range(len(fault.path), -1, -1) if fault.path[:end] in document.lines)
        return f"{source}:{line}: {path_text(fault.path) or 'the file'}: {fault.what}"

    return cluster_of(document.value, told, hint=_DOCUMENTATION)


def cluster_of(value: object, told: Callable[[Fault], str], *, hint: str) -> ClusterSpec:
    """Return plain values, as JSON would hold them, as a cluster.

    Args:
        value: What a cluster file says.
        told: How one fault is told, with where it stands.
        hint: What to do about it.

    Raises:
        UsageError: They do not fit; at most ten faults are told, each on a line.
    """
    found = list(faults(value, ClusterSpec))
    if found:
        lines = [told(fault) for fault in found[:_MAX_FAULTS]]
        more = [f"and {len(found) - _MAX_FAULTS} more"] if len(found) > _MAX_FAULTS else []
        raise UsageError("\n".join(lines + more), hint)
    return msgspec.convert(value, ClusterSpec)


def schema() -> dict[str, object]:
    """Return the published JSON schema of the cluster file. It says what the types say, not what ``rules.check`` says."""
    made = _tidied(msgspec.json.schema(ClusterSpec))
    head: dict[str, object] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:kubenclave:cluster-file",
        "title": "Kubenclave cluster file",
    }
    return head | made if isinstance(made, dict) else head


def _tidied(part: object) -> object:
    """Return a part of a schema whose descriptions, taken from docstrings, are one paragraph without marks."""
    if isinstance(part, dict):
        return {
            key: " ".join(inspect.cleandoc(value).split()).replace("``", "")
            if key == "description" and isinstance(value, str)
            else _tidied(value)
            for key, value in part.items()
        }
    return [_tidied(item) for item in part] if isinstance(part, (list, tuple)) else part


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError as exc:
        raise NotFound(f"there is no cluster file {path}", "name a file that is there, or give the cluster by flags") from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise UsageError(f"{path}: the cluster file cannot be read: {reason}", "see its name and permissions") from exc
    if len(content) > _MAX_FILE_BYTES:
        raise UsageError(f"{path}: larger than {_MAX_FILE_BYTES} bytes, and so no cluster file", "name another file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise UsageError(f"{path}:{line}: a byte stands here that is no UTF-8", "save the file as UTF-8") from exc
