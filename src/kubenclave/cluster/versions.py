"""Compare Kubernetes versions as AKS names them: ``1.35`` stands for any patch of it. Pure."""

from __future__ import annotations


def is_version(wanted: str, have: str) -> bool:
    """Say whether a cluster's version is the one that is asked for."""
    return have == wanted or have.startswith(f"{wanted}.")


def may_become(have: str, wanted: str) -> bool:
    """Say whether AKS upgrades a cluster from one version to another: never down, and by one minor version at a time."""
    if is_version(wanted, have):
        return True
    old, new = _numbers(have), _numbers(wanted)
    if old is None or new is None:
        return False
    return new >= old[: len(new)] and new[0] == old[0] and new[1] - old[1] <= 1


def _numbers(version: str) -> tuple[int, ...] | None:
    parts = version.split(".")
    if len(parts) < 2 or not all(part.isascii() and part.isdecimal() and len(part) <= 9 for part in parts):  # noqa: PLR2004 - 1.35, and no more than an int32
        return None
    return tuple(int(part) for part in parts)
