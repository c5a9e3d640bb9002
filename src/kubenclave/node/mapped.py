"""Decide from what processes map of the enclave device how much EPC each container uses, beside what it was given. Pure.

What ``/proc/PID/maps`` shows is address ranges: an enclave is built into a range that was mapped for it, so this is an upper bound of the
pages the enclave has, whether they are in EPC at the moment or swapped out of it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.node.holdings import Container

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from kubenclave.node.holdings import Holding

# proc_pid_maps(5): range, permissions, offset, device, inode, path. Only what has a path of its own can be a device.
_LINE = re.compile(rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([rwxsp-]{4}) [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ [0-9]+ +(/.+)$", re.MULTILINE)
_DELETED = b" (deleted)"

# The kubelet links the log of each container as <pod>_<namespace>_<container>-<id>.log (legacyLogSymlink in kuberuntime).
# Names of pods and namespaces are DNS names and hold no underscore.
_LOG_NAME = re.compile(r"(?P<pod>[a-z0-9.-]+)_(?P<namespace>[a-z0-9-]+)_(?P<container>[a-z0-9-]+)-(?P<id>[0-9a-f]{64})\.log")
# The last 64 hexadecimal digits in a control group's path are the container's (cgroupfs: .../<id>, systemd: cri-containerd-<id>.scope).
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")

# Processes that belong to no container: the host's own, such as AESM.
HOST = Container(namespace="", pod="", name="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What a process maps of the enclave device, and the container in which it runs.

    Attributes:
        container_id: The container's ID; empty for the host's own processes.
        mapped_bytes: Size of its mappings; None where they may not be seen.
    """

    container_id: str
    mapped_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much a container maps beside how much it was given; None where that is not known."""

    container: Container
    mapped_bytes: int
    held_bytes: int | None

    @property
    def over(self) -> bool:
        """Whether a container of a pod maps more than it was given."""
        return self.container != HOST and self.held_bytes is not None and self.mapped_bytes > self.held_bytes


def mapped_files(maps: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield path and size in bytes of each mapping that may be one of a device: those below /dev and those that are shared."""
    for line in _LINE.finditer(maps):
        low, high, permissions, path = line.groups()
        if permissions.endswith(b"s") or path.startswith(b"/dev/"):
            yield path.removesuffix(_DELETED), max(0, int(high, 16) - int(low, 16))


def container_id(cgroup: str) -> str:
    """Return the container's ID from ``/proc/PID/cgroup``; empty outside of containers."""
    for line in cgroup.splitlines():
        found = _CONTAINER_ID.findall(line)
        if found:
            return str(found[-1])
    return ""


def containers_by_id(log_names: Iterable[str]) -> dict[str, Container]:
    """Return the containers that the kubelet keeps logs of, by ID."""
    found = (_LOG_NAME.fullmatch(name) for name in log_names)
    return {match["id"]: Container(namespace=match["namespace"], pod=match["pod"], name=match["container"]) for match in found if match}


def usages(processes: Sequence[Process], containers: Mapping[str, Container], holdings: Sequence[Holding]) -> tuple[Usage, ...]:
    """Sum up by container, and set beside it what the container was given; one that maps and holds nothing was given 0 bytes.

    A container with a process whose mappings may not be seen is left out: nothing is known of it.
    """
    mapped: Counter[Container] = Counter()
    hidden: set[Container] = set()
    for process in processes:
        # A container without a name here is still one: shown by its ID rather than with the host's own processes.
        container = containers.get(process.container_id, Container(namespace="", pod="", name=process.container_id))
        if process.mapped_bytes is None:
            hidden.add(container)
        elif process.mapped_bytes:
            mapped[container] += process.mapped_bytes
    held: dict[Container, int | None] = defaultdict(int)
    for holding in holdings:
        held[holding.container] = None if holding.epc_bytes is None else sum(holding.epc_bytes.values())
    return tuple(
        Usage(container=container, mapped_bytes=mapped[container], held_bytes=held[container])
        for container in sorted({*mapped, *held} - hidden)
    )
