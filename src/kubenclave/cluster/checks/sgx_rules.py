"""Checks of what a cluster says about SGX: sizes, add-on, labels, and TEEs that are something else. Pure; a part of ``rules.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.body import is_system, sgx_pools
from kubenclave.cluster.findings import Finding
from kubenclave.cluster.sizes import Tee, known_size, tee_of
from kubenclave.cluster.spec import Effect, Network, Sgx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.cluster.spec import ClusterSpec, Pool

# The label in the node agent's nodeSelector, as kubenclave.install has it.
NODE_LABEL = ("tee", "sgx")
_TABLE = "the table of kubenclave cluster sizes"
_KEEPS_OFF = (Effect.NO_SCHEDULE, Effect.NO_EXECUTE)
# What AKS's own pods tolerate (azure-aks-docs use-system-pools.md).
_SYSTEM_TAINT = "CriticalAddonsOnly"


def sgx_findings(spec: ClusterSpec) -> Iterator[Finding]:
    """Yield what is found about SGX in the cluster."""
    for rule in (_wanted, _other_tee, _only_system, _node_label, _from_zero, _overlay, _quote_helper):
        yield from rule(spec)


def _wanted(spec: ClusterSpec) -> Iterator[Finding]:
    pools = sgx_pools(spec)
    if not pools and spec.sgx.by is not Sgx.NONE:
        yield Finding(
            about="sgx.by",
            what="no pool has a VM size with SGX, so there is no EPC to offer",
            evidence=_TABLE,
            fix="add a pool such as Standard_DC2s_v3, or set sgx.by to none",
            blocks=False,
        )
    elif pools and spec.sgx.by is Sgx.NONE:
        yield Finding(
            about="sgx.by",
            what=f"pool {pools[0].name} has SGX, and nothing makes its EPC a resource that pods can ask for",
            evidence="sgx.by is none",
            fix="set sgx.by to node-agent or addon, or install a device plugin of your own",
            blocks=False,
        )


def _other_tee(spec: ClusterSpec) -> Iterator[Finding]:
    if spec.sgx.by is Sgx.NONE:
        return
    for pool in spec.pools:
        tee = tee_of(pool.vm_size)
        if tee in {Tee.SEV_SNP, Tee.TDX} and (not sgx_pools(spec) or _says_sgx(pool)):
            yield Finding(
                about=f"pools[{pool.name}].vmSize",
                what=f"{pool.vm_size} has {tee}, which protects the whole VM; it has no SGX and runs no enclave",
                evidence=_TABLE if known_size(pool.vm_size) else "the rule of Azure's size names: DCa, ECa are SEV-SNP, DCe, ECe are TDX",
                fix="for enclaves take a size with SGX, such as Standard_DC2s_v3",
                blocks=False,
            )


def _only_system(spec: ClusterSpec) -> Iterator[Finding]:
    system = [pool for pool in spec.pools if is_system(pool)]
    having = sgx_pools(spec)
    if system and all(pool in having for pool in system):
        yield Finding(
            about=f"pools[{system[0].name}].mode",
            what="the cluster's own pods run on the SGX nodes, as no other pool is a System pool: they take cores and memory there",
            evidence="the guide's cluster of 2020 was so; azure-aks-docs use-system-pools.md (2026-04-30) advises against it",
            fix="add a System pool of an ordinary size such as Standard_D4s_v5, and make the SGX pool a User pool",
            blocks=False,
        )
    if system and all(_keeps_system_off(pool) for pool in system):
        yield Finding(
            about=f"pools[{system[0].name}].taints",
            what="every System pool has a taint that the cluster's own pods do not tolerate",
            evidence=f"they tolerate {_SYSTEM_TAINT}: azure-aks-docs use-system-pools.md (2026-04-30)",
            fix=f"take the taint {_SYSTEM_TAINT}=true:NoSchedule for a System pool",
            blocks=False,
        )


def _node_label(spec: ClusterSpec) -> Iterator[Finding]:
    key, value = NODE_LABEL
    for pool in sgx_pools(spec):
        if spec.sgx.by is Sgx.NODE_AGENT and pool.labels.get(key) != value:
            yield Finding(
                about=f"pools[{pool.name}].labels",
                what=f"the node agent runs on nodes with the label {key}={value}, and new nodes of this pool have none",
                evidence="the agent's nodeSelector",
                fix=f"add labels: {{{key}: {value}}} to the pool, or label each node with kubenclave node prepare",
                blocks=False,
            )


def _from_zero(spec: ClusterSpec) -> Iterator[Finding]:
    for pool in sgx_pools(spec):
        if spec.sgx.by is Sgx.NODE_AGENT and pool.autoscale is not None and pool.autoscale.min == 0:
            yield Finding(
                about=f"pools[{pool.name}].autoscale",
                what="without a node, the pool is scaled up for pods that ask for sgx.intel.com/epc, and for no other name of EPC",
                evidence="the autoscaler reads each underscore of a name as a slash: kubernetes/autoscaler, azure_template.go",
                fix="install the agent with kubenclave node install --dialect intel, and let pods ask in it; or set min: 1",
                blocks=False,
            )


def _overlay(spec: ClusterSpec) -> Iterator[Finding]:
    for pool in spec.pools:
        size = known_size(pool.vm_size)
        if spec.network is Network.AZURE_OVERLAY and size is not None and size.series == "DCsv2":
            yield Finding(
                about=f"pools[{pool.name}].vmSize",
                what="DCsv2 sizes cannot be used with Azure CNI Overlay",
                evidence="azure-aks-docs concepts-network-azure-cni-overlay.md (2024-05-14)",
                fix="take network: azure, or a size of DCsv3 or DCdsv3",
                blocks=True,
            )


def _quote_helper(spec: ClusterSpec) -> Iterator[Finding]:
    if spec.sgx.quote_helper and spec.sgx.by is not Sgx.ADDON:
        yield Finding(
            about="sgx.quoteHelper",
            what="the quote helper is a part of AKS's add-on, which sgx.by does not ask for",
            evidence="ACCSGXQuoteHelperEnabled is a setting of the add-on ACCSGXDevicePlugin",
            fix="set sgx.by to addon, or leave quoteHelper out",
            blocks=True,
        )


def _says_sgx(pool: Pool) -> bool:
    words = [*pool.labels, *pool.labels.values(), *(taint.key for taint in pool.taints)]
    return any("sgx" in word.lower() for word in words)


def _keeps_system_off(pool: Pool) -> bool:
    return any(taint.effect in _KEEPS_OFF and taint.key != _SYSTEM_TAINT for taint in pool.taints)
