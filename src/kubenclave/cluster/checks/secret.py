"""Whether the secret by which a live cluster acts on Azure ends soon. Pure; a part of what is checked before ``plan`` and ``up``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from kubenclave.cluster.findings import Finding
from kubenclave.cluster.secrets import expiry
from kubenclave.cluster.steps.ownership import DELETING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from kubenclave.cluster.facts import Found
    from kubenclave.cluster.secrets import Secret
    from kubenclave.cluster.spec import ClusterSpec

# Long enough to hear of it in a monthly run.
SOON = timedelta(days=30)


def secret_findings(spec: ClusterSpec, found: Found, secret: Secret | None, now: datetime) -> Iterator[Finding]:
    """Yield what is to be known of the secret that is kept for the service principal of a cluster that is there."""
    ends = expiry(secret) if secret is not None else None
    cluster, principal = found.cluster, found.principal
    if ends is None or cluster is None or cluster.state == DELETING or principal is None or cluster.client_id != principal.app_id:
        return
    if ends - now <= SOON:
        over = ends <= now
        yield Finding(
            about=f"service principal {principal.app_id}",
            what=f"The secret by which the cluster acts on Azure {'ended' if over else 'ends'} on {ends.date()}"
            + (": it can neither scale nor repair itself." if over else "."),
            evidence="the end that the directory told when it was made; the secret is kept on this machine",
            fix=f"Give it another: az aks update-credentials --resource-group {spec.group} --name {spec.name}"
            f" --reset-service-principal --service-principal {principal.app_id} --client-secret SECRET",
            blocks=False,
        )
