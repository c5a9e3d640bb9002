"""EPC dialects: the names and units under which clusters offer enclave memory. The facts are in ``dialects.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

# The label by which the 2020 guide and the node agent know an SGX node.
NODE_LABEL = ("tee", "sgx")
# What the 2020 guide taints its nodes with: <taint_key>=true:NoSchedule.
TAINT_VALUE = "true"
TAINT_EFFECT = "NoSchedule"
# The node agent's own default, and the guide's: what a node is prepared for when it offers nothing yet.
GUIDE_DIALECT = "openenclave"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One way of offering EPC; see ``dialects.toml`` for the meaning of the fields."""

    name: str
    resource: str
    unit_bytes: int
    taint_key: str
    companions: Mapping[str, int]
    source: str

    def units(self, epc_bytes: int) -> int:
        """Return how many units hold that many bytes, rounded up."""
        return -(-epc_bytes // self.unit_bytes)


@cache
def dialects() -> tuple[Dialect, ...]:
    """Return all dialects in order of preference."""
    table = tomllib.loads(files("kubenclave.workload").joinpath("dialects.toml").read_text(encoding="utf-8"))
    return tuple(Dialect(**entry) for entry in table["dialect"])


def dialect_of(name: str) -> Dialect:
    """Return the dialect of a name, or of the resource's own name.

    Raises:
        UsageError: There is none of that name.
    """
    for dialect in dialects():
        if name in {dialect.name, dialect.resource}:
            return dialect
    known = ", ".join(dialect.name for dialect in dialects())
    raise UsageError(f"{name!r} is not an EPC dialect", f"choose one of {known}")
