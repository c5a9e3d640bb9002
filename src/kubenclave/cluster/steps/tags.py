"""Compare and merge tags as Azure does: it does not tell small letters from capitals in a tag's name, and keeps both. Pure.

Source: azure-resource-manager, tag-resources.md: tag names are case-insensitive for operations, tag values are case-sensitive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from kubenclave.cluster.body import SCALE_FROM_ZERO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

V = TypeVar("V")

# Those of SGX are set by kubenclave, in whichever letters.
_TOLD = SCALE_FROM_ZERO.lower()
_OF_SGX = "sgx"


def tag_changes(wanted: Mapping[str, object], have: Mapping[str, str]) -> tuple[str, ...]:
    """Return in which ways tags differ from what is wanted, one phrase each. Those that others put there, such as a policy, stay."""
    there = {name.lower(): value for name, value in have.items()}
    return tuple(
        f"tag {name}: {there.get(name.lower(), 'none')} -> {value}" for name, value in wanted.items() if there.get(name.lower()) != value
    )


def merged(have: Mapping[str, V], wanted: Mapping[str, V]) -> dict[str, V]:
    """Return the tags that are there with what is wanted, each name in the letters that it has already."""
    spelled = {name.lower(): name for name in have}
    return {**have, **{spelled.get(name.lower(), name): value for name, value in wanted.items()}}


def outdated(have: Iterable[str], wanted: Iterable[str]) -> frozenset[str]:
    """Return the names of tags that tell the autoscaler of EPC and are wanted no more: it would count on what no node offers."""
    kept = {name.lower() for name in wanted}
    return frozenset(name for name in have if name.lower().startswith(_TOLD) and _OF_SGX in name.lower() and name.lower() not in kept)
