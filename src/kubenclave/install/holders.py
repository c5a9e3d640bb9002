"""Which pods hold how much EPC. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.install.objects import Resource
    from kubenclave.kube import Pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A pod on a node with the EPC that is set aside for it; ``pod`` is written namespace/name."""

    pod: str
    node: str
    epc_bytes: int


def holders(pods: Sequence[Pod], resources: Sequence[Resource], claimed: Sequence[Holder]) -> tuple[Holder, ...]:
    """Return the pods that hold EPC by requests or by resource claims, those of one node together.

    Args:
        pods: All pods; one that has ended, or is on no node yet, holds nothing.
        resources: The names by which EPC may be asked for.
        claimed: What pods hold by resource claims.
    """
    asking = [
        Holder(
            pod=f"{pod.namespace}/{pod.name}",
            node=pod.node,
            epc_bytes=sum(pod.requests.get(resource.name, 0) * resource.unit_bytes for resource in resources),
        )
        for pod in pods
        if pod.node and not pod.finished
    ]
    found = [holder for holder in (*asking, *claimed) if holder.epc_bytes > 0]
    return tuple(sorted(found, key=lambda holder: (holder.node, holder.pod)))
