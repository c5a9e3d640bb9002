"""Which path and verb is answered by whom, and which right it takes. Paths are matched without regard to case, as ARM does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kubenclave.local.azure import authorization, clusters, compute, entra, graph, operations, registration, resources
from kubenclave.local.azure.context import S

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubenclave.local.azure.context import Context
    from kubenclave.local.azure.values import Reply

Access = Literal["open", "graph", "arm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Bind a verb and a path to a handler. ``action`` is the right that ARM asks for; empty where any known caller may."""

    method: str
    path: re.Pattern[str]
    handler: Callable[[Context, dict[str, str]], Reply]
    access: Access
    action: str = ""


def _route(verb_and_path: str, handler: Callable[[Context, dict[str, str]], Reply], action: str = "", access: Access = "arm") -> Route:
    method, _, path = verb_and_path.partition(" ")
    pattern = "".join(_piece(piece) for piece in re.split(r"(\{\w+\})", path))
    return Route(method=method, path=re.compile(pattern, re.IGNORECASE), handler=handler, access=access, action=action)


def _piece(piece: str) -> str:
    if not piece.startswith("{"):
        return re.escape(piece)
    name = piece[1:-1]
    return f"(?P<{name}>(?:/[^/]+)*)" if name == "scope" else f"(?P<{name}>[^/]+)"


_GROUP = S + "/resourcegroups/{group}"
_CLUSTERS = "/providers/Microsoft.ContainerService/managedClusters"
_CLUSTER = _GROUP + _CLUSTERS + "/{name}"
_AKS = S + "/providers/Microsoft.ContainerService/locations/{location}"
_FEATURES = S + "/providers/Microsoft.Features"
_FEATURE = _FEATURES + "/providers/{namespace}/features/{name}"
_ROLES = "{scope}/providers/Microsoft.Authorization"
_GROUP_ACTION = "Microsoft.Resources/subscriptions/resourceGroups"
_CLUSTER_ACTION = "Microsoft.ContainerService/managedClusters"
_READ = "Microsoft.Resources/subscriptions/read"

ROUTES = (
    _route("GET /metadata/endpoints", entra.metadata, access="open"),
    _route("GET /{tenant}/v2.0/.well-known/openid-configuration", entra.openid, access="open"),
    _route("POST /{tenant}/oauth2/v2.0/token", entra.token, access="open"),
    _route("GET /v1.0/applications", graph.list_applications, access="graph"),
    _route("POST /v1.0/applications", graph.create_application, access="graph"),
    _route("GET /v1.0/applications/{id}", graph.get_application, access="graph"),
    _route("PATCH /v1.0/applications/{id}", graph.update_application, access="graph"),
    _route("DELETE /v1.0/applications/{id}", graph.delete_application, access="graph"),
    _route("POST /v1.0/applications/{id}/addPassword", graph.add_password, access="graph"),
    _route("POST /v1.0/applications/{id}/removePassword", graph.remove_password, access="graph"),
    _route("GET /v1.0/applications/{id}/owners", graph.list_owners, access="graph"),
    _route("POST /v1.0/applications/{id}/owners/$ref", graph.add_owner, access="graph"),
    _route("DELETE /v1.0/applications/{id}/owners/{owner}/$ref", graph.remove_owner, access="graph"),
    _route("GET /v1.0/servicePrincipals", graph.list_principals, access="graph"),
    _route("POST /v1.0/servicePrincipals", graph.create_principal, access="graph"),
    _route("GET /v1.0/servicePrincipals/{id}", graph.get_principal, access="graph"),
    _route("DELETE /v1.0/servicePrincipals/{id}", graph.delete_principal, access="graph"),
    _route("POST /v1.0/directoryObjects/getByIds", graph.get_by_ids, access="graph"),
    _route("GET /tenants", resources.list_tenants),
    _route("GET /subscriptions", resources.list_subscriptions),
    _route(f"GET {S}", resources.get_subscription, _READ),
    _route(f"GET {S}/locations", resources.list_locations, _READ),
    _route(f"GET {S}/resourcegroups", resources.list_groups, f"{_GROUP_ACTION}/read"),
    _route(f"GET {_GROUP}", resources.get_group, f"{_GROUP_ACTION}/read"),
    _route(f"HEAD {_GROUP}", resources.head_group, f"{_GROUP_ACTION}/read"),
    _route(f"PUT {_GROUP}", resources.put_group, f"{_GROUP_ACTION}/write"),
    _route(f"PATCH {_GROUP}", resources.patch_group, f"{_GROUP_ACTION}/write"),
    _route(f"DELETE {_GROUP}", resources.delete_group, f"{_GROUP_ACTION}/delete"),
    _route(f"GET {_GROUP}/resources", resources.list_resources, f"{_GROUP_ACTION}/resources/read"),
    _route(f"GET {S}/operations/{{id}}", operations.get_operation),
    _route(f"GET {S}/operationresults/{{id}}", operations.get_result),
    _route(f"GET {S}/providers", registration.list_providers, _READ),
    _route(f"GET {S}/providers/{{namespace}}", registration.get_provider, _READ),
    _route(f"POST {S}/providers/{{namespace}}/register", registration.register_provider, "Microsoft.ContainerService/register/action"),
    _route(
        f"POST {S}/providers/{{namespace}}/unregister", registration.unregister_provider, "Microsoft.ContainerService/unregister/action"
    ),
    _route(f"GET {_FEATURES}/features", registration.list_features, "Microsoft.Features/features/read"),
    _route(f"GET {_FEATURES}/providers/{{namespace}}/features", registration.list_features, "Microsoft.Features/features/read"),
    _route(f"GET {_FEATURE}", registration.get_feature, "Microsoft.Features/providers/features/read"),
    _route(f"POST {_FEATURE}/register", registration.register_feature, "Microsoft.Features/providers/features/register/action"),
    _route(f"POST {_FEATURE}/unregister", registration.unregister_feature, "Microsoft.Features/providers/features/unregister/action"),
    _route(f"GET {S}/providers/Microsoft.Compute/skus", compute.list_skus, "Microsoft.Compute/skus/read"),
    _route(
        f"GET {S}/providers/Microsoft.Compute/locations/{{location}}/usages", compute.list_usages, "Microsoft.Compute/locations/usages/read"
    ),
    _route(f"GET {_AKS}/kubernetesVersions", clusters.list_versions, "Microsoft.ContainerService/locations/kubernetesVersions/read"),
    _route(f"GET {_AKS}/operations/{{id}}", operations.get_operation),
    _route(f"GET {_AKS}/operationresults/{{id}}", operations.get_result),
    _route(f"GET {S}{_CLUSTERS}", clusters.list_clusters, f"{_CLUSTER_ACTION}/read"),
    _route(f"GET {_GROUP}{_CLUSTERS}", clusters.list_clusters, f"{_CLUSTER_ACTION}/read"),
    _route(f"GET {_CLUSTER}", clusters.get_cluster, f"{_CLUSTER_ACTION}/read"),
    _route(f"PUT {_CLUSTER}", clusters.put_cluster, f"{_CLUSTER_ACTION}/write"),
    _route(f"DELETE {_CLUSTER}", clusters.delete_cluster, f"{_CLUSTER_ACTION}/delete"),
    _route(f"GET {_CLUSTER}/agentPools", clusters.list_pools, f"{_CLUSTER_ACTION}/agentPools/read"),
    _route(f"GET {_CLUSTER}/agentPools/{{pool}}", clusters.get_pool, f"{_CLUSTER_ACTION}/agentPools/read"),
    _route(f"PUT {_CLUSTER}/agentPools/{{pool}}", clusters.put_pool, f"{_CLUSTER_ACTION}/agentPools/write"),
    _route(f"DELETE {_CLUSTER}/agentPools/{{pool}}", clusters.delete_pool, f"{_CLUSTER_ACTION}/agentPools/delete"),
    _route(f"POST {_CLUSTER}/listClusterUserCredential", clusters.user_credentials, f"{_CLUSTER_ACTION}/listClusterUserCredential/action"),
    _route(
        f"POST {_CLUSTER}/listClusterAdminCredential", clusters.admin_credentials, f"{_CLUSTER_ACTION}/listClusterAdminCredential/action"
    ),
    _route(f"GET {_ROLES}/roleDefinitions", authorization.list_definitions, "Microsoft.Authorization/roleDefinitions/read"),
    _route(f"GET {_ROLES}/roleDefinitions/{{name}}", authorization.get_definition, "Microsoft.Authorization/roleDefinitions/read"),
    _route(f"GET {_ROLES}/permissions", authorization.list_permissions),
    _route(f"GET {_ROLES}/roleAssignments", authorization.list_assignments, "Microsoft.Authorization/roleAssignments/read"),
    _route(f"GET {_ROLES}/roleAssignments/{{name}}", authorization.get_assignment, "Microsoft.Authorization/roleAssignments/read"),
    _route(f"PUT {_ROLES}/roleAssignments/{{name}}", authorization.put_assignment, "Microsoft.Authorization/roleAssignments/write"),
    _route(f"DELETE {_ROLES}/roleAssignments/{{name}}", authorization.delete_assignment, "Microsoft.Authorization/roleAssignments/delete"),
)


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """Find the route of a request and what its path names."""
    for route in ROUTES:
        match = route.path.fullmatch(path) if route.method == method else None
        if match is not None:
            return route, match.groupdict()
    return None
