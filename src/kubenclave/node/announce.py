"""Say in an Event on the Node what is offered and why in this way, and what hinders it: for whoever looks with kubectl describe."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from kubenclave.errors import KubenclaveError

if TYPE_CHECKING:
    from kubenclave.kube import Document
    from kubenclave.kube.in_cluster import InCluster
    from kubenclave.node.inventory import Inventory
    from kubenclave.node.settings import Settings

_CONTROLLER = "kubenclave.dev/node-agent"
# Events about Nodes, which have no namespace, go here (kubernetes, record.getEvents).
_EVENTS = "apis/events.k8s.io/v1/namespaces/default/events"
# events.k8s.io/v1 takes notes of up to 1 kB.
_LONGEST_NOTE = 1000

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Announcer:
    """Writes Events; one that cannot be written is told in the log and not tried again: nothing depends on it."""

    def __init__(self, api: InCluster, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._tasks: set[asyncio.Task[None]] = set()
        self._last = ""

    def offered(self, inventory: Inventory, resource: str) -> None:
        """Tell that EPC is offered, how, and why in this way."""
        choice = self._settings.choice
        simulated = " (simulated)" if inventory.simulated else ""
        note = f"{inventory.epc_bytes} bytes of EPC{simulated} offered as {resource}, mode {choice.mode.value}: {choice.reason.value}"
        self._start("Normal", "EpcOffered", note)

    def hindered(self, problem: KubenclaveError) -> None:
        """Tell what keeps the EPC from being offered."""
        self._start("Warning", "EpcNotOffered", f"{problem.what}; {problem.hint}")

    def _start(self, kind: str, reason: str, note: str) -> None:
        if note == self._last:
            return
        self._last = note
        task = asyncio.get_running_loop().create_task(self._write(event(self._settings.node_name, kind, reason, note)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, document: Document) -> None:
        try:
            await self._api.create(_EVENTS, document)
        except KubenclaveError as exc:
            log.warning("event.not_written", what=exc.what, hint=exc.hint)


def event(node: str, kind: str, reason: str, note: str) -> Document:
    """Write an Event about a Node."""
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{node}.{uuid.uuid4().hex[:16]}", "namespace": "default"},
        "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": kind,
        "reason": reason,
        "note": note[:_LONGEST_NOTE],
        "action": "OfferEpc",
        # A Node's Events carry its name as UID: the kubelet's do, and kubectl describe looks for it.
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node},
        "reportingController": _CONTROLLER,
        "reportingInstance": node,
    }
