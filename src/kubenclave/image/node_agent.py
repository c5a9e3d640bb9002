"""The recipe of the node agent's image: which of this project's modules and which distributions it takes. File names only.

The agent itself is not imported; it is a program of its own (room ``node``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import kubenclave
from kubenclave.errors import NotFound, Refused
from kubenclave.image.build import BuiltImage, write_image
from kubenclave.image.content import layered
from kubenclave.image.oci.documents import Compression, RunConfig
from kubenclave.image.python import PythonProgram, python_entries, this_interpreter
from kubenclave.image.spec import APPLICATION_DIRECTORY, numeric_user

if TYPE_CHECKING:
    from kubenclave.image.layer import Report
    from kubenclave.image.reference import Reference

# The kubelet's device plugin directory belongs to root; the agent's container drops every capability instead.
NODE_AGENT_USER = "0:0"
_MODULE = "kubenclave.node"
_SOURCES = ("kubenclave/__init__.py", "kubenclave/errors.py", "kubenclave/sgx", "kubenclave/node")
# The door to the Kubernetes API, which the agent's modes that need it import.
_KUBE = "kubenclave/kube"
_IMPORTS_KUBE = re.compile(r"^\s*(?:from kubenclave import (?:.*\b)?kube\b|(?:from|import) kubenclave\.kube\b)", re.MULTILINE)
_LOCK = "requirements/node.txt"
_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+]+)\s*(?P<condition>;[^\\]*)?\\?")


def build_node_agent_image(
    reference: Reference,
    archive: Path,
    report: Report,
    *,
    user: str = NODE_AGENT_USER,
    epoch_seconds: int = 0,
    requirements: Path | None = None,
) -> BuiltImage:
    """Build the node agent's image from the running interpreter and the installed distributions that ``requirements/node.txt`` locks.

    Args:
        reference: The image's name.
        archive: The file to write.
        report: Told in a sentence what is being done.
        user: ``uid:gid`` of its process.
        epoch_seconds: The time that everything in it bears.
        requirements: The lock file; None takes the project's own.

    Raises:
        NotFound: A distribution, library or the archive's directory is not there.
        Refused: An installed distribution is not of the locked version.
        HostUnfit: The archive cannot be written.
    """
    user = numeric_user(user)
    source_root = Path(kubenclave.__file__).resolve().parents[1]
    pins = read_pins(requirements or _lock(source_root))
    # Whether a condition holds was decided when this environment was installed from the same lock: what it excluded is not there.
    wanted = tuple((pin.name, pin.version) for pin in pins if not pin.conditional or _is_installed(pin.name))
    program = PythonProgram(module=_MODULE, distributions=wanted, source_root=source_root, sources=agent_sources(source_root))
    entries = python_entries(program, this_interpreter(), report)
    return write_image(
        archive,
        reference=reference,
        run=RunConfig(entrypoint=entries.entrypoint, command=(), user=user, working_directory=APPLICATION_DIRECTORY),
        layers=layered(libraries=entries.runtime, application=entries.application),
        annotations={},
        compression=Compression.GZIP,
        epoch_seconds=epoch_seconds,
        report=report,
    )


def agent_sources(source_root: Path) -> tuple[str, ...]:
    """Return the files and folders that the agent is made of, below the folder that holds the package."""
    node = sorted((source_root / "kubenclave" / "node").rglob("*.py"))
    return (*_SOURCES, _KUBE) if any(_IMPORTS_KUBE.search(file.read_text("utf-8")) for file in node) else _SOURCES


def _lock(source_root: Path) -> Path:
    """Return the lock file: inside an installed package, or in the checkout around it."""
    inside = source_root / "kubenclave" / "_project" / _LOCK
    return inside if inside.exists() else source_root.parent / _LOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """Hold a distribution that a lock file names; ``conditional`` if only for some interpreters or systems."""

    name: str
    version: str
    conditional: bool


def read_pins(lock: Path) -> tuple[Pin, ...]:
    """Return the distributions that a lock file pins.

    Raises:
        NotFound: It is not there.
        Refused: A line is neither a pin nor one of its hashes or comments.
    """
    try:
        lines = lock.read_text("utf-8").splitlines()
    except OSError as exc:
        raise NotFound(
            f"{lock} cannot be read: {exc.strerror}.", "Install the whole package again, or build from a complete checkout."
        ) from exc
    pins = []
    for number, line in enumerate(lines, start=1):
        if not line or line.lstrip().startswith(("#", "--hash=")):
            continue
        pin = _PIN.fullmatch(line)
        if pin is None:
            raise Refused(f"{lock}, line {number}: {line[:80]!r} is no plain pin.", "Lock it again with one name==version a line.")
        pins.append(Pin(name=pin["name"], version=pin["version"], conditional=pin["condition"] is not None))
    return tuple(pins)


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
