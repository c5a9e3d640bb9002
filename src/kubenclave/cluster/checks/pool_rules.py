"""Checks of each node pool by itself: bounds, mode, spot, size, labels and taints. Pure; a part of ``rules.py``."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from kubenclave.cluster.findings import Finding
from kubenclave.cluster.recommend import LEAST_CORES
from kubenclave.cluster.sizes import known_size
from kubenclave.cluster.spec import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.cluster.spec import ClusterSpec, Pool

_SYSTEM_PAGE = "azure-aks-docs use-system-pools.md (2026-04-30)"
_LABELS_PAGE = "azure-aks-docs use-labels.md (2024-06-10)"
_RESERVED_PREFIXES = ("kubernetes.azure.com/", "kubernetes.io/")
_RESERVED_LABELS = frozenset({"node.kubernetes.io/instance-type", "topology.kubernetes.io/region", "topology.kubernetes.io/zone"})
_MIN_SYSTEM_CORES = 4
_BURSTABLE = re.compile(r"standard_b[0-9]", re.IGNORECASE)


def pool_findings(spec: ClusterSpec) -> Iterator[Finding]:
    """Yield what is found about each pool."""
    for pool in spec.pools:
        for rule in (_autoscale, _spot, _size, _labels, _taints):
            yield from rule(pool)


def _autoscale(pool: Pool) -> Iterator[Finding]:
    bounds = pool.autoscale
    if bounds is None:
        return
    about = f"pools[{pool.name}].autoscale"
    if bounds.min > bounds.max:
        yield Finding(
            about=about,
            what=f"min {bounds.min} is more than max {bounds.max}",
            evidence="minCount and maxCount of an agent pool",
            fix="exchange them",
            blocks=True,
        )
    elif not bounds.min <= pool.count <= bounds.max:
        yield Finding(
            about=about,
            what=f"the pool starts with count {pool.count}, outside of {bounds.min} to {bounds.max}",
            evidence="AKS wants the count of an autoscaled pool within its bounds",
            fix=f"set count to {bounds.min}, or widen the bounds",
            blocks=True,
        )
    if bounds.min == 0 and pool.mode is Mode.SYSTEM:
        yield Finding(
            about=about,
            what="a System pool cannot be scaled to nothing",
            evidence=f"only User pools can have zero nodes: {_SYSTEM_PAGE}",
            fix="set min to 1 or more, or mode: User",
            blocks=True,
        )


def _spot(pool: Pool) -> Iterator[Finding]:
    if pool.spot and pool.mode is Mode.SYSTEM:
        yield Finding(
            about=f"pools[{pool.name}].spot",
            what="a System pool cannot be of spot nodes",
            evidence=f"spot node pools require User pools: {_SYSTEM_PAGE}",
            fix="leave spot out, or set mode: User",
            blocks=True,
        )


def _size(pool: Pool) -> Iterator[Finding]:
    about = f"pools[{pool.name}].vmSize"
    if pool.vm_size.lower() == "standard_dc8s_v2":
        yield Finding(
            about=about,
            what="there is no Standard_DC8s_v2: the largest DCsv2 has no s in its name",
            evidence="azure-docs dcv2-series.md",
            fix="Standard_DC8_v2 is meant; Standard_DC8s_v3 is its successor",
            blocks=True,
        )
    size = known_size(pool.vm_size)
    system = pool.mode is Mode.SYSTEM
    if size is not None and size.cores < LEAST_CORES:
        yield Finding(
            about=about,
            what=f"{size.name} has one vCPU, and AKS may refuse it",
            evidence="VM sizes with fewer than two CPUs may not be used with AKS: azure-aks-docs quotas-skus-regions.md (2024-01-12)",
            fix="take a size with at least two",
            blocks=False,
        )
    elif size is not None and system and size.cores < _MIN_SYSTEM_CORES:
        yield Finding(
            about=about,
            what=f"{size.name} has {size.cores} vCPUs, and a System pool should have {_MIN_SYSTEM_CORES} on each node",
            evidence=_SYSTEM_PAGE,
            fix="take a larger size for the System pool, such as Standard_D4s_v5",
            blocks=False,
        )
    if system and _BURSTABLE.match(pool.vm_size):
        yield Finding(
            about=about,
            what="sizes of the B series are not supported for System pools",
            evidence=_SYSTEM_PAGE,
            fix="take a size such as Standard_D4s_v5",
            blocks=False,
        )


def _labels(pool: Pool) -> Iterator[Finding]:
    for label in pool.labels:
        if label.startswith(_RESERVED_PREFIXES) or label in _RESERVED_LABELS:
            yield Finding(
                about=f"pools[{pool.name}].labels",
                what=f"the label {label} is AKS's own",
                evidence=f"{', '.join(_RESERVED_PREFIXES)} and some labels are reserved: {_LABELS_PAGE}",
                fix="take a prefix of your own, such as example.com/",
                blocks=True,
            )


def _taints(pool: Pool) -> Iterator[Finding]:
    for (key, effect), times in Counter((taint.key, taint.effect) for taint in pool.taints).items():
        if times > 1:
            yield Finding(
                about=f"pools[{pool.name}].taints",
                what=f"the taint {key} with the effect {effect} stands {times} times",
                evidence="Kubernetes refuses a node on which key and effect of a taint are not unique",
                fix="keep one of them",
                blocks=True,
            )
