"""Take an installation away: what carries its labels, and what the agent left in the nodes' status. Nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import NotFound, Refused
from kubenclave.install import dra
from kubenclave.install.holders import holders
from kubenclave.install.objects import EPC_MARK, KINDS, LABELS, MARKED_RESOURCE, NAME, POD_LABELS, managed_by
from kubenclave.kube import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from kubenclave.install.objects import Resource
    from kubenclave.kube import Cluster, Document

    Report = Callable[[str], None]

_GONE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What was removed, and which pods still hold EPC: they keep it until they end."""

    removed: tuple[str, ...]
    still_holding: tuple[str, ...]


def uninstall(cluster: Cluster, resources: Sequence[Resource], report: Report) -> Removed:
    """Remove the agent, its rules and what it wrote into the nodes' status.

    Raises:
        NotFound: Nothing is installed here.
        Refused: Somebody else manages the agent, or pods hold EPC by resource claims, which the kubelet cannot end without the agent.
    """
    mine = _installed(cluster)
    if not mine and (managed := cluster.objects("apps/v1", "DaemonSet", POD_LABELS)):
        manager = managed_by(managed[0])
        raise Refused(f"DaemonSet {NAME} is managed by {manager}", "remove it in the way it was installed (helm uninstall, kubectl delete)")
    claimed = dra.holdings(cluster)
    if claimed:
        raise Refused(
            f"pods hold EPC by resource claims: {', '.join(sorted({holding.pod for holding in claimed}))}",
            "delete these pods first: without the agent the kubelet cannot end them",
        )
    holding = holders(cluster.pods("*"), resources, ())
    removed = _delete(cluster, mine, report) + take_back(cluster)
    if not removed:
        raise NotFound("nothing that kubenclave node install applied is on this cluster", "see kubenclave node status")
    return Removed(removed=removed, still_holding=tuple(sorted({holder.pod for holder in holding})))


def remove_others(cluster: Cluster, kept: Collection[str]) -> tuple[str, ...]:
    """Remove what carries the installation's labels and is not among the objects to keep, which are given by kind and name."""
    others = [document for document in _installed(cluster) if name_of(document) not in kept]
    return _delete(cluster, others, lambda _: None)


def end_offer(cluster: Cluster, daemon_set: Document, report: Report) -> tuple[str, ...]:
    """Remove the agent alone and what it offers, for one that will offer in another way."""
    return _delete(cluster, [daemon_set], report) + take_back(cluster)


def _installed(cluster: Cluster) -> list[Document]:
    return [document for version, kind in KINDS for document in cluster.objects(version, kind, LABELS)]


def take_back(cluster: Cluster) -> tuple[str, ...]:
    """Take back what agents offered: the driver's slices, and the bytes in the status of the nodes that bear the agent's mark.

    The bytes of anybody else stay.
    """
    slices = dra.remove_slices(cluster)
    marked = [node.name for node in cluster.nodes() if EPC_MARK in node.annotations]
    for node in marked:
        cluster.withdraw(node, MARKED_RESOURCE, EPC_MARK)
    return slices + tuple(f"{MARKED_RESOURCE} of node {node}" for node in marked)


def _delete(cluster: Cluster, documents: Sequence[Document], report: Report) -> tuple[str, ...]:
    gone = []
    for document in documents:
        named = name_of(document)
        report(f"removing {named}")
        if cluster.delete(document, timeout_seconds=_GONE_SECONDS):
            gone.append(named)
    return tuple(gone)
