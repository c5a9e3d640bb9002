"""Offer EPC by a device plugin: units of 1 MiB that the kubelet counts. And the devices that are counted by themselves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from kubenclave.node.dialect import DEVICE_UNITS, PROVISION_RESOURCE, Dialect
from kubenclave.node.handout import as_answer, enclave_handout, provision_handout
from kubenclave.node.holdings import held_units
from kubenclave.node.kubelet import check_folder, remove_stale
from kubenclave.node.metrics import Figures
from kubenclave.node.offer import count_offer, make_offer, no_offer
from kubenclave.node.plugin import EpcPlugin
from kubenclave.node.rivals import Rivals
from kubenclave.node.session import KubeletSession

if TYPE_CHECKING:
    from pathlib import Path

    from kubenclave.errors import KubenclaveError
    from kubenclave.node._generated.podresources_pb2 import ListPodResourcesResponse
    from kubenclave.node.handout import Handout
    from kubenclave.node.holdings import Holding
    from kubenclave.node.inventory import Inventory
    from kubenclave.node.settings import Settings

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class PluginAtKubelet:
    """One resource's plugin and its life with the kubelet.

    Raises:
        NotFound: There is no kubelet folder.
        UsageError: The socket's path would be too long.
    """

    def __init__(self, settings: Settings, resource: str, name: str, *, simulated: bool) -> None:
        self.plugin = EpcPlugin(no_offer(resource, simulated=simulated))
        self._socket_path = socket_path(settings.kubelet_dir, name, settings.pod_uid)
        check_folder(self._socket_path, "device plugins", "--kubelet-dir")
        self._session = KubeletSession(self.plugin, self._socket_path)
        self._stale = f"kubenclave-{name}*.sock"

    @property
    def ready(self) -> bool:
        """Whether a kubelet reads the list."""
        return self.plugin.streams > 0

    def figures(self, offered: Inventory | None, *, ready: bool) -> Figures:
        """Return what was counted; the size of the list belongs to EPC in units only."""
        return Figures(
            offered=offered,
            ready=ready,
            allocations=self.plugin.allocations,
            registrations=self._session.registrations,
            kubelet_restarts=self._session.kubelet_restarts,
        )

    def offer_counted(self, handout: Handout | None, *, simulated: bool) -> None:
        """Offer the device in as many units as containers may hold it; nothing where there is none to hand out."""
        if handout is None:
            self.take_back()
            return
        self.plugin.publish(count_offer(self.plugin.offer.resource, DEVICE_UNITS, simulated=simulated), as_answer(handout))

    def take_back(self) -> None:
        """Offer nothing from now on."""
        offer = self.plugin.offer
        if offer.units:
            self.plugin.publish(no_offer(offer.resource, simulated=offer.simulated), self.plugin.answer)

    async def run(self) -> None:
        """Stay registered until cancelled."""
        remove_stale(self._socket_path.parent, self._stale)
        await self._session.run()


class DevicePluginWay:
    """EPC in units, in one of the dialects that count MiB."""

    def __init__(self, settings: Settings, *, simulated: bool) -> None:
        self._settings = settings
        self._dialect = own_dialect(settings)
        self._rivals = Rivals(settings.kubelet_dir, settings.registry_dir, self._dialect)
        self._epc = PluginAtKubelet(settings, self._dialect.resource, self._dialect.name, simulated=simulated)
        self._provision = provision_plugin(settings, simulated=simulated)
        self._inventory: Inventory | None = None

    @property
    def ready(self) -> bool:
        """Whether the kubelet reads the list of units."""
        return self._inventory is not None and self._epc.ready

    @property
    def figures(self) -> Figures:
        """What was counted."""
        counted = self._epc.figures(self._inventory, ready=self.ready)
        return replace(counted, message_bytes=len(self._epc.plugin.offer.message))

    def holdings(self, pods: ListPodResourcesResponse) -> tuple[Holding, ...]:
        """Return what containers hold in units.

        Raises:
            Unreachable: The kubelet's answer is not what it should be.
        """
        return held_units(pods, self._dialect.resource, self._dialect.unit_bytes)

    def check(self) -> None:
        """Make sure that no other agent or plugin on this node offers EPC.

        Raises:
            Refused: One does, and nothing has been offered yet.
        """
        self._rivals.check(offered=self._epc.plugin.offered.is_set())

    def offer(self, inventory: Inventory) -> None:
        """Offer the EPC in units.

        Raises:
            HostUnfit: There is less EPC than one unit.
            Refused: The list is larger than the kubelet takes.
        """
        offer = make_offer(inventory, self._dialect)
        self._inventory = inventory
        self._epc.plugin.publish(offer, as_answer(enclave_handout(inventory, self._settings.extras)))
        if self._provision:
            self._provision.offer_counted(provision_handout(inventory, self._settings.extras), simulated=inventory.simulated)
        log.info(
            "epc.offered",
            resource=offer.resource,
            units=offer.units,
            epc_bytes=inventory.epc_bytes,
            source=inventory.source.value,
            numa={node.label: node.epc_bytes for node in inventory.numa},
            topology=offer.topology,
            message_bytes=len(offer.message),
            simulated=offer.simulated,
        )

    def take_back(self, problem: KubenclaveError) -> None:  # noqa: ARG002 - the log has it; without the API there is nobody else to tell
        """Offer nothing from now on."""
        self._inventory = None
        self._epc.take_back()
        if self._provision:
            self._provision.take_back()

    async def run(self) -> None:
        """Stay registered until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._epc.run())
            if self._provision:
                group.create_task(self._provision.run())


def provision_plugin(settings: Settings, *, simulated: bool) -> PluginAtKubelet | None:
    """Make the plugin for the device of the provisioning key, if that is to be offered."""
    if not settings.extras.provision:
        return None
    return PluginAtKubelet(settings, PROVISION_RESOURCE, "provision", simulated=simulated)


def socket_path(kubelet_dir: Path, name: str, pod_uid: str) -> Path:
    """Name a plugin's socket: each pod has its own, so that the next agent is registered before the last one leaves."""
    return kubelet_dir / (f"kubenclave-{name}-{pod_uid}.sock" if pod_uid else f"kubenclave-{name}.sock")


def own_dialect(settings: Settings) -> Dialect:
    """Return the dialect of a mode that has dialects."""
    dialect = settings.choice.dialect
    assert dialect is not None  # noqa: S101 - choose() gives every mode that has dialects one
    return dialect
