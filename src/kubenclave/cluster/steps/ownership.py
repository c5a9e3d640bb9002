"""What provisioning states mean, and whose a resource is by its tags. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.spec import OWNER_TAG

if TYPE_CHECKING:
    from collections.abc import Mapping

SUCCEEDED = "Succeeded"
# A power state, and no provisioning state: a stopped cluster has ended as Succeeded, and AKS refuses every change of it but its start.
STOPPED = "Stopped"
DELETING = "Deleting"
# In which AKS rests after an operation that did not do what it was to do; anything else but Succeeded is an operation under way.
ENDED_BADLY = ("Failed", "Canceled")
# Labels and taints under this prefix are AKS's own, such as those of spot nodes (azure-aks-docs use-labels.md, spot-node-pool.md).
_OF_AKS = "kubernetes.azure.com/"


def is_working(state: str) -> bool:
    """Say whether Azure is working on something that is in this provisioning state; where it tells none, it is not."""
    return state not in {"", SUCCEEDED, *ENDED_BADLY}


def is_ours(tags: Mapping[str, str], owner: str) -> bool:
    """Say whether tags bear the mark of a cluster. Azure keeps the letters of a tag's value and does not heed those of its name."""
    return next((value for name, value in tags.items() if name.lower() == OWNER_TAG), "").lower() == owner


def is_of_aks(key_or_taint: str) -> bool:
    """Say whether a label's key, or a taint as it is written, is one that AKS itself sets and keeps."""
    return key_or_taint.lower().startswith(_OF_AKS)


def taint_written(text: str) -> str:
    """Return a taint in one way of writing: one without a value is written with and without the equals sign."""
    return text.replace("=:", ":")
