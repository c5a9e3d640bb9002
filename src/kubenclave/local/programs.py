"""The Kubernetes programs, built once from pinned Go modules and kept in the user's cache."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

from kubenclave.errors import HostUnfit, KubenclaveError
from kubenclave.local.checkout import project_file
from kubenclave.local.host import writable
from kubenclave.local.toolchain import find_go

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KUBERNETES_VERSION = "1.37.2"
MULTICALL = "kubenclave-k8s"
SHIM = "containerd-shim-runc-v2"
PAUSE = "pause"

_LINKS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl", "containerd", "ctr")
_TAGS = "no_btrfs,no_zfs,no_devmapper"
_VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
# Modules 1.5 GB, compiled packages 2.5 GB, measured; with room to link.
_NEEDED_DISK_BYTES = 5 << 30
_SOURCES = ("go.mod", "go.sum", "main.go", "shim/main.go", "pause/main.go")


def key() -> str:
    """Name this build: a digest of the module's files and the flags, so that any change builds anew."""
    digest = sha256(f"{_TAGS} {_link_flags()}".encode())
    for name in _SOURCES:
        digest.update(project_file(f"local/{name}").read_bytes())
    return digest.hexdigest()[:16]


def folder(cache: Path) -> Path:
    """Name the folder that holds, or will hold, the built programs."""
    return cache / "k8s" / key()


def is_built(cache: Path) -> bool:
    """Tell whether the programs are there; they appear whole or not at all."""
    return folder(cache).is_dir()


def build(cache: Path, report: Callable[[str], None]) -> Path:
    """Build the programs unless they are there, and give their folder.

    Raises:
        HostUnfit: No disk space, no cache folder that can be written to, or no Go toolchain.
        KubenclaveError: The build fails; the message carries the compiler's last lines.
    """
    target = folder(cache)
    if target.is_dir():
        return target
    with writable("XDG_CACHE_HOME"), _lock(target.parent / ".lock", report):
        if target.is_dir():
            return target
        _check_disk(target.parent)
        go = find_go(cache, report)
        for leftover in target.parent.glob("*.partial"):
            shutil.rmtree(leftover)
        partial = target.with_name(f"{target.name}.partial")
        partial.mkdir()
        try:
            _compile(go, partial, report)
            partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


@contextmanager
def _lock(path: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Let one build run at a time. The kernel frees the lock when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("Waiting for another build of the same programs to end.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _check_disk(at: Path) -> None:
    free = shutil.disk_usage(at).free
    if free < _NEEDED_DISK_BYTES:
        raise HostUnfit(
            f"Building Kubernetes needs {_NEEDED_DISK_BYTES >> 30} GiB of disk; {at} has {free / (1 << 30):.1f} GiB free.",
            "Free some space, or set XDG_CACHE_HOME (and GOPATH, GOCACHE) to a larger disk.",
        )


def _compile(go: Path, partial: Path, report: Callable[[str], None]) -> None:
    report(f"Building Kubernetes {KUBERNETES_VERSION} and containerd from Go modules, once: about 6 minutes on 2 cores.")
    total = _count_packages(go, report)
    _go_build(go, ".", partial / MULTICALL, total, report)
    _go_build(go, "./shim", partial / SHIM, 0, report)
    _go_build(go, "./pause", partial / PAUSE, 0, report)
    for name in _LINKS:
        (partial / name).symlink_to(MULTICALL)


def _go_build(go: Path, package: str, output: Path, total: int, report: Callable[[str], None]) -> None:
    command = [str(go), "build", "-v", "-trimpath", "-tags", _TAGS, "-ldflags", _link_flags(), "-o", str(output), package]
    process = subprocess.Popen(command, cwd=project_file("local"), env=_environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None  # noqa: S101 - it was asked for
    last: list[str] = []
    compiled = 0
    with process:
        for line in process.stderr:
            compiled += 1
            last = [*last[-9:], line.strip()]
            if total and compiled % 10 == 0:
                report(f"compiled {compiled} of {total} packages")
    if process.returncode != 0:
        text = " / ".join(last)
        if "no space left on device" in text:
            raise HostUnfit("The disk is full: Kubernetes could not be built.", "Free some space and run the command again.")
        raise KubenclaveError(f"Building {package} with {go} failed: {text}", "Nothing half-built was kept. Run the command again.")


def _count_packages(go: Path, report: Callable[[str], None]) -> int:
    report("Fetching the pinned Go modules.")
    command = [str(go), "list", "-deps", "-tags", _TAGS, "."]
    result = subprocess.run(command, cwd=project_file("local"), env=_environment(), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or ["no reason was given"]
        raise KubenclaveError(
            f"The Go modules could not be fetched: {lines[-1]}", "Check that the Go module proxy answers, then run again."
        )
    return len(result.stdout.splitlines())


def _link_flags() -> str:
    major, minor, _patch = KUBERNETES_VERSION.split(".")
    values = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X {package}.{name}={value}" for package in _VERSION_PACKAGES for name, value in values.items())


def _environment() -> dict[str, str]:
    # GOTOOLCHAIN=local: a go.mod must never make the build fetch a toolchain that nobody asked for.
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"}
