"""Read what the host's processes map of the enclave device. Decides nothing.

Needs the host's ``/proc`` under the root and CAP_SYS_PTRACE: the kernel shows the maps of a process only to who may trace it
(ptrace(2), "Ptrace access mode checking"). Whoever has both can also read every file of the host through ``/proc/1/root``.
"""

from __future__ import annotations

import itertools
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from kubenclave.errors import HostUnfit
from kubenclave.node.mapped import Process, container_id, mapped_files

LOG_LINKS = "var/log/containers"

# Linux has at most 2^22 processes (PID_MAX_LIMIT); a node runs some thousands.
_MAX_PROCESSES = 65_536
# 65,530 mappings a process by default (vm.max_map_count), some 100 bytes each.
_MAX_MAPS_BYTES = 16 << 20
_MAX_CGROUP_BYTES = 64 << 10
_MAX_LOG_LINKS = 65_536
# A hundred processes took 0.014 s, one with 65,000 shared mappings of as many files 0.7 s.
_READ_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReading:
    """What was seen: processes that map the device or could not be looked into, and the names of the containers' logs."""

    processes: tuple[Process, ...]
    log_names: tuple[str, ...]


def read_processes(root: Path, device: Path) -> ProcessReading:
    """Look at every process of the host whose filesystem is seen under ``root``, in bounded memory.

    Processes that are not reached within 2 seconds count as such that could not be looked into. The time has no bound where a process
    maps a file of a mount that does not answer (NFS, FUSE): the kernel does not come back from looking at it.

    Raises:
        HostUnfit: There is no ``proc`` of the host, or no device.
    """
    proc = root / "proc"
    deadline = time.monotonic() + _READ_SECONDS
    try:
        number = device.stat().st_rdev
        pids = [path.name for path in itertools.islice(proc.iterdir(), _MAX_PROCESSES) if path.name.isdecimal()]
        links = [path.name for path in itertools.islice((root / LOG_LINKS).iterdir(), _MAX_LOG_LINKS)]
    except OSError as exc:
        raise HostUnfit(
            f"{exc.filename} cannot be read: {exc.strerror}",
            hint=f"--mapped needs /proc and /{LOG_LINKS} of the host under {root}, and the capability SYS_PTRACE",
        ) from exc
    processes = []
    for pid in pids:
        try:
            mapped = _mapped_bytes(proc / pid, number, deadline)
            if mapped != 0:
                processes.append(Process(container_id=container_id(_cgroup(proc / pid)), mapped_bytes=mapped))
        except OSError:
            continue  # it has ended meanwhile
    return ProcessReading(processes=tuple(processes), log_names=tuple(links))


def _mapped_bytes(process: Path, number: int, deadline: float) -> int | None:
    """Add up a process's mappings of the device; None where not all of its mappings can be seen, or not in time."""
    if time.monotonic() >= deadline:
        return None
    try:
        maps = _head(process / "maps", _MAX_MAPS_BYTES + 1)
    except PermissionError:
        return None
    if len(maps) > _MAX_MAPS_BYTES:
        return None
    sizes: dict[bytes, int] = {}
    for path, size in mapped_files(maps):
        sizes[path] = sizes.get(path, 0) + size
    total = 0
    for path, size in sizes.items():
        if time.monotonic() >= deadline:
            return None
        total += size if _is_device(process, path, number) else 0
    return total


def _is_device(process: Path, path: bytes, number: int) -> bool:
    """Tell by its number, in the process's own view of files, whether a path is the device: a name alone proves nothing."""
    try:
        found = Path(os.fsdecode(os.fsencode(process / "root") + path)).stat()
    except OSError:
        return False
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == number


def _cgroup(process: Path) -> str:
    return _head(process / "cgroup", _MAX_CGROUP_BYTES).decode(errors="replace")


def _head(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)
