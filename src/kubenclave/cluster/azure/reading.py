"""Ask Azure what it offers and what is there, all at once: the questions do not depend on each other, and each takes a second or more.

Every answer is read by ``reply``, which takes nothing for granted. What is not there is answered with 404 by Azure and is no failure here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.rest import HttpRequest

from kubenclave.cluster.azure.asking import Asking
from kubenclave.cluster.azure.directory import find_principal, may_make_applications
from kubenclave.cluster.azure.failures import error_code, telling
from kubenclave.cluster.azure.parsing import cluster, group, locations, permissions, quotas, resource_ids, sizes, versions
from kubenclave.cluster.azure.reply import children, entries, text
from kubenclave.cluster.facts import Found, FoundCluster, FoundGroup, Offer
from kubenclave.cluster.spec import Identity
from kubenclave.errors import KubenclaveError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from kubenclave.cluster.azure.session import Session
    from kubenclave.cluster.facts import FoundPrincipal
    from kubenclave.cluster.spec import ClusterSpec

# What a managed cluster is made of: without these AKS itself fails, some minutes into the creation.
PROVIDERS = ("Microsoft.ContainerService", "Microsoft.Compute", "Microsoft.ManagedIdentity", "Microsoft.Network", "Microsoft.Storage")
UNKNOWN_FEATURE = "NotFound"
# A cluster with a managed identity needs nothing of the directory: no longer than this is waited for what may be left there.
DIRECTORY_SECONDS = 20.0
# Far more than there are, and few enough to hold: 90 regions, 1,200 sizes in a region, 200 quotas, 800 resources in a group (ARM's limit).
_MOST = {"locations": 1000, "sizes": 20_000, "quotas": 5_000, "resources": 10_000, "permissions": 5_000}
_PERMISSIONS_VERSION = "2022-04-01"
_DENIED = 403
_UNREGISTERED = frozenset({"missingsubscriptionregistration", "subscriptionnotregistered"})


def read_offer(session: Session, spec: ClusterSpec) -> Offer:
    """Return what Azure offers to the caller in the region of a cluster.

    An answer is left empty where the region is none, where the subscription has not registered the provider yet, and where the account may
    not ask: one that may work in its group alone can make clusters there.

    Raises:
        KubenclaveError: Azure did not answer, or refused to.
    """
    asking = Asking()
    places = asking.begin(_locations, session)
    in_group = asking.begin(_group_permissions, session, spec.group)
    in_subscription = asking.begin(_subscription_permissions, session)
    applications = asking.begin(may_make_applications, session) if spec.identity is Identity.SERVICE_PRINCIPAL else None
    regional = (
        asking.begin(_sizes, session, spec.location),
        asking.begin(_quotas, session, spec.location),
        asking.begin(_versions, session, spec.location),
    )
    known = places.result()
    offered, limits, kubernetes = (_regional(each, known=not known or spec.location in known) for each in regional)
    on_group, on_subscription = in_group.result(), in_subscription.result()
    return Offer(
        subscription=session.subscription,
        permissions=permissions(next((each for each in (on_group, on_subscription) if each is not None), ())),
        subscription_permissions=permissions(on_subscription) if on_subscription is not None else None,
        may_make_applications=applications.result() if applications is not None else None,
        locations=known,
        sizes=sizes(offered, spec.location),
        quotas=quotas(limits),
        versions=versions(kubernetes),
    )


def read_found(session: Session, spec: ClusterSpec, *, secret_kept: Callable[[str], bool] = lambda _app_id: False) -> Found:
    """Return what is there of a cluster and its surroundings.

    Args:
        session: Where to ask.
        spec: The cluster that is meant.
        secret_kept: Says whether the secret of an application, by its client ID, is kept on this machine.

    Raises:
        KubenclaveError: Azure did not answer, or refused to.
    """
    namespaces = dict.fromkeys((*PROVIDERS, *(name.partition("/")[0] for name in spec.features)))
    asking = Asking()
    principal = asking.begin(find_principal, session, spec, secret_kept)
    a_group = asking.begin(_group, session, spec)
    a_cluster = asking.begin(_cluster, session, spec)
    others = asking.begin(_others, session, spec)
    providers = {name: asking.begin(_provider, session, name) for name in namespaces}
    features = {name: asking.begin(_feature, session, name) for name in spec.features}
    found = Found(
        group=a_group.result(),
        cluster=a_cluster.result(),
        providers={name: state for name, state in ((name, each.result()) for name, each in providers.items()) if state},
        features={name: state for name, state in ((name, each.result()) for name, each in features.items()) if state},
        others_in_group=others.result(),
    )
    in_directory, failure = _principal(principal, spec, found)
    return replace(found, principal=in_directory, directory_failure=failure)


def _principal(asked: Future[FoundPrincipal | None], spec: ClusterSpec, found: Found) -> tuple[FoundPrincipal | None, str]:
    """Return the principal, and why it is not known whether there is one: that is a failure only where the cluster has one or is to."""
    if spec.identity is Identity.SERVICE_PRINCIPAL:
        return asked.result(), ""
    has_one = found.cluster is not None and found.cluster.client_id != ""
    try:
        return asked.result(None if has_one else DIRECTORY_SECONDS), ""
    except TimeoutError:
        return None, f"the directory did not answer within {DIRECTORY_SECONDS:.0f} s"
    except KubenclaveError as exc:
        # An account that may not read the directory can still remove the cluster, and is told what stays.
        if has_one and not isinstance(exc, Refused):
            raise
        return None, exc.what


def _regional(asked: Future[list[object]], *, known: bool) -> list[object]:
    """Return an answer of a region, or an empty one where there is no such region: preflight says so better than Azure does."""
    if known:
        return asked.result()
    return [] if asked.exception() is not None else asked.result()


def _locations(session: Session) -> tuple[str, ...]:
    with telling("listing the regions"):
        listed = session.subscriptions.subscriptions.list_locations(session.subscription_id)
        return locations(_if_told(lambda: entries(listed, most=_MOST["locations"])))


def _group_permissions(session: Session, name: str) -> list[object] | None:
    """Return the caller's permissions on the group; None where the group is not there yet."""
    with telling(f"reading what the account may do on the group {name}"):
        try:
            return entries(session.authorization.permissions.list_for_resource_group(name), most=_MOST["permissions"])
        except ResourceNotFoundError:
            return None


def _subscription_permissions(session: Session) -> list[object] | None:
    """Return the caller's permissions on the subscription; None where it may not ask, as one that may work in a group alone."""
    with telling("reading what the account may do on the subscription"):
        url = session.arm.format_url(f"/subscriptions/{session.subscription_id}/providers/Microsoft.Authorization/permissions")
        answer = session.arm.send_request(HttpRequest("GET", url, params={"api-version": _PERMISSIONS_VERSION}))
        if answer.status_code == _DENIED:
            return None
        answer.raise_for_status()
        return [*children(answer.json(), "value")]


def _sizes(session: Session, location: str) -> list[object]:
    with telling(f"listing the VM sizes of {location}"):
        return _if_told(lambda: entries(session.compute.resource_skus.list(filter=f"location eq '{location}'"), most=_MOST["sizes"]))


def _quotas(session: Session, location: str) -> list[object]:
    with telling(f"reading the quotas of {location}"):
        return _if_told(lambda: entries(session.compute.usage.list(location), most=_MOST["quotas"]))


def _versions(session: Session, location: str) -> list[object]:
    with telling(f"listing the Kubernetes versions of {location}"):
        return _if_told(lambda: [*children(session.containers.managed_clusters.list_kubernetes_versions(location), "values")])


def _if_told(ask: Callable[[], list[object]]) -> list[object]:
    """Return an answer, or an empty one where Azure does not give it to this account or before the provider is registered."""
    try:
        return ask()
    except HttpResponseError as exc:
        if exc.status_code == _DENIED or error_code(exc).lower() in _UNREGISTERED:
            return []
        raise


def _group(session: Session, spec: ClusterSpec) -> FoundGroup | None:
    with telling(f"reading the group {spec.group}"):
        try:
            return group(session.resources.resource_groups.get(spec.group))
        except ResourceNotFoundError:
            return None


def _cluster(session: Session, spec: ClusterSpec) -> FoundCluster | None:
    with telling(f"reading the cluster {spec.owner}"):
        try:
            return cluster(session.containers.managed_clusters.get(spec.group, spec.name))
        except ResourceNotFoundError:
            return None
        except HttpResponseError as exc:
            if error_code(exc).lower() in _UNREGISTERED:
                return None
            raise


def _others(session: Session, spec: ClusterSpec) -> tuple[str, ...]:
    with telling(f"listing what is in the group {spec.group}"):
        try:
            found = entries(session.resources.resources.list_by_resource_group(spec.group), most=_MOST["resources"])
        except ResourceNotFoundError:
            return ()
    return resource_ids(found, without=f"/managedclusters/{spec.name.lower()}")


def _provider(session: Session, namespace: str) -> str:
    """Return a provider's state; empty where the account may not ask, and so could not register it either."""
    with telling(f"reading whether {namespace} is registered"):
        found = _if_told(lambda: [session.resources.providers.get(namespace)])
    return text(found[0], "registrationState") or "NotRegistered" if found else ""


def _feature(session: Session, name: str) -> str:
    """Return a feature's state; empty where the account may not ask, and so could not register it either."""
    namespace, _, feature = name.partition("/")
    with telling(f"reading whether the feature {name} is registered"):
        try:
            found = _if_told(lambda: [session.features.features.get(namespace, feature)])
        except ResourceNotFoundError:
            return UNKNOWN_FEATURE
    return text(found[0], "properties", "state") or "NotRegistered" if found else ""
