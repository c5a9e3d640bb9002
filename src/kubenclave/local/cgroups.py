"""Control groups of a local cluster: made before a box starts, found again by name, removed with every process in them.

A cluster's group is the one reliable mark of its processes: it outlives a killed ``up`` and needs no state file.
Layout below every hierarchy: CLUSTER/BOX/init holds a box's own programs, CLUSTER/BOX/kubepods is the kubelet's. No group with
children holds processes, as cgroup v2 demands.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from kubenclave.errors import HostUnfit, KubenclaveError

_NEEDED = ("cpu", "cpuset", "memory")
_WANTED_V2 = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")
_KILL_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """Name one mounted hierarchy. ``controllers`` is empty for a named v1 hierarchy and for a v2 mount without any."""

    mount: Path
    version: int
    controllers: tuple[str, ...]


def hierarchies(mountinfo: str | None = None) -> tuple[Hierarchy, ...]:
    """List the mounted hierarchies below /sys/fs/cgroup, from proc_pid_mountinfo(5)."""
    text = mountinfo if mountinfo is not None else Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    found: dict[Path, Hierarchy] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if kind[0] not in ("cgroup", "cgroup2") or not fields[4].startswith("/sys/fs/cgroup") or fields[3] != "/":
            continue
        mount = Path(fields[4])
        if kind[0] == "cgroup2":
            found[mount] = Hierarchy(mount=mount, version=2, controllers=_v2_controllers(mount))
        else:
            options = [o for o in kind[2].split(",") if o not in ("rw", "ro") and "=" not in o and o != "xattr"]
            found[mount] = Hierarchy(mount=mount, version=1, controllers=tuple(options))
    return tuple(found.values())


def check(found: tuple[Hierarchy, ...]) -> None:
    """Check that the controllers which a kubelet needs are there.

    Raises:
        HostUnfit: One is missing; the message names it.
    """
    present = {controller for hierarchy in found for controller in hierarchy.controllers}
    missing = [name for name in _NEEDED if name not in present]
    if missing:
        raise HostUnfit(
            f"This machine has no {', '.join(missing)} cgroup controller mounted below /sys/fs/cgroup.",
            "Mount it (cgroup v1: mount -t cgroup -o NAME), enable it at boot, or in a container run with --privileged --cgroupns=host.",
        )


def make(group: str) -> None:
    """Make a group below every hierarchy, ready to receive processes. Making it again changes nothing."""
    for hierarchy in hierarchies():
        at = hierarchy.mount
        for part in Path(group).parts:
            if hierarchy.version == 2:  # noqa: PLR2004
                _enable_v2(at)
            at /= part
            at.mkdir(exist_ok=True)
            if "cpuset" in hierarchy.controllers and hierarchy.version == 1:
                _fill_cpuset(at)


def processes(group: str) -> tuple[int, ...]:
    """List the processes anywhere in a group, in any hierarchy."""
    found: set[int] = set()
    for hierarchy in hierarchies():
        for folder, _folders, _files in os.walk(hierarchy.mount / group):
            try:
                text = (Path(folder) / "cgroup.procs").read_text(encoding="ascii")
            except OSError:
                continue  # a group that vanished meanwhile, or a threaded one
            found.update(int(word) for word in text.split())
    return tuple(sorted(found - {0}))


def exists(group: str) -> bool:
    """Tell whether the group is there in any hierarchy."""
    return any((hierarchy.mount / group).is_dir() for hierarchy in hierarchies())


def remove(group: str) -> None:
    """Kill every process in a group and remove the group and all below it. A group that is not there is fine.

    Raises:
        KubenclaveError: A process does not die or a group stays busy.
    """
    _kill_all(group)
    deadline = time.monotonic() + _KILL_SECONDS
    for hierarchy in hierarchies():
        for folder, _folders, _files in os.walk(hierarchy.mount / group, topdown=False):
            _remove_one(Path(folder), deadline)


def _kill_all(group: str) -> None:
    deadline = time.monotonic() + _KILL_SECONDS
    while pids := processes(group):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise KubenclaveError(
                f"Processes {list(pids)[:5]} of {group} do not end, even when killed.", "They wait in the kernel; try again later."
            )
        time.sleep(0.02)


def _remove_one(folder: Path, deadline: float) -> None:
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as exc:
            # A dying process still counts as a member for a moment.
            if time.monotonic() > deadline:
                raise KubenclaveError(f"The control group {folder} cannot be removed: {exc.strerror}.", "Run the command again.") from exc
            time.sleep(0.02)
        else:
            return


def _v2_controllers(mount: Path) -> tuple[str, ...]:
    try:
        return tuple((mount / "cgroup.controllers").read_text(encoding="ascii").split())
    except OSError:
        return ()


def _enable_v2(at: Path) -> None:
    """Hand the wanted controllers down to the children of a v2 group."""
    available = _v2_controllers(at)
    try:
        enabled = (at / "cgroup.subtree_control").read_text(encoding="ascii").split()
        for name in _WANTED_V2:
            if name in available and name not in enabled:
                (at / "cgroup.subtree_control").write_text(f"+{name}", encoding="ascii")
    except OSError as exc:
        raise HostUnfit(
            f"Controllers cannot be handed down in {at}: {exc.strerror}.",
            "Run outside a container, or in one with its own writable cgroup tree.",
        ) from exc


def _fill_cpuset(at: Path) -> None:
    """Copy the parent's CPUs and memory nodes: a v1 cpuset starts empty and then accepts no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        own = at / name
        if not own.read_text(encoding="ascii").strip():
            own.write_text((at.parent / name).read_text(encoding="ascii"), encoding="ascii")
