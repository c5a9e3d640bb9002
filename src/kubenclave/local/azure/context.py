"""What a handler is given: the state, the request, the time, who calls. And the few looks at the state that several handlers share."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.local.azure.values import SUBSCRIPTION, Rejected, stamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubenclave.local.azure.schema import Schema
    from kubenclave.local.azure.state import Cluster, Fault, Group, State
    from kubenclave.local.azure.values import Request

S = f"/subscriptions/{SUBSCRIPTION}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Hold what one handler works with; ``now`` is in Unix seconds.

    ``faults`` are those that this request's operation is to suffer; ``kubeconfig`` reads that of a local cluster by its name.
    """

    state: State
    request: Request
    now: float
    caller: str
    kubeconfig: Callable[[str], str]
    schema: Schema | None = None
    faults: tuple[Fault, ...] = ()

    def stamp(self, seconds: float) -> str:
        """Write a time as this Azure's clock shows it."""
        return stamp(seconds + self.state.settings.clock_skew_seconds)

    def replicated(self, created: float) -> bool:
        """Tell whether what was created then is known everywhere by now."""
        return self.now >= created + self.state.settings.replication_seconds

    def group(self, name: str) -> Group:
        """Give a resource group.

        Raises:
            Rejected: There is none.
        """
        found = self.state.groups.get(name.lower())
        if found is None:
            raise Rejected(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
        return found

    def cluster(self, group: str, name: str) -> Cluster:
        """Give a managed cluster.

        Raises:
            Rejected: There is none, or no such group.
        """
        self.group(group)
        found = self.state.clusters.get(cluster_key(group, name))
        if found is None:
            raise Rejected(
                404,
                "ResourceNotFound",
                f"The Resource 'Microsoft.ContainerService/managedClusters/{name}' under resource group '{group}' was not found. "
                "For more details please go to https://aka.ms/ARMResourceNotFoundFix",
            )
        return found


def cluster_key(group: str, name: str) -> str:
    """Give the key under which a cluster is kept."""
    return f"{group}/{name}".lower()


def group_id(name: str) -> str:
    """Give the resource ID of a group."""
    return f"{S}/resourceGroups/{name}"


def cluster_id(group: str, name: str) -> str:
    """Give the resource ID of a cluster. The recordings have ``resourcegroups`` in lower case here."""
    return f"{S}/resourcegroups/{group}/providers/Microsoft.ContainerService/managedClusters/{name}"


def new_id() -> str:
    """Make an identifier as Azure's."""
    return str(uuid.uuid4())
