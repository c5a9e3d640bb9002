"""The first process of a box: builds the box's own root, waits for its network, runs its programs, reaps what they leave.

``python -m kubenclave.local.init enter BOX.json`` joins the box's control groups and becomes ``unshare``, which runs
``... boot BOX.json`` as process 1 of fresh namespaces. After the root is changed nothing more is imported or read from the machine,
so only the standard library is used. Everything dies with the process that ``enter`` became.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - used by every connect(); it must be loaded before the root changes
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kubenclave.local.box import Box
from kubenclave.local.cgroups import hierarchies
from kubenclave.local.root import build_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kubenclave.local.box import Program

_NETWORK_SECONDS = 30.0
_FIRST_RESTART_SECONDS = 0.2
_LONGEST_RESTART_SECONDS = 5.0
_STEADY_SECONDS = 10.0  # a program that ran this long starts again without delay growth
_LOG_BYTES = 64 << 20  # looked at when a program starts: a larger log of earlier runs is moved aside, one of them is kept


def main(arguments: list[str]) -> NoReturn:
    """Run one of the two stages."""
    stage, path = arguments
    box = Box.from_json(Path(path).read_text(encoding="utf-8"))
    if stage == "enter":
        _enter(box, path)
    _boot(box)


def _enter(box: Box, path: str) -> NoReturn:
    for hierarchy in hierarchies():
        group = hierarchy.mount / box.cgroup / "init" / "cgroup.procs"
        group.write_text(str(os.getpid()), encoding="ascii")
    namespaces = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL", "--propagation", "private"]
    os.execvp("unshare", ["unshare", *namespaces, sys.executable, "-m", "kubenclave.local.init", "boot", path])  # noqa: S606 - no shell wanted


def _boot(box: Box) -> NoReturn:
    # Until the programs run, nothing may end this process but its parent's death.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs = Path(box.folder) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    logs_fd = os.open(logs, os.O_RDONLY | os.O_DIRECTORY)
    socket.sethostname(box.name)
    build_root(box)
    _bring_up_network(box)
    _supervise(box, logs_fd)


# --- the network -------------------------------------------------------------------------------------------------------------------


def _ip(*arguments: str) -> None:
    subprocess.run(["/usr/sbin/ip", *arguments], check=True)


def _bring_up_network(box: Box) -> None:
    _ip("link", "set", "lo", "up")
    for address in box.local_addresses:
        _ip("address", "add", address, "dev", "lo")
    if box.bridge:
        # With a changing MAC (the default: the lowest of the ports) other boxes lose this one whenever a port leaves.
        _ip("link", "add", "br0", "address", "02:6b:65:00:00:01", "type", "bridge", "forward_delay", "0")
        link = "br0"
    else:
        _wait_for(lambda: Path("/sys/class/net/eth0").exists(), "its link eth0")
        link = "eth0"
    _ip("address", "add", box.address, "dev", link)
    _ip("link", "set", link, "up")
    for network, gateway in box.routes:
        _ip("route", "add", network, "via", gateway)


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _NETWORK_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_NETWORK_SECONDS:.0f} s for {what}")
        time.sleep(0.01)


# --- the programs ------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Running:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    start_at: float = 0.0
    delay: float = field(default=_FIRST_RESTART_SECONDS)
    ready: bool = False


def _supervise(box: Box, logs_fd: int) -> NoReturn:
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    states = [_Running(program) for program in box.programs]
    while not stopping:
        now = time.monotonic()
        for state in states:
            if state.process is None and now >= state.start_at and _may_start(state):
                _start(state, logs_fd)
        for pid in _reap():
            _note_end(states, pid)
        time.sleep(0.02 if any(state.process is None for state in states) else 0.2)
    sys.exit(0)  # process 1 ends, and the kernel ends everything else in the box


def _may_start(state: _Running) -> bool:
    """Wait for the others before the first start only: a restarted kubelet must not wait for a slow API server."""
    if not state.ready:
        state.ready = all(_answers(what) for what in state.program.after)
    return state.ready


def _answers(what: str) -> bool:
    kind, _, rest = what.partition(":")
    try:
        if kind == "unix":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(rest)
        else:
            address, _, port = rest.rpartition(":")
            with socket.create_connection((address, int(port)), timeout=0.2):
                pass
    except OSError:
        return False
    return True


def _start(state: _Running, logs_fd: int) -> None:
    name = f"{state.program.name}.log"
    with contextlib.suppress(FileNotFoundError):
        if os.stat(name, dir_fd=logs_fd).st_size > _LOG_BYTES:
            os.rename(name, f"{name}.1", src_dir_fd=logs_fd, dst_dir_fd=logs_fd)
    log = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600, dir_fd=logs_fd)
    environment = {"PATH": "/opt/kubenclave/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
    try:
        state.process = subprocess.Popen(
            state.program.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    finally:
        os.close(log)
    state.started = time.monotonic()


def _reap() -> Iterator[int]:
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid


def _note_end(states: list[_Running], pid: int) -> None:
    for state in states:
        if state.process is not None and state.process.pid == pid:
            state.process.returncode = 0  # already reaped here; Popen must not wait again
            state.process = None
            now = time.monotonic()
            steady = now - state.started > _STEADY_SECONDS
            state.delay = _FIRST_RESTART_SECONDS if steady else min(state.delay * 2, _LONGEST_RESTART_SECONDS)
            state.start_at = now + state.delay


if __name__ == "__main__":
    main(sys.argv[1:])
