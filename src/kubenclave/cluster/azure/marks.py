"""By what the directory's objects are known as a cluster's. Pure."""

from __future__ import annotations

from kubenclave.cluster.spec import OWNER_TAG

# Azure's built-in role Contributor (learn.microsoft.com, Azure built-in roles): the same ID in every tenant.
CONTRIBUTOR_ID = "b24988ac-6180-42a0-ab88-20f7382dd24c"


def directory_tag(subscription_id: str, owner: str) -> str:
    """Return the one tag that an application and a service principal bear: theirs are plain texts, without a value.

    A directory serves many subscriptions, and the same group and cluster may be in several: the subscription is a part of the mark.
    """
    return f"{OWNER_TAG}:{subscription_id.lower()}/{owner}"


def directory_filter(subscription_id: str, owner: str) -> str:
    """Return the filter by which Graph finds what bears a cluster's tag. A quote within is doubled (OData 4.01, 5.1.1.6.2)."""
    return f"tags/any(tag:tag eq '{directory_tag(subscription_id, owner).replace(chr(39), chr(39) * 2)}')"
