"""The published ARM schema of AKS, against which request bodies are checked where its file and the package jsonschema are there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kubenclave.errors import NotFound, Refused
from kubenclave.local.azure.values import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kubenclave.local.azure.values import Body

# A template expression instead of a value; an empty schema in its place would make every oneOf ambiguous.
_EXPRESSION = {"type": "string", "pattern": r"^\[.*\]$"}
_EXPRESSION_REF = "https://schema.management.azure.com/schemas/common/definitions.json#/definitions/expression"
_TYPES = {
    "managedClusters": "Microsoft.ContainerService/managedClusters",
    "managedClusters_agentPools": "Microsoft.ContainerService/managedClusters/agentPools",
}
MAX_SCHEMA_BYTES = 4 << 20  # the published file has 264 kB


class Schema:
    """Check bodies against the resource definitions of one schema file (draft 4, as published)."""

    def __init__(self, document: Body, api_version: str) -> None:
        from jsonschema import Draft4Validator  # type: ignore[import-untyped]  # noqa: PLC0415 - a package of the tests, not of the command line

        resolved = _replace(document)
        self.api_version = api_version
        self._validators = {
            name: Draft4Validator({**resolved["resourceDefinitions"][name], "definitions": resolved["definitions"]}) for name in _TYPES
        }

    def check(self, definition: str, name: str, body: Body) -> None:
        """Check a request's body as the resource that it stands for.

        Raises:
            Rejected: 400 with the place of the deepest disagreement.
        """
        from jsonschema.exceptions import best_match  # type: ignore[import-untyped]  # noqa: PLC0415

        asked = {key: value for key, value in _without_nulls(body).items() if key not in {"id", "systemData"}}
        whole = {**asked, "name": name, "apiVersion": self.api_version, "type": _TYPES[definition]}
        # None of the schema's "required" speaks of what the service fills in by itself.
        error = best_match(self._validators[definition].iter_errors(whole))
        if error is not None:
            place = ".".join(str(part) for part in error.absolute_path) or "the body"
            raise Rejected(400, "InvalidRequestContent", f"simulated: against the schema {self.api_version}, {place}: {_words(error)}")


def _words(error: Any) -> str:  # noqa: ANN401 - jsonschema has no types
    """Say what is wrong. Every value may also be a template expression; that half of the choice says nothing."""
    inner = error.context[0] if error.context else error
    return str(inner.message)[:500]


def load(path: Path) -> Schema:
    """Read a schema file.

    Raises:
        NotFound: The file or the package jsonschema is not there.
        Refused: It is no schema of Microsoft.ContainerService.
    """
    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_SCHEMA_BYTES)
    except OSError as exc:
        raise NotFound(f"The ARM schema {path} cannot be read: {exc.strerror}.", "Leave --schema away to run without this check.") from exc
    try:
        document = json.loads(raw)
        api_version = document["resourceDefinitions"]["managedClusters"]["properties"]["apiVersion"]["enum"][0]
        return Schema(document, api_version)
    except ModuleNotFoundError as exc:
        raise NotFound(
            "The check against the ARM schema needs the Python package jsonschema.", "Install it, or leave --schema away."
        ) from exc
    except (ValueError, KeyError, IndexError, TypeError) as exc:
        raise Refused(
            f"{path} is no ARM schema of Microsoft.ContainerService.", "Use the published file of azure-resource-manager-schemas."
        ) from exc


def _replace(node: Any) -> Any:  # noqa: ANN401 - a JSON tree, walked whatever it holds
    if isinstance(node, dict):
        if node.get("$ref") == _EXPRESSION_REF:
            return _EXPRESSION
        return {key: _replace(value) for key, value in node.items()}
    return [_replace(item) for item in node] if isinstance(node, list) else node


def _without_nulls(node: Mapping[str, Any]) -> Body:
    """Leave out nulls and empty texts: clients send them for what they leave to the service."""
    kept: Body = {}
    for key, value in node.items():
        if isinstance(value, dict):
            kept[key] = _without_nulls(value)
        elif isinstance(value, list):
            kept[key] = [_without_nulls(item) if isinstance(item, dict) else item for item in value]
        elif value not in (None, ""):
            kept[key] = value
    return kept
