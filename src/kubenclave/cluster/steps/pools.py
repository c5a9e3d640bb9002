"""The plan's part for node pools: which are made, changed, waited for and removed. Pure.

AKS works on one pool of a cluster at a time, so each step comes after the one before it. A cluster is never without a System pool: pools
are made, and become System pools, before others cease to be System pools, and before any is removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.body import scale_from_zero_tags
from kubenclave.cluster.spec import OWNER_TAG, Mode
from kubenclave.cluster.steps.ownership import DELETING, ENDED_BADLY, is_of_aks, is_ours, is_working, taint_written
from kubenclave.cluster.steps.step import Kind, Step, Verb
from kubenclave.cluster.steps.tags import outdated, tag_changes
from kubenclave.cluster.versions import is_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubenclave.cluster.facts import FoundCluster, FoundPool
    from kubenclave.cluster.spec import ClusterSpec, Pool


def pool_steps(spec: ClusterSpec, cluster: FoundCluster, *, after: tuple[str, ...]) -> tuple[Step, ...]:
    """Return the steps for the pools of a cluster that is there, in an order that AKS takes."""
    have = {pool.name: pool for pool in cluster.pools}
    wanted = {pool.name: pool for pool in spec.pools}
    planned: list[Step] = [
        Step(kind=Kind.POOL, verb=Verb.WAIT, name=pool.name, reason=f"Azure is at it: {pool.state}")
        for pool in cluster.pools
        if _works_on(cluster, pool)
    ]
    for pool in sorted(spec.pools, key=lambda pool: _ceases_to_be_system(pool, have.get(pool.name))):
        planned += _for_one(spec, pool, have.get(pool.name), cluster)
    planned += [
        Step(kind=Kind.POOL, verb=Verb.DELETE, name=pool.name, reason="it is no longer in the file")
        for pool in cluster.pools
        if pool.name not in wanted and pool.state != DELETING and is_ours(pool.tags, spec.owner)
    ]
    return _one_by_one(planned, after)


def all_pool_changes(spec: ClusterSpec, cluster: FoundCluster) -> tuple[str, ...]:
    """Return in which ways the pools that are there differ from the file, each phrase with its pool's name."""
    have = {pool.name: pool for pool in cluster.pools if pool.state != DELETING}
    return tuple(
        f"pool {pool.name}, {change}"
        for pool in spec.pools
        if pool.name in have
        for change in pool_changes(spec, pool, have[pool.name], cluster)
    )


def pool_refusals(spec: ClusterSpec, cluster: FoundCluster) -> list[str]:
    """Return what the file asks of pools that are there and AKS cannot do, one phrase each."""
    have = {pool.name: pool for pool in cluster.pools}
    refused = []
    for pool in spec.pools:
        found = have.get(pool.name)
        if found is None or found.state == DELETING:
            continue
        if not is_ours(found.tags, spec.owner):
            refused.append(f"the pool {pool.name} was made by someone else (it lacks the tag {OWNER_TAG})")
            continue
        for what, old, new in _fixed(pool, found):
            refused.append(f"{what} of pool {pool.name} ({old} -> {new}; give the new one another name, and the old one goes)")
    return refused


def pool_changes(spec: ClusterSpec, pool: Pool, found: FoundPool, cluster: FoundCluster) -> tuple[str, ...]:
    """Return in which ways a pool differs from what the file says.

    The count of a pool that scales itself is the autoscaler's, and labels and taints under AKS's own prefix are AKS's. A cluster's upgrade
    takes its pools along, so that a pool's version counts only once the cluster has the version of the file.
    """
    changes = []
    bounds = None if pool.autoscale is None else (pool.autoscale.min, pool.autoscale.max)
    if bounds != found.autoscale:
        changes.append(f"autoscale: {_bounds(found.autoscale)} -> {_bounds(bounds)}")
    if bounds is None and pool.count != found.count:
        changes.append(f"count: {found.count} -> {pool.count}")
    if pool.mode.value != found.mode:
        changes.append(f"mode: {found.mode} -> {pool.mode}")
    labels, have_labels = _not_of_aks(pool.labels), _not_of_aks(found.labels)
    if labels != have_labels:
        changes.append(f"labels: {_listed(have_labels)} -> {_listed(labels)}")
    taints = [taint.text() for taint in pool.taints if not is_of_aks(taint.key)]
    have_taints = [taint for taint in found.taints if not is_of_aks(taint)]
    if sorted(map(taint_written, taints)) != sorted(map(taint_written, have_taints)):
        changes.append(f"taints: {', '.join(have_taints) or 'none'} -> {', '.join(taints) or 'none'}")
    tags = {**spec.tags, **scale_from_zero_tags(spec, pool)}
    changes += tag_changes(tags, found.tags)
    changes += [f"tag {name}: {found.tags[name]} -> none" for name in sorted(outdated(found.tags, tags))]
    wanted = spec.kubernetes_version
    if wanted is not None and is_version(wanted, cluster.kubernetes_version) and found.version and not is_version(wanted, found.version):
        changes.append(f"Kubernetes: {found.version} -> {wanted}")
    return tuple(changes)


def _ceases_to_be_system(pool: Pool, found: FoundPool | None) -> bool:
    return found is not None and found.state != DELETING and found.mode == Mode.SYSTEM and pool.mode is not Mode.SYSTEM


def _for_one(spec: ClusterSpec, pool: Pool, found: FoundPool | None, cluster: FoundCluster) -> list[Step]:
    size = f"{pool.count} x {pool.vm_size}"
    if found is None:
        return [Step(kind=Kind.POOL, verb=Verb.CREATE, name=pool.name, reason=f"it is not there; {size}")]
    if found.state == DELETING:
        return [Step(kind=Kind.POOL, verb=Verb.CREATE, name=pool.name, reason=f"after it is gone; {size}")]
    changes = pool_changes(spec, pool, found, cluster)
    badly = found.state in ENDED_BADLY
    if cluster.state in ENDED_BADLY or not (changes or badly):
        return []
    reason = f"it ended as {found.state}: asked for again" if badly else "it differs"
    return [Step(kind=Kind.POOL, verb=Verb.UPDATE, name=pool.name, reason=reason, changes=changes)]


def _one_by_one(planned: list[Step], after: tuple[str, ...]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for step in planned:
        before = (*after, steps[-1].key) if steps else after
        steps.append(Step(kind=step.kind, verb=step.verb, name=step.name, reason=step.reason, changes=step.changes, after=before))
    return tuple(steps)


def _works_on(cluster: FoundCluster, pool: FoundPool) -> bool:
    # Where the cluster as a whole is being worked on, waiting for it waits for its pools.
    return not is_working(cluster.state) and is_working(pool.state)


def _fixed(pool: Pool, found: FoundPool) -> list[tuple[str, str, str]]:
    differing = []
    if pool.vm_size.lower() != found.vm_size.lower():
        differing.append(("the VM size", found.vm_size, pool.vm_size))
    if pool.spot != found.spot:
        differing.append(("the priority", "spot" if found.spot else "regular", "spot" if pool.spot else "regular"))
    if pool.max_pods is not None and found.max_pods is not None and pool.max_pods != found.max_pods:
        differing.append(("the limit of pods per node", str(found.max_pods), str(pool.max_pods)))
    return differing


def _bounds(bounds: tuple[int, int] | None) -> str:
    return "off" if bounds is None else f"{bounds[0]} to {bounds[1]}"


def _listed(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items()) or "none"


def _not_of_aks(labels: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if not is_of_aks(key)}
