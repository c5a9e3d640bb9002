"""What the admission rules know of the cluster: the most EPC that one pod or claim can have, by dialect. Pure.

It stands in the rule itself, as a map in CEL, which JSON is as well. Not in a parameter of the rule: the API server (seen with 1.37.2)
freezes a parameter once the last rule with parameters of its kind is removed, also for a rule that is made anew, and would judge by the
limits of an installation that is long gone. The rules cannot look at nodes either, so what they know can become stale: ``stale`` says so.
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
# In the place of a dialect: EPC by resource claims, in bytes.
CLAIMS = "claims"


def largest(nodes: Sequence[Node], resources: Sequence[Resource], claimable_bytes: int) -> dict[str, int]:
    """Return by dialect the most units that one node offers; dialects that none offers are left out.

    Args:
        nodes: All nodes.
        resources: The names by which EPC may be offered.
        claimable_bytes: The most that one resource claim can have.
    """
    most = {resource.dialect: max((node.allocatable.get(resource.name, 0) for node in nodes), default=0) for resource in resources}
    return {dialect: units for dialect, units in (most | {CLAIMS: claimable_bytes}).items() if units > 0}


def renewed(known: dict[str, int], offered: dict[str, int]) -> dict[str, int]:
    """Return what the rules are to know from now on: the most that was ever offered.

    A node that is away may come back, and a pool of large nodes that was scaled to zero grows by the very pod that only it could serve.
    """
    return {dialect: max(known.get(dialect, 0), offered.get(dialect, 0)) for dialect in known | offered}


def stale(known: Mapping[str, int], offered: Mapping[str, int]) -> str:
    """Say where the rules know of less than the nodes offer; nothing where they do not, or know nothing and so refuse nothing."""
    differing = [dialect for dialect, units in offered.items() if known.get(dialect, 0) < units]
    if not known or not differing:
        return ""
    words = [f"{dialect} {known.get(dialect, 'none')}, the nodes offer {offered[dialect]}" for dialect in differing]
    return f"the admission rules judge by limits of another time ({'; '.join(words)})"


def largest_in(policies: Sequence[Document]) -> dict[str, int]:
    """Return what the installed rule knows; nothing where it is not there or was changed beyond recognition."""
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
