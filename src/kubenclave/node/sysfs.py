"""Read what the host shows of its EPC: sysfs, the enclave device, the mark of a simulated host. Decides nothing."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from kubenclave.errors import HostUnfit
from kubenclave.node.inventory import (
    ENCLAVE_DEVICES,
    MAX_EPC_BYTES_TEXT,
    PROVISION_DEVICES,
    SYSFS_NODES,
    DeviceKind,
    HostReading,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kubenclave.node.processor import SgxProcessor

# Never there on a real node; the local cluster's simulated nodes carry it.
SIMULATED_MARK = "run/kubenclave/simulated"

# x86 kernels are built for at most 1,024 NUMA nodes (CONFIG_NODES_SHIFT <= 10). The folder also holds a few plain files.
_NUMA_NODE = re.compile(r"node(0|[1-9][0-9]{0,3})")
_MAX_NUMA_NODES = 1024
_MAX_ENTRIES = 4096


def read_host(root: Path, processor: SgxProcessor | None) -> HostReading:
    """Read the host whose filesystem is seen under ``root``, in bounded time and memory; the processor is passed on as it is.

    Raises:
        HostUnfit: Something is there and cannot be read; an absent file is no error but part of the reading.
    """
    nodes = root / SYSFS_NODES
    try:
        numbers = tuple(sorted(_numa_nodes(nodes)))
        return HostReading(
            epc_texts=tuple((number, text) for number in numbers if (text := _read_epc(nodes, number)) is not None),
            numa_nodes=numbers,
            enclave=tuple(_device_kind(root / path) for path in ENCLAVE_DEVICES),
            provision=tuple(_device_kind(root / path) for path in PROVISION_DEVICES),
            processor=processor,
            simulated=is_simulated(root),
        )
    except OSError as exc:
        raise HostUnfit(
            f"{exc.filename} cannot be read: {exc.strerror}",
            hint=f"the agent needs /{SYSFS_NODES}, /dev and /run/kubenclave of the host under {root}",
        ) from exc


def is_simulated(root: Path) -> bool:
    """Tell whether the host under ``root`` only plays an SGX host."""
    return os.path.lexists(root / SIMULATED_MARK)


def _numa_nodes(nodes: Path) -> Iterator[int]:
    try:
        entries = os.scandir(nodes)
    except FileNotFoundError:
        return
    with entries:
        found = 0
        for seen, entry in enumerate(entries):
            if seen >= _MAX_ENTRIES or found >= _MAX_NUMA_NODES:
                raise HostUnfit(
                    f"{nodes} lists more than {_MAX_NUMA_NODES} NUMA nodes or {_MAX_ENTRIES} entries; Linux has no such machine",
                    hint="see what is mounted over it",
                )
            if match := _NUMA_NODE.fullmatch(entry.name):
                found += 1
                yield int(match[1])


def _read_epc(nodes: Path, number: int) -> bytes | None:
    path = nodes / f"node{number}" / "x86" / "sgx_total_bytes"
    try:
        # O_NONBLOCK: a FIFO in its place must not hold the agent up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b"(not a regular file)"
        return os.read(descriptor, MAX_EPC_BYTES_TEXT + 1)
    except OSError as exc:
        exc.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def _device_kind(path: Path) -> DeviceKind:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return DeviceKind.ABSENT
    return DeviceKind.CHARACTER_DEVICE if stat.S_ISCHR(mode) else DeviceKind.OTHER
