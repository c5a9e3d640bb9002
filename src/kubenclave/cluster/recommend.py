"""Which VM sizes fit a number of pods that each need an amount of EPC. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.cluster.sizes import Standing, Tee, VmSize, standing
from kubenclave.errors import Refused, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

# What AKS gives a node by default with Azure CNI (AKSNodeClass documentation, maxPods); other network plugins allow more.
DEFAULT_MAX_PODS = 30
# VM sizes with fewer CPUs may not be used with AKS (azure-aks-docs quotas-skus-regions.md, 2024-01-12), though some have been.
LEAST_CORES = 2
# An allowance for the daemon sets that AKS itself puts on a node. Estimated, not measured: `kubectl get pods -A -o wide` tells.
SYSTEM_PODS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Say how the pods fit on nodes of one size.

    Attributes:
        size: The VM size.
        nodes: How many nodes are needed.
        pods_per_node: How many of the pods one node holds at most.
        cores: Cores of all nodes together: what the quota must allow.
        spare_epc_bytes: Nominal EPC left on the fullest node. Small means that the real node, which offers less, may be too small.
    """

    size: VmSize
    nodes: int
    pods_per_node: int
    cores: int
    spare_epc_bytes: int


def recommend(sizes: Iterable[VmSize], *, epc_bytes: int, pods: int, today: date, max_pods: int = DEFAULT_MAX_PODS) -> tuple[Fit, ...]:
    """Return the sizes that can hold the pods, best first: fewest cores, then fewest nodes, then by name.

    Sizes with fewer than LEAST_CORES come last.

    Sizes without SGX, those that are retired on this day and those whose EPC no document says are left out. Only EPC and the number of
    pods are weighed: what the pods need of cores and memory is not known here.

    Args:
        sizes: The sizes to choose from.
        epc_bytes: EPC that each pod asks for, at least 1.
        pods: How many pods run at once, at least 1.
        today: The day that retirements are seen from.
        max_pods: The kubelet's limit of pods per node, of which SYSTEM_PODS are taken.

    Raises:
        UsageError: A number is too small to mean anything.
        Refused: No size has enough EPC for one pod.
    """
    if epc_bytes < 1 or pods < 1:
        raise UsageError(f"{pods} pods with {epc_bytes} bytes of EPC each cannot be placed", "both must be at least 1")
    if max_pods <= SYSTEM_PODS:
        raise UsageError(
            f"a limit of {max_pods} pods per node leaves none", f"the system's own pods take {SYSTEM_PODS}; give a higher limit"
        )
    usable = [
        (size, size.epc_bytes)
        for size in sizes
        if size.tee is Tee.SGX and size.epc_bytes is not None and standing(size, today=today) is not Standing.RETIRED
    ]
    fits = [_fit(size, size_epc, epc_bytes, pods, max_pods) for size, size_epc in usable if size_epc >= epc_bytes]
    if not fits:
        largest = max((size_epc for _, size_epc in usable), default=0)
        raise Refused(
            f"no VM size with SGX offers {epc_bytes} bytes of EPC to one pod: the largest has {largest}",
            "make the enclave smaller, or use a TDX or SEV-SNP node, which protects a whole VM",
        )
    return tuple(sorted(fits, key=lambda fit: (fit.size.cores < LEAST_CORES, fit.cores, fit.nodes, fit.size.name)))


def _fit(size: VmSize, size_epc_bytes: int, epc_bytes: int, pods: int, max_pods: int) -> Fit:
    pods_per_node = min(size_epc_bytes // epc_bytes, max_pods - SYSTEM_PODS)
    nodes = -(-pods // pods_per_node)
    fullest = min(pods, pods_per_node)
    return Fit(
        size=size, nodes=nodes, pods_per_node=pods_per_node, cores=nodes * size.cores, spare_epc_bytes=size_epc_bytes - fullest * epc_bytes
    )
