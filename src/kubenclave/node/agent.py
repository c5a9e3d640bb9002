"""Wire the agent: watch the host, offer its EPC, stay registered, and leave in order. The one place that knows all the parts."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from kubenclave.errors import KubenclaveError
from kubenclave.node.inventory import take_inventory
from kubenclave.node.kubelet import check_folder
from kubenclave.node.offer import make_offer, no_offer
from kubenclave.node.plugin import EpcPlugin
from kubenclave.node.problems import Problems
from kubenclave.node.session import KubeletSession
from kubenclave.node.sysfs import is_simulated, read_host

if TYPE_CHECKING:
    from pathlib import Path

    from kubenclave.node.dialect import Dialect
    from kubenclave.node.inventory import Inventory

SCAN_SECONDS = 5.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one agent is told.

    Attributes:
        dialect: The resource under which EPC is offered.
        host_root: Where the host's filesystem is seen.
        kubelet_dir: The kubelet's device plugin folder.
        scan_seconds: How often the host is looked at again.
    """

    dialect: Dialect
    host_root: Path
    kubelet_dir: Path
    scan_seconds: float = SCAN_SECONDS

    @property
    def socket_path(self) -> Path:
        """Where the agent listens."""
        return self.kubelet_dir / f"kubenclave-{self.dialect.name}.sock"


async def run(settings: Settings) -> None:
    """Offer this node's EPC until SIGTERM or SIGINT, then take the socket away and return.

    Raises:
        NotFound: There is no kubelet folder.
        UsageError: The socket's path would be too long.
    """
    check_folder(settings.kubelet_dir, settings.socket_path)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    plugin = EpcPlugin(no_offer(settings.dialect, simulated=is_simulated(settings.host_root)))
    log.info(
        "agent.started",
        resource=settings.dialect.resource,
        host_root=str(settings.host_root),
        kubelet_dir=str(settings.kubelet_dir),
        simulated=plugin.offer.simulated,
    )
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(HostWatch(plugin, settings).run(), name="watch-host")
        session = group.create_task(KubeletSession(plugin, settings.socket_path).run(), name="stay-registered")
        await stopping.wait()
        log.info("agent.stopping", simulated=plugin.offer.simulated)
        watch.cancel()
        session.cancel()


class HostWatch:
    """Looks at the host again and again, and publishes what can be offered whenever that has changed."""

    def __init__(self, plugin: EpcPlugin, settings: Settings) -> None:
        self._plugin = plugin
        self._settings = settings
        self._offered: Inventory | None = None
        self._problems = Problems("epc.not_offered")

    async def run(self) -> None:
        """Scan until cancelled."""
        while True:
            self.scan()
            await asyncio.sleep(self._settings.scan_seconds)

    def scan(self) -> None:
        """Look once. What cannot be confirmed is not offered: units offered before are taken back, running pods keep theirs."""
        dialect = self._settings.dialect
        try:
            inventory = take_inventory(read_host(self._settings.host_root))
            if inventory != self._offered:
                self._plugin.publish(make_offer(inventory, dialect))
                self._offered = inventory
                self._say_offer(inventory)
        except KubenclaveError as exc:
            self._problems.report(exc)
            if self._plugin.offer.units:
                self._plugin.publish(no_offer(dialect, simulated=self._plugin.offer.simulated))
            self._offered = None
        else:
            self._problems.clear()

    def _say_offer(self, inventory: Inventory) -> None:
        offer = self._plugin.offer
        log.info(
            "epc.offered",
            resource=offer.resource,
            units=offer.units,
            epc_bytes=inventory.epc_bytes,
            numa={str(node.numa_node): node.epc_bytes for node in inventory.numa},
            topology=offer.topology,
            message_bytes=len(offer.message),
            simulated=offer.simulated,
        )
