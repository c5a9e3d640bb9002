"""A box's own root file system: what it sees of this machine, its private files and devices, and the change of root into it.

Runs as process 1 of a box, before anything else. Standard library only, as ``init`` says.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.local.box import Device

if TYPE_CHECKING:
    from kubenclave.local.box import Box

# mount(2), from <sys/mount.h>
_READ_ONLY, _BIND, _MOVE, _RECURSIVE, _PRIVATE, _SHARED, _REMOUNT = 0x1, 0x1000, 0x2000, 0x4000, 0x40000, 0x100000, 0x20
_NO_SUID, _NO_EXEC = 0x2, 0x8
_DETACH = 2  # umount2(2): MNT_DETACH
_PIVOT_ROOT = 155  # x86-64 system call number

# Values that the kubelet insists on; bound over, so that the machine's own settings stay as they are.
_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

_libc = ctypes.CDLL(None, use_errno=True)


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


def build_root(box: Box) -> None:
    """Build the root that a box describes and change into it.

    Raises:
        OSError: The kernel refuses a mount, a device or the change; the message names it.
    """
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
