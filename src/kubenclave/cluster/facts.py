"""What Azure said before anything is made: what is offered to this subscription, and what is there already.

Values only. ``azure/reading.py`` asks for them; ``checks/preflight.py`` and ``steps/plan.py`` decide from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Name a subscription, its tenant and its state (``Enabled``, ``Warned``, ``Disabled`` ...)."""

    id: str
    name: str
    tenant: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Hold one permission of the caller's roles, as ARM states it: action patterns with ``*``, and those taken out again."""

    actions: tuple[str, ...]
    not_actions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedSize:
    """Hold what the resource SKUs say of one VM size in the region.

    Attributes:
        restriction: The reason code (``NotAvailableForSubscription`` ...) of a restriction of the whole region; empty where unrestricted.
        spot: Whether it is to be had as a spot node; None where Azure does not say.
    """

    name: str
    family: str
    vcpus: int
    restriction: str
    spot: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Hold used and allowed vCPUs of one family, or of the region (``cores``)."""

    used: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedVersion:
    """Hold one minor Kubernetes version of the region: ``1.35`` with its patches."""

    minor: str
    patches: tuple[str, ...]
    default: bool
    preview: bool
    long_term_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Hold what Azure offers to the caller in a region.

    Attributes:
        permissions: Of the caller, on the subscription or the group if that is there.
        subscription_permissions: Of the caller on the subscription; None where it may not ask.
        may_make_applications: Whether the directory lets the caller make applications; None where it would not say.
        sizes: By name in small letters.
        quotas: By family name in small letters (``standarddcsv3family``, ``cores``).
        locations: Every region of the subscription.
    """

    subscription: Subscription
    permissions: tuple[Permission, ...]
    may_make_applications: bool | None
    locations: tuple[str, ...]
    sizes: Mapping[str, OfferedSize]
    quotas: Mapping[str, Quota]
    versions: tuple[OfferedVersion, ...]
    subscription_permissions: tuple[Permission, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundGroup:
    """Hold a resource group that is there."""

    location: str
    state: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPool:
    """Hold a node pool that is there.

    Attributes:
        autoscale: (min, max), or None where it does not scale itself.
        version: Of Kubernetes, as its nodes run it; empty where Azure does not say.
    """

    name: str
    vm_size: str
    count: int
    mode: str
    autoscale: tuple[int, int] | None
    labels: Mapping[str, str]
    taints: tuple[str, ...]
    spot: bool
    max_pods: int | None
    state: str
    tags: Mapping[str, str]
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCluster:
    """Hold a managed cluster that is there.

    Attributes:
        state: Its provisioning state: ``Succeeded``, ``Creating``, ``Updating``, ``Deleting``, ``Failed``, ``Canceled``.
        client_id: Of its service principal; empty with a managed identity.
        addon: Whether the SGX add-on is on, and whether its quote helper is.
        power: ``Running`` or ``Stopped``; empty where Azure does not say.
    """

    location: str
    state: str
    kubernetes_version: str
    client_id: str
    network_plugin: str
    network_mode: str
    addon: bool
    quote_helper: bool
    pools: tuple[FoundPool, ...]
    tags: Mapping[str, str]
    power: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPrincipal:
    """Hold the application and service principal that bear this cluster's mark.

    Attributes:
        app_id: The client ID.
        application_object_id: Of the application, by which it is removed.
        principal_id: The service principal's object ID; empty where the application has none yet.
        has_role: Whether it is Contributor of the group, by an assignment on the group or on something above it.
        role_on_group: Whether an assignment of that role is on the group itself, where it was made for this cluster.
        has_secret: Whether a secret of it is kept on this machine.
    """

    app_id: str
    application_object_id: str
    principal_id: str
    has_role: bool
    has_secret: bool
    role_on_group: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Hold what is there of a cluster and its surroundings.

    Attributes:
        providers: Registration state by namespace: ``Registered``, ``Registering``, ``NotRegistered``.
        features: State by ``namespace/feature`` of those the spec names: ``Registered``, ``Registering``, ``Pending``, ``NotRegistered``.
        others_in_group: Resources in the group that are not the cluster, by ID: why a group is kept.
        directory_failure: Why it is not known whether there is a principal, in one sentence; empty where the directory was asked.
    """

    providers: Mapping[str, str]
    features: Mapping[str, str] = field(default_factory=dict)
    group: FoundGroup | None = None
    cluster: FoundCluster | None = None
    principal: FoundPrincipal | None = None
    others_in_group: tuple[str, ...] = ()
    directory_failure: str = ""
