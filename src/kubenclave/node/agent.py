"""Wire the agent: watch the host, offer its EPC in the chosen way, and leave in order. The one place that knows all the parts."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Protocol

import structlog

from kubenclave.errors import KubenclaveError, UsageError
from kubenclave.node.accounts import Accountant
from kubenclave.node.cpuid import read_processor
from kubenclave.node.device_plugin import DevicePluginWay
from kubenclave.node.dialect import Mode
from kubenclave.node.inventory import keep_back, take_inventory
from kubenclave.node.metrics import View, exposition
from kubenclave.node.problems import Problems
from kubenclave.node.scrape import Pages
from kubenclave.node.sysfs import is_simulated, read_host

if TYPE_CHECKING:
    from pathlib import Path

    from kubenclave.node._generated.podresources_pb2 import ListPodResourcesResponse
    from kubenclave.node.holdings import Holding
    from kubenclave.node.inventory import Inventory
    from kubenclave.node.metrics import Figures
    from kubenclave.node.settings import Settings

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Way(Protocol):
    """One way of offering EPC: by device plugin, extended resource or claims."""

    @property
    def ready(self) -> bool:
        """Whether what there is to offer has been offered where pods are scheduled by it."""

    @property
    def figures(self) -> Figures:
        """What was counted."""

    def holdings(self, pods: ListPodResourcesResponse) -> tuple[Holding, ...]:
        """Read from the kubelet's list of pods what containers were given.

        Raises:
            KubenclaveError: It cannot be known.
        """

    def check(self) -> None:
        """Make sure that nobody else offers this node's EPC.

        Raises:
            Refused: Somebody does.
        """

    def offer(self, inventory: Inventory) -> None:
        """Offer this EPC from now on.

        Raises:
            KubenclaveError: It cannot be offered in this way.
        """

    def take_back(self, problem: KubenclaveError) -> None:
        """Offer nothing as long as there is this problem; running pods keep what they have."""

    async def run(self) -> None:
        """Keep the offer where it belongs, until cancelled.

        Raises:
            KubenclaveError: Something that does not get better by itself.
        """


async def run(settings: Settings) -> None:
    """Offer this node's EPC until SIGTERM or SIGINT, then leave in order and return.

    Raises:
        NotFound: There is no kubelet folder.
        UsageError: The node's name is needed and not said, or a socket's path would be too long.
        KubenclaveError: Something that does not get better by itself, such as a corrupt checkpoint.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    simulated = is_simulated(settings.host_root)
    way = _way(settings, simulated=simulated)
    choice = settings.choice
    log.info(
        "agent.started",
        mode=choice.mode.value,
        dialect=choice.dialect_name,
        reason=choice.reason.value,
        resource=choice.dialect.resource if choice.dialect else "",
        host_root=str(settings.host_root),
        kubelet_dir=str(settings.kubelet_dir),
        simulated=simulated,
    )
    watch = HostWatch(way, settings)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(watch.run(), name="watch-host"), group.create_task(way.run(), name="offer")]
            if settings.metrics_port:
                told = Observation(way, watch, settings, simulated=simulated)
                tasks.append(group.create_task(Pages(told, settings.metrics_port).run(), name="serve-pages"))
            await stopping.wait()
            log.info("agent.stopping", simulated=simulated)
            for task in tasks:
                task.cancel()
    except* KubenclaveError as failures:
        # The first is the cause; the others ended because of it.
        raise failures.exceptions[0] from failures


def _way(settings: Settings, *, simulated: bool) -> Way:
    mode = settings.choice.mode
    if mode is Mode.DEVICE_PLUGIN:
        return DevicePluginWay(settings, simulated=simulated)
    if not settings.node_name:
        raise UsageError(
            f"mode {mode.value} writes to its own Node, and the environment variable NODE_NAME does not say which that is",
            hint="set NODE_NAME from spec.nodeName in the pod, or give --node-name",
        )
    # The Kubernetes client takes 22 MiB: loaded only where it is used.
    if mode is Mode.EXTENDED_RESOURCE:
        from kubenclave.node.extended_resource import ExtendedResourceWay  # noqa: PLC0415 - see above

        return ExtendedResourceWay(settings, simulated=simulated)
    from kubenclave.node.dra import ClaimsWay  # noqa: PLC0415 - see above

    return ClaimsWay(settings)


class Observation:
    """What the agent's pages tell of it."""

    def __init__(self, way: Way, watch: HostWatch, settings: Settings, *, simulated: bool) -> None:
        self._way = way
        self._watch = watch
        self._settings = settings
        self._simulated = simulated
        mapped = (settings.host_root, self._device) if settings.mapped else None
        self._accountant = Accountant(settings.pod_resources, way.holdings, mapped)

    @property
    def ready(self) -> bool:
        """Whether EPC is offered where pods are scheduled by it."""
        return self._way.ready

    async def metrics(self) -> bytes:
        """Return the metrics as they are now."""
        accounts = await self._accountant.look()
        view = View(
            choice=self._settings.choice,
            simulated=self._simulated,
            total=self._watch.inventory,
            figures=self._way.figures,
            holdings=accounts.holdings,
            usages=accounts.usages,
            unread=accounts.unread,
            failures=self._accountant.failures,
        )
        return exposition(view)

    def _device(self) -> Path | None:
        inventory = self._watch.inventory
        return self._settings.host_root / inventory.enclave_device.lstrip("/") if inventory else None


class HostWatch:
    """Looks at the host again and again, and offers what there is whenever that has changed.

    Attributes:
        inventory: What the host has; None while that is not known or not offered.
    """

    def __init__(self, way: Way, settings: Settings) -> None:
        self._way = way
        self._settings = settings
        self._processor = read_processor()
        self.inventory: Inventory | None = None
        self._problems = Problems("epc.not_offered")

    async def run(self) -> None:
        """Scan until cancelled."""
        while True:
            self.scan()
            await asyncio.sleep(self._settings.scan_seconds)

    def scan(self) -> None:
        """Look once. What cannot be confirmed is not offered: what was offered before is taken back, running pods keep theirs."""
        try:
            self._way.check()
            inventory = take_inventory(read_host(self._settings.host_root, self._processor))
            if inventory != self.inventory:
                self._way.offer(keep_back(inventory, self._settings.reserve_bytes))
                self.inventory = inventory
        except KubenclaveError as exc:
            self._problems.report(exc)
            self._way.take_back(exc)
            self.inventory = None
        else:
            self._problems.clear()
