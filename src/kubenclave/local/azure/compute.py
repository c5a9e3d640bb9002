"""VM sizes as the resource SKUs API tells them, their restrictions, usages and quotas."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kubenclave.local.azure.catalogue import REGION_QUOTA, Size, catalogue, default_limit, find_size, location_name
from kubenclave.local.azure.values import Body, Rejected, Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.local.azure.context import Context
    from kubenclave.local.azure.state import State

_LOCATION = re.compile(r"location eq '([^']{1,64})'", re.IGNORECASE)
_REGION = "cores"
# Families in which every size is retired: nobody is offered them (reason code of the resource SKUs API).
_RETIRED_REASON = "NotAvailableForSubscription"


def list_skus(context: Context, _where: dict[str, str]) -> Reply:
    """Answer every size in every location, or in the one that the filter names."""
    match = _LOCATION.search(context.request.query.get("$filter", ""))
    locations = [location_name(match[1])] if match else [*catalogue().locations]
    return Reply(status=200, body={"value": [_sku(context.state, size, place) for place in locations for size in catalogue().sizes]})


def list_usages(context: Context, where: dict[str, str]) -> Reply:
    """Answer vCPUs used and allowed, for the region and for each family."""
    place = location_name(where["location"])
    families = list(dict.fromkeys(size.family for size in catalogue().sizes))
    rows = [_usage(_REGION, "Total Regional vCPUs", used(context.state, place), limit(context.state, _REGION))]
    rows += [
        _usage(
            family,
            f"Standard {family.removeprefix('standard').removesuffix('Family')} Family vCPUs",
            used(context.state, place, family),
            limit(context.state, family),
        )
        for family in families
    ]
    return Reply(status=200, body={"value": rows})


def used(state: State, location: str, family: str = "") -> int:
    """Count the vCPUs that the clusters of a location hold, in all or of one family."""
    total = 0
    for cluster in state.clusters.values():
        if cluster.body["location"] == location:
            for pool in cluster.body["properties"]["agentPoolProfiles"]:
                size = find_size(pool["vmSize"])
                if size is not None and family in {"", size.family}:
                    total += size.vcpus * int(pool["count"])
    return total


def limit(state: State, name: str) -> int:
    """Give the vCPUs allowed, as set or by default."""
    chosen = next((value for key, value in state.settings.quota.items() if key.lower() == name.lower()), None)
    if chosen is not None:
        return chosen
    return REGION_QUOTA if name == _REGION else default_limit(name)


def require_size(state: State, name: str, location: str) -> Size:
    """Check that a size is sold to this subscription in a location.

    Raises:
        Rejected: It does not exist, is retired or is restricted.
    """
    size = find_size(name)
    if size is None or _reason(state, size):
        offered = ",".join(each.name.lower() for each in catalogue().sizes if not _reason(state, each))
        raise Rejected(
            400,
            "BadRequest",
            f"The VM size of {name} is not allowed in your subscription in location '{location}'. The available VM sizes are '{offered}'.",
        )
    return size


def require_quota(state: State, more: Sequence[tuple[Size, int]], location: str) -> None:
    """Check that so many more nodes of each size fit into the quotas of their families and of the region.

    Raises:
        Rejected: They do not.
    """
    for name in dict.fromkeys([*(size.family for size, _ in more), _REGION]):
        family = "" if name == _REGION else name
        wanted = sum(size.vcpus * count for size, count in more if family in {"", size.family})
        remaining = limit(state, name) - used(state, location, family)
        if wanted > max(remaining, 0):
            what = f"family {name}" if family else "the region's total"
            raise Rejected(
                400,
                "ErrCode_InsufficientVCPUQuota",
                f"Insufficient vcpu quota requested {wanted}, remaining {max(remaining, 0)} for {what} for region {location}.",
            )


def _reason(state: State, size: Size) -> str:
    chosen = next((reason for name, reason in state.settings.restricted.items() if name.lower() == size.name.lower()), "")
    return chosen or (_RETIRED_REASON if size.retired else "")


def _sku(state: State, size: Size, location: str) -> Body:
    reason = _reason(state, size)
    capabilities = {
        "vCPUs": str(size.vcpus),
        "vCPUsAvailable": str(size.vcpus),
        "MemoryGB": str(size.memory_gib),
        "HyperVGenerations": size.generations,
        "CpuArchitectureType": "x64",
        "LowPriorityCapable": "True",
        **({"ConfidentialComputingType": size.confidential} if size.confidential else {}),
    }
    restriction = {
        "type": "Location",
        "values": [location],
        "restrictionInfo": {"locations": [location]},
        "reasonCode": reason,
    }
    return {
        "resourceType": "virtualMachines",
        "name": size.name,
        "tier": "Standard",
        "size": size.name.removeprefix("Standard_"),
        "family": size.family,
        "locations": [location],
        "locationInfo": [{"location": location, "zones": [], "zoneDetails": []}],
        "capabilities": [{"name": name, "value": value} for name, value in capabilities.items()],
        "restrictions": [restriction] if reason else [],
    }


def _usage(name: str, words: str, current: int, allowed: int) -> Body:
    return {"limit": allowed, "unit": "Count", "currentValue": current, "name": {"value": name, "localizedValue": words}}
