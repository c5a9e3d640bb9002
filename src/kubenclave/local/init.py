"""The first process of a box: builds the box's own root, waits for its network, runs its programs, reaps what they leave.

``python -m kubenclave.local.init enter BOX.json`` joins the box's control groups and becomes ``unshare``, which runs
``... boot BOX.json`` as process 1 of fresh namespaces. After the root is changed nothing more is imported or read from the machine,
so only the standard library is used. Everything dies with the process that ``enter`` became.
"""

from __future__ import annotations

import ctypes
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

from kubenclave.local.box import Box, Device
from kubenclave.local.cgroups import hierarchies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kubenclave.local.box import Program

# mount(2), from <sys/mount.h>
_READ_ONLY, _BIND, _MOVE, _RECURSIVE, _PRIVATE, _SHARED, _REMOUNT = 0x1, 0x1000, 0x2000, 0x4000, 0x40000, 0x100000, 0x20
_NO_SUID, _NO_EXEC = 0x2, 0x8
_DETACH = 2  # umount2(2): MNT_DETACH
_PIVOT_ROOT = 155  # x86-64 system call number

_NETWORK_SECONDS = 30.0
_FIRST_RESTART_SECONDS = 0.2
_LONGEST_RESTART_SECONDS = 5.0
_STEADY_SECONDS = 10.0  # a program that ran this long starts again without delay growth
_LOG_BYTES = 64 << 20  # one program's log is moved aside once, so two files of this size at most

# Values that the kubelet insists on; bound over, so that the machine's own settings stay as they are.
_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

_libc = ctypes.CDLL(None, use_errno=True)


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
    _build_root(box)
    _bring_up_network(box)
    _supervise(box, logs_fd)


# --- the root file system ---------------------------------------------------------------------------------------------------------


def _mount(source: str, target: str | Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    result = _libc.mount(source.encode(), str(target).encode(), kind.encode() or None, flags, options.encode() or None)
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount {kind or source} at {target}: {os.strerror(error)}")


def _bind(source: str | Path, target: Path, *, read_only: bool) -> None:
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(str(source), target, flags=_BIND | _RECURSIVE)
    if read_only:
        _mount("none", target, flags=_BIND | _REMOUNT | _READ_ONLY)


def _build_root(box: Box) -> None:
    folder = Path(box.folder)
    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    _mount("kubenclave", root, "tmpfs", options="mode=755,size=512m")
    _system_tree(root)
    _kernel_file_systems(root)
    disk = folder / "var"
    for name in ("lib", "log"):
        (disk / name).mkdir(parents=True, exist_ok=True)
    _bind(disk, root / "var", read_only=False)
    (disk / "run").unlink(missing_ok=True)
    (disk / "run").symlink_to("/run")
    for path, text in box.files:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600 if path.startswith("/etc/kubernetes/") else 0o644)
        target.write_text(text, encoding="utf-8")
    for bind in box.binds:
        _bind(bind.source, root / bind.target.lstrip("/"), read_only=bind.read_only)
    for device in box.devices:
        _make_device(root, device)
    _change_root(root)
    # Containers receive mounts that the kubelet makes after they started (hostPath propagation), so the root is shared.
    _mount("none", "/", flags=_SHARED | _RECURSIVE)


def _system_tree(root: Path) -> None:
    """Show the machine's programs and libraries, and nothing else of its root."""
    _bind("/usr", root / "usr", read_only=True)
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        host = Path("/") / name
        if host.is_symlink():
            (root / name).symlink_to(host.readlink())
        elif host.is_dir():
            _bind(host, root / name, read_only=True)
    for name in ("etc", "root", "tmp", "run", "opt", "dev", "proc", "sys", "var"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/mtab").symlink_to("/proc/self/mounts")


def _kernel_file_systems(root: Path) -> None:
    _mount("proc", root / "proc", "proc", _NO_SUID | _NO_EXEC)
    _mount("sysfs", root / "sys", "sysfs", _NO_SUID | _NO_EXEC)
    _mount("/sys/fs/cgroup", root / "sys/fs/cgroup", flags=_BIND | _RECURSIVE)
    _mount("run", root / "run", "tmpfs", _NO_SUID, "mode=755,size=256m")
    dev = root / "dev"
    _mount("dev", dev, "tmpfs", _NO_SUID, "mode=755,size=1m")
    for name, major, minor in (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)):
        _make_device(root, Device(path=f"/dev/{name}", major=major, minor=minor, mode=0o666))
    # /dev/kmsg: the kubelet's OOM watcher reads it and does not start without it.
    _make_device(root, Device(path="/dev/kmsg", major=1, minor=11, mode=0o600))
    for name in ("pts", "shm", "mqueue"):
        (dev / name).mkdir()
    _mount("devpts", dev / "pts", "devpts", _NO_SUID | _NO_EXEC, "newinstance,ptmxmode=0666,mode=0620")
    _mount("shm", dev / "shm", "tmpfs", _NO_SUID, "mode=1777,size=64m")
    _mount("mqueue", dev / "mqueue", "mqueue", _NO_SUID | _NO_EXEC)
    for name, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (dev / name).symlink_to(target)
    settings = root / "run/kubenclave/sysctl"
    for path, value in _SYSCTLS.items():
        own = settings / path.replace("/", ".")
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(value + "\n", encoding="ascii")
        if (root / "proc/sys" / path).exists():
            _mount(str(own), root / "proc/sys" / path, flags=_BIND)


def _make_device(root: Path, device: Device) -> None:
    path = root / device.path.lstrip("/")
    os.mknod(path, 0o020000 | device.mode, os.makedev(device.major, device.minor))
    path.chmod(device.mode)  # mknod is subject to the umask


def _change_root(root: Path) -> None:
    os.chdir(root)
    old = root / "run/old-root"
    old.mkdir(parents=True, exist_ok=True)
    if _libc.syscall(_PIVOT_ROOT, b".", b"run/old-root") != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"pivot_root to {root}: {os.strerror(error)}")
    os.chdir("/")
    if _libc.umount2(b"/run/old-root", _DETACH) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"unmount the machine's root: {os.strerror(error)}")
    Path("/run/old-root").rmdir()


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
    log = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600, dir_fd=logs_fd)
    if os.fstat(log).st_size > _LOG_BYTES:
        os.rename(name, f"{name}.1", src_dir_fd=logs_fd, dst_dir_fd=logs_fd)
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
