"""Name the resources under which EPC is offered: a table with its sources, and nothing that acts on it."""

from __future__ import annotations

from dataclasses import dataclass

from kubenclave.errors import UsageError

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One way to ask for EPC in a pod's resource limits.

    Attributes:
        name: What ``--dialect`` takes.
        resource: The extended resource's name.
        taint_key: Key of the taint that keeps other pods off SGX nodes; pods and the agent tolerate it.
        unit_bytes: How much EPC one unit of the resource stands for.
    """

    name: str
    resource: str
    taint_key: str
    unit_bytes: int


# Read on 2026-11-24. In both dialects the taint's key is the resource's name, its value "true", its effect NoSchedule.
DIALECTS = (
    # aks-engine, docs/topics/sgx.md as of May 2020, and the July 2020 guide's device plugin manifest.
    Dialect(name="openenclave", resource="openenclave.io/sgx_epc_MiB", taint_key="openenclave.io/sgx_epc_MiB", unit_bytes=MIB),
    # aks-engine since May 2020 (pull request 3214) and version 1 of the AKS add-on.
    Dialect(
        name="azure",
        resource="kubernetes.azure.com/sgx_epc_mem_in_MiB",
        taint_key="kubernetes.azure.com/sgx_epc_mem_in_MiB",
        unit_bytes=MIB,
    ),
)


def dialect_named(name: str) -> Dialect:
    """Find a dialect by its name.

    Raises:
        UsageError: There is none of that name.
    """
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    known = ", ".join(dialect.name for dialect in DIALECTS)
    raise UsageError(f"there is no EPC dialect {name!r}", hint=f"use one of: {known}")
