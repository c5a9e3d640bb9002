"""Azure's role-based access control: built-in roles, assignments with their replication delay, and whether a caller may act."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from uuid import UUID

from kubenclave.local.azure.context import S
from kubenclave.local.azure.state import Assignment
from kubenclave.local.azure.values import TENANT, Body, Rejected, Reply, section, text

if TYPE_CHECKING:
    from kubenclave.local.azure.context import Context
    from kubenclave.local.azure.state import State

MAX_ASSIGNMENTS = 4000  # Azure's own limit for a subscription (learn.microsoft.com, Azure RBAC limits)
_PRINCIPAL = re.compile(r"(?:principalId eq|assignedTo\()\s*'([^']{1,64})'", re.IGNORECASE)
_ROLE_NAME = re.compile(r"roleName eq '([^']{1,128})'", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Describe a built-in role: the actions it allows, and those taken out again, with ``*`` as a wildcard."""

    id: str
    name: str
    actions: tuple[str, ...]
    not_actions: tuple[str, ...] = ()

    def allows(self, action: str) -> bool:
        """Tell whether the role covers an action."""
        wanted = action.lower()

        def listed(patterns: tuple[str, ...]) -> bool:
            return any(fnmatchcase(wanted, pattern.lower()) for pattern in patterns)

        return listed(self.actions) and not listed(self.not_actions)

    def permissions(self) -> Body:
        """Give the role's permissions in ARM's form."""
        return {"actions": [*self.actions], "notActions": [*self.not_actions], "dataActions": [], "notDataActions": []}


# Identifiers and actions of Azure's built-in roles (learn.microsoft.com, Azure built-in roles).
ROLES = (
    Role(id="8e3af657-a8ff-443c-a75c-2fe8c4bcb635", name="Owner", actions=("*",)),
    Role(
        id="b24988ac-6180-42a0-ab88-20f7382dd24c",
        name="Contributor",
        actions=("*",),
        not_actions=("Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write", "Microsoft.Authorization/elevateAccess/Action"),
    ),
    Role(id="acdd72a7-3385-48ef-bd42-f606fba81ae7", name="Reader", actions=("*/read",)),
    Role(
        id="18d7d88d-d35e-4fb5-a5c3-7773c20a72d9",
        name="User Access Administrator",
        actions=("*/read", "Microsoft.Authorization/*", "Microsoft.Support/*"),
    ),
)
OWNER = ROLES[0]


def require(context: Context, action: str, scope: str) -> None:
    """Check that the caller may act on a scope.

    Raises:
        Rejected: 403, in Azure's words.
    """
    if not any(role.allows(action) for role in _roles(context.state, context.caller, scope)):
        raise Rejected(
            403,
            "AuthorizationFailed",
            f"The client '{context.caller}' with object id '{context.caller}' does not have authorization to perform action '{action}' "
            f"over scope '{scope}' or the scope is invalid. If access was recently granted, please refresh your credentials.",
        )


def list_definitions(context: Context, _where: dict[str, str]) -> Reply:
    """Answer the built-in roles, by name where a filter names one."""
    match = _ROLE_NAME.search(context.request.query.get("$filter", ""))
    return Reply(
        status=200, body={"value": [_definition(role) for role in ROLES if match is None or role.name.lower() == match[1].lower()]}
    )


def get_definition(_context: Context, where: dict[str, str]) -> Reply:
    """Answer one built-in role."""
    return Reply(status=200, body=_definition(_role(where["name"])))


def list_permissions(context: Context, where: dict[str, str]) -> Reply:
    """Answer what the caller may do on a scope."""
    roles = _roles(context.state, context.caller, where["scope"])
    return Reply(status=200, body={"value": [role.permissions() for role in roles]})


def list_assignments(context: Context, where: dict[str, str]) -> Reply:
    """Answer the assignments on a scope, above it, and below it unless the filter says ``atScope()``."""
    scope, query = where["scope"].lower(), context.request.query.get("$filter", "")
    match = _PRINCIPAL.search(query)
    below = "atscope()" not in query.lower()
    found = [
        _assignment(context, each)
        for each in context.state.assignments.values()
        if (_within(scope, each.scope) or (below and _within(each.scope, scope))) and (match is None or each.principal == match[1])
    ]
    return Reply(status=200, body={"value": found})


def get_assignment(context: Context, where: dict[str, str]) -> Reply:
    """Answer one assignment."""
    found = context.state.assignments.get(_key(where))
    if found is None:
        raise Rejected(404, "RoleAssignmentNotFound", f"The role assignment '{where['name']}' is not found.")
    return Reply(status=200, body=_assignment(context, found))


def put_assignment(context: Context, where: dict[str, str]) -> Reply:
    """Give a role to a principal; a principal that is not yet replicated is not found, as in the recordings of real clients."""
    try:
        UUID(where["name"])
    except ValueError as exc:
        raise Rejected(
            400, "InvalidRoleAssignmentId", f"The role assignment ID '{where['name']}' is not valid. It must be a GUID."
        ) from exc
    properties = section(context.request.json(), "properties")
    role = _role(text(properties, "roleDefinitionId").rpartition("/")[2])
    principal = context.state.principals.get(text(properties, "principalId"))
    if principal is None or not context.replicated(principal.created):
        raise Rejected(
            400,
            "PrincipalNotFound",
            f"Principal {text(properties, 'principalId').replace('-', '')} does not exist in the directory {TENANT}. "
            "Check that you have the correct principal ID.",
        )
    key, scope = _key(where), where["scope"].lower()
    existing = context.state.assignments.get(key)
    if existing is not None:
        if (existing.role, existing.principal) != (role.id, principal.id):
            raise Rejected(
                409, "RoleAssignmentUpdateNotPermitted", "Tenant ID, application ID, principal ID, and scope are not allowed to be updated."
            )
        return Reply(status=200, body=_assignment(context, existing))
    if any((each.role, each.principal, each.scope) == (role.id, principal.id, scope) for each in context.state.assignments.values()):
        raise Rejected(409, "RoleAssignmentExists", "The role assignment already exists.")
    if len(context.state.assignments) >= MAX_ASSIGNMENTS:
        raise Rejected(400, "RoleAssignmentLimitExceeded", "The number of role assignments exceeds the limit.")
    made = Assignment(id=where["name"].lower(), scope=scope, role=role.id, principal=principal.id, created=context.now)
    context.state.assignments[key] = made
    return Reply(status=201, body=_assignment(context, made))


def delete_assignment(context: Context, where: dict[str, str]) -> Reply:
    """Take a role away; 204 where it was not there."""
    found = context.state.assignments.pop(_key(where), None)
    return Reply(status=204) if found is None else Reply(status=200, body=_assignment(context, found))


def _roles(state: State, principal: str, scope: str) -> list[Role]:
    held = {each.role for each in state.assignments.values() if each.principal == principal and _within(scope.lower(), each.scope)}
    return [role for role in ROLES if role.id in held]


def _within(scope: str, above: str) -> bool:
    return scope == above or scope.startswith(f"{above.rstrip('/')}/")


def _key(where: dict[str, str]) -> str:
    return f"{where['scope']}/{where['name']}".lower()


def _role(identifier: str) -> Role:
    found = next((role for role in ROLES if role.id == identifier.lower()), None)
    if found is None:
        raise Rejected(404, "RoleDefinitionDoesNotExist", f"The specified role definition with ID '{identifier}' does not exist.")
    return found


def _definition(role: Role) -> Body:
    return {
        "id": f"{S}/providers/Microsoft.Authorization/roleDefinitions/{role.id}",
        "name": role.id,
        "type": "Microsoft.Authorization/roleDefinitions",
        "properties": {
            "roleName": role.name,
            "type": "BuiltInRole",
            "description": f"simulated: the built-in role {role.name}",
            "assignableScopes": ["/"],
            "permissions": [role.permissions()],
        },
    }


def _assignment(context: Context, assignment: Assignment) -> Body:
    created = context.stamp(assignment.created)
    return {
        "properties": {
            "roleDefinitionId": f"{S}/providers/Microsoft.Authorization/roleDefinitions/{assignment.role}",
            "principalId": assignment.principal,
            "principalType": "ServicePrincipal",
            "scope": assignment.scope,
            "createdOn": created,
            "updatedOn": created,
            "createdBy": None,
            "updatedBy": context.caller,
        },
        "id": f"{assignment.scope}/providers/Microsoft.Authorization/roleAssignments/{assignment.id}",
        "type": "Microsoft.Authorization/roleAssignments",
        "name": assignment.id,
    }
