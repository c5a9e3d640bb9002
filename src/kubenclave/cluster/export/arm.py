"""The cluster as an ARM deployment template for ``az deployment group create``. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kubenclave.cluster.export.template import API_VERSION, RESOURCE_TYPE, Parameter, Tree, template

if TYPE_CHECKING:
    from kubenclave.cluster.body import Json
    from kubenclave.cluster.spec import ClusterSpec

_SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"


def arm_template(spec: ClusterSpec) -> str:
    """Return the template as JSON. A service principal and its secret are parameters of it."""
    found = template(spec)
    resource = _json(found.resource)
    document: dict[str, Json] = {
        "$schema": _SCHEMA,
        "contentVersion": "1.0.0.0",
        "metadata": {"resourceGroup": spec.group, "notes": [*found.notes]},
        "parameters": {
            parameter.name: {
                "type": "securestring" if parameter.secret else "string",
                "metadata": {"description": parameter.description},
            }
            for parameter in found.parameters
        },
        "resources": [{"type": RESOURCE_TYPE, "apiVersion": API_VERSION, **resource}] if isinstance(resource, dict) else [],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _json(value: Tree) -> Json:
    if isinstance(value, Parameter):
        return f"[parameters('{value.name}')]"
    if isinstance(value, str):
        return _literal(value)
    if isinstance(value, Mapping):
        return {_literal(key): _json(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_json(item) for item in value]
    return value


def _literal(text: str) -> str:
    """Return text that ARM does not take for an expression: in brackets from end to end, it gets a second one in front."""
    return f"[{text}" if text.startswith("[") and text.endswith("]") else text
