"""This machine: whether it can carry a local cluster, and what the planner must know of it."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.errors import HostUnfit
from kubenclave.local import cgroups
from kubenclave.local.plan import HostFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOOLS = ("unshare", "nsenter", "ip", "runc")
_CNI_BRIDGE = Path("/usr/lib/cni/bridge")
_CAP_SYS_RESOURCE = 24  # capabilities(7)


def check_host() -> None:
    """Check that this machine can carry a cluster, before anything is made.

    Raises:
        HostUnfit: With the first thing that is missing.
    """
    require_root()
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None]
    if missing or not _CNI_BRIDGE.exists():
        names = ", ".join([*missing, *([] if _CNI_BRIDGE.exists() else [str(_CNI_BRIDGE)])])
        raise HostUnfit(
            f"The local cluster needs programs that are not installed: {names}.",
            "On Debian or Ubuntu: apt-get install --no-install-recommends iproute2 util-linux runc containernetworking-plugins",
        )
    cgroups.check(cgroups.hierarchies())


def require_root() -> None:
    """Check that this is root.

    Raises:
        HostUnfit: It is not; the message says what needs root and what does not.
    """
    if os.geteuid() != 0:
        raise HostUnfit(
            "The local cluster needs root: it makes namespaces, mounts, control groups and device nodes.",
            "Run it with sudo. The commands on enclave files and images need no root.",
        )


def host_facts(folder: Path) -> HostFacts:
    """Find out what this machine allows for a cluster whose disks are in ``folder``."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    return HostFacts(
        snapshotter="native" if _file_system(folder) == "overlay" else "overlayfs",
        restrict_oom_score_adj=not effective >> _CAP_SYS_RESOURCE & 1,
    )


def _file_system(path: Path) -> str:
    """Name the type of the file system that holds a folder, from proc_pid_mountinfo(5)."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0]
    return ""


@contextmanager
def writable(variable: str) -> Iterator[None]:
    """Tell in words when a folder or file cannot be made or written, such as on a full disk; ``variable`` moves the folder elsewhere.

    Raises:
        HostUnfit: With the path and the kernel's reason.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # of the terminal, not of a folder
    except OSError as exc:
        where = exc.filename or "a file of the local cluster"
        raise HostUnfit(
            f"{where} cannot be written: {exc.strerror or exc}.",
            f"Free some space there, or set {variable} to a folder that you may write to.",
        ) from exc
