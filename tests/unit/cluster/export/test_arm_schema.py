"""ARM templates fit the published schema of AKS."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from kubenclave.cluster.export import Form, export
from kubenclave.cluster.spec import ClusterSpec

SCHEMA = Path(__file__).resolve().parents[5] / "shared" / "data" / "azure" / "schema_2026-05-01_Microsoft.ContainerService.Aks.json"
EXPRESSION = "https://schema.management.azure.com/schemas/common/definitions.json#/definitions/expression"
SPEC = {
    "name": "brandNewCluster",
    "group": "sconaksg",
    "location": "uksouth",
    "kubernetesVersion": "1.35",
    "identity": "service-principal",
    "network": "azure-overlay",
    "sgx": {"by": "addon", "quoteHelper": True},
    "sshKey": "ssh-ed25519 " + "A" * 44,
    "tags": {"a": "[b]"},
    "pools": [
        {"name": "system", "vmSize": "Standard_D4s_v5", "mode": "System", "labels": {"a": "b"}},
        {
            "name": "sgx",
            "vmSize": "Standard_DC2s_v3",
            "autoscale": {"min": 0, "max": 3},
            "taints": [{"key": "a"}],
            "spot": True,
            "maxPods": 40,
        },
    ],
}


@pytest.fixture(scope="module")
def validator():
    if not SCHEMA.exists():
        pytest.skip(f"the published ARM schema is not at {SCHEMA}")
    # An expression instead of a value: the schema refers to another file for it. An empty schema would make every oneOf ambiguous.
    text = SCHEMA.read_text(encoding="utf-8")
    document = replaced(json.loads(text))
    return jsonschema.Draft4Validator({**document["resourceDefinitions"]["managedClusters"], "definitions": document["definitions"]})


def replaced(node):
    if isinstance(node, dict):
        if node.get("$ref") == EXPRESSION:
            return {"type": "string", "pattern": r"^\[.*\]$"}
        return {key: replaced(value) for key, value in node.items()}
    return [replaced(item) for item in node] if isinstance(node, list) else node


@pytest.mark.parametrize("identity", ["managed", "service-principal"])
@pytest.mark.parametrize("network", ["azure", "azure-overlay", "kubenet"])
def test_a_template_fits_the_schema(validator, identity, network):
    (resource,) = json.loads(export(msgspec.convert(SPEC | {"identity": identity, "network": network}, ClusterSpec), Form.ARM))["resources"]
    assert [error.message for error in validator.iter_errors(resource)] == []


def test_the_schema_would_tell_a_wrong_word(validator):
    (resource,) = json.loads(export(msgspec.convert(SPEC, ClusterSpec), Form.ARM))["resources"]
    resource["properties"]["agentPoolProfiles"][1]["scaleSetPriority"] = "Cheap"
    assert list(validator.iter_errors(resource))
