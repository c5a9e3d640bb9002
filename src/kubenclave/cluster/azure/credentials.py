"""Ask AKS for a cluster's kubeconfig."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from kubenclave.cluster.azure.failures import telling
from kubenclave.cluster.azure.reply import children, inside
from kubenclave.cluster.kubeconfig import LARGEST_BYTES
from kubenclave.errors import Unreachable

if TYPE_CHECKING:
    from kubenclave.cluster.azure.session import Session


def kubeconfig(session: Session, group: str, name: str, *, admin: bool) -> bytes:
    """Return the kubeconfig that AKS hands out for a user, or for an administrator.

    Raises:
        KubenclaveError: Azure refused, or there is no such cluster.
        Unreachable: The answer holds no kubeconfig.
    """
    clusters = session.containers.managed_clusters
    ask = clusters.list_cluster_admin_credentials if admin else clusters.list_cluster_user_credentials
    with telling(f"asking for the credentials of {group}/{name}"):
        answer = ask(group, name)
    first = next(iter(children(answer, "kubeconfigs")), None)
    value = inside(first, "value")
    try:
        if isinstance(value, str) and len(value) <= 2 * LARGEST_BYTES:
            return base64.b64decode(value, validate=True)
        if isinstance(value, bytes):
            return value
    except binascii.Error:
        pass
    raise Unreachable(f"Azure's answer holds no kubeconfig of {group}/{name}.", "This is not Azure's answer.")
