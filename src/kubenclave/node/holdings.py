"""Read from the kubelet's list of pods and devices which container was given how much EPC. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from kubenclave.errors import Unreachable
from kubenclave.node._generated.podresources_pb2 import ContainerDevices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kubenclave.node._generated.podresources_pb2 import ContainerResources, ListPodResourcesResponse

UNKNOWN_NODE = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Container:
    """Name a container of a pod."""

    namespace: str
    pod: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one container was given.

    Attributes:
        container: The container.
        epc_bytes: How much, by the number of the NUMA node on which it is accounted, as text; None where this agent cannot know
            (Intel's dialect: the kubelet is never told of the bytes).
    """

    container: Container
    epc_bytes: Mapping[str, int] | None


def held_units(pods: ListPodResourcesResponse, resource: str, unit_bytes: int) -> tuple[Holding, ...]:
    """Return what containers hold in units of a device plugin's resource.

    Raises:
        Unreachable: What is said to be devices is something else.
    """
    found = []
    for container, resources in _containers(pods):
        nodes = Counter(_units(resources.devices, resource).values())
        if nodes:
            found.append(Holding(container=container, epc_bytes={node: units * unit_bytes for node, units in nodes.items()}))
    return tuple(found)


def held_devices(pods: ListPodResourcesResponse, resource: str) -> tuple[Holding, ...]:
    """Return which containers hold a device that says nothing of the EPC that goes with it.

    Raises:
        Unreachable: What is said to be devices is something else.
    """
    return tuple(
        Holding(container=container, epc_bytes=None) for container, resources in _containers(pods) if _units(resources.devices, resource)
    )


def held_claims(
    pods: ListPodResourcesResponse, driver: str, share: Callable[[tuple[str, str, str, str]], tuple[str, int] | None]
) -> tuple[Holding, ...]:
    """Return what containers hold by claims; each container of a pod that shares a claim is shown with the whole of it.

    Args:
        pods: The kubelet's answer.
        driver: The driver whose devices count.
        share: Gives the NUMA node and the bytes of (namespace, claim, device, share ID); None for what is no EPC.
    """
    found = []
    for container, resources in _containers(pods):
        nodes: Counter[str] = Counter()
        for claim in resources.dynamic_resources:
            for one in claim.claim_resources:
                key = (claim.claim_namespace, claim.claim_name, one.device_name, one.share_id)
                if one.driver_name == driver and (known := share(key)) is not None:
                    nodes[known[0]] += known[1]
        if nodes:
            found.append(Holding(container=container, epc_bytes=dict(nodes)))
    return tuple(found)


def _containers(pods: ListPodResourcesResponse) -> Iterable[tuple[Container, ContainerResources]]:
    for pod in pods.pod_resources:
        for resources in pod.containers:
            yield Container(namespace=pod.namespace, pod=pod.name, name=resources.name), resources


def _units(devices: Iterable[bytes], resource: str) -> dict[bytes, str]:
    """Return the units of a resource by identifier, each with its NUMA node.

    The kubelet writes every unit by itself, and one that lies on two nodes twice. All are alike but for the identifier, so what
    comes before it is compared and what comes after it is decoded once for each node: a tenth of the time of decoding each.
    """
    prefix = ContainerDevices(resource_name=resource).SerializeToString()
    start = len(prefix) + 2  # field 2 (0x12) and the identifier's length
    nodes: dict[bytes, str] = {}
    units: dict[bytes, str] = {}
    for device in devices:
        if not device.startswith(prefix):
            continue
        if len(device) < start or device[start - 2] != 0x12:  # noqa: PLR2004 - see above
            raise _damaged("its device has no identifier")
        end = start + device[start - 1]
        tail = device[end:]
        if tail not in nodes:
            nodes[tail] = _node(tail)
        units.setdefault(device[start:end], nodes[tail])
    return units


def _node(tail: bytes) -> str:
    try:
        rest = ContainerDevices.FromString(tail)
    except DecodeError as exc:
        raise _damaged(str(exc)) from exc
    if rest.device_ids:
        raise _damaged("it lists several devices at once")
    return str(rest.topology.nodes[0].ID) if rest.topology.nodes else UNKNOWN_NODE


def _damaged(how: str) -> Unreachable:
    return Unreachable(f"the kubelet's list of pods is not as this agent knows it: {how}", hint="report it with the kubelet's version")
