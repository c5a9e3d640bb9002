"""Decide how a node's label and taints change to mark it as one of its kind. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kubenclave.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from kubenclave.kube.values import Node, Taint


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What a node lacks: labels to give it, all taints that it is to have (None where they stay), and the same in words."""

    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] | None = None
    words: tuple[str, ...] = ()


def preparation(node: Node, label: tuple[str, str], taint: Taint, instead_of: Collection[str]) -> Preparation:
    """Return what is to be changed of a node.

    Args:
        node: The node as it is.
        label: Key and value that it is to have.
        taint: The taint that it is to have. One of the same key and effect is left as it is, whatever its value.
        instead_of: Keys of taints of the same effect that this one replaces.

    Raises:
        Refused: The label is there with another value.
    """
    key, value = label
    if node.labels.get(key, value) != value:
        raise Refused(f"node {node.name} has the label {key}={node.labels[key]}, not {value}", f"remove the label {key} if it is wrong")
    replaced = [each for each in node.taints if each.effect == taint.effect and each.key != taint.key and each.key in instead_of]
    tainted = any((each.key, each.effect) == (taint.key, taint.effect) for each in node.taints)
    kept = tuple(each for each in node.taints if each not in replaced)
    return Preparation(
        labels={} if key in node.labels else {key: value},
        taints=None if tainted and not replaced else (*kept, *(() if tainted else (taint,))),
        words=(
            *(() if key in node.labels else (f"label {key}={value}",)),
            *(() if tainted else (f"taint {taint}",)),
            *(f"no longer taint {each}" for each in replaced),
        ),
    )
