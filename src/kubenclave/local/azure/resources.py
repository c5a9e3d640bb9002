"""Subscriptions, tenants, locations and resource groups."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kubenclave.local.azure import operations
from kubenclave.local.azure.catalogue import catalogue, location_name
from kubenclave.local.azure.context import S, group_id
from kubenclave.local.azure.state import Group
from kubenclave.local.azure.values import SUBSCRIPTION, TENANT, Body, Rejected, Reply, section, text

if TYPE_CHECKING:
    from kubenclave.local.azure.context import Context

MAX_GROUPS = 980  # Azure's own limit for a subscription (learn.microsoft.com, subscription limits)
_GROUP_NAME = re.compile(r"[-\w.()]{0,89}[-\w()]")
_NAME = "Simulated subscription"


def list_tenants(_context: Context, _where: dict[str, str]) -> Reply:
    """Answer the one tenant."""
    entry = {"id": f"/tenants/{TENANT}", "tenantId": TENANT, "displayName": "simulated", "tenantCategory": "Home"}
    return Reply(status=200, body={"value": [entry]})


def list_subscriptions(_context: Context, _where: dict[str, str]) -> Reply:
    """Answer the one subscription in a list."""
    return Reply(status=200, body={"value": [_subscription()], "count": {"type": "Total", "value": 1}})


def get_subscription(_context: Context, _where: dict[str, str]) -> Reply:
    """Answer the one subscription."""
    return Reply(status=200, body=_subscription())


def list_locations(_context: Context, _where: dict[str, str]) -> Reply:
    """Answer the locations that this stand-in plays."""
    rows = [
        {
            "id": f"{S}/locations/{name}",
            "name": name,
            "type": "Region",
            "displayName": words,
            "regionalDisplayName": words,
            "metadata": {"regionType": "Physical", "regionCategory": "Recommended"},
        }
        for name, words in catalogue().locations.items()
    ]
    return Reply(status=200, body={"value": rows})


def list_groups(context: Context, _where: dict[str, str]) -> Reply:
    """Answer every resource group."""
    return Reply(status=200, body={"value": [_body(each) for each in context.state.groups.values()]})


def get_group(context: Context, where: dict[str, str]) -> Reply:
    """Answer one resource group."""
    return Reply(status=200, body=_body(context.group(where["group"])))


def head_group(context: Context, where: dict[str, str]) -> Reply:
    """Tell whether a resource group exists: 204 or 404."""
    context.group(where["group"])
    return Reply(status=204)


def put_group(context: Context, where: dict[str, str]) -> Reply:
    """Make a resource group, or set the tags of one; its location is for life."""
    body = context.request.json()
    name, place = where["group"], location_name(text(body, "location"))
    if not _GROUP_NAME.fullmatch(name):
        raise Rejected(400, "InvalidResourceGroupName", f"The resource group name '{name}' is not valid.")
    existing = context.state.groups.get(name.lower())
    if existing is not None:
        if existing.deleting:
            raise being_deleted(existing)
        if existing.location != place:
            raise Rejected(
                409,
                "InvalidResourceGroupLocation",
                f"Invalid resource group location '{place}'. The Resource group already exists in location '{existing.location}'.",
            )
        existing.tags = _tags(body) if "tags" in body else existing.tags
        return Reply(status=200, body=_body(existing))
    if len(context.state.groups) >= MAX_GROUPS:
        raise Rejected(409, "ResourceGroupQuotaExceeded", f"The subscription has reached its limit of {MAX_GROUPS} resource groups.")
    made = Group(name=name, location=place, tags=_tags(body))
    context.state.groups[name.lower()] = made
    return Reply(status=201, body=_body(made))


def patch_group(context: Context, where: dict[str, str]) -> Reply:
    """Set the tags of a resource group."""
    group = context.group(where["group"])
    body = context.request.json()
    if "tags" in body:
        group.tags = _tags(body)
    return Reply(status=200, body=_body(group))


def list_resources(context: Context, where: dict[str, str]) -> Reply:
    """Answer what is in a resource group: its clusters."""
    group = context.group(where["group"])
    rows = [
        {"id": each.body["id"], "name": each.name, "type": "Microsoft.ContainerService/managedClusters", "location": each.body["location"]}
        for each in context.state.clusters.values()
        if each.group.lower() == group.name.lower()
    ]
    return Reply(status=200, body={"value": rows})


def delete_group(context: Context, where: dict[str, str]) -> Reply:
    """Begin to delete a resource group with all in it: 202 and Location, as recorded."""
    group = context.group(where["group"])
    key = group.name.lower()
    now_running = operations.running(context.state, key)
    if group.deleting and now_running is not None:
        return Reply(status=202, headers=operations.headers(context, now_running))
    operations.abandon(context, key)
    group.deleting = True
    for name, cluster in context.state.clusters.items():
        if name.startswith(f"{key}/"):
            cluster.deleting = True
            cluster.body["properties"]["provisioningState"] = "Deleting"
    headers = operations.start(context, "delete-group", target=key, location=group.location, style="location")
    return Reply(status=202, headers=headers)


def being_deleted(group: Group) -> Rejected:
    """Say that a resource group is on its way out."""
    return Rejected(
        409,
        "ResourceGroupBeingDeleted",
        f"The resource group '{group.name}' is in deprovisioning state and cannot perform this operation.",
    )


def _tags(body: Body) -> dict[str, str]:
    return {str(name): str(value) for name, value in section(body, "tags").items()}


def _body(group: Group) -> Body:
    body: Body = {
        "id": group_id(group.name),
        "name": group.name,
        "type": "Microsoft.Resources/resourceGroups",
        "location": group.location,
        "properties": {"provisioningState": "Deleting" if group.deleting else "Succeeded"},
    }
    if group.tags:
        body["tags"] = group.tags
    if group.managed_by:
        body["managedBy"] = group.managed_by
    return body


def _subscription() -> Body:
    return {
        "id": S,
        "subscriptionId": SUBSCRIPTION,
        "tenantId": TENANT,
        "displayName": _NAME,
        "state": "Enabled",
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
        "subscriptionPolicies": {"locationPlacementId": "Public_2014-09-01", "quotaId": "PayAsYouGo_2014-09-01", "spendingLimit": "Off"},
    }
