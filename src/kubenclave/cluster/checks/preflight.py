"""What stands in the way of a cluster, found before anything is made. Pure: from what is wanted, offered and there, to findings.

What a cluster file says against itself is found in ``rules.py``; here stands what only Azure can tell. A finding blocks where Azure is
known to refuse; where its answer is missing or a document is the only witness, it warns.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from kubenclave.cluster.checks.capacity import capacity_findings
from kubenclave.cluster.checks.kubernetes import version_findings
from kubenclave.cluster.findings import Finding
from kubenclave.cluster.spec import OWNER_TAG, Identity
from kubenclave.cluster.steps.ownership import DELETING, is_ours

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date

    from kubenclave.cluster.facts import Found, Offer, Permission
    from kubenclave.cluster.spec import ClusterSpec

_ENABLED, _REGISTERED, _PENDING, _UNKNOWN_FEATURE = "Enabled", "Registered", "Pending", "NotFound"
# In these nothing can be made any more (learn.microsoft.com, Azure subscription states).
_CLOSED = ("Disabled", "Deleted")
_STOPPED = "Stopped"
_SHOWN = 8


def preflight(spec: ClusterSpec, offer: Offer, found: Found, *, today: date) -> tuple[Finding, ...]:
    """Return what was found, the blocking first.

    Args:
        spec: The cluster as it is to be.
        offer: What Azure offers to the caller in the region.
        found: What is there.
        today: The day that retirements are seen from.
    """
    findings = (
        *_subscription(offer),
        *_place(spec, offer, found),
        *_ownership(spec, found),
        *_permissions(spec, offer, found),
        *_registrations(spec, found),
        *_directory(found),
        *capacity_findings(spec, offer, found, today=today),
        *version_findings(spec, offer, found),
    )
    return tuple(sorted(findings, key=lambda finding: not finding.blocks))


def wildcard(pattern: str, action: str) -> bool:
    """Say whether an action pattern of a role covers an action; only ``*`` has a meaning, and letters' case has none."""
    first, *rest = pattern.lower().split("*")
    left = action.lower()
    if not rest:
        return left == first
    if not left.startswith(first):
        return False
    left = left[len(first) :]
    *middle, last = rest
    for piece in middle:
        at = left.find(piece)
        if at < 0:
            return False
        left = left[at + len(piece) :]
    return left.endswith(last)


def allowed(action: str, permissions: Iterable[Permission]) -> bool:
    """Say whether one of the permissions allows an action: each grants its actions but those that it takes out again itself."""
    return any(
        any(wildcard(pattern, action) for pattern in each.actions) and not any(wildcard(pattern, action) for pattern in each.not_actions)
        for each in permissions
    )


def _subscription(offer: Offer) -> Iterator[Finding]:
    have = offer.subscription
    if have.state != _ENABLED:
        yield Finding(
            about=f"subscription {have.id}",
            what=f"The subscription is {have.state or 'in no known state'}.",
            evidence=f"state {have.state!r} of the subscription {have.name!r}, from the list of subscriptions",
            fix="Its owner can enable it in the portal; or name another subscription.",
            blocks=have.state in _CLOSED,
        )


def _place(spec: ClusterSpec, offer: Offer, found: Found) -> Iterator[Finding]:
    if offer.locations and spec.location not in offer.locations:
        near = get_close_matches(spec.location, offer.locations, n=3)
        yield Finding(
            about="location",
            what=f"The subscription has no region {spec.location}.",
            evidence=f"the {len(offer.locations)} regions of the subscription",
            fix=f"Did you mean {' or '.join(near)}?" if near else "See az account list-locations.",
            blocks=True,
        )
    if found.group is not None and found.group.state == DELETING:
        yield Finding(
            about=f"group {spec.group}",
            what="The resource group is being deleted.",
            evidence=f"provisioningState {DELETING} of the group",
            fix="Nothing: it is waited for and made anew. To keep what is in it, choose another group.",
            blocks=False,
        )
    elif found.group is not None and _place_name(found.group.location) != spec.location:
        yield Finding(
            about=f"group {spec.group}",
            what=f"The resource group is in {found.group.location}, the cluster is to be in {spec.location}.",
            evidence=f"location {found.group.location!r} of the group",
            fix="Nothing, if this is meant: a group may hold resources of other regions.",
            blocks=False,
        )
    if found.cluster is not None and found.cluster.state != DELETING and _place_name(found.cluster.location) != spec.location:
        yield Finding(
            about="location",
            what=f"The cluster {spec.name} is there already, in {found.cluster.location}.",
            evidence=f"location {found.cluster.location!r} of the cluster",
            fix="A cluster cannot move: put its location into the file, or give the new one another name.",
            blocks=True,
        )
    if found.cluster is not None and found.cluster.state != DELETING and found.cluster.power == _STOPPED:
        yield Finding(
            about=f"cluster {spec.name}",
            what="The cluster is stopped: it has no nodes, and AKS changes nothing of it.",
            evidence=f"powerState {_STOPPED} of the cluster",
            fix=f"Start it first: az aks start --name {spec.name} --resource-group {spec.group}",
            blocks=True,
        )


def _ownership(spec: ClusterSpec, found: Found) -> Iterator[Finding]:
    if found.cluster is not None and not is_ours(found.cluster.tags, spec.owner):
        yield Finding(
            about="name",
            what=f"The cluster {spec.name} in the group {spec.group} was made by someone else.",
            evidence=f"it does not bear the tag {OWNER_TAG}={spec.owner}",
            fix="Give the cluster in the file another name. To take it over, put this tag on it.",
            blocks=True,
        )
    if found.group is not None and not is_ours(found.group.tags, spec.owner):
        yield Finding(
            about=f"group {spec.group}",
            what="The resource group was there before: it is used as it is, and stays when the cluster goes.",
            evidence=f"it does not bear the tag {OWNER_TAG}={spec.owner}",
            fix="Nothing, if this is meant.",
            blocks=False,
        )


def _permissions(spec: ClusterSpec, offer: Offer, found: Found) -> Iterator[Finding]:
    for action, purpose, role in _needed(spec, found):
        yield from _permission(action, purpose, role, offer.permissions, f"the group {spec.group}" if found.group else "the subscription")
    # What is asked for without a group was read on the subscription.
    general = offer.permissions if found.group is None else offer.subscription_permissions
    for action, purpose in _needed_above(found):
        yield from _permission(action, purpose, "Contributor", general, "the subscription")
    if spec.identity is Identity.SERVICE_PRINCIPAL and found.principal is None and offer.may_make_applications is not True:
        unknown = offer.may_make_applications is None
        yield Finding(
            about="identity",
            what="Whether this account may make applications is not known."
            if unknown
            else "The directory does not let this account make applications.",
            evidence="the directory does not tell this account" if unknown else "allowedToCreateApps and the account's directory roles",
            fix="Take identity: managed, which needs none; or have an administrator give the directory role Application Developer.",
            blocks=not unknown,
        )


def _needed(spec: ClusterSpec, found: Found) -> Iterator[tuple[str, str, str]]:
    """Yield each action that the group will be needed for: its name, what it is in words, and the least built-in role that has it."""
    aks = "Microsoft.ContainerService/managedClusters"
    if found.group is None:
        yield "Microsoft.Resources/subscriptions/resourceGroups/write", "make resource groups", "Contributor"
    yield f"{aks}/read", "read clusters", "Azure Kubernetes Service Contributor Role"
    yield f"{aks}/write", "make clusters", "Azure Kubernetes Service Contributor Role"
    if found.cluster is not None:
        yield f"{aks}/agentPools/write", "change node pools", "Azure Kubernetes Service Contributor Role"
    if spec.identity is Identity.SERVICE_PRINCIPAL and (found.principal is None or not found.principal.has_role):
        yield "Microsoft.Authorization/roleAssignments/write", "assign roles", "Role Based Access Control Administrator"


def _needed_above(found: Found) -> Iterator[tuple[str, str]]:
    """Yield each action that the subscription as a whole will be needed for."""
    for namespace, state in sorted(found.providers.items()):
        if state != _REGISTERED:
            yield f"{namespace}/register/action", f"register the provider {namespace}"
    if any(state not in {_REGISTERED, _PENDING, _UNKNOWN_FEATURE} for state in found.features.values()):
        yield "Microsoft.Features/providers/features/register/action", "register features"


def _permission(action: str, purpose: str, role: str, held: tuple[Permission, ...] | None, scope: str) -> Iterator[Finding]:
    if held is None or not allowed(action, held):
        patterns = [pattern for each in held or () for pattern in each.actions]
        yield Finding(
            about=f"permission {action}",
            what=f"Whether the account that is signed in may {purpose} is not known."
            if held is None
            else f"The account that is signed in may not {purpose}.",
            evidence=f"it may not read its permissions on {scope}"
            if held is None
            else f"its permissions on {scope}: {', '.join(patterns[:_SHOWN]) or 'none'}",
            fix=f"Have an owner give it the role {role} on {scope}.",
            blocks=held is not None,
        )


def _registrations(spec: ClusterSpec, found: Found) -> Iterator[Finding]:
    for namespace, state in sorted(found.providers.items()):
        if state != _REGISTERED:
            yield Finding(
                about=f"provider {namespace}",
                what=f"The subscription has not registered {namespace} yet.",
                evidence=f"registrationState {state}",
                fix="Nothing: up registers it, which takes some minutes.",
                blocks=False,
            )
    for name in sorted(set(spec.features) - set(found.features)):
        yield Finding(
            about="features",
            what=f"Whether the feature {name} is registered is not known.",
            evidence="the account may not ask, and so may not register it either",
            fix="Have someone register it who may, or leave it out if the cluster does not need it.",
            blocks=False,
        )
    for name, state in sorted(found.features.items()):
        if state == _UNKNOWN_FEATURE:
            yield Finding(
                about="features",
                what=f"Azure knows no feature {name}.",
                evidence="it was answered with 404",
                fix="Leave it out: a preview that has become part of AKS, or has ended, is no longer a feature.",
                blocks=True,
            )
        elif state != _REGISTERED:
            waiting = (
                "It waits for Azure's consent, which may never come." if state == _PENDING else "up asks for it, which takes some minutes."
            )
            yield Finding(
                about="features",
                what=f"The feature {name} is not registered yet.",
                evidence=f"state {state}",
                fix=f"{waiting} Leave it out if the cluster does not need it.",
                blocks=False,
            )


def _directory(found: Found) -> Iterator[Finding]:
    if found.directory_failure:
        yield Finding(
            about="identity",
            what="Whether a service principal of this cluster is left in the directory is not known.",
            evidence=found.directory_failure,
            fix="Nothing, if it never had one: a managed identity needs none.",
            blocks=False,
        )


def _place_name(location: str) -> str:
    """Return a region's name as programs write it: Azure also answers it as it is displayed."""
    return location.replace(" ", "").lower()
