"""What AKS makes of the body of a managed cluster or agent pool: defaults filled in, secrets left out. Pure.

The keys and their values follow a recorded reply of October 2022; tests compare them.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.local.azure.catalogue import DEFAULT_SIZE, version
from kubenclave.local.azure.context import cluster_id
from kubenclave.local.azure.values import TENANT, Body, Rejected, section, text

if TYPE_CHECKING:
    from collections.abc import Callable

CLUSTER_NAME = re.compile(r"[a-zA-Z0-9]([-_a-zA-Z0-9]{0,61}[a-zA-Z0-9])?")
POOL_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
SPOT_MARK = ("kubernetes.azure.com/scalesetpriority", "spot")  # label and taint, as azure-aks-docs spot-node-pool.md names them
MAX_POOLS = 100
MAX_NODES = 1000  # in one pool, as the published schema says
_MANAGED = "msi"  # the client ID that AKS shows where an identity takes the service principal's place
_NODE_IMAGE = "AKSUbuntu-2204gen2containerd-simulated"
_SECRETS = (("servicePrincipalProfile", "secret"), ("windowsProfile", "adminPassword"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """Say what a cluster's body is made for; ``new_id`` gives the identifiers of what it brings with it."""

    group: str
    name: str
    location: str
    new_id: Callable[[], str]


def cluster_body(asked: Body, existing: Body | None, naming: Naming) -> Body:
    """Give the body that AKS answers and keeps.

    Raises:
        Rejected: A part is of the wrong kind, a name is not allowed, the version is not offered, or no system pool is left.
    """
    wanted = section(asked, "properties")
    before = section(existing or {}, "properties")
    kubernetes = version(text(wanted, "kubernetesVersion") or text(before, "kubernetesVersion"), naming.location)
    merged = _merge(_defaults(naming, kubernetes), _merge(before, {key: value for key, value in wanted.items() if value not in (None, "")}))
    merged["kubernetesVersion"] = merged["currentKubernetesVersion"] = kubernetes
    network = merged["networkProfile"]
    if network.get("networkPlugin") == "azure" and not network.get("podCidr"):
        network.pop("podCidr", None)
    merged["agentPoolProfiles"] = _pools(wanted, before, kubernetes)
    identity = _identity(asked, existing, naming)
    if "servicePrincipalProfile" not in merged:
        merged["servicePrincipalProfile"] = {"clientId": _MANAGED}
    for part, secret in _SECRETS:
        if isinstance(merged.get(part), dict):
            merged[part].pop(secret, None)
    body: Body = {
        "id": cluster_id(naming.group, naming.name),
        "location": naming.location,
        "name": naming.name,
        "type": "Microsoft.ContainerService/ManagedClusters",
        "properties": merged,
        "sku": _merge({"name": "Base", "tier": "Free"}, section(asked, "sku") or section(existing or {}, "sku")),
    }
    tags = section(asked, "tags") if "tags" in asked else section(existing or {}, "tags")
    return body | ({"identity": identity} if identity else {}) | ({"tags": tags} if tags else {})


def pool_body(asked: Body, existing: Body | None, kubernetes: str) -> Body:
    """Give one agent pool as it stands in a cluster's ``agentPoolProfiles``.

    Raises:
        Rejected: Its name, count or mode is not allowed.
    """
    given = {key: value for key, value in asked.items() if value not in (None, "")}
    pool = _merge(_pool_defaults(kubernetes), _merge(existing or {}, given))
    name, count = text(pool, "name"), pool.get("count")
    if not POOL_NAME.fullmatch(name):
        raise Rejected(
            400,
            "InvalidParameter",
            f"The value of parameter agentPoolProfile.name is invalid: {name!r}. It must match '^[a-z][a-z0-9]{{0,11}}$'.",
        )
    low = 1 if pool.get("mode") == "System" else 0
    if not isinstance(count, int) or isinstance(count, bool) or not low <= count <= MAX_NODES:
        raise Rejected(
            400,
            "InvalidParameter",
            f"The value of parameter agentPoolProfile.count is invalid: {count!r}. The pool's mode allows {low} to {MAX_NODES}.",
        )
    if pool.get("mode") not in {"System", "User", "Gateway"}:
        raise Rejected(400, "InvalidParameter", f"The value of parameter agentPoolProfile.mode is invalid: {pool.get('mode')!r}.")
    if not isinstance(pool.get("vmSize"), str):
        raise Rejected(400, "InvalidParameter", "The value of parameter agentPoolProfile.vmSize is no text.")
    if not pool.get("osDiskSizeGB"):
        pool["osDiskSizeGB"] = 128
    # These are put whole: what is left out of them is gone.
    pool |= {part: copy.deepcopy(given[part]) for part in ("nodeLabels", "nodeTaints", "tags") if part in given}
    if existing is None and pool.get("scaleSetPriority") == "Spot":
        _mark_spot(pool)
    pool["currentOrchestratorVersion"] = pool["orchestratorVersion"]
    return pool


def pool_resource(cluster: Body, pool: Body) -> Body:
    """Give an agent pool as a resource of its own."""
    return {
        "id": f"{cluster['id']}/agentPools/{pool['name']}",
        "name": pool["name"],
        "type": "Microsoft.ContainerService/managedClusters/agentPools",
        "properties": {key: value for key, value in pool.items() if key != "name"},
    }


def _mark_spot(pool: Body) -> None:
    """Add what AKS adds to a new spot pool, so that only pods that ask for it come there."""
    key, value = SPOT_MARK
    taints = [each for each in pool.get("nodeTaints", []) if not str(each).startswith(f"{key}=")]
    pool["nodeLabels"] = {**section(pool, "nodeLabels"), key: value}
    pool["nodeTaints"] = [*taints, f"{key}={value}:NoSchedule"]


def _pools(wanted: Body, before: Body, kubernetes: str) -> list[Body]:
    asked = wanted.get("agentPoolProfiles")
    old = {pool["name"]: pool for pool in before.get("agentPoolProfiles", [])}
    if asked is None:
        asked = [*old.values()]
    if not isinstance(asked, list) or not all(isinstance(pool, dict) for pool in asked) or len(asked) > MAX_POOLS:
        raise Rejected(400, "InvalidParameter", f"The value of parameter agentPoolProfiles is no list of at most {MAX_POOLS} pools.")
    pools = [pool_body(pool, old.get(pool.get("name")) if isinstance(pool.get("name"), str) else None, kubernetes) for pool in asked]
    names = [pool["name"] for pool in pools]
    if len(set(names)) != len(names):
        raise Rejected(400, "InvalidParameter", "The names of agent pools must be unique within a cluster.")
    require_system_pool(pools)
    return pools


def require_system_pool(pools: list[Body]) -> None:
    """Check that a cluster has somewhere to run its own pods.

    Raises:
        Rejected: It has no system pool.
    """
    if not any(pool["mode"] == "System" for pool in pools):
        raise Rejected(400, "InvalidParameter", "Must define at least one system pool.")


def _identity(asked: Body, existing: Body | None, naming: Naming) -> Body:
    wanted = section(asked, "identity")
    if wanted.get("type") != "SystemAssigned":
        return wanted or section(existing or {}, "identity")
    held = section(existing or {}, "identity").get("principalId")
    return {"type": "SystemAssigned", "principalId": held or naming.new_id(), "tenantId": TENANT}


def _defaults(naming: Naming, kubernetes: str) -> Body:
    prefix = f"{naming.name[:10]}-{naming.group[:16]}-222222"
    return {
        "provisioningState": "Creating",
        "powerState": {"code": "Running"},
        "kubernetesVersion": kubernetes,
        "currentKubernetesVersion": kubernetes,
        "dnsPrefix": prefix,
        "fqdn": f"{prefix}.hcp.{naming.location}.simulated.invalid",
        "azurePortalFQDN": f"{prefix}.portal.hcp.{naming.location}.simulated.invalid",
        "agentPoolProfiles": [],
        "nodeResourceGroup": f"MC_{naming.group}_{naming.name}_{naming.location}"[:80],
        "enableRBAC": True,
        "networkProfile": {
            "networkPlugin": "azure",
            "loadBalancerSku": "standard",
            "loadBalancerProfile": {"managedOutboundIPs": {"count": 1}, "backendPoolType": "NodeIPConfiguration"},
            "podCidr": "10.244.0.0/16",
            "serviceCidr": "10.0.0.0/16",
            "dnsServiceIP": "10.0.0.10",
            "outboundType": "loadBalancer",
            "serviceCidrs": ["10.0.0.0/16"],
            "ipFamilies": ["IPv4"],
        },
        "maxAgentPools": MAX_POOLS,
        "disableLocalAccounts": False,
        "securityProfile": {},
        "storageProfile": {
            "diskCSIDriver": {"enabled": True},
            "fileCSIDriver": {"enabled": True},
            "snapshotController": {"enabled": True},
        },
        "oidcIssuerProfile": {"enabled": False},
        "workloadAutoScalerProfile": {},
    }


def _pool_defaults(kubernetes: str) -> Body:
    return {
        "count": 1,
        "vmSize": DEFAULT_SIZE,
        "osDiskSizeGB": 128,
        "osDiskType": "Managed",
        "kubeletDiskType": "OS",
        "maxPods": 110,
        "type": "VirtualMachineScaleSets",
        "enableAutoScaling": False,
        "provisioningState": "Creating",
        "powerState": {"code": "Running"},
        "orchestratorVersion": kubernetes,
        "enableNodePublicIP": False,
        "mode": "User",
        "enableEncryptionAtHost": False,
        "enableUltraSSD": False,
        "osType": "Linux",
        "osSKU": "Ubuntu",
        "nodeImageVersion": _NODE_IMAGE,
        "upgradeSettings": {},
        "enableFIPS": False,
    }


def _merge(below: Body, above: Body) -> Body:
    """Lay one object over another; lists and plain values of the upper one win whole."""
    merged = copy.deepcopy(below)
    for key, value in above.items():
        lower = merged.get(key)
        merged[key] = _merge(lower, value) if isinstance(lower, dict) and isinstance(value, dict) else copy.deepcopy(value)
    return merged
