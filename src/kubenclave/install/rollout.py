"""Apply the node agent and its rules to a cluster, and wait until its nodes offer EPC."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, NotFound, Refused
from kubenclave.install import dra
from kubenclave.install.diagnose import Evidence, Finding, diagnose
from kubenclave.install.holders import holders
from kubenclave.install.limits import largest, largest_in
from kubenclave.install.objects import LABELS, NAME, NAMESPACE, NODE_LABEL, POD_LABELS
from kubenclave.install.removal import end_offer, remove_others
from kubenclave.install.render import Words, render
from kubenclave.kube import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kubenclave.install.objects import Resource
    from kubenclave.install.plan import Plan
    from kubenclave.kube import Cluster, Document, Node, Pod

    Report = Callable[[str], None]

_POLL_SECONDS = 0.5
# How long a reason that waiting will hardly mend must hold before the waiting ends: an image may be imported, a taint removed meanwhile.
_SURE_SECONDS = 10.0
_LOG_LINES = 50
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be installed.

    Args:
        plan: Mode, dialect and files.
        image: The agent's image.
        arguments: Further arguments of the agent.
        mapped: Whether the agent looks at what containers map of the device.
    """

    plan: Plan
    image: str
    arguments: tuple[str, ...] = ()
    mapped: bool = False


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
    known = _largest(cluster, order.plan, resources)
    documents = _documents(texts, order, known)
    applied = cluster.apply(documents)
    report(f"applied {len(applied)} objects")
    removed = remove_others(cluster, {name_of(document) for document in documents})
    offered = _Rollout(cluster, order, resources, documents).wait(report, timeout_seconds)
    if (now := _largest(cluster, order.plan, resources)) != known:
        cluster.apply(_documents(texts, order, now))
    return Installed(
        mode=order.plan.mode,
        dialect=order.plan.dialect,
        image=order.image,
        applied=applied,
        removed=ended + removed,
        nodes=tuple(NodeOffer(node=node, epc_bytes=epc_bytes) for node, epc_bytes in sorted(offered.items())),
    )


def arguments_of(daemon_set: Document) -> tuple[str, ...]:
    """Return the arguments of the agent in a DaemonSet, whatever its state."""
    containers = _at(daemon_set, "spec", "template", "spec", "containers")
    first = containers[0] if isinstance(containers, list) and containers else None
    words = first.get("args") if isinstance(first, Mapping) else None
    return tuple(str(word) for word in words) if isinstance(words, list) else ()


def offering(arguments: Sequence[str]) -> tuple[str, str]:
    """Return mode and dialect in an agent's arguments."""
    values = dict(word.removeprefix("--").split("=", 1) for word in arguments if word.startswith("--") and "=" in word)
    return values.get("mode", "device-plugin"), values.get("dialect", "")


def daemon_set(cluster: Cluster) -> Document | None:
    """Return the installed agent's DaemonSet, whoever installed it."""
    return next(iter(cluster.objects("apps/v1", "DaemonSet", POD_LABELS)), None)


def _end_another_offer(cluster: Cluster, plan: Plan, resources: Sequence[Resource], report: Report) -> tuple[str, ...]:
    """Remove an agent that offers EPC in another way: two at a time would give it out twice.

    Raises:
        Refused: Pods hold some of what it offers: the kubelet would count it anew from nothing.
    """
    installed = daemon_set(cluster)
    offers = offering(arguments_of(installed)) if installed else None
    if installed is None or offers is None or offers == (plan.mode, plan.dialect):
        return ()
    named = " ".join(offers).strip()
    holding = holders(cluster.pods("*"), resources, dra.holdings(cluster))
    if holding:
        raise Refused(
            f"EPC is offered as {named} and held so by {', '.join(sorted({holder.pod for holder in holding}))}",
            "end these pods before EPC is offered in another way, or keep mode and dialect",
        )
    report(f"ending the agent that offers EPC as {named}")
    return end_offer(cluster, installed, report)


def _largest(cluster: Cluster, plan: Plan, resources: Sequence[Resource]) -> dict[str, int]:
    """Return what the rules are to know: what the nodes offer now, else what the rules knew before."""
    # What resource claims ask for is not in the pod, so there the rules have nothing to compare with.
    if plan.mode == "dra":
        return {}
    return largest(cluster.nodes(), resources) or largest_in(cluster.objects(*_RULES, LABELS))


def _texts(deploy: Path, plan: Plan) -> dict[str, str]:
    found = {}
    for name in plan.files:
        try:
            found[name] = (deploy / name).read_text(encoding="utf-8")
        except OSError as exc:
            raise NotFound(f"{deploy / name} cannot be read: {exc.strerror}", "install the whole package again") from exc
    return found


def _documents(texts: Mapping[str, str], order: Order, known: Mapping[str, int]) -> tuple[Document, ...]:
    words = Words(image=order.image, dialect=order.plan.dialect, arguments=order.arguments, mapped=order.mapped, largest=known)
    return tuple(document for name, text in texts.items() for document in render(text, name, words))


class _Rollout:
    """Waits until the DaemonSet's pods are all new and every SGX node offers EPC."""

    def __init__(self, cluster: Cluster, order: Order, resources: Sequence[Resource], documents: Sequence[Document]) -> None:
        self._cluster = cluster
        self._order = order
        self._resource = next((resource for resource in resources if resource.dialect == order.plan.dialect), None)
        agent = next(document for document in documents if document["kind"] == "DaemonSet")
        tolerations = _at(agent, "spec", "template", "spec", "tolerations")
        self._tolerated = [str(entry["key"]) for entry in tolerations] if isinstance(tolerations, list) else []

    def wait(self, report: Report, timeout_seconds: float) -> dict[str, int]:
        """Return the EPC that each SGX node offers, as soon as all do."""
        began = time.monotonic()
        told: dict[str, str] = {}
        sure_since: dict[str, float] = {}
        while True:
            nodes = [node for node in self._cluster.nodes() if node.labels.get(NODE_LABEL[0]) == NODE_LABEL[1]]
            if not nodes:
                raise NotFound(
                    f"the agent is installed, but no node carries the label {'='.join(NODE_LABEL)}",
                    "label the SGX nodes: kubenclave node prepare NODE",
                )
            offered, all_new = self._offered(nodes), self._all_new()
            if all_new and all(offered.get(node.name) for node in nodes):
                return offered
            findings = self._findings(nodes, offered, all_new=all_new)
            now = time.monotonic()
            for finding in findings:
                if told.get(finding.node) != finding.what:
                    told[finding.node] = finding.what
                    report(f"{finding.node}: {finding.what}")
            # The kubelet words one reason in several ways by turns, so it is the sureness that must last.
            sure_since = {finding.node: sure_since.get(finding.node, now) for finding in findings if finding.sure}
            hopeless = findings and all(now - sure_since.get(finding.node, now) > _SURE_SECONDS for finding in findings)
            if hopeless or now - began > timeout_seconds:
                raise _given_up(findings, len(nodes), now - began)
            time.sleep(_POLL_SECONDS)

    def _offered(self, nodes: Sequence[Node]) -> dict[str, int]:
        if self._order.plan.mode == "dra":
            return dra.offered(self._cluster)
        resource = self._resource
        return {} if resource is None else {node.name: node.allocatable.get(resource.name, 0) * resource.unit_bytes for node in nodes}

    def _all_new(self) -> bool:
        installed = daemon_set(self._cluster)
        status = installed.get("status") if installed else None
        wanted = _at(installed, "metadata", "generation") if installed else None
        if not isinstance(status, Mapping) or status.get("observedGeneration") != wanted:
            return False
        desired = status.get("desiredNumberScheduled")
        return desired == status.get("updatedNumberScheduled") == status.get("numberAvailable")

    def _findings(self, nodes: Sequence[Node], offered: Mapping[str, int], *, all_new: bool) -> list[Finding]:
        """Say for each node what it waits for: EPC, or a new agent in the place of one that still offers it."""
        pods = self._cluster.pods(NAMESPACE, POD_LABELS)
        found = []
        for node in nodes:
            pod = _youngest(pods, node)
            if not offered.get(node.name) or (not all_new and not _runs(pod)):
                evidence = self._evidence(pod)
                found.append(diagnose(node, evidence, tolerated=self._tolerated, image=self._order.image))
        return found

    def _evidence(self, pod: Pod | None) -> Evidence:
        events = self._cluster.events(pod.name if pod else NAME, NAMESPACE)
        container = next(iter(pod.containers), None) if pod else None
        if pod is None or container is None:
            return Evidence(pod=pod, events=events, log=())
        log = self._cluster.log_tail(pod, container.name, lines=_LOG_LINES)
        if not log and container.state != "running":
            log = self._cluster.log_tail(pod, container.name, lines=_LOG_LINES, previous=True)
        return Evidence(pod=pod, events=events, log=log)


def _youngest(pods: Sequence[Pod], node: Node) -> Pod | None:
    """Return the youngest pod on a node, or one that waits for a place where the node has none."""
    here = [pod for pod in pods if pod.node == node.name or (not pod.node and pod.unschedulable)]
    return max(here, key=lambda pod: (bool(pod.node), str(pod.created_at)), default=None)


def _runs(pod: Pod | None) -> bool:
    return pod is not None and bool(pod.containers) and pod.containers[0].state == "running"


def _given_up(findings: Sequence[Finding], of: int, seconds: float) -> KubenclaveError:
    if not findings:
        return KubenclaveError(
            f"EPC is offered, but not all of the agent's pods are the new ones and ready after {seconds:.0f} s",
            f"see kubectl -n {NAMESPACE} rollout status daemonset/{NAME}",
        )
    reasons = "; ".join(f"{finding.node}: {finding.what}" for finding in findings)
    hints = "; ".join(dict.fromkeys(finding.hint for finding in findings if finding.hint))
    return KubenclaveError(f"on {len(findings)} of {of} SGX nodes the agent does not offer EPC after {seconds:.0f} s: {reasons}", hints)


def _at(value: object, *names: str) -> object:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
