"""What belongs to an installation: how it is marked, and how EPC is named. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubenclave.kube import Document

NAMESPACE = "kube-system"
NAME = "kubenclave-node"
# The label by which an SGX node is known, as in the agent's nodeSelector.
NODE_LABEL = ("tee", "sgx")
# By this annotation the agent marks a node into whose status it has written bytes of this resource.
EPC_MARK = "kubenclave.dev/epc-bytes"
MARKED_RESOURCE = "sgx.intel.com/epc"
# Every object of an installation carries both; the agent's pods carry the first.
METRICS_PORT = 9120
POD_LABELS = {"app.kubernetes.io/name": NAME}
_MANAGER_LABEL, OWN_MANAGER = "app.kubernetes.io/managed-by", "kubenclave"
LABELS = {**POD_LABELS, _MANAGER_LABEL: OWN_MANAGER}

# The kinds that an installation can consist of, in the order in which they are removed: first what refuses, then what runs.
KINDS = (
    ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
    ("apps/v1", "DaemonSet"),
    ("resource.k8s.io/v1", "DeviceClass"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("v1", "ServiceAccount"),
)


def managed_by(document: Document) -> str:
    """Say who manages an object, by its label."""
    metadata = document["metadata"]
    labels = metadata.get("labels") if isinstance(metadata, Mapping) else None
    return str(labels.get(_MANAGER_LABEL, "nobody known")) if isinstance(labels, Mapping) else "nobody known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One way to name EPC: a dialect's extended resource, of which one unit stands for some bytes."""

    dialect: str
    name: str
    unit_bytes: int
