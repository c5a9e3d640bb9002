"""Carry a request to a cluster and see it through: applied, watched, its log passed on, its end told.

Every step finds what an interrupted run has left: the same request run again goes on from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, NotFound, Refused
from kubenclave.workload.render import CONTAINER, REQUEST_ANNOTATION, Request, digest_of, render
from kubenclave.workload.situation import Situation, container_of, podless, situation_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kubenclave.kube import Cluster, Document, Job, Pod

# The kubelet rotates a container's log at 10 MiB (containerLogMaxSize) and gives out only its newest file.
LOG_LIMIT_BYTES = 10 << 20
# How long a deleted Job may take to go: its pod has 30 s to end (terminationGracePeriodSeconds), then comes the collector.
_DELETE_SECONDS = 90.0
# How often a Job that gets no pod is asked why.
_SLICE_SECONDS = 2.0
_POLL_SECONDS = 0.2
# The job controller sets a Job's outcome within a second of its pod's end; this is for a busy one.
_OUTCOME_SECONDS = 30.0
# Set by the job controller on every pod of a Job (batch/v1 ControllerUidLabel).
_OWNER_LABEL = "batch.kubernetes.io/controller-uid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a deployed application ended.

    ``adopted`` says that the Job was there already; ``log_complete`` that all of the log was passed on. ``reason`` is the kubelet's
    or the job controller's word where it did not succeed.
    """

    job: str
    namespace: str
    image: str
    resource: str
    units: int
    epc_bytes: int
    adopted: bool
    node: str
    pod: str
    succeeded: bool
    exit_code: int | None
    reason: str
    started_at: datetime | None
    finished_at: datetime | None
    run_seconds: float | None
    log_complete: bool


def deploy(
    cluster: Cluster,
    request: Request,
    *,
    replace: bool,
    timeout_seconds: float,
    report: Callable[[str], None],
    on_line: Callable[[str], None],
) -> Outcome:
    """Run a request to its end and return how it ended.

    Args:
        cluster: Where to run it.
        request: What to run.
        replace: Delete a Job of the same name first, with what it left.
        timeout_seconds: How long to wait for the end; the Job stays when the time is over.
        report: Receives a sentence whenever something changes.
        on_line: Receives each line of the application's log.

    Raises:
        Refused: A Job of that name exists and is another one; or the cluster does not accept the Job or its pod.
        NotFound: The namespace does not exist, or the image cannot be had.
        KubenclaveError: The time is over.
        Unreachable: The cluster does not answer.
    """
    deadline = time.monotonic() + timeout_seconds
    job, adopted = _ensure(cluster, render(request), request, replace=replace, report=report)
    while True:
        pod = _started(cluster, job, deadline, report)
        try:
            complete = _pass_log_on(cluster, pod, deadline, on_line)
            pod = _finished(cluster, pod, deadline)
            break
        except NotFound:
            report(f"pod {pod.name} has been deleted; waiting for the one in its place")
    job = _ended(cluster, job, pod)
    return _outcome(request, job, pod, adopted=adopted, complete=complete)


def _ensure(cluster: Cluster, document: Document, request: Request, *, replace: bool, report: Callable[[str], None]) -> tuple[Job, bool]:
    """Have the request's Job on the cluster; say whether it was there already."""
    name, namespace = request.name, request.namespace
    existing = cluster.job(name, namespace)
    if existing and REQUEST_ANNOTATION not in existing.annotations:
        raise Refused(f"Job {name} in namespace {namespace} was not made by kubenclave", "choose another name with --name")
    if existing and (replace or existing.deleting):
        report(f"deleting Job {name} and its pod")
        cluster.delete(document, timeout_seconds=_DELETE_SECONDS)
        existing = None
    if existing and existing.annotations[REQUEST_ANNOTATION] != digest_of(document):
        raise Refused(
            f"Job {name} in namespace {namespace} exists with another request", "use --replace to delete it first, or another --name"
        )
    if existing:
        ended = f"has ended ({existing.outcome})" if existing.outcome else "is there"
        report(f"Job {name} with this same request {ended}; --replace would run it anew")
        return existing, True
    cluster.apply([document])
    applied = cluster.job(name, namespace)
    if applied is None:
        raise Refused(f"Job {name} was deleted as soon as it was applied", "see who deletes Jobs in this namespace")
    report(f"Job {name} applied in namespace {namespace}")
    return applied, False


def _started(cluster: Cluster, job: Job, deadline: float, report: Callable[[str], None]) -> Pod:
    """Wait until the Job's pod has started or ended, telling what it waits for."""
    situation = Situation(pod=None, sentence="", started=False)
    while (left_seconds := deadline - time.monotonic()) > 0:
        for pods in cluster.follow_pods(
            namespace=job.namespace, labels={_OWNER_LABEL: job.uid}, timeout_seconds=min(_SLICE_SECONDS, left_seconds)
        ):
            situation = _told(situation, situation_of(pods), report)
            if situation.vain:
                raise situation.vain
            if situation.started and situation.pod:
                return situation.pod
        if situation.pod is None:
            situation = _told(situation, _podless(cluster, job), report)
            if situation.vain:
                raise situation.vain
    raise KubenclaveError(
        f"the time is over and Job {job.name} has not started: {situation.sentence or 'nothing was seen of it'}",
        "it stays on the cluster; the same command goes on waiting for it",
    )


def _podless(cluster: Cluster, job: Job) -> Situation:
    current = cluster.job(job.name, job.namespace)
    if current is None or current.uid != job.uid:
        gone = NotFound(f"Job {job.name} has been deleted while it was waited for", "run the same command again")
        return Situation(pod=None, sentence=gone.what, started=False, vain=gone)
    return podless(current, cluster.events(job.name, job.namespace))


def _told(before: Situation, now: Situation, report: Callable[[str], None]) -> Situation:
    if now.sentence != before.sentence:
        report(now.sentence)
    return now


def _pass_log_on(cluster: Cluster, pod: Pod, deadline: float, on_line: Callable[[str], None]) -> bool:
    container = container_of(pod)
    if container is None or container.started_at is None:
        # It ended before anything ran: there is no log.
        return True
    left_seconds = deadline - time.monotonic()
    return cluster.follow_log(pod, CONTAINER, on_line, limit_bytes=LOG_LIMIT_BYTES, timeout_seconds=left_seconds)


def _finished(cluster: Cluster, pod: Pod, deadline: float) -> Pod:
    """Return the pod once it has finished; a log can end before that, by its bound or by the program closing it."""
    while not (current := cluster.pod(pod.name, pod.namespace)).finished:
        if time.monotonic() > deadline:
            raise KubenclaveError(
                f"the time is over and pod {pod.name} still runs on node {pod.node}",
                "it stays on the cluster; the same command goes on watching it",
            )
        time.sleep(_POLL_SECONDS)
    return current


def _ended(cluster: Cluster, job: Job, pod: Pod) -> Job:
    """Return the Job once its controller has counted the pod."""
    deadline = time.monotonic() + _OUTCOME_SECONDS
    while time.monotonic() < deadline:
        current = cluster.job(job.name, job.namespace)
        if current is None or current.uid != job.uid:
            raise NotFound(f"Job {job.name} has been deleted; its pod {pod.name} ended as {pod.phase}", "run the same command again")
        if current.outcome:
            return current
        time.sleep(_POLL_SECONDS)
    raise KubenclaveError(
        f"pod {pod.name} ended as {pod.phase}, but Job {job.name} does not say so after {_OUTCOME_SECONDS:.0f} s",
        "see whether the cluster's controller manager runs",
    )


def _outcome(request: Request, job: Job, pod: Pod, *, adopted: bool, complete: bool) -> Outcome:
    container = container_of(pod)
    started = container.started_at if container else None
    finished = container.finished_at if container else None
    succeeded = job.outcome == "Complete"
    words = [pod.reason or (container.reason if container else ""), pod.message or (container.message if container else "")]
    return Outcome(
        job=job.name,
        namespace=job.namespace,
        image=request.image,
        resource=request.dialect.resource,
        units=request.dialect.units(request.epc_bytes),
        epc_bytes=request.granted_bytes,
        adopted=adopted,
        node=pod.node,
        pod=pod.name,
        succeeded=succeeded,
        exit_code=container.exit_code if container else None,
        reason="" if succeeded else " ".join(word for word in words if word) or job.message,
        started_at=started,
        finished_at=finished,
        run_seconds=(finished - started).total_seconds() if started and finished else None,
        log_complete=complete,
    )
