"""What the rooms see of a cluster: small frozen values, made from the API's objects. Pure.

Times are aware datetimes in UTC, as the API gives them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Literal

from kubenclave.kube.quantity import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from lightkube.models import batch_v1, core_v1

# Messages of the API are shown to people; a controller's message can be as long as it likes.
_LONGEST_MESSAGE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A node's taint; ``effect`` is ``NoSchedule``, ``PreferNoSchedule`` or ``NoExecute``. As text it is what ``kubectl taint`` takes."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node; amounts of resources are whole numbers in the resource's own unit, rounded down.

    ``resource_version`` names the state that was read, for a change that must not overwrite another one.
    """

    name: str
    resource_version: str
    ready: bool
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    capacity: Mapping[str, int]
    allocatable: Mapping[str, int]
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container of a pod and where it is; ``reason`` and ``message`` are the kubelet's words."""

    name: str
    state: Literal["waiting", "running", "terminated"]
    reason: str
    message: str
    exit_code: int | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod; ``unschedulable`` is the scheduler's sentence while it finds no node, else empty.

    ``requests`` is what the scheduler sets aside for it, by resource, in whole units rounded down. ``ready`` is the kubelet's condition.
    """

    name: str
    namespace: str
    uid: str
    labels: Mapping[str, str]
    created_at: datetime | None
    phase: str
    node: str
    unschedulable: str
    reason: str
    message: str
    containers: tuple[Container, ...]
    requests: Mapping[str, int] = field(default_factory=dict)
    ready: bool = False

    @property
    def finished(self) -> bool:
        """Say whether the pod has ended, well or not."""
        return self.phase in {"Succeeded", "Failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A Job; ``outcome`` is empty while it runs, ``reason`` and ``message`` are the job controller's words about it."""

    name: str
    namespace: str
    uid: str
    annotations: Mapping[str, str]
    deleting: bool
    outcome: Literal["", "Complete", "Failed"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a component said about an object; ``kind`` is ``Normal`` or ``Warning``."""

    about: str
    kind: str
    reason: str
    message: str
    count: int
    last_seen: datetime | None


def node_of(node: core_v1.Node) -> Node:
    """Return what the rooms need of a node.

    Raises:
        Refused: An amount of a resource is not a quantity.
    """
    metadata, spec, status = node.metadata, node.spec, node.status
    conditions = (status.conditions if status else None) or []
    return Node(
        name=(metadata.name if metadata else None) or "",
        resource_version=(metadata.resourceVersion if metadata else None) or "",
        ready=any(condition.type == "Ready" and condition.status == "True" for condition in conditions),
        labels=(metadata.labels if metadata else None) or {},
        taints=tuple(Taint(key=taint.key, value=taint.value or "", effect=taint.effect) for taint in (spec.taints if spec else None) or []),
        capacity=_amounts(status.capacity if status else None),
        allocatable=_amounts(status.allocatable if status else None),
        annotations=(metadata.annotations if metadata else None) or {},
    )


def pod_of(pod: core_v1.Pod) -> Pod:
    """Return what the rooms need of a pod; its init containers are listed before its containers."""
    metadata, status = pod.metadata, pod.status
    states = [] if status is None else [*(status.initContainerStatuses or []), *(status.containerStatuses or [])]
    conditions = (status.conditions if status else None) or []
    unscheduled = [condition for condition in conditions if condition.type == "PodScheduled" and condition.status == "False"]
    return Pod(
        name=(metadata.name if metadata else None) or "",
        namespace=(metadata.namespace if metadata else None) or "",
        uid=(metadata.uid if metadata else None) or "",
        labels=(metadata.labels if metadata else None) or {},
        created_at=metadata.creationTimestamp if metadata else None,
        phase=(status.phase if status else None) or "Pending",
        node=(pod.spec.nodeName if pod.spec else None) or "",
        unschedulable=_message(unscheduled[0].message or unscheduled[0].reason) if unscheduled else "",
        reason=(status.reason if status else None) or "",
        message=_message(status.message if status else None),
        containers=tuple(_container_of(state) for state in states),
        requests=_requests_of(pod.spec) if pod.spec else {},
        ready=any(condition.type == "Ready" and condition.status == "True" for condition in conditions),
    )


def job_of(job: batch_v1.Job) -> Job:
    """Return what the rooms need of a Job."""
    metadata, status = job.metadata, job.status
    ended = [
        condition
        for condition in (status.conditions if status else None) or []
        if condition.status == "True" and condition.type in {"Complete", "Failed"}
    ]
    return Job(
        name=(metadata.name if metadata else None) or "",
        namespace=(metadata.namespace if metadata else None) or "",
        uid=(metadata.uid if metadata else None) or "",
        annotations=(metadata.annotations if metadata else None) or {},
        deleting=metadata is not None and metadata.deletionTimestamp is not None,
        outcome="" if not ended else "Complete" if ended[0].type == "Complete" else "Failed",
        reason=(ended[0].reason or "") if ended else "",
        message=_message(ended[0].message) if ended else "",
    )


def event_of(event: core_v1.Event) -> Event:
    """Return what the rooms need of an event."""
    return Event(
        about=event.involvedObject.name or "",
        kind=event.type or "",
        reason=event.reason or "",
        message=_message(event.message),
        count=(event.series.count if event.series else None) or event.count or 1,
        last_seen=event.lastTimestamp or event.eventTime or event.metadata.creationTimestamp,
    )


def _requests_of(spec: core_v1.PodSpec) -> dict[str, int]:
    """Return what a pod needs at the most at one time: its containers together, or one init container beside the sidecars before it.

    Source: Kubernetes documentation, Sidecar Containers, "Resource sharing within containers".
    """
    sidecars: dict[str, Fraction] = {}
    peak: dict[str, Fraction] = {}
    for container in spec.initContainers or []:
        beside = _sum(sidecars, container.resources)
        peak = _most(peak, beside)
        sidecars = beside if container.restartPolicy == "Always" else sidecars
    together = sidecars
    for container in spec.containers:
        together = _sum(together, container.resources)
    return {name: floor(amount) for name, amount in _most(peak, together).items()}


def _sum(amounts: Mapping[str, Fraction], resources: core_v1.ResourceRequirements | None) -> dict[str, Fraction]:
    summed = dict(amounts)
    for name, amount in ((resources.requests if resources else None) or {}).items():
        summed[name] = summed.get(name, Fraction(0)) + parse_quantity(str(amount))
    return summed


def _most(left: Mapping[str, Fraction], right: Mapping[str, Fraction]) -> dict[str, Fraction]:
    return {name: max(left.get(name, Fraction(0)), right.get(name, Fraction(0))) for name in {**left, **right}}


def _container_of(status: core_v1.ContainerStatus) -> Container:
    state = status.state
    waiting = state.waiting if state else None
    running = state.running if state else None
    ended = state.terminated if state else None
    return Container(
        name=status.name,
        state="terminated" if ended else "running" if running else "waiting",
        reason=(ended.reason if ended else waiting.reason if waiting else None) or "",
        message=_message(ended.message if ended else waiting.message if waiting else None),
        exit_code=ended.exitCode if ended else None,
        started_at=_real(ended.startedAt if ended else running.startedAt if running else None),
        finished_at=_real(ended.finishedAt if ended else None),
    )


def _real(time: datetime | None) -> datetime | None:
    # A container that could not be started carries the runtime's zero time, 1970.
    return time if time and time.timestamp() > 0 else None


def _amounts(amounts: Mapping[str, object] | None) -> dict[str, int]:
    # An amount is rounded down, so that no more is claimed than there is: 1930m of cpu is one whole processor.
    return {name: floor(parse_quantity(str(amount))) for name, amount in (amounts or {}).items()}


def _message(text: str | None) -> str:
    return (text or "")[:_LONGEST_MESSAGE]
