"""EPC that is offered and held by resource claims (DRA): ResourceSlices and ResourceClaims of the node agent's driver."""

from __future__ import annotations

from math import floor
from typing import TYPE_CHECKING, TypeVar

import msgspec

from kubenclave.errors import Unreachable
from kubenclave.install.holders import Holder
from kubenclave.kube import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kubenclave.kube import Cluster, Document

DRIVER = "epc.kubenclave.dev"
CAPACITY = "epc"

_API = "resource.k8s.io/v1"
_GONE_SECONDS = 60.0

T = TypeVar("T")


class _Capacity(msgspec.Struct):
    value: str


class _Device(msgspec.Struct):
    capacity: dict[str, _Capacity] | None = None


class _SliceSpec(msgspec.Struct, rename="camel"):
    driver: str
    node_name: str | None = None
    devices: list[_Device] | None = None


class _Slice(msgspec.Struct):
    spec: _SliceSpec


class _Metadata(msgspec.Struct):
    namespace: str | None = None


class _Result(msgspec.Struct, rename="camel"):
    driver: str
    pool: str
    consumed_capacity: dict[str, str] | None = None


class _Devices(msgspec.Struct):
    results: list[_Result] | None = None


class _Allocation(msgspec.Struct):
    devices: _Devices | None = None


class _Consumer(msgspec.Struct):
    name: str
    resource: str


class _ClaimStatus(msgspec.Struct, rename="camel"):
    allocation: _Allocation | None = None
    reserved_for: list[_Consumer] | None = None


class _Claim(msgspec.Struct):
    metadata: _Metadata
    status: _ClaimStatus | None = None


def offered(cluster: Cluster) -> dict[str, int]:
    """Return the EPC that each node offers to claims, in bytes."""
    return offered_in(cluster.objects(_API, "ResourceSlice"))


def claimable(cluster: Cluster) -> int:
    """Return the most EPC that one request of a claim can have, in bytes."""
    return claimable_in(cluster.objects(_API, "ResourceSlice"))


def holdings(cluster: Cluster) -> tuple[Holder, ...]:
    """Return the pods that hold EPC by claims."""
    return tuple(held_in(cluster.objects(_API, "ResourceClaim")))


def remove_slices(cluster: Cluster) -> tuple[str, ...]:
    """Delete the driver's ResourceSlices; the kubelet would do it 30 s after the agent's end."""
    mine = [document for document in cluster.objects(_API, "ResourceSlice") if _slice(document).spec.driver == DRIVER]
    return tuple(f"ResourceSlice of {_slice(each).spec.node_name}" for each in mine if cluster.delete(each, timeout_seconds=_GONE_SECONDS))


def offered_in(slices: tuple[Document, ...]) -> dict[str, int]:
    """Return the EPC that ResourceSlices offer, by node, in bytes. Pure."""
    found: dict[str, int] = {}
    for node, devices in _offers(slices):
        found[node] = found.get(node, 0) + sum(devices)
    return found


def claimable_in(slices: tuple[Document, ...]) -> int:
    """Return the EPC of the largest device, in bytes: a request never draws on two. Pure."""
    return max((epc_bytes for _, devices in _offers(slices) for epc_bytes in devices), default=0)


def _offers(slices: tuple[Document, ...]) -> Iterator[tuple[str, list[int]]]:
    """Yield nodes with the EPC of their devices, in bytes."""
    for spec in (_slice(document).spec for document in slices):
        if spec.driver == DRIVER and spec.node_name:
            capacities = [(device.capacity or {}).get(CAPACITY) for device in spec.devices or []]
            yield spec.node_name, [_bytes(capacity.value) for capacity in capacities if capacity is not None]


def held_in(claims: tuple[Document, ...]) -> Iterator[Holder]:
    """Yield what ResourceClaims hold for pods; a claim that several pods share is held by all of them together. Pure."""
    for document in claims:
        claim = _read(document, _Claim)
        status = claim.status or _ClaimStatus()
        pods = [f"{claim.metadata.namespace}/{user.name}" for user in status.reserved_for or [] if user.resource == "pods"]
        devices = (status.allocation.devices if status.allocation else None) or _Devices()
        for result in devices.results or []:
            consumed: Mapping[str, str] = result.consumed_capacity or {}
            if pods and result.driver == DRIVER and CAPACITY in consumed:
                yield Holder(pod=", ".join(pods), node=result.pool, epc_bytes=_bytes(consumed[CAPACITY]))


def _slice(document: Document) -> _Slice:
    return _read(document, _Slice)


def _read(document: Document, kind: type[T]) -> T:
    try:
        return msgspec.convert(document, type=kind)
    except msgspec.ValidationError as exc:
        raise Unreachable(f"{document.get('kind')} is not as {_API} has it: {exc}", "see the API server's version") from exc


def _bytes(quantity: str) -> int:
    return floor(parse_quantity(quantity))
