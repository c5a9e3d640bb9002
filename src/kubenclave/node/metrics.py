"""Say in Prometheus metrics what the agent has and what became of it: the names, and how they follow from what is known. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, PROCESS_COLLECTOR, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from kubenclave.node.dialect import Mode
from kubenclave.node.holdings import UNKNOWN_NODE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from kubenclave.node.choice import Choice
    from kubenclave.node.holdings import Container, Holding
    from kubenclave.node.inventory import Inventory
    from kubenclave.node.mapped import Usage

CONTENT_TYPE = CONTENT_TYPE_LATEST

# name, kind, labels, help. The Prometheus client adds _info and _total to the names of the first and of counters.
_TABLE: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("kubenclave_offer", "info", (), "How EPC is offered on this node, and why in this way"),
    ("kubenclave_simulated", "gauge", (), "1 where the host only plays an SGX host"),
    ("kubenclave_ready", "gauge", (), "1 while what there is to offer is offered where pods are scheduled by it"),
    ("kubenclave_epc_total_bytes", "gauge", ("numa",), "EPC the host has"),
    ("kubenclave_epc_offered_bytes", "gauge", ("numa",), "EPC offered to pods: the total without the reserve"),
    ("kubenclave_epc_allocated_bytes", "gauge", ("numa",), "EPC that containers of this node were given"),
    ("kubenclave_epc_pod_bytes", "gauge", ("namespace", "pod", "container"), "EPC that a container was given"),
    (
        "kubenclave_epc_mapped_bytes",
        "gauge",
        ("namespace", "pod", "container"),
        "Address ranges of the enclave device that a container maps",
    ),
    ("kubenclave_epc_over_mapped_containers", "gauge", (), "Containers that map more of the enclave device than the EPC they were given"),
    ("kubenclave_epc_unread_processes", "gauge", (), "Processes whose mappings the agent may not see, or not all of them"),
    ("kubenclave_allocations", "counter", (), "Containers given EPC by device plugin, or claims prepared"),
    ("kubenclave_registrations", "counter", (), "Times that the kubelet took the agent's plugin or driver"),
    ("kubenclave_kubelet_restarts", "counter", (), "Times that a registration met another kubelet than the one before"),
    ("kubenclave_list_message_bytes", "gauge", (), "Size of the list of units that the kubelet is sent; it takes 4194304 bytes"),
    ("kubenclave_observation_failures", "counter", ("source",), "Times that a scrape could not learn what containers hold or map"),
)
NAMES = tuple(name for name, *_ in _TABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one way of offering EPC counts.

    Attributes:
        offered: The EPC offered now; None while none is.
        ready: It is offered where pods are scheduled by it.
        allocations: Containers or claims that were given EPC.
        registrations: Times that the kubelet took the plugin or driver.
        kubelet_restarts: Times that it was another kubelet than before; None where the way cannot tell.
        message_bytes: Size of the list of units; None in ways without one.
    """

    offered: Inventory | None
    ready: bool
    allocations: int
    registrations: int
    kubelet_restarts: int | None = None
    message_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that the metrics tell, at one moment.

    Attributes:
        choice: The way in which EPC is offered.
        simulated: The host only plays an SGX host.
        total: The EPC the host has; None while it is not known.
        figures: What the way counts.
        holdings: What containers were given; None where the kubelet could not be asked.
        usages: What containers map; None where that is not looked at.
        unread: Processes that could not be looked into.
        failures: Times that an observation failed, by what was asked.
    """

    choice: Choice
    simulated: bool
    total: Inventory | None
    figures: Figures
    holdings: tuple[Holding, ...] | None
    usages: tuple[Usage, ...] | None
    unread: int
    failures: Mapping[str, int]


def exposition(view: View) -> bytes:
    """Write the metrics, and those of the process, in the Prometheus text format."""
    return generate_latest(_Families(view))


class _Families:
    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        yield from families(self._view)
        yield from PROCESS_COLLECTOR.collect()


def families(view: View) -> Iterator[Metric]:
    """Yield every metric in the order of the table; what is not known has no sample, rather than a zero."""
    samples = _samples(view)
    for name, kind, labels, text in _TABLE:
        if kind == "info":
            info = {"mode": view.choice.mode.value, "dialect": view.choice.dialect_name, "reason": view.choice.reason.value}
            yield InfoMetricFamily(name, text, value=info)
            continue
        family: GaugeMetricFamily | CounterMetricFamily = (
            CounterMetricFamily(name, text, labels=labels) if kind == "counter" else GaugeMetricFamily(name, text, labels=labels)
        )
        for values, value in samples.get(name, {}).items():
            family.add_metric(values, value)
        yield family


def _samples(view: View) -> dict[str, dict[tuple[str, ...], float]]:
    figures = view.figures
    found: dict[str, dict[tuple[str, ...], float]] = {
        "kubenclave_simulated": {(): view.simulated},
        "kubenclave_ready": {(): figures.ready},
        "kubenclave_epc_total_bytes": _by_numa(view.total),
        "kubenclave_epc_offered_bytes": _by_numa(figures.offered),
        "kubenclave_allocations": {(): figures.allocations},
        "kubenclave_registrations": {(): figures.registrations},
        "kubenclave_observation_failures": {(source,): count for source, count in view.failures.items()},
    }
    if figures.kubelet_restarts is not None:
        found["kubenclave_kubelet_restarts"] = {(): figures.kubelet_restarts}
    if figures.message_bytes is not None:
        found["kubenclave_list_message_bytes"] = {(): figures.message_bytes}
    # In mode extended-resource nobody knows the bytes here, be it of no container or of many.
    if view.holdings is not None and view.choice.mode is not Mode.EXTENDED_RESOURCE:
        found |= _held(view, view.holdings)
    if view.usages is not None:
        found["kubenclave_epc_mapped_bytes"] = {_labels(usage.container): usage.mapped_bytes for usage in view.usages}
        found["kubenclave_epc_over_mapped_containers"] = {(): sum(usage.over for usage in view.usages)}
        found["kubenclave_epc_unread_processes"] = {(): view.unread}
    return found


def _held(view: View, holdings: tuple[Holding, ...]) -> dict[str, dict[tuple[str, ...], float]]:
    known = [(holding.container, holding.epc_bytes) for holding in holdings if holding.epc_bytes is not None]
    if len(known) < len(holdings):
        return {}
    # Every node of the offer is shown, with 0 where nothing of it was given.
    allocated: Counter[tuple[str, ...]] = Counter(
        {(node.label,): 0 for node in (view.figures.offered.numa if view.figures.offered else ())}
    )
    pods: dict[tuple[str, ...], float] = {}
    only = next(iter(allocated)) if len(allocated) == 1 else None
    for container, nodes in known:
        pods[_labels(container)] = sum(nodes.values())
        for node, size in nodes.items():
            # Units say their node only where there are several.
            allocated[only if only and node == UNKNOWN_NODE else (node,)] += size
    return {"kubenclave_epc_allocated_bytes": dict(allocated), "kubenclave_epc_pod_bytes": pods}


def _by_numa(inventory: Inventory | None) -> dict[tuple[str, ...], float]:
    return {(node.label,): node.epc_bytes for node in inventory.numa} if inventory else {}


def _labels(container: Container) -> tuple[str, str, str]:
    return container.namespace, container.pod, container.name
