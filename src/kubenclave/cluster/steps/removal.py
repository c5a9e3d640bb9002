"""From what is there to the steps that remove what was made for a cluster, and nothing else. Pure.

Only the mark tells what was made for it. A cluster that others made stays, without the pools that were added to it; a group stays where
it was there before, or where it holds something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.spec import OWNER_TAG
from kubenclave.cluster.steps.ownership import DELETING, is_ours
from kubenclave.cluster.steps.step import Kind, Step, Verb, after_all

if TYPE_CHECKING:
    from kubenclave.cluster.facts import Found, FoundCluster

_SHOWN_OTHERS = 3


def removal(found: Found, owner: str) -> tuple[Step, ...]:
    """Return the steps that remove what bears a cluster's mark, each after what has to be gone first; KEEP says what stays and why.

    The service principal goes after the cluster, which needs it to remove its own machines; its role goes before it, as a role of someone
    who is no more cannot be found again.
    """
    group, _, name = owner.partition("/")
    clusters = _cluster(found.cluster, name, owner)
    principals = _principal(found, group, owner, after=after_all(clusters))
    return (*clusters, *principals, *_group(found, group, owner, after=after_all((*clusters, *principals))))


def does_something(steps: tuple[Step, ...]) -> bool:
    """Say whether any of the steps is more than a remark."""
    return any(not step.is_remark for step in steps)


def _cluster(cluster: FoundCluster | None, name: str, owner: str) -> tuple[Step, ...]:
    if cluster is None:
        return ()
    if is_ours(cluster.tags, owner):
        if cluster.state == DELETING:
            return (Step(kind=Kind.CLUSTER, verb=Verb.WAIT, name=name, reason="it is being deleted"),)
        pools = ", ".join(pool.name for pool in cluster.pools) or "none"
        return (Step(kind=Kind.CLUSTER, verb=Verb.DELETE, name=name, reason=f"with its pools: {pools}"),)
    kept = Step(kind=Kind.CLUSTER, verb=Verb.KEEP, name=name, reason=f"it lacks the tag {OWNER_TAG}={owner}: someone else made it")
    return (kept, *_pools(cluster, owner))


def _pools(cluster: FoundCluster, owner: str) -> tuple[Step, ...]:
    """Return what is done about pools with the mark in a cluster of someone else, which AKS never leaves without a System pool."""
    theirs = any(pool.mode == "System" and not is_ours(pool.tags, owner) for pool in cluster.pools)
    steps: list[Step] = []
    for pool in (pool for pool in cluster.pools if is_ours(pool.tags, owner)):
        if pool.mode == "System" and not theirs:
            steps.append(Step(kind=Kind.POOL, verb=Verb.KEEP, name=pool.name, reason="the cluster needs a System pool, and has no other"))
            continue
        verb = Verb.WAIT if pool.state == DELETING else Verb.DELETE
        reason = "it is being deleted" if verb is Verb.WAIT else "it was added to a cluster of someone else"
        steps.append(Step(kind=Kind.POOL, verb=verb, name=pool.name, reason=reason, after=after_all(steps)))
    return tuple(steps)


def _principal(found: Found, group: str, owner: str, *, after: tuple[str, ...]) -> tuple[Step, ...]:
    have = found.principal
    if have is None:
        if found.directory_failure:
            reason = f"whether there is one is not known: {found.directory_failure}"
            return (Step(kind=Kind.APPLICATION, verb=Verb.KEEP, name=owner, reason=reason),)
        client = found.cluster.client_id if found.cluster is not None and is_ours(found.cluster.tags, owner) else ""
        reason = "it does not bear the mark: someone else made it"
        return (Step(kind=Kind.PRINCIPAL, verb=Verb.KEEP, name=client, reason=reason),) if client else ()
    steps: list[Step] = []
    if have.role_on_group:
        steps.append(Step(kind=Kind.ROLE, verb=Verb.DELETE, name=f"Contributor on {group}", reason="of the service principal", after=after))
    if have.has_secret:
        steps.append(Step(kind=Kind.SECRET, verb=Verb.DELETE, name=owner, reason="kept on this machine", after=after))
    before = (*after, *after_all(steps))
    steps.append(
        Step(kind=Kind.APPLICATION, verb=Verb.DELETE, name=owner, reason=f"with its service principal; client {have.app_id}", after=before)
    )
    return tuple(steps)


def _group(found: Found, group: str, owner: str, *, after: tuple[str, ...]) -> tuple[Step, ...]:
    have = found.group
    if have is None:
        return ()
    if not is_ours(have.tags, owner):
        reason = f"it lacks the tag {OWNER_TAG}={owner}: it was there before"
        return (Step(kind=Kind.GROUP, verb=Verb.KEEP, name=group, reason=reason),)
    if have.state == DELETING:
        return (Step(kind=Kind.GROUP, verb=Verb.WAIT, name=group, reason="it is being deleted", after=after),)
    others = [*found.others_in_group]
    if found.cluster is not None and not is_ours(found.cluster.tags, owner):
        others.insert(0, f"managedClusters/{owner.partition('/')[2]}")
    if others:
        shown = ", ".join(each.rpartition("/providers/")[2] for each in others[:_SHOWN_OTHERS])
        more = f" and {len(others) - _SHOWN_OTHERS} more" if len(others) > _SHOWN_OTHERS else ""
        return (Step(kind=Kind.GROUP, verb=Verb.KEEP, name=group, reason=f"it holds {shown}{more}"),)
    return (Step(kind=Kind.GROUP, verb=Verb.DELETE, name=group, reason="nothing else is in it", after=after),)
