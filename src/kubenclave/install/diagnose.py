"""Say in words why a node does not offer EPC, from what the API shows of it and of its agent. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.install.tolerations import untolerated

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kubenclave.install.tolerations import Toleration
    from kubenclave.kube import Container, Event, Node, Pod

# Reasons of the kubelet for an image that is not there (pkg/kubelet/images/types.go).
_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Why a node does not offer EPC, and what to do.

    ``sure`` says that waiting alone will hardly mend it.
    """

    node: str
    what: str
    hint: str
    sure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the API shows about the agent on one node.

    Args:
        pod: The agent's youngest pod there, if there is one.
        events: What was said about that pod, or about the DaemonSet where there is no pod; oldest first.
        log: The last lines of the pod's log, of its run before this one where it does not run.
    """

    pod: Pod | None
    events: Sequence[Event]
    log: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reason:
    what: str
    hint: str
    sure: bool = False


def diagnose(node: Node, evidence: Evidence, *, tolerated: Collection[Toleration], image: str) -> Finding:
    """Return the first reason on the way from the node to its EPC.

    Args:
        node: A node that is labelled as an SGX node and offers no EPC.
        evidence: What is known of its agent.
        tolerated: What the agent tolerates.
        image: The agent's image.
    """
    if not node.ready:
        reason = _Reason(what="the node is not Ready", hint=f"see kubectl describe node {node.name}")
    elif evidence.pod is None:
        reason = _without_pod(node, evidence.events, tolerated)
    else:
        reason = _with_pod(evidence.pod, evidence, image)
    return Finding(node=node.name, what=reason.what, hint=reason.hint, sure=reason.sure)


def _without_pod(node: Node, events: Sequence[Event], tolerated: Collection[Toleration]) -> _Reason:
    strange = untolerated(node.taints, tolerated)
    if strange:
        return _Reason(
            what=f"the agent does not tolerate the node's taint {', '.join(map(str, strange))}",
            hint=f"take it from the node, or have it tolerated: {' '.join(f'--toleration={taint}' for taint in strange)}",
            sure=True,
        )
    warning = _last_warning(events)
    if warning:
        return _Reason(what=f"the agent has no pod there: {warning}", hint="change what refuses it", sure=True)
    return _Reason(what="the agent has no pod there yet", hint="see kubectl -n kube-system describe daemonset kubenclave-node")


def _with_pod(pod: Pod, evidence: Evidence, image: str) -> _Reason:
    container = next(iter(pod.containers), None)
    if pod.unschedulable:
        return _Reason(what=f"the agent's pod {pod.name} cannot be placed: {pod.unschedulable}", hint="make room on the node")
    if container is None or container.state != "running":
        return _not_running(pod, container, evidence, image)
    told = _told(evidence.log)
    if told is not None:
        return _Reason(what=f"the agent says: {told[0]}", hint=told[1])
    return _Reason(
        what=f"the agent's pod {pod.name} runs, and the kubelet does not show its EPC yet",
        hint=f"see kubectl -n {pod.namespace} logs {pod.name}",
    )


def _not_running(pod: Pod, container: Container | None, evidence: Evidence, image: str) -> _Reason:
    hint = f"see kubectl -n {pod.namespace} describe pod {pod.name}"
    reason = container.reason if container else ""
    if container is not None and reason in _IMAGE_REASONS:
        return _Reason(
            what=f"the agent's image {image} is not to be had: {container.message or reason}",
            hint="give an image that the node can fetch with --image, or load it into the node",
            sure=True,
        )
    if container is not None and (reason == "CrashLoopBackOff" or container.state == "terminated"):
        said = _told(evidence.log) or ("it ended without a word", f"see kubectl -n {pod.namespace} logs --previous {pod.name}")
        return _Reason(what=f"the agent does not stay up: {said[0]}", hint=said[1], sure=reason == "CrashLoopBackOff")
    warning = _last_warning(evidence.events)
    if warning:
        return _Reason(what=f"the agent's pod {pod.name} does not start: {warning}", hint=hint)
    state = (container.message or reason) if container else pod.message
    return _Reason(what=f"the agent's pod {pod.name} is {pod.phase}{': ' + state if state else ''}", hint=hint)


def _last_warning(events: Sequence[Event]) -> str:
    return next((event.message for event in reversed(events) if event.kind == "Warning"), "")


def _told(log: Sequence[str]) -> tuple[str, str] | None:
    """Return the last problem that the agent told, with its hint; it writes one JSON object a line."""
    for line in reversed(log):
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(said, dict) and isinstance(said.get("what"), str):
            return said["what"], str(said.get("hint", ""))
    return None
