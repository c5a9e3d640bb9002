"""Taints of SGX nodes besides those of the dialects, and who tolerates them. Pure.

A pool of nodes has them from its cloud or its administrator, such as ``sku=sgx:NoSchedule``. The agent has to tolerate them to be there at
all, and every pod that asks for EPC to be placed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from kubenclave.kube import Taint

# What keeps a pod off a node; PreferNoSchedule does not.
_KEEPS_OFF = frozenset({"NoSchedule", "NoExecute"})
# Taints by which Kubernetes itself marks nodes; a DaemonSet's pods tolerate those that pass (DaemonSet documentation).
_OWN_TAINTS = "node.kubernetes.io/"
# As the API server validates a taint: its key is a qualified name, its value that of a label (apimachinery's validation.go).
_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_PREFIX = r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?"
_TEXT = re.compile(rf"(?P<key>(?:{_PREFIX}/)?{_NAME})(?:=(?P<value>{_NAME}))?:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toleration:
    """What tolerates a taint; an empty key or effect means any, a value of None any value.

    As text, which is what the command line takes, it is ``key=value:Effect`` or ``key:Effect``.
    """

    key: str
    value: str | None
    effect: str

    def __str__(self) -> str:
        return f"{self.key}:{self.effect}" if self.value is None else f"{self.key}={self.value}:{self.effect}"

    @property
    def document(self) -> dict[str, str]:
        """The toleration as the API has it."""
        operator = {"operator": "Exists"} if self.value is None else {"operator": "Equal", "value": self.value}
        return {"key": self.key, **operator, "effect": self.effect}

    def tolerates(self, taint: Taint) -> bool:
        """Tell whether a pod with this may be where the taint is."""
        return self.key in {"", taint.key} and self.value in {None, taint.value} and self.effect in {"", taint.effect}


def parse_toleration(text: str) -> Toleration:
    """Read a toleration from the command line.

    Raises:
        UsageError: It is none.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--toleration {text[:80]!r} is not written key[=value]:Effect",
            "write it as kubectl taint does, such as sku=sgx:NoSchedule; without a value it tolerates every value",
        )
    return Toleration(key=match["key"], value=match["value"], effect=match["effect"])


def tolerations_in(documents: object) -> tuple[Toleration, ...]:
    """Return the tolerations in a pod's spec as the API has them; what is none is passed over."""
    found = [each for each in documents if isinstance(each, Mapping)] if isinstance(documents, list) else []
    return tuple(
        Toleration(
            key=str(each.get("key") or ""),
            value=None if each.get("operator") == "Exists" else str(each.get("value") or ""),
            effect=str(each.get("effect") or ""),
        )
        for each in found
    )


def untolerated(taints: Iterable[Taint], tolerations: Collection[Toleration]) -> list[Taint]:
    """Return the taints that keep a pod with these tolerations off, but those by which Kubernetes says that a node is not well."""
    return [
        taint
        for taint in taints
        if taint.effect in _KEEPS_OFF
        and not taint.key.startswith(_OWN_TAINTS)
        and not any(toleration.tolerates(taint) for toleration in tolerations)
    ]
