"""What provisioning states mean, and whose a resource is by its tags. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.spec import OWNER_TAG

if TYPE_CHECKING:
    from collections.abc import Mapping

SUCCEEDED = "Succeeded"
DELETING = "Deleting"
# In which AKS rests after an operation that did not do what it was to do; anything else but Succeeded is an operation under way.
ENDED_BADLY = ("Failed", "Canceled")


def is_working(state: str) -> bool:
    """Say whether Azure is working on something that is in this provisioning state."""
    return state != SUCCEEDED and state not in ENDED_BADLY


def is_ours(tags: Mapping[str, str], owner: str) -> bool:
    """Say whether tags bear the mark of a cluster. Azure keeps the letters of a tag's value and does not heed those of its name."""
    return next((value for name, value in tags.items() if name.lower() == OWNER_TAG), "").lower() == owner
