"""What there is of a cluster now: told after a failure, and by ``kubenclave cluster status``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.cluster.steps.ownership import STOPPED, SUCCEEDED, is_ours
from kubenclave.cluster.steps.step import Kind

if TYPE_CHECKING:
    from kubenclave.cluster.facts import Found


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Hold one thing that is there; ``ours`` says whether it bears the mark, and so goes with ``down``."""

    kind: str
    name: str
    state: str
    ours: bool
    detail: str = ""


def inventory(found: Found, owner: str) -> tuple[Item, ...]:
    """Return what is there of a cluster and its surroundings, outermost first."""
    group, _, name = owner.partition("/")
    items: list[Item] = []
    if found.group is not None:
        others = f"{len(found.others_in_group)} other resources in it" if found.others_in_group else ""
        items.append(Item(kind=Kind.GROUP, name=group, state=found.group.state, ours=is_ours(found.group.tags, owner), detail=others))
    if found.principal is not None:
        have = found.principal
        lacking = [what for what, there in (("service principal", have.principal_id), ("role", have.has_role)) if not there]
        state = f"without {' and '.join(lacking)}" if lacking else "complete"
        items.append(Item(kind=Kind.APPLICATION, name=have.app_id, state=state, ours=True))
    if found.cluster is not None:
        cluster = found.cluster
        version = f"Kubernetes {cluster.kubernetes_version}"
        state = STOPPED if (cluster.state, cluster.power) == (SUCCEEDED, STOPPED) else cluster.state
        items.append(Item(kind=Kind.CLUSTER, name=name, state=state, ours=is_ours(cluster.tags, owner), detail=version))
        items += [
            Item(
                kind=Kind.POOL,
                name=pool.name,
                state=pool.state,
                ours=is_ours(pool.tags, owner),
                detail=", ".join((f"{pool.count} x {pool.vm_size}", pool.mode, *([f"Kubernetes {pool.version}"] if pool.version else []))),
            )
            for pool in cluster.pools
        ]
    return tuple(items)
