"""Which local Kubernetes stands behind which managed cluster: what is wanted, and whether an operation still waits for it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from kubenclave.local.azure.catalogue import find_size

if TYPE_CHECKING:
    from kubenclave.local.azure.state import Cluster, Kubernetes, Operation, State
    from kubenclave.local.azure.values import Body

# A managed cluster may ask for a thousand nodes; a developer's machine carries a few. The rest is in the bodies only.
MAX_NODES_OF_A_KIND = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """State what a node of the local Kubernetes bears of its pool: labels, and taints as ``key=value:effect``."""

    node: str
    labels: dict[str, str]
    taints: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """State which nodes the local Kubernetes is to have, and what they bear. Its simulated EPC is that of the first SGX pool."""

    sgx_nodes: int
    plain_nodes: int
    epc_bytes: int
    marks: tuple[Mark, ...] = ()

    @property
    def marks_text(self) -> str:
        """Return the marks as one text, to keep and to compare."""
        return json.dumps([[mark.node, mark.labels, mark.taints] for mark in self.marks], sort_keys=True)


def local_name(key: str) -> str:
    """Name the local cluster behind a managed one; stable, and short enough for a cluster's name."""
    return f"azure-{sha256(key.encode()).hexdigest()[:8]}"


def wanted(state: State) -> dict[str, Backing]:
    """State every local cluster that is to be there, by its name."""
    if not state.settings.kubernetes:
        return {}
    return {local_name(key): backing(each) for key, each in state.clusters.items() if not each.deleting and not each.doomed}


def backing(cluster: Cluster) -> Backing:
    """State the local nodes that a cluster's pools come to."""
    sgx: list[Body] = []
    plain: list[Body] = []
    epc_mib = 0
    for pool in cluster.body["properties"]["agentPoolProfiles"]:
        size = find_size(pool["vmSize"])
        has_sgx = size is not None and bool(size.epc_mib)
        (sgx if has_sgx else plain).extend([pool] * min(int(pool["count"]), MAX_NODES_OF_A_KIND))
        epc_mib = epc_mib or (size.epc_mib if size is not None else 0)
    sgx, plain = sgx[:MAX_NODES_OF_A_KIND], plain[:MAX_NODES_OF_A_KIND]
    named = [
        *((f"sgx-{number}", pool) for number, pool in enumerate(sgx, 1)),
        *((f"plain-{number}", pool) for number, pool in enumerate(plain, 1)),
    ]
    return Backing(
        sgx_nodes=len(sgx),
        # A cluster of which every pool is scaled to zero still has an API server to talk to.
        plain_nodes=len(plain) or (0 if sgx else 1),
        epc_bytes=(epc_mib << 20) if sgx else 0,
        marks=tuple(_mark(name, pool) for name, pool in named),
    )


def _mark(node: str, pool: Body) -> Mark:
    """Give the labels by which AKS tells nodes of a pool, and what the pool was given."""
    own = {
        "agentpool": str(pool["name"]),
        "kubernetes.azure.com/agentpool": str(pool["name"]),
        "kubernetes.azure.com/mode": str(pool.get("mode", "User")).lower(),
        "node.kubernetes.io/instance-type": str(pool["vmSize"]),
    }
    given = pool.get("nodeLabels") or {}
    return Mark(node=node, labels={**given, **own}, taints=tuple(str(taint) for taint in pool.get("nodeTaints") or ()))


def is_as(have: Kubernetes, goal: Backing) -> bool:
    """Tell whether a local Kubernetes is, or is being made, what is wanted."""
    return (have.sgx_nodes, have.plain_nodes, have.epc_bytes, have.marks) == (
        goal.sgx_nodes,
        goal.plain_nodes,
        goal.epc_bytes,
        goal.marks_text,
    )


def waits(state: State, operation: Operation) -> bool:
    """Tell whether an operation may not end yet because the local Kubernetes is not as it says."""
    if operation.kind == "delete-group":
        names = [local_name(key) for key in state.clusters if key.startswith(f"{operation.target}/")]
        return any(name in state.kubernetes for name in names)
    name = local_name(operation.target)
    if operation.kind == "delete-cluster":
        return name in state.kubernetes
    goal = wanted(state).get(name)
    have = state.kubernetes.get(name)
    if goal is None:
        return False
    return have is None or have.phase == "working" or not is_as(have, goal)


def failure(state: State, operation: Operation) -> str:
    """Give why the local Kubernetes of an operation's cluster could not be made; empty where it could."""
    if operation.kind not in {"put-cluster", "put-pool"} or not state.settings.kubernetes:
        return ""
    have = state.kubernetes.get(local_name(operation.target))
    return have.error if have is not None and have.phase == "failed" else ""
