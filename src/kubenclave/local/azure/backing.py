"""Which local Kubernetes stands behind which managed cluster: what is wanted, and whether an operation still waits for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from kubenclave.local.azure.catalogue import find_size

if TYPE_CHECKING:
    from kubenclave.local.azure.state import Cluster, Operation, State

# A managed cluster may ask for a thousand nodes; a developer's machine carries a few. The rest is in the bodies only.
MAX_NODES_OF_A_KIND = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing:
    """State which nodes the local Kubernetes is to have. Its simulated EPC is that of the first SGX pool."""

    sgx_nodes: int
    plain_nodes: int
    epc_bytes: int


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
    sgx = plain = epc_mib = 0
    for pool in cluster.body["properties"]["agentPoolProfiles"]:
        size = find_size(pool["vmSize"])
        if size is not None and size.epc_mib:
            sgx += int(pool["count"])
            epc_mib = epc_mib or size.epc_mib
        else:
            plain += int(pool["count"])
    sgx, plain = min(sgx, MAX_NODES_OF_A_KIND), min(plain, MAX_NODES_OF_A_KIND)
    # A cluster of which every pool is scaled to zero still has an API server to talk to.
    return Backing(sgx_nodes=sgx, plain_nodes=plain or (0 if sgx else 1), epc_bytes=(epc_mib << 20) if sgx else 0)


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
    return (
        have is None
        or have.phase == "working"
        or Backing(sgx_nodes=have.sgx_nodes, plain_nodes=have.plain_nodes, epc_bytes=have.epc_bytes) != goal
    )


def failure(state: State, operation: Operation) -> str:
    """Give why the local Kubernetes of an operation's cluster could not be made; empty where it could."""
    if operation.kind not in {"put-cluster", "put-pool"} or not state.settings.kubernetes:
        return ""
    have = state.kubernetes.get(local_name(operation.target))
    return have.error if have is not None and have.phase == "failed" else ""
