"""Name the resources under which EPC is offered: a table with its sources, and nothing that acts on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kubenclave.errors import UsageError

MIB = 1024 * 1024


class Mode(Enum):
    """A way of offering EPC."""

    DEVICE_PLUGIN = "device-plugin"
    EXTENDED_RESOURCE = "extended-resource"
    DRA = "dra"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One way to ask for EPC in a pod's resource limits.

    Attributes:
        name: What ``--dialect`` takes.
        mode: The way in which it offers EPC.
        resource: The extended resource's name.
        taint_key: Key of the taint that keeps other pods off SGX nodes; pods and the agent tolerate it.
        unit_bytes: How much EPC one unit of the resource stands for.
    """

    name: str
    mode: Mode
    resource: str
    taint_key: str
    unit_bytes: int


# Read on 2026-11-24. In all dialects the taint's key is the resource's name, its value "true", its effect NoSchedule.
DIALECTS = (
    # aks-engine, docs/topics/sgx.md as of May 2020, and the July 2020 guide's device plugin manifest.
    Dialect(
        name="openenclave",
        mode=Mode.DEVICE_PLUGIN,
        resource="openenclave.io/sgx_epc_MiB",
        taint_key="openenclave.io/sgx_epc_MiB",
        unit_bytes=MIB,
    ),
    # aks-engine since May 2020 (pull request 3214) and version 1 of the AKS add-on.
    Dialect(
        name="azure",
        mode=Mode.DEVICE_PLUGIN,
        resource="kubernetes.azure.com/sgx_epc_mem_in_MiB",
        taint_key="kubernetes.azure.com/sgx_epc_mem_in_MiB",
        unit_bytes=MIB,
    ),
    # Intel's device plugins 0.36: EPC in bytes by node feature discovery or the operator's epc-register, the device by its plugin.
    Dialect(name="intel", mode=Mode.EXTENDED_RESOURCE, resource="sgx.intel.com/epc", taint_key="sgx.intel.com/epc", unit_bytes=1),
)

# Intel's names for the devices themselves, counted. The second is in use with every dialect: the others have no name for it.
ENCLAVE_RESOURCE = "sgx.intel.com/enclave"
PROVISION_RESOURCE = "sgx.intel.com/provision"
# How many containers of a node may hold a device, which is no limit of its own: more than a node runs (at most 250 pods on AKS, 110 by the
# kubelet's default, some with several containers).
DEVICE_UNITS = 1024
# The name of the driver of claims, which have no dialect. Not a domain that this project has registered; it follows the form that
# Kubernetes asks of driver names.
DRIVER = "epc.kubenclave.dev"


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
