"""Which deed a step is: the one table from what is planned to what is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.azure import clusters, groups, identities
from kubenclave.cluster.azure.registering import register_feature, register_provider
from kubenclave.cluster.steps.step import Kind, Verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubenclave.cluster.azure.work import Work
    from kubenclave.cluster.spec import Pool
    from kubenclave.cluster.steps.step import Step


def do(work: Work, step: Step) -> None:
    """Carry out one step.

    Raises:
        Again: Things are not as they were planned for.
        KubenclaveError: What Azure said, or that the time is over.
    """
    _DEEDS[step.kind, step.verb](work, step)


def _pool(work: Work, name: str) -> Pool:
    return next(pool for pool in work.spec.pools if pool.name == name)


_DEEDS: dict[tuple[Kind, Verb], Callable[[Work, Step], None]] = {
    (Kind.PROVIDER, Verb.REGISTER): lambda work, step: register_provider(work, step.name),
    (Kind.FEATURE, Verb.REGISTER): lambda work, step: register_feature(work, step.name, step.key),
    (Kind.GROUP, Verb.CREATE): lambda work, _: groups.create_group(work),
    (Kind.GROUP, Verb.UPDATE): lambda work, _: groups.update_group(work),
    (Kind.GROUP, Verb.WAIT): lambda work, _: groups.wait_for_group(work),
    (Kind.GROUP, Verb.DELETE): lambda work, _: groups.delete_group(work),
    (Kind.APPLICATION, Verb.CREATE): lambda work, _: identities.make_application(work),
    (Kind.APPLICATION, Verb.DELETE): lambda work, step: identities.remove_applications(work, step.key),
    (Kind.PRINCIPAL, Verb.CREATE): lambda work, _: identities.make_principal(work),
    (Kind.SECRET, Verb.CREATE): lambda work, _: identities.make_secret(work),
    (Kind.SECRET, Verb.UPDATE): lambda work, _: identities.make_secret(work),
    (Kind.SECRET, Verb.DELETE): lambda work, _: work.store.forget(work.directory.app_id),
    (Kind.ROLE, Verb.CREATE): lambda work, _: identities.assign_role(work),
    (Kind.ROLE, Verb.DELETE): lambda work, _: identities.remove_role(work),
    (Kind.CLUSTER, Verb.CREATE): lambda work, _: clusters.create_cluster(work),
    (Kind.CLUSTER, Verb.UPDATE): lambda work, _: clusters.update_cluster(work),
    (Kind.CLUSTER, Verb.WAIT): lambda work, _: clusters.wait_for_cluster(work),
    (Kind.CLUSTER, Verb.DELETE): lambda work, _: clusters.delete_cluster(work),
    (Kind.POOL, Verb.CREATE): lambda work, step: clusters.create_pool(work, _pool(work, step.name)),
    (Kind.POOL, Verb.UPDATE): lambda work, step: clusters.update_pool(work, _pool(work, step.name)),
    (Kind.POOL, Verb.WAIT): lambda work, _: clusters.wait_for_cluster(work),
    (Kind.POOL, Verb.DELETE): lambda work, step: clusters.delete_pool(work, step.name),
}
