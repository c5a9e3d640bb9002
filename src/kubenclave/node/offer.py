"""Turn an inventory into the one message that offers it to the kubelet, or refuse with the numbers. Pure.

The kubelet takes a resource's units only as one complete list, in one gRPC message of at most 4 MiB; above that it shows
capacity 0 and the plugin never hears why. So the message's exact size is computed first, from the sizes protobuf itself gives,
and only a list that fits is built: in slices, whose objects are dropped, since a protobuf message followed by another of the
same type is the message with both their lists (protobuf encoding, "Last One Wins").
"""

from __future__ import annotations

import itertools
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import HostUnfit, Refused
from kubenclave.node._generated.deviceplugin_pb2 import Device, ListAndWatchResponse, NUMANode, TopologyInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kubenclave.node._generated.deviceplugin_pb2 import ContainerAllocateRequest
    from kubenclave.node.dialect import Dialect
    from kubenclave.node.inventory import Inventory, NumaEpc

# The kubelet's gRPC client sets no limit of its own, so grpc-go's default holds (defaultClientMaxReceiveMessageSize).
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

HEALTHY = "Healthy"

# 64 symbols in rising ASCII order: identifiers of one length then sort as the units they stand for.
_SYMBOLS = string.digits + string.ascii_uppercase + "_" + string.ascii_lowercase + "~"
_SYMBOL_BYTES = _SYMBOLS.encode()
_TAG = b"\n"
# Bounds the memory held in protobuf objects to well under 1 MiB while a list is built.
_SLICE_UNITS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A number of units of a resource, and the serialised ListAndWatchResponse that says so.

    Attributes:
        resource: The extended resource's name.
        units: How many units are offered, identified as ``unit_id(0)`` to ``unit_id(units - 1)``.
        message: The response, ready to be sent.
        topology: Each unit says on which NUMA nodes its memory lies.
        simulated: The EPC is that of a simulated host.
    """

    resource: str
    units: int
    message: bytes
    topology: bool
    simulated: bool


def make_offer(inventory: Inventory, dialect: Dialect) -> Offer:
    """Offer the whole EPC of an inventory, its sum rounded down to whole units.

    Units say their NUMA node where the host has several and the list with it still fits.

    Raises:
        HostUnfit: There is less EPC than one unit.
        Refused: The list is larger than the kubelet takes.
    """
    units = inventory.epc_bytes // dialect.unit_bytes
    if units == 0:
        raise HostUnfit(
            f"the host has {inventory.epc_bytes} bytes of EPC, less than one unit of {dialect.resource} ({dialect.unit_bytes} bytes)",
            hint="reserve more memory for SGX in the firmware",
        )
    spread = _spans(inventory.numa, units, dialect.unit_bytes)
    topology = len(inventory.numa) > 1 and _list_bytes(spread) <= MAX_MESSAGE_BYTES
    spans = spread if topology else [_Span(first=0, end=units, nodes=())]
    if (size := _list_bytes(spans)) > MAX_MESSAGE_BYTES:
        raise Refused(
            f"{units} units of {dialect.resource} make a device list of {size} bytes; the kubelet takes at most {MAX_MESSAGE_BYTES}",
            hint=f"a device plugin can offer at most {max_units()} units of one resource on a node",
        )
    message = bytearray()
    for piece in _slices(spans):
        message += piece
    return Offer(resource=dialect.resource, units=units, message=bytes(message), topology=topology, simulated=inventory.simulated)


def count_offer(resource: str, units: int, *, simulated: bool) -> Offer:
    """Offer so many units of a device that can be shared: each lets one container have it."""
    message = b"".join(_slices([_Span(first=0, end=units, nodes=())]))
    return Offer(resource=resource, units=units, message=message, topology=False, simulated=simulated)


def no_offer(resource: str, *, simulated: bool) -> Offer:
    """Offer nothing: the empty list, by which units offered earlier are taken back."""
    return Offer(resource=resource, units=0, message=b"", topology=False, simulated=simulated)


def max_units() -> int:
    """Count the units that fit into one list without NUMA nodes."""
    left, units, length = MAX_MESSAGE_BYTES, 0, 1
    while fitting := min(len(_SYMBOLS) ** length, left // _device_bytes(length, ())):
        left -= fitting * _device_bytes(length, ())
        units += fitting
        length += 1
    return units


def unit_id(unit: int) -> str:
    """Name a unit by the shortest identifier still free when units are named in order: 64 of one symbol, 4,096 of two, ..."""
    length, count = 1, len(_SYMBOLS)
    while unit >= count:
        unit, length, count = unit - count, length + 1, count * len(_SYMBOLS)
    symbols = []
    for _ in range(length):
        unit, rest = divmod(unit, len(_SYMBOLS))
        symbols.append(_SYMBOLS[rest])
    return "".join(reversed(symbols))


def named_units(requests: Iterable[ContainerAllocateRequest], units: int) -> list[bytes] | None:
    """Return the names in some requests, as bytes that differ as they do; None unless each names one of the first ``units`` units.

    Some 60 nanoseconds each, without a table of names: the serialised requests are looked at whole, and 32,768 strings never made. In
    them a name is a line feed (the tag of field 1), its length and its symbols, among which is no line feed.
    """
    requests = tuple(requests)
    listed = b"".join(request.SerializeToString() for request in requests)
    names = listed.split(_TAG)[1:]
    if not names:
        return []
    if units == 0 or len(names) != sum(len(request.devices_ids) for request in requests):
        return None
    last = unit_id(units - 1).encode()
    frames = listed.translate(None, _SYMBOL_BYTES)
    for length in range(1, len(last) + 1):
        frames = frames.replace(_TAG + bytes([length]), b"")
    # With their lengths before them, shorter names sort before longer ones, as their units do.
    return None if frames or max(names) > bytes([len(last)]) + last else names


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """The units from ``first`` up to ``end``, all of whose memory lies on the same NUMA nodes (none: not said)."""

    first: int
    end: int
    nodes: tuple[int, ...]


def _spans(numa: Sequence[NumaEpc], units: int, unit_bytes: int) -> list[_Span]:
    """Lay the NUMA nodes' EPC end to end and cut it into units; a unit across a border lies on every node it touches."""
    ends = list(itertools.accumulate(node.epc_bytes for node in numa))
    starts = [0, *ends[:-1]]
    cuts = sorted({0, units, *(end // unit_bytes for end in ends), *(min(units, -(-end // unit_bytes)) for end in ends)})
    spans = []
    for first, end in itertools.pairwise(cuts):
        low, high = first * unit_bytes, (first + 1) * unit_bytes
        within = [node.numa_node for node, a, b in zip(numa, starts, ends, strict=True) if a < high and b > low and a < b]
        nodes = tuple(number for number in within if number is not None)
        spans.append(_Span(first=first, end=end, nodes=nodes))
    return spans


def _list_bytes(spans: Sequence[_Span]) -> int:
    """Compute the serialised size of the list of these units, without building it."""
    total, length, first, end = 0, 1, 0, len(_SYMBOLS)
    while first < spans[-1].end:
        for span in spans:
            count = min(span.end, end) - max(span.first, first)
            if count > 0:
                total += count * _device_bytes(length, span.nodes)
        length += 1
        first, end = end, end + len(_SYMBOLS) ** length
    return total


def _device_bytes(id_length: int, nodes: tuple[int, ...]) -> int:
    return ListAndWatchResponse(devices=[_device(_SYMBOLS[0] * id_length, nodes)]).ByteSize()


def _device(name: str, nodes: tuple[int, ...]) -> Device:
    if not nodes:
        # Never an empty TopologyInfo: the topology manager would reject the pod (kubernetes/kubernetes issue 112234).
        return Device(ID=name, health=HEALTHY)
    return Device(ID=name, health=HEALTHY, topology=TopologyInfo(nodes=[NUMANode(ID=node) for node in nodes]))


def _slices(spans: Sequence[_Span]) -> Iterator[bytes]:
    for span in spans:
        for first in range(span.first, span.end, _SLICE_UNITS):
            units = range(first, min(first + _SLICE_UNITS, span.end))
            yield ListAndWatchResponse(devices=[_device(unit_id(unit), span.nodes) for unit in units]).SerializeToString()
