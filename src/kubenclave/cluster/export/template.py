"""The cluster as one resource of a template, from which the ARM template and the Bicep file are both written. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kubenclave.cluster.body import cluster_body
from kubenclave.cluster.export import notes
from kubenclave.cluster.spec import Identity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kubenclave.cluster.spec import ClusterSpec

RESOURCE_TYPE = "Microsoft.ContainerService/managedClusters"
# The newest stable version of which the published template schemas say what it holds.
API_VERSION = "2026-05-01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """Name a value that is given when the template is deployed."""

    name: str
    description: str
    secret: bool


Tree: TypeAlias = "Parameter | bool | int | float | str | Sequence[Tree] | Mapping[str, Tree] | None"

CLIENT_ID = Parameter(name="servicePrincipalClientId", description="Application (client) ID of the service principal.", secret=False)
CLIENT_SECRET = Parameter(name="servicePrincipalSecret", description="Secret of the service principal.", secret=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Hold a template's parameters, its one resource without type and version, and what it leaves to its reader."""

    parameters: tuple[Parameter, ...]
    resource: Mapping[str, Tree]
    notes: tuple[str, ...]


def template(spec: ClusterSpec) -> Template:
    """Return the template of a cluster; it is deployed to the cluster's resource group."""
    body = cluster_body(spec)
    properties = body["properties"]
    parameters: tuple[Parameter, ...] = ()
    resource: dict[str, Tree] = {"name": spec.name, **body}
    if spec.identity is Identity.SERVICE_PRINCIPAL and isinstance(properties, dict):
        parameters = (CLIENT_ID, CLIENT_SECRET)
        resource["properties"] = {**properties, "servicePrincipalProfile": {"clientId": CLIENT_ID, "secret": CLIENT_SECRET}}
    said = (notes.title(spec), *notes.principal_first(spec), *notes.not_carried(spec), *notes.afterwards(spec))
    return Template(parameters=parameters, resource=resource, notes=said)
