"""What the simulated Azure sells: VM sizes, locations, Kubernetes versions, and the quota that a subscription starts with.

A table of its own, not the one of ``kubenclave.cluster``: a counterpart that shared its client's facts could not contradict them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import msgspec

from kubenclave.local.azure.values import Rejected

# Default limits in vCPUs: 8 confidential cores (Azure's quickstart, 2021), 10 of an ordinary family, 20 a region.
SGX_QUOTA = 8
FAMILY_QUOTA = 10
REGION_QUOTA = 20
DEFAULT_SIZE = "Standard_D8ds_v5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Describe one VM size; ``epc_mib`` is 0 where it has no SGX."""

    name: str
    family: str
    vcpus: int
    memory_gib: int
    epc_mib: int
    generations: str
    retired: bool = False
    confidential: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Describe one minor version of Kubernetes with its patches, oldest first."""

    patches: tuple[str, ...]
    long_term: bool
    default: bool = False
    preview: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Hold the data file."""

    locations: dict[str, str]
    versions: dict[str, Version]
    sizes: tuple[Size, ...]


@cache
def catalogue() -> Catalogue:
    """Read the data file, once."""
    return msgspec.json.decode(files(__package__).joinpath("catalogue.json").read_bytes(), type=Catalogue)


def find_size(name: str) -> Size | None:
    """Find a VM size, in any case of letters."""
    return next((size for size in catalogue().sizes if size.name.lower() == name.lower()), None)


def location_name(text: str) -> str:
    """Give a location's name: ``UK South`` and ``uksouth`` are the same.

    Raises:
        Rejected: There is none of that name.
    """
    name = text.replace(" ", "").lower()
    if name not in catalogue().locations:
        raise Rejected(
            400,
            "LocationNotAvailableForResourceGroup",
            f"The provided location '{text}' is not available. List of available regions is '{','.join(catalogue().locations)}'.",
        )
    return name


def version(wanted: str, location: str) -> str:
    """Choose the full Kubernetes version: the default for none, the newest patch for a minor.

    Raises:
        Rejected: It is not offered.
    """
    known = catalogue().versions
    if not wanted:
        return next(entry.patches[-1] for entry in known.values() if entry.default)
    if wanted in known:
        return known[wanted].patches[-1]
    if not any(wanted in entry.patches for entry in known.values()):
        raise Rejected(
            400,
            "K8sVersionNotSupported",
            f"Managed cluster is on version {wanted} which is not supported in this region ({location}). Please use "
            "[az aks get-versions] command to get the supported version list in this region.",
        )
    return wanted


def default_limit(family: str) -> int:
    """Give the vCPUs of a family that a subscription may use at first; a retired family has none."""
    members = [size for size in catalogue().sizes if size.family == family]
    if any(size.retired for size in members):
        return 0
    return SGX_QUOTA if any(size.epc_mib for size in members) else FAMILY_QUOTA
