"""From what is there and what is wanted to ordered steps. Pure: the same findings give the same plan, and a cluster as wanted gives none.

What bears no mark of this cluster was made by someone else and is never changed: a cluster or pool of that kind is refused, a group of
that kind is used as it is. What AKS cannot change in place is refused with what to do instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.body import network_profile
from kubenclave.cluster.spec import OWNER_TAG, Identity, Sgx
from kubenclave.cluster.steps.ownership import DELETING, ENDED_BADLY, STOPPED, is_ours, is_working
from kubenclave.cluster.steps.pools import all_pool_changes, pool_refusals, pool_steps
from kubenclave.cluster.steps.step import Kind, Step, Verb, after_all
from kubenclave.cluster.steps.tags import tag_changes
from kubenclave.cluster.versions import is_version, may_become
from kubenclave.errors import Refused

if TYPE_CHECKING:
    from kubenclave.cluster.facts import Found, FoundCluster, FoundPrincipal
    from kubenclave.cluster.spec import ClusterSpec

REGISTERED = "Registered"
# A preview that waits for Azure's consent stays so for days, and one that has ended is not known any more: asking again changes nothing.
_SETTLED = (REGISTERED, "Pending", "NotFound")
ROLE = "Contributor"


def plan(spec: ClusterSpec, found: Found) -> tuple[Step, ...]:
    """Return the steps that make what is there into what is wanted, each after those that it needs; none where nothing is to be done.

    A cluster that Azure is still working on is waited for first, and what follows is told as it looks now.

    Raises:
        Refused: The cluster was made by someone else, is stopped, or a change is wanted that AKS cannot make in place.
    """
    _refuse(spec, found)
    coming = found.cluster is None or found.cluster.state == DELETING
    registering = _registering(spec, found, coming=coming)
    grouping = _grouping(spec, found)
    signing = _signing(spec, found, coming=coming, after=after_all(grouping))
    before = after_all((*registering, *grouping, *signing))
    clustering = _clustering(spec, found, before)
    _refuse_stopped(spec, found.cluster, clustering)
    return (*registering, *grouping, *signing, *clustering, *_leaving(spec, found))


def _registering(spec: ClusterSpec, found: Found, *, coming: bool) -> tuple[Step, ...]:
    features = [
        Step(kind=Kind.FEATURE, verb=Verb.REGISTER, name=name, reason=f"it is {found.features[name]}")
        for name in spec.features
        if found.features.get(name, REGISTERED) not in _SETTLED
    ]
    # A provider learns of a new feature when it is registered again; nothing says whether that was done, so it is done before a creation.
    again = {name.partition("/")[0] for name in spec.features} if features or (coming and spec.features) else set()
    providers = [
        Step(
            kind=Kind.PROVIDER,
            verb=Verb.REGISTER,
            name=name,
            reason="it learns of the features" if state == REGISTERED else f"it is {state}",
            after=after_all(features) if name in again else (),
        )
        for name, state in sorted(found.providers.items())
        if state != REGISTERED or name in again
    ]
    return (*features, *providers)


def _grouping(spec: ClusterSpec, found: Found) -> tuple[Step, ...]:
    made = Step(kind=Kind.GROUP, verb=Verb.CREATE, name=spec.group, reason=f"it is not there; in {spec.location}")
    if found.group is None:
        return (made,)
    if found.group.state == DELETING:
        gone = Step(kind=Kind.GROUP, verb=Verb.WAIT, name=spec.group, reason="it is being deleted")
        return (gone, Step(kind=Kind.GROUP, verb=Verb.CREATE, name=spec.group, reason="after it is gone", after=(gone.key,)))
    changes = tag_changes(spec.tags, found.group.tags) if is_ours(found.group.tags, spec.owner) else ()
    if not changes:
        return ()
    return (Step(kind=Kind.GROUP, verb=Verb.UPDATE, name=spec.group, reason="its tags differ", changes=changes),)


def _signing(spec: ClusterSpec, found: Found, *, coming: bool, after: tuple[str, ...]) -> tuple[Step, ...]:
    """Return what gives a cluster that is not there yet its service principal, and a cluster that is there the role it may have lost."""
    if spec.identity is not Identity.SERVICE_PRINCIPAL:
        return ()
    have, name = found.principal, spec.owner
    steps = []
    if have is not None and coming:
        reason = "it bears the mark: the cluster is to act on Azure by it"
        steps.append(Step(kind=Kind.APPLICATION, verb=Verb.ADOPT, name=have.app_id, reason=reason))
    if have is None:
        steps.append(Step(kind=Kind.APPLICATION, verb=Verb.CREATE, name=name, reason="the cluster acts on Azure by it"))
    if have is None or not have.principal_id:
        steps.append(Step(kind=Kind.PRINCIPAL, verb=Verb.CREATE, name=name, reason="of the application", after=after_all(steps)))
    if coming and (have is None or not have.has_secret):
        reason = "the cluster signs in by it" if have is None else "this machine keeps none that holds"
        verb = Verb.CREATE if have is None else Verb.UPDATE
        steps.append(Step(kind=Kind.SECRET, verb=verb, name=name, reason=reason, after=after_all(steps[:1])))
    if have is None or not have.has_role:
        needed = (*after, *after_all(step for step in steps if step.kind is Kind.PRINCIPAL))
        steps.append(
            Step(kind=Kind.ROLE, verb=Verb.CREATE, name=f"{ROLE} on {spec.group}", reason="for the service principal", after=needed)
        )
    return tuple(steps)


def _clustering(spec: ClusterSpec, found: Found, before: tuple[str, ...]) -> tuple[Step, ...]:
    cluster = found.cluster
    pools = f"with {len(spec.pools)} pool{'s' if len(spec.pools) != 1 else ''}"
    if cluster is None:
        return (Step(kind=Kind.CLUSTER, verb=Verb.CREATE, name=spec.name, reason=f"it is not there; {pools}", after=before),)
    if cluster.state == DELETING:
        gone = Step(kind=Kind.CLUSTER, verb=Verb.WAIT, name=spec.name, reason="it is being deleted")
        return (
            gone,
            Step(kind=Kind.CLUSTER, verb=Verb.CREATE, name=spec.name, reason=f"after it is gone; {pools}", after=(*before, gone.key)),
        )
    steps: list[Step] = []
    if is_working(cluster.state):
        steps.append(Step(kind=Kind.CLUSTER, verb=Verb.WAIT, name=spec.name, reason=f"Azure is at it: {cluster.state}"))
    changes = _cluster_changes(spec, cluster)
    badly = cluster.state in ENDED_BADLY
    if badly or changes:
        # What made it fail may be a pool, so that the pools are brought to what the file says by the same request.
        changes = (*changes, *(all_pool_changes(spec, cluster) if badly else ()))
        reason = f"it ended as {cluster.state}: asked for again" if badly else "it differs"
        after = (*before, *after_all(steps))
        steps.append(Step(kind=Kind.CLUSTER, verb=Verb.UPDATE, name=spec.name, reason=reason, changes=changes, after=after))
    return (*steps, *pool_steps(spec, cluster, after=(*before, *after_all(steps))))


def _leaving(spec: ClusterSpec, found: Found) -> tuple[Step, ...]:
    """Return the removal of a service principal that was made for this cluster when the file still asked for one, and that nobody uses."""
    have = found.principal
    if (
        have is None
        or spec.identity is Identity.SERVICE_PRINCIPAL
        or (found.cluster is not None and found.cluster.client_id == have.app_id)
    ):
        return ()
    reason = f"the file asks for a managed identity; client {have.app_id}"
    steps: list[Step] = []
    if have.role_on_group:
        steps.append(Step(kind=Kind.ROLE, verb=Verb.DELETE, name=f"{ROLE} on {spec.group}", reason=reason))
    steps.append(Step(kind=Kind.APPLICATION, verb=Verb.DELETE, name=spec.owner, reason=reason, after=after_all(steps)))
    return tuple(steps)


def _cluster_changes(spec: ClusterSpec, cluster: FoundCluster) -> tuple[str, ...]:
    changes = [*tag_changes(spec.tags, cluster.tags)]
    wanted = spec.sgx.by is Sgx.ADDON
    if wanted != cluster.addon:
        changes.append(f"SGX add-on: {_switch(on=cluster.addon)} -> {_switch(on=wanted)}")
    elif wanted and spec.sgx.quote_helper != cluster.quote_helper:
        changes.append(f"quote helper: {_switch(on=cluster.quote_helper)} -> {_switch(on=spec.sgx.quote_helper)}")
    if spec.kubernetes_version is not None and not is_version(spec.kubernetes_version, cluster.kubernetes_version):
        changes.append(f"Kubernetes: {cluster.kubernetes_version} -> {spec.kubernetes_version}")
    return tuple(changes)


def _refuse(spec: ClusterSpec, found: Found) -> None:
    cluster = found.cluster
    if cluster is None:
        return
    if not is_ours(cluster.tags, spec.owner):
        raise Refused(
            f"The cluster {spec.name} in group {spec.group} is not of this making: it does not bear the tag {OWNER_TAG}={spec.owner}.",
            "Give the cluster in the file another name. kubenclave cluster credentials works with it as it is.",
        )
    if cluster.state == DELETING:
        return
    refused = (*_fixed(spec, cluster), *_principal_refusals(spec, cluster, found.principal), *pool_refusals(spec, cluster))
    if refused:
        raise Refused(
            f"What is asked for cannot be changed in place on {spec.owner}: {'; '.join(refused)}.",
            "Put the old value back into the file; or make the cluster anew: kubenclave cluster down, then up.",
        )


def _refuse_stopped(spec: ClusterSpec, cluster: FoundCluster | None, steps: tuple[Step, ...]) -> None:
    # While it is being started or deleted, its power state may lag behind.
    if steps and cluster is not None and cluster.power == STOPPED and not is_working(cluster.state):
        raise Refused(
            f"The cluster {spec.owner} is stopped, and AKS changes nothing of it. To do there is: {'; '.join(step.key for step in steps)}.",
            f"Start it first: az aks start --resource-group {spec.group} --name {spec.name}",
        )


def _fixed(spec: ClusterSpec, cluster: FoundCluster) -> list[str]:
    refused = []
    if cluster.location.replace(" ", "").lower() != spec.location:
        refused.append(f"the location ({cluster.location} -> {spec.location})")
    wanted = network_profile(spec.network)
    have = (cluster.network_plugin, cluster.network_mode)
    if have != (wanted["networkPlugin"], wanted.get("networkPluginMode", "")):
        refused.append(f"the network plugin ({'-'.join(part for part in have if part)} -> {spec.network})")
    if (spec.identity is Identity.SERVICE_PRINCIPAL) != bool(cluster.client_id):
        refused.append(f"the identity ({'service-principal' if cluster.client_id else 'managed'} -> {spec.identity})")
    if spec.kubernetes_version is not None and not may_become(cluster.kubernetes_version, spec.kubernetes_version):
        what = f"Kubernetes {cluster.kubernetes_version} -> {spec.kubernetes_version}"
        refused.append(f"{what} (it goes up only, by one minor version at a time)")
    return refused


def _principal_refusals(spec: ClusterSpec, cluster: FoundCluster, principal: FoundPrincipal | None) -> list[str]:
    if spec.identity is not Identity.SERVICE_PRINCIPAL or not cluster.client_id:
        return []
    if principal is None:
        return [f"its service principal {cluster.client_id} is gone (az aks update-credentials gives it another)"]
    if principal.app_id != cluster.client_id:
        return [f"it acts by the service principal {cluster.client_id}, and not by {principal.app_id}, which was made for it"]
    return []


def _switch(*, on: bool) -> str:
    return "on" if on else "off"
