"""Decide from what the host shows how much EPC this node has and whether enclaves can be opened on it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from kubenclave.errors import HostUnfit, Refused

# The kernel prints an unsigned long and a newline (Documentation/ABI/stable/sysfs-devices-node, Linux 5.17).
MAX_EPC_BYTES_TEXT = 21
_EPC_BYTES_TEXT = re.compile(rb"(0|[1-9][0-9]{0,19})\n?")
_MAX_EPC_BYTES = 2**64 - 1

SYSFS_NODES = "sys/devices/system/node"
EPC_DEVICE = "dev/sgx_enclave"


class DeviceKind(Enum):
    """What stands at the enclave device's path."""

    ABSENT = "absent"
    CHARACTER_DEVICE = "character device"
    OTHER = "something other than a character device"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReading:
    """What the host shows, as it was read and not yet believed.

    Attributes:
        epc_texts: The content of each NUMA node's ``sgx_total_bytes``, by the node's number; without nodes that have no such file.
        device: What stands at /dev/sgx_enclave.
        simulated: The host says of itself that it only plays an SGX host.
    """

    epc_texts: tuple[tuple[int, bytes], ...]
    device: DeviceKind
    simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaEpc:
    """The EPC of one NUMA node."""

    numa_node: int
    epc_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The EPC of a host on which enclaves can be opened, by NUMA node in rising order; compared as a value."""

    numa: tuple[NumaEpc, ...]
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
    if not reading.epc_texts:
        raise HostUnfit(
            f"/{SYSFS_NODES}/node*/x86/sgx_total_bytes is not there: no SGX, or a kernel that does not show its EPC",
            hint="use a machine with SGX enabled in its firmware and Linux 5.17 or newer",
        )
    numa = tuple(NumaEpc(numa_node=node, epc_bytes=_epc_bytes(node, text)) for node, text in sorted(reading.epc_texts))
    inventory = Inventory(numa=numa, simulated=reading.simulated)
    if inventory.epc_bytes == 0:
        raise HostUnfit("the host shows 0 bytes of EPC on every NUMA node", hint="enable SGX and reserve memory for it in the firmware")
    if reading.device is not DeviceKind.CHARACTER_DEVICE:
        raise HostUnfit(
            f"the host has {inventory.epc_bytes} bytes of EPC, but /{EPC_DEVICE} is {reading.device.value}",
            hint="enclaves need a CPU with flexible launch control and Linux 5.11 or newer with CONFIG_X86_SGX",
        )
    return inventory


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
