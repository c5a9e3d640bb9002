"""Decide where a Job's pod stands: what to tell a person, whether it has started, and whether waiting is vain. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, NotFound, Refused
from kubenclave.workload.render import CONTAINER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.kube import Container, Event, Job, Pod

# The kubelet's reasons for a container that waits (k/k pkg/kubelet/images/types.go and kuberuntime): the image cannot be had.
# ErrImagePull is the first failure, which the kubelet tries again by itself; ImagePullBackOff is the second.
_NO_IMAGE = frozenset({"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"})
# The kubelet will not make the container as it is described, however often it tries; its other reasons can pass.
_NOT_STARTABLE = frozenset({"CreateContainerConfigError"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Where a Job stands: the pod that counts, what to say of it, and the error if it can come to nothing."""

    pod: Pod | None
    sentence: str
    started: bool
    vain: KubenclaveError | None = None


def situation_of(pods: Sequence[Pod]) -> Situation:
    """Return where the Job of these pods stands."""
    if not pods:
        return Situation(pod=None, sentence="waiting for the Job's pod", started=False)
    # A pod that was deleted or evicted has been replaced: the newest one that still lives counts, else the newest.
    pod = max(pods, key=lambda each: (not each.finished, str(each.created_at)))
    container = container_of(pod)
    if container and container.started_at:
        verb = "has ended" if pod.finished else "runs"
        return Situation(pod=pod, sentence=f"pod {pod.name} {verb} on node {pod.node}", started=True)
    if pod.finished:
        return Situation(pod=pod, sentence=f"pod {pod.name} ended before it started: {pod.reason} {pod.message}".strip(), started=True)
    if pod.unschedulable:
        return Situation(pod=pod, sentence=f"pod {pod.name} is Pending: {pod.unschedulable}", started=False)
    if container and container.reason:
        sentence = f"pod {pod.name} on node {pod.node} waits: {container.reason} {container.message}".strip()
        return Situation(pod=pod, sentence=sentence, started=False, vain=_vain(pod, container))
    where = f"is placed on node {pod.node}" if pod.node else "waits for the scheduler"
    return Situation(pod=pod, sentence=f"pod {pod.name} {where}", started=False)


def container_of(pod: Pod) -> Container | None:
    """Return the state of the container that holds the enclave, if the kubelet has told it yet."""
    return next((container for container in pod.containers if container.name == CONTAINER), None)


def podless(job: Job, events: Sequence[Event]) -> Situation:
    """Return where a Job without a pod stands, from the job controller's words."""
    if job.outcome == "Failed":
        return Situation(
            pod=None,
            sentence=f"Job {job.name} failed without a pod: {job.reason} {job.message}".strip(),
            started=False,
            vain=KubenclaveError(f"Job {job.name} failed: {job.message or job.reason}", "run it again with --replace"),
        )
    refused = [event for event in events if event.reason == "FailedCreate"]
    if not refused:
        return situation_of(())
    return Situation(
        pod=None,
        sentence=f"Job {job.name} gets no pod: {refused[-1].message}",
        started=False,
        vain=Refused(
            f"the cluster refuses the pod of Job {job.name}: {refused[-1].message}", "see the policies and quotas of its namespace"
        ),
    )


def _vain(pod: Pod, container: Container) -> KubenclaveError | None:
    what = f"pod {pod.name} on node {pod.node} cannot start: {container.reason}: {container.message}"
    if container.reason in _NO_IMAGE:
        return NotFound(what, "import the image into the node, or push it to a registry that the node reaches; then use --replace")
    if container.reason in _NOT_STARTABLE:
        return Refused(what, "mend what the message names, then use --replace")
    return None
