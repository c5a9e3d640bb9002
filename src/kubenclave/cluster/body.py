"""What is sent to Azure for a cluster, and what every export says: one body in ARM's words, made from the spec. Pure.

Source of names and values: the ARM schema of ``Microsoft.ContainerService`` 2026-05-01; the add-on as recorded from the Azure CLI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from kubenclave.cluster.sizes import Tee, known_size
from kubenclave.cluster.spec import Identity, Mode, Network, Sgx

if TYPE_CHECKING:
    from kubenclave.cluster.spec import ClusterSpec, Pool

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Body: TypeAlias = "dict[str, Json]"

ADMIN_USER = "azureuser"
ADDON = "ACCSGXDevicePlugin"
_QUOTE_HELPER = "ACCSGXQuoteHelperEnabled"
# A pool without nodes tells the cluster autoscaler by tags what a node would offer. It reads every underscore of a resource's name as a
# slash, and ~2 as a slash, too (kubernetes/autoscaler, cloudprovider/azure/azure_template.go, extractAllocatableResourcesFromScaleSet): a
# name that has an underscore itself, such as openenclave.io/sgx_epc_MiB, cannot be told.
SCALE_FROM_ZERO = "k8s.io_cluster-autoscaler_node-template_resources_"
_TOLD_EPC, _TOLD_DEVICE = "sgx.intel.com/epc", "sgx.intel.com/enclave"
# Of the device there is one for each pod: how many a node will really hand out is not known before it is there.
_MOST_PODS = 250
_DNS_PREFIX_MAX = 54


def cluster_body(spec: ClusterSpec) -> Body:
    """Return the managed cluster without its service principal's secret, which the engine alone puts in."""
    properties: Body = {
        "dnsPrefix": dns_prefix(spec),
        "enableRBAC": True,
        "networkProfile": network_profile(spec.network),
        "agentPoolProfiles": [{"name": pool.name, **pool_properties(spec, pool)} for pool in spec.pools],
    }
    if spec.kubernetes_version is not None:
        properties["kubernetesVersion"] = spec.kubernetes_version
    if spec.sgx.by is Sgx.ADDON:
        properties["addonProfiles"] = {ADDON: addon_profile(quote_helper=spec.sgx.quote_helper)}
    if spec.ssh_key is not None:
        properties["linuxProfile"] = {"adminUsername": ADMIN_USER, "ssh": {"publicKeys": [{"keyData": spec.ssh_key}]}}
    body: Body = {
        "location": spec.location,
        "tags": {**spec.marked_tags},
        "sku": {"name": "Base", "tier": "Free"},
        "properties": properties,
    }
    if spec.identity is Identity.MANAGED:
        body["identity"] = {"type": "SystemAssigned"}
    return body


def pool_properties(spec: ClusterSpec, pool: Pool) -> Body:
    """Return a pool's properties, as they stand in the cluster's profile and in a resource of its own."""
    properties: Body = {
        "vmSize": pool.vm_size,
        "count": pool.count,
        "mode": pool.mode.value,
        "type": "VirtualMachineScaleSets",
        "osType": "Linux",
        "osSKU": "Ubuntu",
        "enableAutoScaling": pool.autoscale is not None,
        "tags": {**spec.marked_tags, **scale_from_zero_tags(spec, pool)},
    }
    if pool.autoscale is not None:
        properties |= {"minCount": pool.autoscale.min, "maxCount": pool.autoscale.max}
    if pool.labels:
        properties["nodeLabels"] = {**pool.labels}
    if pool.taints:
        properties["nodeTaints"] = [taint.text() for taint in pool.taints]
    if pool.spot:
        properties |= {"scaleSetPriority": "Spot", "scaleSetEvictionPolicy": "Delete", "spotMaxPrice": -1}
    if pool.max_pods is not None:
        properties["maxPods"] = pool.max_pods
    return properties


def scale_from_zero_tags(spec: ClusterSpec, pool: Pool) -> dict[str, Json]:
    """Return the tags by which the autoscaler knows the EPC of a pool that has no node yet, in bytes; none where it needs none.

    The device comes with it: a pod that asks for EPC by this name asks for both, or is made to by an admission webhook. The add-on offers
    EPC by the name that is told; the node agent does with ``--dialect intel`` alone.
    """
    epc_bytes = _epc_bytes(pool)
    if pool.autoscale is None or pool.autoscale.min > 0 or epc_bytes is None or spec.sgx.by is Sgx.NONE:
        return {}
    offered = {_TOLD_EPC: epc_bytes, _TOLD_DEVICE: _MOST_PODS}
    return {SCALE_FROM_ZERO + resource.replace("/", "_"): str(amount) for resource, amount in offered.items()}


def network_profile(network: Network) -> Body:
    """Return what names a network plugin and its mode."""
    if network is Network.AZURE_OVERLAY:
        return {"networkPlugin": "azure", "networkPluginMode": "overlay"}
    return {"networkPlugin": network.value}


def addon_profile(*, quote_helper: bool) -> Body:
    """Return the SGX add-on. Its setting is a word, not a truth value, in every recording."""
    return {"enabled": True, "config": {_QUOTE_HELPER: "true" if quote_helper else "false"}}


def dns_prefix(spec: ClusterSpec) -> str:
    """Return the first label of the API server's name: letters, digits and hyphens, at most 54."""
    kept = "".join(char if char.isalnum() and char.isascii() else "-" for char in f"{spec.name}-{spec.group}")
    return kept.strip("-")[:_DNS_PREFIX_MAX].rstrip("-")


def sgx_pools(spec: ClusterSpec) -> tuple[Pool, ...]:
    """Return the pools whose VM size has SGX."""
    return tuple(pool for pool in spec.pools if _sized(pool))


def is_system(pool: Pool) -> bool:
    """Say whether the cluster's own pods may run on the pool."""
    return pool.mode is Mode.SYSTEM


def _sized(pool: Pool) -> bool:
    size = known_size(pool.vm_size)
    return size is not None and size.tee is Tee.SGX


def _epc_bytes(pool: Pool) -> int | None:
    size = known_size(pool.vm_size)
    return None if size is None else size.epc_bytes
