"""What has become of EPC on each SGX node: what is there, what is offered, and which pod holds how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.install import dra
from kubenclave.install.daemon import answers, arguments_of, daemon_set, further_tolerations, offering, options_of
from kubenclave.install.holders import holders
from kubenclave.install.limits import stale
from kubenclave.install.objects import NAMESPACE, NODE_LABEL, OWN_MANAGER, POD_LABELS, managed_by
from kubenclave.install.options import Options
from kubenclave.install.rollout import largest_known, largest_now, strange_taints

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from kubenclave.install.holders import Holder
    from kubenclave.install.metrics import AgentView
    from kubenclave.install.objects import Resource
    from kubenclave.kube import Cluster, Document, Node, Pod

# Labels by which node feature discovery marks what it found (its own rule, and Intel's).
_FOUND_LABELS = ("feature.node.kubernetes.io/cpu-security.sgx.enabled", "intel.feature.node.kubernetes.io/sgx")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodEpc:
    """A pod's EPC: what the scheduler set aside, what the kubelet gave, and what its processes have really mapped.

    The last two come from the agent; None where it does not say.
    """

    pod: str
    asked_bytes: int
    held_bytes: int | None
    mapped_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEpc:
    """EPC on one node; None where nobody says how much.

    ``total`` is what the hardware has, ``offered`` what pods can ask for, ``allocated`` what pods hold of it.
    """

    node: str
    sgx: str
    total_bytes: int | None
    offered_bytes: int
    allocated_bytes: int
    offered_as: str
    agent: str
    pods: tuple[PodEpc, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that was read of a cluster; ``views`` by node, and in ``silent`` the names of the agents' pods that did not answer."""

    nodes: Sequence[Node]
    pods: Sequence[Pod]
    agents: Sequence[Pod]
    mode: str
    slices: Mapping[str, int]
    claimed: Sequence[Holder]
    views: Mapping[str, AgentView]
    silent: Collection[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One row for each node that has, offers or is meant to offer EPC; in ``findings``, in sentences, what is not as it should be."""

    nodes: tuple[NodeEpc, ...]
    findings: tuple[str, ...]


def status(cluster: Cluster, resources: Sequence[Resource]) -> Status:
    """Look at what has become of EPC.

    Raises:
        Unreachable: The API server does not answer.
        Refused: It does not let these credentials read nodes or pods.
    """
    installed = daemon_set(cluster)
    # The youngest agent of a node comes last, so that its view counts.
    agents = sorted(cluster.pods(NAMESPACE, POD_LABELS), key=lambda pod: str(pod.created_at))
    said = answers(cluster, [pod for pod in agents if pod.node and _runs(pod)])
    nodes = cluster.nodes()
    seen = Seen(
        nodes=nodes,
        pods=cluster.pods("*"),
        agents=agents,
        mode=" ".join(offering(arguments_of(installed))).strip() if installed else "",
        slices=dra.offered(cluster),
        claimed=dra.holdings(cluster),
        views={pod.node: view for pod in agents if pod.name in said and (view := said[pod.name].view)},
        silent=frozenset(name for name, answer in said.items() if answer.silent),
    )
    found = rows(seen, resources)
    findings = (*over_offered(found), *_taints(nodes, installed, resources), *_stale_limits(cluster, resources, installed))
    return Status(nodes=found, findings=findings)


def _taints(nodes: Sequence[Node], installed: Document | None, resources: Sequence[Resource]) -> Iterator[str]:
    if installed is None:
        return
    _, dialect = offering(arguments_of(installed))
    own = next((resource for resource in resources if resource.dialect == dialect), None)
    yield from strange_taints(nodes, own, resources, further_tolerations(installed, resources))


def over_offered(found: Sequence[NodeEpc]) -> list[str]:
    """Say which nodes offer more than their agents say that they have. Pure."""
    return [
        f"node {row.node} offers {row.offered_bytes} bytes of EPC and has {row.total_bytes}: it is offered in two ways ({row.offered_as})"
        for row in found
        if row.total_bytes is not None and row.offered_bytes > row.total_bytes > 0
    ]


def _stale_limits(cluster: Cluster, resources: Sequence[Resource], installed: Document | None) -> list[str]:
    now = largest_now(cluster, resources)
    try:
        known = largest_known(cluster)
    except Refused:
        return []  # whoever may not read rules is not told of them
    sentence = stale(known, now)
    return [f"{sentence}; renew them: {renewal(installed, now, resources) if installed else Options().command}"] if sentence else []


def renewal(installed: Document, largest: Mapping[str, int], resources: Sequence[Resource]) -> str:
    """Return the command that brings an installation's rules up to date and changes nothing else of it. Pure."""
    if managed_by(installed) != OWN_MANAGER:
        values = ",".join(f"largest.{dialect}={units}" for dialect, units in largest.items())
        return f"helm upgrade --reuse-values --set {values}, or however it was installed"
    return options_of(installed, resources).command


def rows(seen: Seen, resources: Sequence[Resource]) -> tuple[NodeEpc, ...]:
    """Return the rows for what was seen. Pure."""
    holding = holders(seen.pods, resources, seen.claimed)
    running = {pod.node: pod for pod in sorted(seen.agents, key=lambda pod: str(pod.created_at))}
    return tuple(
        _row(node, seen, resources, holding, running.get(node.name))
        for node in seen.nodes
        if _is_sgx(node, seen, resources) or node.name in running
    )


def _row(node: Node, seen: Seen, resources: Sequence[Resource], holding: Sequence[Holder], agent: Pod | None) -> NodeEpc:
    view = seen.views.get(node.name)
    named = [resource for resource in resources if node.allocatable.get(resource.name, 0) > 0]
    offered = sum(node.allocatable[resource.name] * resource.unit_bytes for resource in named) + seen.slices.get(node.name, 0)
    names = [resource.name for resource in named] + (["resource claims"] if node.name in seen.slices else [])
    here = [holder for holder in holding if holder.node == node.name]
    return NodeEpc(
        node=node.name,
        sgx=_sgx(node, view, offered),
        total_bytes=view.total_bytes if view else None,
        offered_bytes=offered,
        allocated_bytes=sum(holder.epc_bytes for holder in here),
        offered_as=", ".join(names) or "nothing",
        agent=_agent(agent, seen),
        pods=_pods(here, view),
    )


def _pods(here: Sequence[Holder], view: AgentView | None) -> tuple[PodEpc, ...]:
    asked: dict[str, int] = {}
    for holder in here:
        asked[holder.pod] = asked.get(holder.pod, 0) + holder.epc_bytes
    held: Mapping[str, int] = view.held if view else {}
    mapped: Mapping[str, int] = view.mapped if view else {}
    # A pod that the agent sees and that asked for nothing is what one wants to see here.
    return tuple(
        PodEpc(pod=pod, asked_bytes=asked.get(pod, 0), held_bytes=held.get(pod), mapped_bytes=mapped.get(pod))
        for pod in sorted({*asked, *held, *mapped})
    )


def _is_sgx(node: Node, seen: Seen, resources: Sequence[Resource]) -> bool:
    return (
        node.labels.get(NODE_LABEL[0]) == NODE_LABEL[1]
        or any(node.labels.get(label) == "true" for label in _FOUND_LABELS)
        or any(node.capacity.get(resource.name, 0) > 0 for resource in resources)
        or node.name in seen.slices
    )


def _sgx(node: Node, view: AgentView | None, offered_bytes: int) -> str:
    if view is not None:
        return ("simulated" if view.simulated else "yes") if view.total_bytes else "none seen"
    if offered_bytes:
        return "yes, says the node"
    return "yes, says a label" if any(node.labels.get(label) == "true" for label in _FOUND_LABELS) else "unknown"


def _agent(pod: Pod | None, seen: Seen) -> str:
    state = "no pod" if pod is None else _state(pod, seen)
    return f"{seen.mode}: {state}" if seen.mode and pod is not None else state


def _state(pod: Pod, seen: Seen) -> str:
    container = next(iter(pod.containers), None)
    if container is not None and container.state != "running":
        return container.reason or container.state
    if not _runs(pod):
        return pod.phase
    problems = [*([] if pod.ready else ["not ready"]), *(["does not answer"] if pod.name in seen.silent else [])]
    return ", ".join(problems) or pod.phase


def _runs(pod: Pod) -> bool:
    return pod.phase == "Running" and any(container.state == "running" for container in pod.containers)
