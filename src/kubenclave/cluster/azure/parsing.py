"""From Azure's answers to our values. Pure; takes whatever it is given and makes the best of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kubenclave.cluster.azure.reply import children, flag, inside, number, text, texts, words
from kubenclave.cluster.body import ADDON
from kubenclave.cluster.facts import FoundCluster, FoundGroup, FoundPool, OfferedSize, OfferedVersion, Permission, Quota

if TYPE_CHECKING:
    from collections.abc import Iterable

_QUOTE_HELPER = "ACCSGXQuoteHelperEnabled"
_MACHINES = "virtualmachines"
_SPOT = "LowPriorityCapable"
# What AKS answers as the client of a cluster with a managed identity.
_MANAGED = "msi"
_LONG_TERM, _OFFICIAL = "AKSLongTermSupport", "KubernetesOfficial"


def locations(found: Iterable[object]) -> tuple[str, ...]:
    """Return the names of regions."""
    return tuple(name for name in (text(each, "name") for each in found) if name)


def permissions(found: Iterable[object]) -> tuple[Permission, ...]:
    """Return permissions: mappings as ARM sends them, or the SDK's models, which know only their attributes."""
    return tuple(
        Permission(actions=texts(each, "actions"), not_actions=texts(each, "notActions"))
        for each in (raw if isinstance(raw, Mapping) else _plain(raw) for raw in found)
    )


def _plain(model: object) -> dict[str, object]:
    return {"actions": getattr(model, "actions", None), "notActions": getattr(model, "not_actions", None)}


def sizes(found: Iterable[object], location: str) -> dict[str, OfferedSize]:
    """Return VM sizes by their names in small letters; of other SKUs nothing."""
    read = {}
    for each in found:
        name = text(each, "name")
        if name and text(each, "resourceType").lower() == _MACHINES:
            capabilities = {text(entry, "name"): inside(entry, "value") for entry in children(each, "capabilities")}
            read[name.lower()] = OfferedSize(
                name=name,
                family=text(each, "family"),
                vcpus=number(capabilities, "vCPUs") or 0,
                restriction=_restriction(each, location),
                spot=flag(capabilities, _SPOT) if text(capabilities, _SPOT) else None,
            )
    return read


def _restriction(sku: object, location: str) -> str:
    """Return why the whole region is closed; a restriction of some zones is none."""
    for each in children(sku, "restrictions"):
        if text(each, "type").lower() == "location" and location.lower() in {value.lower() for value in texts(each, "values")}:
            return text(each, "reasonCode") or "restricted"
    return ""


def quotas(found: Iterable[object]) -> dict[str, Quota]:
    """Return quotas by family in small letters; what has no numbers is left out."""
    read = {}
    for each in found:
        name, used, limit = text(each, "name", "value").lower(), number(each, "currentValue"), number(each, "limit")
        if name and used is not None and limit is not None:
            read[name] = Quota(used=used, limit=limit)
    return read


def versions(found: Iterable[object]) -> tuple[OfferedVersion, ...]:
    """Return Kubernetes versions, oldest first."""
    read = []
    for each in found:
        minor, patches = text(each, "version"), inside(each, "patchVersions")
        plans = texts(each, "capabilities", "supportPlan")
        if minor:
            read.append(
                OfferedVersion(
                    minor=minor,
                    patches=tuple(sorted((key for key in patches if isinstance(key, str)), key=ordered))
                    if isinstance(patches, Mapping)
                    else (),
                    default=flag(each, "isDefault"),
                    preview=flag(each, "isPreview"),
                    long_term_only=_LONG_TERM in plans and _OFFICIAL not in plans,
                )
            )
    return tuple(sorted(read, key=lambda version: ordered(version.minor)))


def ordered(version: str) -> tuple[int, ...]:
    """Return what a version is sorted by: its numbers."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isascii() and part.isdecimal() and len(part) <= 9)  # noqa: PLR2004


def group(found: object) -> FoundGroup:
    """Return a resource group."""
    return FoundGroup(location=text(found, "location"), state=text(found, "properties", "provisioningState"), tags=words(found, "tags"))


def cluster(found: object) -> FoundCluster:
    """Return a managed cluster."""
    properties = inside(found, "properties")
    client = text(properties, "servicePrincipalProfile", "clientId")
    identity = text(found, "identity", "type").lower()
    addons = inside(properties, "addonProfiles")
    # AKS answers an add-on's name in other letters than it was given.
    addon = (
        next((value for name, value in addons.items() if str(name).lower() == ADDON.lower()), None) if isinstance(addons, Mapping) else None
    )
    return FoundCluster(
        location=text(found, "location"),
        state=text(properties, "provisioningState"),
        kubernetes_version=text(properties, "kubernetesVersion"),
        client_id="" if client.lower() == _MANAGED or identity not in {"", "none"} else client,
        network_plugin=text(properties, "networkProfile", "networkPlugin"),
        network_mode=text(properties, "networkProfile", "networkPluginMode"),
        addon=flag(addon, "enabled"),
        quote_helper=flag(addon, "config", _QUOTE_HELPER),
        pools=tuple(pool(each) for each in children(properties, "agentPoolProfiles") if text(each, "name")),
        tags=words(found, "tags"),
        power=text(properties, "powerState", "code"),
    )


def pool(found: object) -> FoundPool:
    """Return a node pool, as it stands in a cluster's profile."""
    low, high, most = number(found, "minCount"), number(found, "maxCount"), number(found, "maxPods")
    return FoundPool(
        name=text(found, "name"),
        vm_size=text(found, "vmSize"),
        count=number(found, "count") or 0,
        mode=text(found, "mode"),
        autoscale=(low or 0, high or 0) if flag(found, "enableAutoScaling") else None,
        labels=words(found, "nodeLabels"),
        taints=texts(found, "nodeTaints"),
        spot=text(found, "scaleSetPriority").lower() == "spot",
        max_pods=most,
        state=text(found, "provisioningState"),
        tags=words(found, "tags"),
        version=text(found, "currentOrchestratorVersion") or text(found, "orchestratorVersion"),
    )


def resource_ids(found: Iterable[object], *, without: str) -> tuple[str, ...]:
    """Return the IDs of resources but for those that end in a path in small letters."""
    return tuple(name for name in (text(each, "id") for each in found) if name and not name.lower().endswith(without))
