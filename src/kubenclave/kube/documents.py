"""Kubernetes objects as plain documents: read from YAML, and named in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import yaml

from kubenclave.errors import Refused

Document: TypeAlias = Mapping[str, object]


def documents_of(text: str, source: str) -> tuple[Document, ...]:
    """Return the objects in YAML text, those inside a List one by one.

    Args:
        text: One or more YAML documents.
        source: Where the text is from, for messages.

    Raises:
        Refused: The text is not YAML, or holds something that is not a Kubernetes object.
    """
    try:
        found = [document for document in yaml.safe_load_all(text) if document is not None]
    except (yaml.YAMLError, RecursionError) as exc:
        raise Refused(f"{source} is not YAML: {' '.join(str(exc).split())[:300]}", "mend the file") from exc
    return tuple(document for value in found for document in _flat(value, source))


def reference(document: Document) -> tuple[str, str, str, str | None]:
    """Return an object's apiVersion, kind, name and namespace.

    Raises:
        Refused: One of the first three is missing.
    """
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    namespace = metadata.get("namespace") if isinstance(metadata, Mapping) else None
    version, kind = document.get("apiVersion"), document.get("kind")
    if not (isinstance(version, str) and isinstance(kind, str) and isinstance(name, str) and name):
        raise Refused("an object without apiVersion, kind or metadata.name cannot be applied", "name all three in the object")
    return version, kind, name, namespace if isinstance(namespace, str) else None


def name_of(document: Document) -> str:
    """Return an object's kind and name as one says them: ``DaemonSet kubenclave-node``."""
    _, kind, name, _ = reference(document)
    return f"{kind} {name}"


def _flat(value: object, source: str) -> tuple[Document, ...]:
    if not isinstance(value, Mapping):
        raise Refused(f"{source} holds a {type(value).__name__} where a Kubernetes object should be", "mend the file")
    if value.get("kind") == "List":
        items = value.get("items")
        return tuple(document for item in (items if isinstance(items, list) else []) for document in _flat(item, source))
    reference(value)
    return (value,)
