"""What the admission rules know of the cluster: the most EPC that one of its nodes offers, by dialect. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.install.objects import LABELS, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from kubenclave.install.objects import Resource
    from kubenclave.kube import Document, Node

# Named in deploy/admission.yaml as the parameter of the policy of the same name.
NAME = "kubenclave-epc-offered"


def limits(nodes: Sequence[Node], resources: Sequence[Resource], seen: datetime) -> Document | None:
    """Return the ConfigMap that the rules read; None where no node offers EPC, so that an older one stays as it is.

    Args:
        nodes: All nodes.
        resources: The names by which EPC may be offered.
        seen: When the nodes were looked at.
    """
    largest = {resource.dialect: max((node.allocatable.get(resource.name, 0) for node in nodes), default=0) for resource in resources}
    offered = {dialect: str(units) for dialect, units in largest.items() if units > 0}
    if not offered:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": dict(LABELS)},
        "data": {**offered, "seen": seen.strftime("%Y-%m-%dT%H:%M:%SZ")},
    }
