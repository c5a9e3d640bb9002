"""Decide what has to be written into the Node's status so that it says how much EPC there is, and whether that is ours to say. Pure.

A Node's ``status.capacity`` takes resources of any name; the scheduler counts them, and the kubelet carries them over to
``status.allocatable``. A starting kubelet whose checkpoint is absent sets them all to 0 (``reconcileExtendedResource``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kubenclave.errors import KubenclaveError, Refused, Unreachable
from kubenclave.kube import parse_quantity
from kubenclave.node.dialect import DIALECTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kubenclave.kube import Document

FIELD_MANAGER = "kubenclave-node"
# On the Node: the bytes in its status are this agent's, and the one that uninstalls it may take them away.
MARK = "kubenclave.dev/epc-bytes"

# Node feature discovery lists here the extended resources that it manages (its api/nfd/v1alpha1, annotations_labels.go).
_NFD_RESOURCES = "nfd.node.kubernetes.io/extended-resources"
_KUBELET = "kubelet"
# What a person writes by hand is not written again and again.
_BY_HAND = "kubectl"


class _ManagedFields(msgspec.Struct, rename="camel"):
    manager: str = ""
    fields_v1: dict[str, object] = msgspec.field(default_factory=dict, name="fieldsV1")


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    uid: str
    resource_version: str
    annotations: dict[str, str] = {}
    managed_fields: list[_ManagedFields] = []


class _Status(msgspec.Struct):
    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}


class NodeView(msgspec.Struct, frozen=True):
    """What matters here of a Node."""

    metadata: _Metadata
    status: _Status = msgspec.field(default_factory=_Status)


def view_of(node: Document) -> NodeView:
    """Read a Node.

    Raises:
        Unreachable: It is none.
    """
    try:
        return msgspec.convert(node, NodeView)
    except msgspec.ValidationError as exc:
        raise Unreachable(f"the API server sent something else than a Node: {exc}", "see what answers at its address") from exc


def patch_for(node: NodeView, resource: str, epc_bytes: int) -> Document | None:
    """Return the merge patch of the status after which the Node says so many bytes, or None if it says so already.

    None as well where it is to say 0 and never said anything by this agent.

    Raises:
        Refused: Somebody else manages the resource on this Node, or offers its EPC under another name.
    """
    if epc_bytes == 0 and MARK not in node.metadata.annotations:
        return None
    check_alone(node, resource)
    told = str(epc_bytes)
    if node.metadata.annotations.get(MARK) == told and {
        _amount(node.status.capacity, resource),
        _amount(node.status.allocatable, resource),
    } == {epc_bytes}:
        return None
    return {
        "metadata": {"annotations": {MARK: told}},
        "status": {"capacity": {resource: told}, "allocatable": {resource: told}},
    }


def check_alone(node: NodeView, resource: str) -> None:
    """Make sure that nobody else offers this Node's EPC, under the resource's name or another; with an empty name, under any.

    Raises:
        Refused: Somebody does; the message says who.
    """
    name = node.metadata.name
    for other in (dialect.resource for dialect in DIALECTS):
        if other != resource and (held := _amount(node.status.allocatable, other)):
            raise Refused(
                f"node {name} already offers its EPC as {other} ({held}): both together would give it out twice",
                hint="one mode and one dialect at a time on a node: end the other one, then wait until the kubelet shows 0 of it",
            )
    if not resource:
        return
    if resource in node.metadata.annotations.get(_NFD_RESOURCES, "").split(","):
        raise Refused(
            f"node feature discovery manages {resource} on node {name} (annotation {_NFD_RESOURCES})",
            hint="delete the NodeFeatureRule that sets the extended resource, or do not run this agent in mode extended-resource",
        )
    for manager in _managers(node.metadata.managed_fields, resource):
        raise Refused(
            f"{manager!r} sets {resource} in the status of node {name}, which only one may do",
            hint=f"stop {manager!r} (Intel's epc-register does this) and remove {resource} from the node's status, or use another mode",
        )


def _managers(entries: list[_ManagedFields], resource: str) -> Iterator[str]:
    for entry in entries:
        field: object = entry.fields_v1
        for step in ("f:status", "f:capacity", f"f:{resource}"):
            field = field.get(step) if isinstance(field, dict) else None
        if field is not None and entry.manager not in {FIELD_MANAGER, _KUBELET} and not entry.manager.startswith(_BY_HAND):
            yield entry.manager


def _amount(resources: Mapping[str, str], name: str) -> int | None:
    try:
        return int(parse_quantity(resources[name]))
    except (KeyError, KubenclaveError):
        return None
