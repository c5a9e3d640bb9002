"""What the types of a cluster cannot say: checks of a spec against itself. Pure; asks nobody and knows no date.

Each rule names its source. What blocks is refused by Azure in the documentation's words; what does not block is made, and surprises.
Retirements by date, quota, and what the region offers are for ``preflight.py``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from kubenclave.cluster.body import scale_from_zero_tags
from kubenclave.cluster.checks.pool_rules import pool_findings
from kubenclave.cluster.checks.sgx_rules import sgx_findings
from kubenclave.cluster.findings import Finding
from kubenclave.cluster.spec import OWNER_TAG, Mode, Network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.cluster.spec import ClusterSpec, Pool

# Azure's own message: "The length of the node resource group name is too long. The maximum length is 80".
_MAX_NODE_GROUP_CHARACTERS = 80
# azure-resource-manager, tag-resources.md: 50 tags on a resource; reserved prefixes.
_MAX_TAGS = 50
_RESERVED_TAG_PREFIXES = ("microsoft", "azure", "windows")
# Set by the client for every request; one from a file would replace what authenticates or frames it.
_OWN_HEADERS = frozenset({"authorization", "host", "content-length", "content-type", "transfer-encoding", "connection", "accept"})
# kubenclave asks for the tier Free.
_LIMITS = "the tier Free has at most 1,000 nodes: azure-aks-docs free-standard-pricing-tiers.md (2026-07-06)"
_MAX_NODES = 1000
_OVERLAY_PAGE = "azure-aks-docs concepts-network-azure-cni-overlay.md (2024-05-14)"
_MAX_KUBENET_NODES = 400
# Without a range of one's own, pods get theirs from 10.244.0.0/16 (the ARM schema's default), a /24 for each node. With the flat network
# they share the subnet that AKS makes, seen as 10.224.0.0/16 and not documented, of which Azure keeps five addresses.
_MAX_NODES_OF_DEFAULT_POD_RANGE = 256
_DEFAULT_SUBNET_ADDRESSES = (1 << 16) - 5
_DEFAULT_MAX_PODS = {Network.AZURE: 30, Network.AZURE_OVERLAY: 250, Network.KUBENET: 110}
# Pods that AKS itself needs room for on the System pools.
_MIN_SYSTEM_PODS = 30


def check(spec: ClusterSpec) -> tuple[Finding, ...]:
    """Return what is wrong or surprising about a cluster as it is described, what blocks first."""
    rules = (_names, _system_pools, _pool_names, pool_findings, sgx_findings, _network, _node_counts, _tags, _headers, _features)
    found = [finding for rule in rules for finding in rule(spec)]
    return tuple(sorted(found, key=lambda finding: not finding.blocks))


def _names(spec: ClusterSpec) -> Iterator[Finding]:
    made = f"MC_{spec.group}_{spec.name}_{spec.location}"
    if len(made) > _MAX_NODE_GROUP_CHARACTERS:
        yield Finding(
            about="name",
            what=f"the group that AKS makes for the nodes, {made}, has {len(made)} characters; {_MAX_NODE_GROUP_CHARACTERS} are allowed",
            evidence="AKS refuses it: The length of the node resource group name is too long (aka.ms/aks-naming-rules)",
            fix=f"make group and name shorter by {len(made) - _MAX_NODE_GROUP_CHARACTERS} characters together",
            blocks=True,
        )


def _system_pools(spec: ClusterSpec) -> Iterator[Finding]:
    source = "azure-aks-docs use-system-pools.md (2026-04-30)"
    system = [pool for pool in spec.pools if pool.mode is Mode.SYSTEM]
    if not any(_fewest(pool) > 0 for pool in system):
        yield Finding(
            about="pools",
            what="no System pool has a node: the cluster's own pods would run nowhere",
            evidence=f"a cluster needs at least one System pool: {source}",
            fix="add a pool with mode: System and a count of at least 1, of an ordinary size such as Standard_D4s_v5",
            blocks=True,
        )
        return
    room = sum(_fewest(pool) * _max_pods(spec, pool) for pool in system)
    if room < _MIN_SYSTEM_PODS:
        yield Finding(
            about="pools",
            what=f"the System pools have room for {room} pods, and AKS wants {_MIN_SYSTEM_PODS}",
            evidence=f"System pools must support at least {_MIN_SYSTEM_PODS} pods: {source}",
            fix="raise maxPods or count of a System pool",
            blocks=True,
        )
    if sum(_fewest(pool) for pool in system) == 1:
        yield Finding(
            about=f"pools[{system[0].name}].count",
            what="a single System node: while it is replaced or repaired, the cluster's own pods do not run",
            evidence=f"for production at least two nodes are asked for: {source}",
            fix="set count: 2 where the cluster has to stay up",
            blocks=False,
        )


def _pool_names(spec: ClusterSpec) -> Iterator[Finding]:
    for name, times in Counter(pool.name for pool in spec.pools).items():
        if times > 1:
            yield Finding(
                about=f"pools[{name}].name",
                what=f"{times} pools have the name {name}",
                evidence="a pool is a resource under its cluster; its name tells it from the others",
                fix="give each pool a name of its own",
                blocks=True,
            )


def _network(spec: ClusterSpec) -> Iterator[Finding]:
    if spec.network is Network.KUBENET:
        yield Finding(
            about="network",
            what="kubenet ends on 2028-03-31",
            evidence="Azure/EOL service list",
            fix="take network: azure-overlay, or azure with DCsv2 nodes",
            blocks=False,
        )
    nodes = sum(_most(pool) for pool in spec.pools)
    if spec.network is Network.KUBENET and nodes > _MAX_KUBENET_NODES:
        yield Finding(
            about="network",
            what=f"up to {nodes} nodes, and kubenet has room for {_MAX_KUBENET_NODES}",
            evidence=_OVERLAY_PAGE,
            fix="take network: azure-overlay, or fewer nodes",
            blocks=True,
        )
    elif spec.network is not Network.AZURE and nodes > _MAX_NODES_OF_DEFAULT_POD_RANGE:
        yield Finding(
            about="network",
            what=f"up to {nodes} nodes, and the range of pod addresses that AKS gives has room for {_MAX_NODES_OF_DEFAULT_POD_RANGE}",
            evidence=f"each node takes a /24: {_OVERLAY_PAGE}; without a range of its own a cluster gets 10.244.0.0/16 (ARM schema)",
            fix="keep the pools' most nodes together below that",
            blocks=False,
        )
    addresses = sum(_most(pool) * (_max_pods(spec, pool) + 1) for pool in spec.pools)
    if spec.network is Network.AZURE and addresses > _DEFAULT_SUBNET_ADDRESSES:
        yield Finding(
            about="network",
            what=f"nodes and their pods take up to {addresses} addresses, and the subnet that AKS makes has {_DEFAULT_SUBNET_ADDRESSES}",
            evidence="each node reserves an address for each pod it may have: azure-aks-docs concepts-network-legacy-cni.md (2024-05-29)",
            fix="take network: azure-overlay, or lower maxPods or the number of nodes",
            blocks=False,
        )


def _node_counts(spec: ClusterSpec) -> Iterator[Finding]:
    nodes = sum(_most(pool) for pool in spec.pools)
    if nodes > _MAX_NODES:
        yield Finding(
            about="pools",
            what=f"the pools have up to {nodes} nodes together; a cluster of the tier Free has at most {_MAX_NODES}",
            evidence=_LIMITS,
            fix="lower count or autoscale.max",
            blocks=sum(pool.count for pool in spec.pools) > _MAX_NODES,
        )


def _tags(spec: ClusterSpec) -> Iterator[Finding]:
    # One mark of ownership, and what an empty pool tells the autoscaler.
    own = 1 + max(len(scale_from_zero_tags(spec, pool)) for pool in spec.pools)
    if len(spec.tags) + own > _MAX_TAGS:
        yield Finding(
            about="tags",
            what=f"{len(spec.tags)} tags and {own} that kubenclave sets are more than {_MAX_TAGS}",
            evidence="a resource has at most 50 tags: azure-resource-manager tag-resources.md",
            fix=f"leave out {len(spec.tags) + own - _MAX_TAGS}",
            blocks=True,
        )
    for name, times in Counter(tag.lower() for tag in spec.tags).items():
        if name == OWNER_TAG:
            what, fix = "this tag marks what belongs to a cluster and is set by kubenclave", "leave it out"
        elif name.startswith(_RESERVED_TAG_PREFIXES):
            what, fix = f"Azure reserves tags that begin with {', '.join(_RESERVED_TAG_PREFIXES)}", "take another name"
        elif times > 1:
            what, fix = "this tag stands more than once: to Azure, small letters and capitals are the same in it", "keep one of them"
        else:
            continue
        evidence = "azure-aks-docs use-tags.md (2023-06-16), azure-resource-manager tag-resources.md"
        yield Finding(about=f"tags.{name}", what=what, evidence=evidence, fix=fix, blocks=True)


def _headers(spec: ClusterSpec) -> Iterator[Finding]:
    for name, times in Counter(header.lower() for header in spec.headers).items():
        if name in _OWN_HEADERS or times > 1:
            yield Finding(
                about=f"headers.{name}",
                what="this header stands more than once" if times > 1 else "this header is set for every request by the client itself",
                evidence="names of HTTP headers do not tell small letters from capitals: RFC 9110, section 5.1",
                fix="keep one of them" if times > 1 else "leave it out",
                blocks=True,
            )
        elif name == "usegen2vm":
            yield Finding(
                about=f"headers.{name}",
                what="this header of 2020 has no effect any more: SGX sizes are generation 2 only, and AKS takes that by itself",
                evidence="azure-aks-docs aks-virtual-machine-sizes.md, generation-2-vms.md",
                fix="leave it out",
                blocks=False,
            )


def _features(spec: ClusterSpec) -> Iterator[Finding]:
    for feature in spec.features:
        if feature.lower() == "microsoft.containerservice/gen2vmpreview":
            yield Finding(
                about="features",
                what="Gen2VMPreview was for the preview of 2020; its registration may stay pending for ever, and nothing needs it",
                evidence="generation 2 is generally available and the default: azure-aks-docs generation-2-vms.md",
                fix="leave it out",
                blocks=False,
            )


def _max_pods(spec: ClusterSpec, pool: Pool) -> int:
    return pool.max_pods if pool.max_pods is not None else _DEFAULT_MAX_PODS[spec.network]


def _fewest(pool: Pool) -> int:
    return pool.count if pool.autoscale is None else min(pool.count, pool.autoscale.min)


def _most(pool: Pool) -> int:
    return pool.count if pool.autoscale is None else max(pool.count, pool.autoscale.max)
