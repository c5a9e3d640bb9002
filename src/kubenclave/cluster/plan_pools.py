"""The plan's part for node pools: which are made, changed, waited for and removed. Pure.

AKS works on one pool of a cluster at a time, so each step comes after the one before it. Pools are made before others are removed, as a
cluster is never without a System pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.body import scale_from_zero_tags
from kubenclave.cluster.spec import OWNER_TAG
from kubenclave.cluster.standing import DELETING, ENDED_BADLY, is_ours, is_working
from kubenclave.cluster.steps import Kind, Step, Verb

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
    for pool in spec.pools:
        planned += _for_one(spec, pool, have.get(pool.name), reconciled=cluster.state in ENDED_BADLY)
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
        f"pool {pool.name}, {change}" for pool in spec.pools if pool.name in have for change in pool_changes(spec, pool, have[pool.name])
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


def pool_changes(spec: ClusterSpec, pool: Pool, found: FoundPool) -> tuple[str, ...]:
    """Return in which ways a pool differs from what the file says. The count of a pool that scales itself is the autoscaler's."""
    changes = []
    bounds = None if pool.autoscale is None else (pool.autoscale.min, pool.autoscale.max)
    if bounds != found.autoscale:
        changes.append(f"autoscale: {_bounds(found.autoscale)} -> {_bounds(bounds)}")
    if bounds is None and pool.count != found.count:
        changes.append(f"count: {found.count} -> {pool.count}")
    if pool.mode.value != found.mode:
        changes.append(f"mode: {found.mode} -> {pool.mode}")
    if dict(pool.labels) != dict(found.labels):
        changes.append(f"labels: {_listed(found.labels)} -> {_listed(pool.labels)}")
    taints = tuple(taint.text() for taint in pool.taints)
    if sorted(map(_taint, taints)) != sorted(map(_taint, found.taints)):
        changes.append(f"taints: {', '.join(found.taints) or 'none'} -> {', '.join(taints) or 'none'}")
    tags = {**spec.tags, **scale_from_zero_tags(spec, pool)}
    changes += [f"tag {name}: {found.tags.get(name, 'none')} -> {value}" for name, value in tags.items() if found.tags.get(name) != value]
    return tuple(changes)


def _for_one(spec: ClusterSpec, pool: Pool, found: FoundPool | None, *, reconciled: bool) -> list[Step]:
    size = f"{pool.count} x {pool.vm_size}"
    if found is None:
        return [Step(kind=Kind.POOL, verb=Verb.CREATE, name=pool.name, reason=f"it is not there; {size}")]
    if found.state == DELETING:
        return [Step(kind=Kind.POOL, verb=Verb.CREATE, name=pool.name, reason=f"after it is gone; {size}")]
    changes = pool_changes(spec, pool, found)
    badly = found.state in ENDED_BADLY
    if reconciled or not (changes or badly):
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


def _taint(text: str) -> str:
    # A taint without a value is written with and without the equals sign.
    return text.replace("=:", ":")
