"""What the admission rules know of the cluster: the most EPC that one of its nodes offers, by dialect. Pure.

It stands in the rule itself, as a map in CEL, which JSON is as well. Not in a parameter of the rule: the API server (seen with 1.37.2)
freezes a parameter once the last rule with parameters of its kind is removed, also for a rule that is made anew, and would judge by the
limits of an installation that is long gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubenclave.install.objects import Resource
    from kubenclave.kube import Document, Node

# Of the policy in deploy/admission.yaml, and of the variable in it.
POLICY = "kubenclave-epc-offered"
VARIABLE = "largest"


def largest(nodes: Sequence[Node], resources: Sequence[Resource]) -> dict[str, int]:
    """Return by dialect the most units that one node offers; dialects that none offers are left out.

    Args:
        nodes: All nodes.
        resources: The names by which EPC may be offered.
    """
    most = {resource.dialect: max((node.allocatable.get(resource.name, 0) for node in nodes), default=0) for resource in resources}
    return {dialect: units for dialect, units in most.items() if units > 0}


def largest_in(policies: Sequence[Document]) -> dict[str, int]:
    """Return what the installed rule says; nothing where it is not there or was changed beyond recognition."""
    for policy in policies:
        metadata, spec = policy.get("metadata"), policy.get("spec")
        if isinstance(metadata, Mapping) and metadata.get("name") == POLICY and isinstance(spec, Mapping):
            for variable in spec.get("variables") or []:
                if variable.get("name") == VARIABLE:
                    return _read(str(variable.get("expression")))
    return {}


def _read(expression: str) -> dict[str, int]:
    try:
        said = json.loads(expression)
    except (ValueError, RecursionError):
        return {}
    return {name: units for name, units in said.items() if isinstance(units, int)} if isinstance(said, dict) else {}
