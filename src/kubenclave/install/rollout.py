"""Apply the node agent and its rules to a cluster, and wait until its nodes offer EPC."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, NotFound, Refused
from kubenclave.install import dra
from kubenclave.install.daemon import arguments_of, daemon_set, offering
from kubenclave.install.holders import holders
from kubenclave.install.limits import largest, largest_in, renewed
from kubenclave.install.objects import EPC_MARK, LABELS, MARKED_RESOURCE, NAME, NODE_LABEL, OWN_MANAGER, managed_by
from kubenclave.install.removal import end_offer, remove_others, take_back
from kubenclave.install.render import Words, render
from kubenclave.install.tolerations import Toleration, untolerated
from kubenclave.install.waiting import Rollout
from kubenclave.kube import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from kubenclave.install.objects import Resource
    from kubenclave.install.plan import Plan
    from kubenclave.kube import Cluster, Document, Node

    Report = Callable[[str], None]

_POLL_SECONDS = 0.5
# A kubelet writes its Node's status every 10 s unless told otherwise (nodeStatusUpdateFrequency).
_GONE_SECONDS = 30.0
_RULES = ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOffer:
    """What one node offers."""

    node: str
    epc_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What an installation came to."""

    mode: str
    dialect: str
    image: str
    applied: tuple[str, ...]
    removed: tuple[str, ...]
    nodes: tuple[NodeOffer, ...]
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be installed.

    Args:
        plan: Mode, dialect and files.
        image: The agent's image.
        arguments: Further arguments of the agent.
        mapped: Whether the agent looks at what containers map of the device.
        tolerations: What agent and EPC pods tolerate besides the dialects' taints.
    """

    plan: Plan
    image: str
    arguments: tuple[str, ...] = ()
    mapped: bool = False
    tolerations: tuple[Toleration, ...] = ()


def install(
    cluster: Cluster, deploy: Path, order: Order, resources: Sequence[Resource], report: Report, *, timeout_seconds: float
) -> Installed:
    """Apply everything, remove what an earlier installation had besides, and return when all SGX nodes offer EPC.

    Args:
        cluster: Where to.
        deploy: The folder with the plain YAML.
        order: What.
        resources: All names by which EPC may be offered.
        report: Told in a sentence what is being done.
        timeout_seconds: How long to wait for the nodes.

    Raises:
        NotFound: No node carries the SGX label; what was applied stays.
        Refused: The API server refuses an object, or pods hold EPC that an earlier installation offers by other names.
        KubenclaveError: A node does not offer EPC in time; the message says why for each.
    """
    texts = _texts(deploy, order.plan)
    ended = _end_another_offer(cluster, order.plan, resources, report)
    # What was known of another way of offering EPC would refuse the pods of this one.
    known = renewed({} if ended else largest_known(cluster), largest_now(cluster, resources))
    documents = _documents(texts, order, known)
    applied = cluster.apply(documents)
    report(f"applied {len(applied)} objects")
    removed = remove_others(cluster, {name_of(document) for document in documents})
    own = next((resource for resource in resources if resource.dialect == order.plan.dialect), None)
    try:
        offered = Rollout(cluster, own, order.image, documents).wait(report, timeout_seconds)
    except (KubenclaveError, KeyboardInterrupt):
        # One node that offers nothing keeps the rules from nothing that they can know of the others.
        _renew(cluster, texts, order, known, resources)
        raise
    _renew(cluster, texts, order, known, resources)
    return Installed(
        mode=order.plan.mode,
        dialect=order.plan.dialect,
        image=order.image,
        applied=applied,
        removed=ended + removed,
        nodes=tuple(NodeOffer(node=node, epc_bytes=epc_bytes) for node, epc_bytes in sorted(offered.items())),
        findings=tuple(strange_taints(cluster.nodes(), own, resources, order.tolerations)),
    )


def _renew(cluster: Cluster, texts: Mapping[str, str], order: Order, known: dict[str, int], resources: Sequence[Resource]) -> None:
    if (now := renewed(known, largest_now(cluster, resources))) != known:
        cluster.apply(_documents(texts, order, now))


def strange_taints(
    nodes: Sequence[Node], own: Resource | None, resources: Sequence[Resource], further: Sequence[Toleration]
) -> Iterator[str]:
    """Say which SGX nodes carry taints that the rules have no pod tolerate that asks for EPC: such pods stay Pending. Pure.

    In every dialect the taint's key is the resource's name. Pods with claims bring their tolerations, whichever it takes.
    """
    if own is None:
        return
    dialects = {resource.name: resource.dialect for resource in resources}
    tolerated = (Toleration(key=own.name, value=None, effect="NoSchedule"), *further)
    for node in nodes:
        if node.labels.get(NODE_LABEL[0]) != NODE_LABEL[1]:
            continue
        for taint in untolerated(node.taints, tolerated):
            start = f"node {node.name} carries the taint {taint}, which pods that ask for {own.name} do not tolerate"
            if taint.key in dialects and taint.effect == "NoSchedule":
                yield f"{start}: kubenclave node prepare {node.name} --dialect {own.dialect}"
            else:
                yield f"{start}: have them tolerate it (--toleration={taint}, with Helm the value tolerations), or take it from the node"


def _end_another_offer(cluster: Cluster, plan: Plan, resources: Sequence[Resource], report: Report) -> tuple[str, ...]:
    """Remove an agent that offers EPC in another way: two at a time would give it out twice.

    Raises:
        Refused: Pods hold some of what it offers: the kubelet would count it anew from nothing.
    """
    installed = daemon_set(cluster)
    if installed is None:
        return _end_what_was_left(cluster, plan, resources)
    if (manager := managed_by(installed)) != OWN_MANAGER:
        raise Refused(
            f"DaemonSet {NAME} is managed by {manager}",
            "change or remove it in the way it was installed, such as by helm upgrade",
        )
    offers = offering(arguments_of(installed))
    if offers == (plan.mode, plan.dialect):
        return ()
    named = " ".join(offers).strip()
    holding = holders(cluster.pods("*"), resources, dra.holdings(cluster))
    if holding:
        raise Refused(
            f"EPC is offered as {named} and held so by {', '.join(sorted({holder.pod for holder in holding}))}",
            "end these pods before EPC is offered in another way, or keep mode and dialect",
        )
    report(f"ending the agent that offers EPC as {named}")
    removed = end_offer(cluster, installed, report)
    _wait_until_gone(cluster, [resource for resource in resources if resource.dialect == offers[1]], report)
    return removed


def _end_what_was_left(cluster: Cluster, plan: Plan, resources: Sequence[Resource]) -> tuple[str, ...]:
    """Take back what an agent left that was removed by hand or by Helm: its bytes in the nodes' status, where this one offers no bytes.

    Raises:
        Refused: Pods hold some of them.
    """
    marked = [] if plan.mode == "extended-resource" else [node.name for node in cluster.nodes() if EPC_MARK in node.annotations]
    if not marked:
        return ()
    bytes_alone = [resource for resource in resources if resource.name == MARKED_RESOURCE]
    if holding := holders(cluster.pods("*"), bytes_alone, ()):
        raise Refused(
            f"an agent that is gone left {MARKED_RESOURCE}, which is held by {', '.join(sorted({holder.pod for holder in holding}))}",
            "end these pods before EPC is offered in another way",
        )
    return take_back(cluster)


def _wait_until_gone(cluster: Cluster, former: Sequence[Resource], report: Report) -> None:
    """Wait until the kubelets show nothing of what the former agent offered: its units are in a Node's status a little longer than it.

    What is still there after a while is told and left to the next agent, which offers nothing beside it.
    """
    deadline = time.monotonic() + _GONE_SECONDS
    while True:
        showing = sorted({node.name for node in cluster.nodes() for each in former if node.ready and node.allocatable.get(each.name, 0)})
        if not showing:
            return
        if time.monotonic() > deadline:
            report(f"still shown as offered after {_GONE_SECONDS:.0f} s by {', '.join(showing)}")
            return
        time.sleep(_POLL_SECONDS)


def largest_now(cluster: Cluster, resources: Sequence[Resource]) -> dict[str, int]:
    """Return what the rules are to know of what the nodes offer."""
    return largest(cluster.nodes(), resources, dra.claimable(cluster))


def largest_known(cluster: Cluster) -> dict[str, int]:
    """Return what the installed rules know."""
    return largest_in(cluster.objects(*_RULES, LABELS))


def _texts(deploy: Path, plan: Plan) -> dict[str, str]:
    found = {}
    for name in plan.files:
        try:
            found[name] = (deploy / name).read_text(encoding="utf-8")
        except OSError as exc:
            raise NotFound(f"{deploy / name} cannot be read: {exc.strerror}", "install the whole package again") from exc
    return found


def _documents(texts: Mapping[str, str], order: Order, known: Mapping[str, int]) -> tuple[Document, ...]:
    words = Words(
        image=order.image,
        dialect=order.plan.dialect,
        arguments=order.arguments,
        mapped=order.mapped,
        largest=known,
        tolerations=order.tolerations,
    )
    return tuple(document for name, text in texts.items() for document in render(text, name, words))
