"""A cluster from a few words, as the guide's one command makes it: an ordinary System pool and one SGX pool. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.checks.sgx_rules import NODE_LABEL
from kubenclave.cluster.spec import Mode, Sgx

if TYPE_CHECKING:
    from collections.abc import Mapping

# The guide took one pool of Standard_DC1s_v2, which has retired. Of what is there today, this is the smallest with the two vCPUs that AKS
# asks of a node.
DEFAULT_SGX_SIZE = "Standard_DC2s_v3"
# As in the guide.
DEFAULT_SGX_COUNT = 2
# The smallest ordinary size with the four vCPUs that AKS asks of a System pool; one node, so that a fresh subscription's ten vCPUs do.
_SYSTEM_SIZE = "Standard_D4s_v5"
_SYSTEM_COUNT = 1

# Where the short form's words end up in the cluster file; any other field has the name that it has there.
SGX_POOL = 1


def short_form(
    fields: Mapping[str, object],
    *,
    vm_size: str = DEFAULT_SGX_SIZE,
    count: int = DEFAULT_SGX_COUNT,
    sgx: Sgx = Sgx.NODE_AGENT,
    quote_helper: bool = False,
) -> dict[str, object]:
    """Return what a cluster file would say, not yet checked.

    Args:
        fields: The cluster's other fields by their names in the file.
        vm_size: Of the second pool, which has SGX.
        count: Nodes of the second pool.
        sgx: Who makes EPC a resource. For the node agent the SGX pool's nodes are labelled.
        quote_helper: Whether the add-on brings AESM.
    """
    system = {"name": "system", "vmSize": _SYSTEM_SIZE, "count": _SYSTEM_COUNT, "mode": Mode.SYSTEM.value}
    labels = dict([NODE_LABEL]) if sgx is Sgx.NODE_AGENT else {}
    enclaves = {"name": "sgx", "vmSize": vm_size, "count": count, "mode": Mode.USER.value, "labels": labels}
    return {**fields, "sgx": {"by": sgx.value, "quoteHelper": quote_helper}, "pools": [system, enclaves]}
