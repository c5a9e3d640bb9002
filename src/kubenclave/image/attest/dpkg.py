"""Find which Debian package a file of a system root belongs to, from dpkg's own database there.

Reads /var/lib/dpkg through a ``Sysroot`` and runs nothing. Sources: dpkg(1), deb-src-control(5); Debian policy 5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kubenclave.image.sysroot import Sysroot

_STATUS = "/var/lib/dpkg/status"
_INFO = "/var/lib/dpkg/info"
_RELEASE = "/etc/os-release"
# The largest lists (kernel headers, icons, documentation) have some megabytes; a status file of 10 000 packages some 15 MiB.
MAX_LIST_BYTES = 32 * 1024 * 1024
MAX_STATUS_BYTES = 128 * 1024 * 1024
_RELEASE_FIELD = re.compile(r"""(ID|VERSION_ID)=["']?([A-Za-z0-9._-]+)["']?""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Name a package as it is installed; ``distribution`` is ``debian-12`` or empty."""

    name: str
    version: str
    architecture: str
    source: str
    distribution: str
    vendor: str


def packages_of(paths: Iterable[str], sysroot: Sysroot) -> dict[str, Package]:
    """Return the package of each path that one owns; nothing where the system has no dpkg.

    Args:
        paths: Canonical paths of the system.
        sysroot: The system.

    Raises:
        Refused: The database is larger than any system's.
    """
    wanted = {spelling: path for path in paths for spelling in _spellings(path)}
    if not wanted or sysroot.canonical(_STATUS) is None:
        return {}
    owners: dict[str, str] = {}
    for name in sysroot.names(_INFO):
        if name.endswith(".list"):
            for line in _lines(sysroot, f"{_INFO}/{name}", MAX_LIST_BYTES):
                if line in wanted:
                    owners[wanted[line]] = name.removesuffix(".list")
    packages = _installed(sysroot, set(owners.values()))
    return {path: packages[owner] for path, owner in owners.items() if owner in packages}


def _spellings(path: str) -> Iterator[str]:
    """Yield how a package may list a file: directories below / became links into /usr, packages kept the old names."""
    yield path
    if path.startswith("/usr/"):
        yield path.removeprefix("/usr")
    else:
        yield f"/usr{path}"


def _installed(sysroot: Sysroot, owners: set[str]) -> dict[str, Package]:
    vendor, distribution = _distribution(sysroot)
    found: dict[str, Package] = {}
    fields: dict[str, str] = {}
    for line in (*_lines(sysroot, _STATUS, MAX_STATUS_BYTES), ""):
        if line:
            key, colon, value = line.partition(":")
            if colon and not line[0].isspace():
                fields[key] = value.strip()
            continue
        name, architecture = fields.get("Package", ""), fields.get("Architecture", "")
        # A package that several architectures can have at once is listed with its own.
        for owner in {name, f"{name}:{architecture}"} & owners:
            source = fields.get("Source", name).partition(" ")[0]
            found[owner] = Package(
                name=name,
                version=fields.get("Version", ""),
                architecture=architecture,
                source=source,
                distribution=distribution,
                vendor=vendor,
            )
        fields = {}
    return found


def _distribution(sysroot: Sysroot) -> tuple[str, str]:
    found = {match[1]: match[2] for line in _lines(sysroot, _RELEASE, MAX_LIST_BYTES) if (match := _RELEASE_FIELD.fullmatch(line))}
    vendor, version = found.get("ID", ""), found.get("VERSION_ID", "")
    return vendor or "debian", f"{vendor}-{version}" if vendor and version else vendor


def _lines(sysroot: Sysroot, path: str, limit_bytes: int) -> Iterator[str]:
    canonical = sysroot.canonical(path)
    if canonical is None:
        return
    with sysroot.open(canonical) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise Refused(f"{sysroot.source(canonical)} is larger than {limit_bytes} bytes.", "Check that --sysroot is the root of a system.")
    for line in data.decode("utf-8", "replace").split("\n"):
        yield line.rstrip("\r")
