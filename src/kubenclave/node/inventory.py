"""Decide from what the host shows how much EPC this node has and whether enclaves can be opened on it. Pure.

The kernel's own word (sysfs, Linux 5.17) comes first. Where it says nothing, the processor's does (CPUID), except on a simulated host,
whose processor is not the one it plays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from kubenclave.errors import HostUnfit, Refused
from kubenclave.node.processor import SgxFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.node.processor import SgxProcessor

# The kernel prints an unsigned long and a newline (Documentation/ABI/stable/sysfs-devices-node, Linux 5.17).
MAX_EPC_BYTES_TEXT = 21
_EPC_BYTES_TEXT = re.compile(rb"(0|[1-9][0-9]{0,19})\n?")
_MAX_EPC_BYTES = 2**64 - 1

# EPC is handed out in pages of this size (Intel SDM volume 3D, "Enclave Page Cache").
PAGE_BYTES = 4096

SYSFS_NODES = "sys/devices/system/node"
# Linux 5.11 and newer; then the path of Intel's DCAP driver before it.
ENCLAVE_DEVICES = ("dev/sgx_enclave", "dev/sgx/enclave")
PROVISION_DEVICES = ("dev/sgx_provision", "dev/sgx/provision")

# What a simulated host plays: /dev/sgx_enclave exists only where launch control is flexible, and no more than SGX1 is claimed.
_PLAYED = SgxFeatures(sgx1=True, sgx2=False, flc=True)
_NO_FEATURES = SgxFeatures(sgx1=False, sgx2=False, flc=False)


class DeviceKind(Enum):
    """What stands at a device's path."""

    ABSENT = "absent"
    CHARACTER_DEVICE = "character device"
    OTHER = "something other than a character device"


class Source(Enum):
    """Where the EPC's size is from."""

    SYSFS = "sysfs"
    CPUID = "cpuid"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    """What the host shows, as it was read and not yet believed.

    Attributes:
        epc_texts: The content of each NUMA node's ``sgx_total_bytes``, by the node's number; without nodes that have no such file.
        numa_nodes: The numbers of all NUMA nodes.
        enclave: What stands at each of ``ENCLAVE_DEVICES``, in their order.
        provision: What stands at each of ``PROVISION_DEVICES``, in their order.
        processor: What CPUID says; None where it could not be asked.
        simulated: The host says of itself that it only plays an SGX host.
    """

    epc_texts: tuple[tuple[int, bytes], ...]
    numa_nodes: tuple[int, ...]
    enclave: tuple[DeviceKind, ...]
    provision: tuple[DeviceKind, ...]
    processor: SgxProcessor | None
    simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaEpc:
    """The EPC of one NUMA node; of all of them together, with the number None, where it is not known which part lies where."""

    numa_node: int | None
    epc_bytes: int

    @property
    def label(self) -> str:
        """The node's number for logs and metrics."""
        return "unknown" if self.numa_node is None else str(self.numa_node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The EPC of a host on which enclaves can be opened, by NUMA node in rising order; compared as a value.

    Attributes:
        numa: Sizes by NUMA node.
        source: Where they are from.
        features: What the processor can do.
        enclave_device: The host's path of the device that opens enclaves.
        provision_device: The host's path of the device that grants the provisioning key; None where there is none.
        simulated: It is that of a simulated host.
    """

    numa: tuple[NumaEpc, ...]
    source: Source
    features: SgxFeatures
    enclave_device: str
    provision_device: str | None
    simulated: bool

    @property
    def epc_bytes(self) -> int:
        """Sum over the NUMA nodes."""
        return sum(node.epc_bytes for node in self.numa)


def take_inventory(reading: HostReading) -> Inventory:
    """Turn a reading into an inventory.

    Raises:
        HostUnfit: The host has no EPC, or no device to open enclaves with.
        Refused: A number is not what the kernel writes; the message says in which file.
    """
    processor = None if reading.simulated else reading.processor
    features = _PLAYED if reading.simulated else processor.features if processor else _NO_FEATURES
    if reading.epc_texts:
        source = Source.SYSFS
        numa = tuple(NumaEpc(numa_node=node, epc_bytes=_epc_bytes(node, text)) for node, text in sorted(reading.epc_texts))
    else:
        source, numa = Source.CPUID, _from_processor(processor, reading.numa_nodes)
    total = sum(node.epc_bytes for node in numa)
    if total == 0:
        raise HostUnfit("the host shows 0 bytes of EPC on every NUMA node", hint="enable SGX and reserve memory for it in the firmware")
    enclave = _device(ENCLAVE_DEVICES, reading.enclave)
    if enclave is None:
        raise HostUnfit(
            f"the host has {total} bytes of EPC, but /{ENCLAVE_DEVICES[0]} is {reading.enclave[0].value}"
            f" and /{ENCLAVE_DEVICES[1]} is {reading.enclave[1].value}",
            hint="enclaves need a CPU with flexible launch control and Linux 5.11 or newer with CONFIG_X86_SGX",
        )
    return Inventory(
        numa=numa,
        source=source,
        features=features,
        enclave_device=enclave,
        provision_device=_device(PROVISION_DEVICES, reading.provision),
        simulated=reading.simulated,
    )


def keep_back(inventory: Inventory, reserve_bytes: int) -> Inventory:
    """Return what is left to offer when some EPC is kept for the host's own enclaves, such as the quoting enclave.

    It is taken from the NUMA node with the most EPC, and from the next where that is not enough.

    Raises:
        HostUnfit: Nothing would be left.
    """
    if reserve_bytes >= inventory.epc_bytes:
        raise HostUnfit(
            f"the host has {inventory.epc_bytes} bytes of EPC and {reserve_bytes} are reserved: nothing is left to offer",
            hint="give --reserve a smaller size",
        )
    left, kept = reserve_bytes, {}
    for node in sorted(inventory.numa, key=lambda node: -node.epc_bytes):
        taken = min(left, node.epc_bytes)
        left -= taken
        kept[node.numa_node] = node.epc_bytes - taken
    return replace(inventory, numa=tuple(replace(node, epc_bytes=kept[node.numa_node]) for node in inventory.numa))


def _from_processor(processor: SgxProcessor | None, numa_nodes: tuple[int, ...]) -> tuple[NumaEpc, ...]:
    missing = f"/{SYSFS_NODES}/node*/x86/sgx_total_bytes is not there"
    if processor is None:
        raise HostUnfit(
            f"{missing}: no SGX, or a kernel that does not show its EPC",
            hint="use a machine with SGX enabled in its firmware and Linux 5.17 or newer",
        )
    if not processor.features.sgx1:
        raise HostUnfit(
            f"{missing}, and by CPUID the processor has no SGX or it is off",
            hint="use a machine with SGX, and enable it in the firmware",
        )
    if not processor.sections:
        raise HostUnfit(f"{missing}, and CPUID leaf 12H lists no EPC", hint="reserve memory for SGX in the firmware")
    # CPUID gives addresses and no NUMA nodes, and EPC is not among the memory whose nodes sysfs shows.
    number = numa_nodes[0] if len(numa_nodes) == 1 else None
    return (NumaEpc(numa_node=number, epc_bytes=sum(section.size_bytes for section in processor.sections)),)


def _device(paths: Sequence[str], kinds: Sequence[DeviceKind]) -> str | None:
    return next((f"/{path}" for path, kind in zip(paths, kinds, strict=True) if kind is DeviceKind.CHARACTER_DEVICE), None)


def _epc_bytes(numa_node: int, text: bytes) -> int:
    match = _EPC_BYTES_TEXT.fullmatch(text)
    value = int(match[1]) if match else _MAX_EPC_BYTES + 1
    if value > _MAX_EPC_BYTES:
        shown = text[: MAX_EPC_BYTES_TEXT + 1]
        raise Refused(
            f"/{SYSFS_NODES}/node{numa_node}/x86/sgx_total_bytes holds {shown!r}, not a number of bytes",
            hint="this is not what the kernel writes there: see what is mounted over it",
        )
    return value
