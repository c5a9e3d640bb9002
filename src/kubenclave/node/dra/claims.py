"""Read from a ResourceClaim what this node has to prepare for it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from kubenclave.errors import Refused, Unreachable
from kubenclave.kube import parse_quantity
from kubenclave.node.dialect import DRIVER
from kubenclave.node.dra.slices import CAPACITY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kubenclave.kube import Document

# The API server makes UUIDs. The UID becomes part of a file's name: nothing else may.
_UID = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z-]{0,62}")
# AllocationResultsMaxSize of resource.k8s.io/v1.
_MAX_RESULTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimName:
    """A claim as the kubelet names it."""

    namespace: str
    name: str
    uid: str

    @property
    def path(self) -> str:
        """Where the API server has it."""
        return f"apis/resource.k8s.io/v1/namespaces/{self.namespace}/resourceclaims/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """One device, or a share of one, that was allocated to a claim.

    Attributes:
        request: The claim's request that it serves.
        device: The device's name.
        share_id: Tells the shares of a device apart; empty where it is not shared.
        epc_bytes: How much of the device's EPC it is; 0 for a device without.
    """

    request: str
    device: str
    share_id: str
    epc_bytes: int


class _Result(msgspec.Struct, rename="camel"):
    request: str
    driver: str
    pool: str
    device: str
    share_id: str = msgspec.field(default="", name="shareID")
    consumed_capacity: dict[str, str] = {}


class _Devices(msgspec.Struct):
    results: list[_Result] = []


class _Allocation(msgspec.Struct):
    devices: _Devices = msgspec.field(default_factory=_Devices)


class _Status(msgspec.Struct):
    allocation: _Allocation | None = None


class _Metadata(msgspec.Struct):
    uid: str


class _Claim(msgspec.Struct):
    metadata: _Metadata
    status: _Status = msgspec.field(default_factory=_Status)


def check_name(claim: ClaimName) -> None:
    """Make sure that the claim's UID can be part of a file's name, and its names of a path.

    Raises:
        Refused: One cannot.
    """
    if not _UID.fullmatch(claim.uid) or any(not text or set(text) & set("/?#%") for text in (claim.namespace, claim.name)):
        raise Refused(
            f"{claim.namespace[:63]!r}/{claim.name[:63]!r} with UID {claim.uid[:63]!r} names no ResourceClaim", "see the kubelet's log"
        )


def is_allocated(document: Document, claim: ClaimName) -> bool:
    """Tell whether what the API server has under the claim's name is the same claim, and allocated."""
    found = _read(document, claim)
    return found.metadata.uid == claim.uid and found.status.allocation is not None


def allotments(document: Document, claim: ClaimName, pool: str, known_devices: Iterable[str]) -> tuple[Allotment, ...]:
    """Return what was allocated to the claim from this node's pool.

    Raises:
        Refused: The claim is another one or not allocated, or got a device that this node does not have.
    """
    found = _read(document, claim)
    named = f"ResourceClaim {claim.namespace}/{claim.name}"
    if found.metadata.uid != claim.uid:
        raise Refused(f"{named} has been replaced by another of the same name", hint="the kubelet will ask for the new one")
    if found.status.allocation is None:
        raise Refused(f"{named} is not allocated", hint="the scheduler has to allocate it before its pod is started")
    results = [result for result in found.status.allocation.devices.results if result.driver == DRIVER]
    if not results or len(results) > _MAX_RESULTS:
        raise Refused(f"{named} has {len(results)} devices of driver {DRIVER}", hint="see its status.allocation")
    known = set(known_devices)
    for result in results:
        if result.pool != pool or result.device not in known:
            raise Refused(
                f"{named} was given device {result.device} of pool {result.pool}, which node {pool} does not have",
                hint="delete the pod, so that its claim is allocated from what the node has now",
            )
    return tuple(
        Allotment(request=one.request, device=one.device, share_id=one.share_id, epc_bytes=_epc_bytes(one, named)) for one in results
    )


def _epc_bytes(result: _Result, named: str) -> int:
    consumed = result.consumed_capacity.get(CAPACITY, "0")
    try:
        return int(parse_quantity(consumed))
    except Refused as exc:
        raise Unreachable(f"{named} consumes of {CAPACITY} what is no quantity: {exc.what}", "see its status.allocation") from exc


def _read(document: Document, claim: ClaimName) -> _Claim:
    try:
        return msgspec.convert(document, _Claim)
    except msgspec.ValidationError as exc:
        raise Unreachable(f"the API server sent something else than ResourceClaim {claim.name}: {exc}", "see what answers there") from exc
