"""Ask Microsoft Graph which application is a cluster's, and whether the caller may make one. Reads only.

Sources: Graph v1.0, ``application``, ``servicePrincipal``, ``authorizationPolicy``, and the role templates of Entra ID's built-in roles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from azure.core.exceptions import AzureError, ResourceNotFoundError

from kubenclave.cluster.azure.failures import telling
from kubenclave.cluster.azure.graph import ask_graph, marked_applications
from kubenclave.cluster.azure.marks import CONTRIBUTOR_ID
from kubenclave.cluster.azure.reply import children, entries, inside, text
from kubenclave.cluster.facts import FoundPrincipal

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubenclave.cluster.azure.session import Session
    from kubenclave.cluster.spec import ClusterSpec

# The built-in roles that let a person make applications where the tenant does not let everybody.
APPLICATION_ROLES = frozenset(
    {
        "62e90394-69f5-4237-9190-012177145e10",  # Global Administrator
        "9b895d92-2cd3-44c7-9d02-a6ac2d5ea5c3",  # Application Administrator
        "158c047a-c907-4556-b7ef-446551a6b5f7",  # Cloud Application Administrator
        "cf1c38e5-3621-4004-a7cb-879624dced7c",  # Application Developer
    }
)
_MOST_ASSIGNMENTS = 5_000  # ARM allows 4,000 in a subscription
_MANAGEMENT_GROUPS = "/providers/microsoft.management/managementgroups/"


def find_principal(session: Session, spec: ClusterSpec, secret_kept: Callable[[str], bool]) -> FoundPrincipal | None:
    """Return the application that bears the cluster's mark, and how far it is; the oldest, should there be several.

    Raises:
        KubenclaveError: Graph did not answer, or refused to.
    """
    with telling(f"looking for the service principal of {spec.owner}"):
        found = next(iter(marked_applications(session, spec.owner)), None)
        if found is None:
            return None
        app_id, object_id = text(found, "appId"), text(found, "id")
        principals = children(ask_graph(session, "GET", "/v1.0/servicePrincipals", parameters={"$filter": f"appId eq '{app_id}'"}), "value")
        principal_id = next((text(each, "id") for each in principals if text(each, "appId") == app_id), "")
        scope = f"/subscriptions/{session.subscription_id}/resourceGroups/{spec.group}".lower()
        scopes = _contributor_of(session, scope, principal_id) if principal_id else frozenset()
    return FoundPrincipal(
        app_id=app_id,
        application_object_id=object_id,
        principal_id=principal_id,
        has_role=any(_reaches(each, scope) for each in scopes),
        role_on_group=scope in scopes,
        has_secret=secret_kept(app_id),
    )


def may_make_applications(session: Session) -> bool | None:
    """Return whether the caller may make applications; None where the directory does not let it find out.

    A program that signs in by itself has no way to ask: what it may do stands in its token alone, which is not ours to read.
    """
    try:
        ask_graph(session, "GET", "/v1.0/me", parameters={"$select": "id"})
        policy = ask_graph(session, "GET", "/v1.0/policies/authorizationPolicy")
        allowed = inside(policy, "defaultUserRolePermissions", "allowedToCreateApps")
        if allowed is not False:
            return True if allowed is True else None
        roles = ask_graph(
            session, "GET", "/v1.0/me/transitiveMemberOf/microsoft.graph.directoryRole", parameters={"$select": "roleTemplateId"}
        )
        return any(text(each, "roleTemplateId").lower() in APPLICATION_ROLES for each in children(roles, "value"))
    except (AzureError, ValueError, RecursionError):
        return None


def _contributor_of(session: Session, scope: str, principal_id: str) -> frozenset[str]:
    """Return the scopes at which a principal has the role Contributor, in small letters: ARM lists those above and below, too."""
    try:
        listed = session.authorization.role_assignments.list_for_scope(scope, filter=f"principalId eq '{principal_id}'")
        found = entries(listed, most=_MOST_ASSIGNMENTS)
    except ResourceNotFoundError:
        return frozenset()
    return frozenset(_attribute(each, "scope") for each in found if _attribute(each, "role_definition_id").endswith(CONTRIBUTOR_ID))


def _reaches(assigned: str, scope: str) -> bool:
    """Say whether what is assigned at a scope counts at another: it does below it, and a management group is above all of these."""
    return scope == assigned or scope.startswith(f"{assigned.rstrip('/')}/") or assigned.startswith(_MANAGEMENT_GROUPS)


def _attribute(assignment: object, name: str) -> str:
    found = getattr(assignment, name, None)
    return found.lower() if isinstance(found, str) else ""
