"""Boxes as running processes: started, found again by their control group, and their containerd spoken to."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.errors import HostUnfit, KubenclaveError
from kubenclave.local import cgroups
from kubenclave.local.configuration import CONTAINERD_SOCKET
from kubenclave.local.plan import cgroup_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.local.box import Box

_NAMESPACE_SECONDS = 15.0
_LOG_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningBox:
    """Name a box that runs: ``outer`` holds its namespaces open, ``init`` is process 1 inside them."""

    name: str
    outer: int
    init: int


def start(box: Box) -> RunningBox:
    """Start a box and wait until its namespaces exist.

    Raises:
        HostUnfit: The kernel refuses the namespaces or a mount.
        KubenclaveError: The box ends at once; the message carries its last words.
    """
    folder = Path(box.folder)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    description = folder / "box.json"
    description.touch(mode=0o600)
    description.write_text(box.to_json(), encoding="utf-8")
    cgroups.make(f"{box.cgroup}/init")
    # A file, not a pipe: the box outlives this process and must still be able to write.
    with (folder / "logs/init.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "kubenclave.local.init", "enter", str(description)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    deadline = time.monotonic() + _NAMESPACE_SECONDS
    while (found := _find(box.name, process.pid)) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise _not_started(box)
        time.sleep(0.005)
    return found


def require_alive(box: RunningBox, description: Box) -> None:
    """Check that a box has not ended since it was started.

    Raises:
        HostUnfit: It could not build its root or its network; the message carries its last words.
    """
    if not Path(f"/proc/{box.init}").exists() or _is_zombie(box.init):
        raise _not_started(description)


def running(cluster: str) -> dict[str, RunningBox]:
    """Find every box of a cluster, by its control group; needs no state file."""
    found: dict[str, RunningBox] = {}
    for pid, description in _outer_processes(cluster):
        box = _find(description.parent.name, pid)
        if box is not None:
            found[box.name] = box
    return found


def folders(cluster: str) -> set[Path]:
    """Give the folders in which the running boxes of a cluster of this name have their state."""
    return {description.parents[2] for _pid, description in _outer_processes(cluster)}


def _outer_processes(cluster: str) -> Iterator[tuple[int, Path]]:
    """Find the processes that hold a cluster's boxes open, each with its box's description (CLUSTER/boxes/BOX/box.json)."""
    for pid in cgroups.processes(cgroup_root(cluster)):
        words = _command(pid)
        if words and Path(words[0]).name == "unshare" and "kubenclave.local.init" in words:
            yield pid, Path(words[-1])


def import_image(box: RunningBox, archive: Path) -> None:
    """Import an OCI archive into a node's containerd, where the kubelet finds it.

    Raises:
        KubenclaveError: containerd refuses it.
    """
    _ctr(box, "images", "import", str(archive), hint="Check the archive with skopeo inspect.")


def image_digest(box: RunningBox, reference: str) -> str:
    """Give the digest under which a node's containerd knows an image; empty where it does not."""
    rows = _ctr(box, "images", "list", f"name=={reference}", hint="Look at the node's containerd.log.").splitlines()[1:]
    return rows[0].split()[2] if rows else ""


def _ctr(box: RunningBox, *arguments: str, hint: str) -> str:
    # The socket is reached through the box's root, so ctr runs in this process's namespaces and reads files itself.
    root = f"/proc/{box.init}/root"
    command = [f"{root}/opt/kubenclave/bin/ctr", "--address", f"{root}{CONTAINERD_SOCKET}", "--namespace", "k8s.io", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise KubenclaveError(f"ctr {' '.join(arguments)} on {box.name}: {result.stderr.strip()}", hint)
    return result.stdout


def containerd_answers(box: RunningBox) -> bool:
    """Tell whether a node's containerd has made its socket."""
    return Path(f"/proc/{box.init}/root{CONTAINERD_SOCKET}").is_socket()


def _find(name: str, outer: int) -> RunningBox | None:
    """Give the box held by process ``outer`` once it has namespaces of its own and a process 1."""
    try:
        if Path(f"/proc/{outer}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            return None
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    return RunningBox(name=name, outer=outer, init=int(children[0])) if children else None


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _not_started(box: Box) -> KubenclaveError:
    log = Path(box.folder) / "logs/init.log"
    words = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip().splitlines() if log.exists() else []
    return HostUnfit(
        f"The box {box.name} did not start: {words[-1] if words else 'it said nothing'}",
        f"It needs root and Linux namespaces; its log is {log}.",
    )
