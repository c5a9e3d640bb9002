"""Write an inventory as the devices of a ResourceSlice, and decide what has to be done so that the API server has it. Pure.

One device for each NUMA node's EPC, shared by claims that each take some bytes of it (KEP-5075, consumable capacity): a request is
rounded up to whole pages, the scheduler sums what claims took and never gives more than there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from kubenclave.errors import KubenclaveError, Refused, Unreachable
from kubenclave.kube import parse_quantity
from kubenclave.node.dialect import DRIVER
from kubenclave.node.inventory import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kubenclave.kube import Document
    from kubenclave.node.inventory import Inventory, NumaEpc
    from kubenclave.node.node_status import NodeView

# Asked for without the driver's name: the qualified one is not understood by 1.37.0 (kubernetes/kubernetes pull request 142202).
CAPACITY = "epc"
PROVISION_DEVICE = "provision"

API_VERSION = "resource.k8s.io/v1"
SLICES = f"apis/{API_VERSION}/resourceslices"

# What a claim takes that names no capacity.
_DEFAULT_BYTES = 1 << 20
# Devices of one slice (ResourceSliceMaxDevices); Linux knows 1,024 NUMA nodes, but no machine has a tenth of this with EPC.
_MAX_DEVICES = 128


def devices_of(inventory: Inventory, *, provision: bool) -> tuple[Document, ...]:
    """Write the devices: each NUMA node's EPC in whole pages, and the provisioning device if it is offered and there.

    Raises:
        Refused: There are more NUMA nodes than one slice takes devices.
    """
    devices = [_epc_device(node, inventory) for node in inventory.numa if node.epc_bytes >= PAGE_BYTES]
    if provision and inventory.provision_device is not None:
        devices.append(
            {
                "name": PROVISION_DEVICE,
                "allowMultipleAllocations": True,
                "attributes": {"kind": {"string": "provision"}, "simulated": {"bool": inventory.simulated}},
            }
        )
    if len(devices) > _MAX_DEVICES:
        raise Refused(
            f"the host has EPC on {len(devices)} NUMA nodes; a ResourceSlice takes {_MAX_DEVICES} devices", hint="report this machine"
        )
    return tuple(devices)


def device_name(node: NumaEpc) -> str:
    """Name the device of a NUMA node's EPC."""
    return "epc" if node.numa_node is None else f"epc-numa{node.numa_node}"


def _epc_device(node: NumaEpc, inventory: Inventory) -> dict[str, object]:
    pages_bytes = node.epc_bytes // PAGE_BYTES * PAGE_BYTES
    attributes: dict[str, object] = {
        "kind": {"string": "epc"},
        "flc": {"bool": inventory.features.flc},
        "sgx2": {"bool": inventory.features.sgx2},
        "simulated": {"bool": inventory.simulated},
    }
    if node.numa_node is not None:
        attributes["numaNode"] = {"int": node.numa_node}
    policy = {"default": str(min(_DEFAULT_BYTES, pages_bytes)), "validRange": {"min": str(PAGE_BYTES), "step": str(PAGE_BYTES)}}
    return {
        "name": device_name(node),
        "allowMultipleAllocations": True,
        "attributes": attributes,
        "capacity": {CAPACITY: {"value": str(pages_bytes), "requestPolicy": policy}},
    }


class _Owner(msgspec.Struct):
    uid: str = ""


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str = ""
    owner_references: list[_Owner] = []


class _Pool(msgspec.Struct):
    generation: int = 0


class _Spec(msgspec.Struct):
    pool: _Pool
    devices: list[dict[str, object]] = []


class SliceView(msgspec.Struct, frozen=True):
    """What matters here of a ResourceSlice."""

    metadata: _Metadata
    spec: _Spec


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class SliceList(msgspec.Struct, frozen=True):
    """A list of ResourceSlices, and its version."""

    metadata: _ListMetadata
    items: list[SliceView] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done: slices to delete by name, and one to create or to replace."""

    delete: tuple[str, ...] = ()
    create: Document | None = None
    replace: Document | None = None


def read_slices(document: Document) -> SliceList:
    """Read a list of ResourceSlices.

    Raises:
        Unreachable: It is none.
    """
    try:
        return msgspec.convert(document, SliceList)
    except msgspec.ValidationError as exc:
        raise Unreachable(f"the API server sent something else than ResourceSlices: {exc}", "see what answers at its address") from exc


def plan(existing: Sequence[SliceView], node: NodeView, devices: Sequence[Document]) -> Plan:
    """Decide how this driver's slices of this node become one slice with these devices; without devices none is left."""
    name = f"{node.metadata.name}-{DRIVER}"
    own = next((found for found in existing if found.metadata.name == name), None)
    strays = tuple(found.metadata.name for found in existing if found is not own)
    if not devices:
        return Plan(delete=strays if own is None else (*strays, name))
    generation = max((found.spec.pool.generation for found in existing), default=0)
    if own is None:
        return Plan(delete=strays, create=_slice(name, node, devices, generation + 1))
    if same_devices(own.spec.devices, devices) and [owner.uid for owner in own.metadata.owner_references] == [node.metadata.uid]:
        return Plan(delete=strays)
    return Plan(delete=strays, replace=_slice(name, node, devices, generation + 1, own.metadata.resource_version))


def same_devices(found: Iterable[Document], wanted: Iterable[Document]) -> bool:
    """Tell whether the devices are the same, whatever form the API server has given their numbers."""
    return [_plain(device) for device in found] == [_plain(device) for device in wanted]


def check_stored(stored: SliceView, wanted: Sequence[Document]) -> None:
    """Make sure that the API server kept everything: it drops fields whose feature is off.

    Raises:
        Refused: Something is missing.
    """
    if not same_devices(stored.spec.devices, wanted):
        raise Refused(
            f"the API server did not keep all fields of ResourceSlice {stored.metadata.name}: claims cannot share EPC in this cluster",
            hint="use Kubernetes 1.36 or newer with the feature DRAConsumableCapacity on, or another mode",
        )


def _slice(name: str, node: NodeView, devices: Sequence[Document], generation: int, version: str = "") -> Document:
    owner = {"apiVersion": "v1", "kind": "Node", "name": node.metadata.name, "uid": node.metadata.uid, "controller": True}
    metadata: dict[str, object] = {
        "name": name,
        "labels": {"app.kubernetes.io/name": "kubenclave-node", "app.kubernetes.io/managed-by": "kubenclave"},
        "ownerReferences": [owner],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "ResourceSlice",
        "metadata": metadata | ({"resourceVersion": version} if version else {}),
        "spec": {
            "driver": DRIVER,
            "nodeName": node.metadata.name,
            "pool": {"name": node.metadata.name, "generation": generation, "resourceSliceCount": 1},
            "devices": list(devices),
        },
    }


def _plain(value: object) -> object:
    """Write quantities, which the API server writes in its own way, as numbers."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, str) and value[:1].isdigit():
        return _number(value)
    return value


def _number(text: str) -> object:
    try:
        return parse_quantity(text)
    except KubenclaveError:
        return text
