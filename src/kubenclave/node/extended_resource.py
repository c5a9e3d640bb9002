"""Offer EPC in Intel's dialect: bytes in the Node's status, kept there, and the device counted by a device plugin.

The bytes are exact and no list of units exists; the scheduler counts them and the kubelet never hears of them. The device is handed
out by the plugin for ``sgx.intel.com/enclave``: a pod asks for both.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from kubenclave.kube.in_cluster import own_service_account
from kubenclave.node.announce import Announcer
from kubenclave.node.device_plugin import PluginAtKubelet, own_dialect, provision_plugin
from kubenclave.node.dialect import ENCLAVE_RESOURCE
from kubenclave.node.handout import enclave_handout, provision_handout
from kubenclave.node.holdings import held_devices
from kubenclave.node.keeper import Keeper
from kubenclave.node.node_status import FIELD_MANAGER, patch_for, view_of
from kubenclave.node.rivals import Rivals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kubenclave.errors import KubenclaveError
    from kubenclave.kube.in_cluster import InCluster
    from kubenclave.node._generated.podresources_pb2 import ListPodResourcesResponse
    from kubenclave.node.holdings import Holding
    from kubenclave.node.inventory import Inventory
    from kubenclave.node.metrics import Figures
    from kubenclave.node.settings import Settings

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class StatusKeeper(Keeper):
    """Keeps the number of bytes in the Node's status."""

    def __init__(
        self,
        api: InCluster,
        node_name: str,
        resource: str,
        *,
        on_settled: Callable[[], None],
        on_refused: Callable[[KubenclaveError], None],
    ) -> None:
        super().__init__(api, "epc.not_in_status", on_settled=on_settled, on_refused=on_refused)
        self._node_name = node_name
        self._resource = resource
        self._epc_bytes: int | None = None

    def want(self, epc_bytes: int) -> None:
        """Keep this number from now on."""
        if epc_bytes != self._epc_bytes:
            self._epc_bytes = epc_bytes
            self.settled = False
            self.wake()

    async def _settle(self) -> str:
        node = view_of(await self._api.get(f"api/v1/nodes/{self._node_name}"))
        patch = None if self._epc_bytes is None else patch_for(node, self._resource, self._epc_bytes)
        if patch is None:
            return node.metadata.resource_version
        before = node.status.allocatable.get(self._resource, "")
        changed = view_of(await self._api.merge(f"api/v1/nodes/{self._node_name}/status", patch))
        log.info("status.written", resource=self._resource, epc_bytes=self._epc_bytes, before=before)
        return changed.metadata.resource_version

    def _watched(self) -> tuple[str, Mapping[str, str]]:
        return "api/v1/nodes", {"metadata.name": self._node_name}


class ExtendedResourceWay:
    """EPC in bytes in the Node's status, and devices by device plugins as long as the bytes are there."""

    def __init__(self, settings: Settings, *, simulated: bool) -> None:
        self._settings = settings
        self._dialect = own_dialect(settings)
        self._rivals = Rivals(settings.kubelet_dir, settings.registry_dir, self._dialect)
        self._enclave = PluginAtKubelet(settings, ENCLAVE_RESOURCE, self._dialect.name, simulated=simulated)
        self._provision = provision_plugin(settings, simulated=simulated)
        self._api = own_service_account(FIELD_MANAGER)
        self._announcer = Announcer(self._api, settings)
        self._keeper = StatusKeeper(
            self._api, settings.node_name, self._dialect.resource, on_settled=self._offer_devices, on_refused=self._refused
        )
        self._inventory: Inventory | None = None

    @property
    def ready(self) -> bool:
        """Whether the Node says the bytes and the kubelet counts the device."""
        return self._inventory is not None and self._keeper.settled and self._enclave.ready

    @property
    def figures(self) -> Figures:
        """What was counted."""
        return self._enclave.figures(self._inventory, ready=self.ready)

    def holdings(self, pods: ListPodResourcesResponse) -> tuple[Holding, ...]:
        """Return which containers hold the device; the kubelet knows nothing of the bytes that they asked for.

        Raises:
            Unreachable: The kubelet's answer is not what it should be.
        """
        return held_devices(pods, ENCLAVE_RESOURCE)

    def check(self) -> None:
        """Make sure that no other agent or plugin on this node hands out the device.

        Raises:
            Refused: One does, and nothing has been offered yet.
        """
        self._rivals.check(offered=self._enclave.plugin.offered.is_set())

    def offer(self, inventory: Inventory) -> None:
        """Offer the EPC in bytes, and the devices once the bytes are in the Node's status."""
        self._inventory = inventory
        self._keeper.want(inventory.epc_bytes)
        if self._keeper.settled:
            self._offer_devices()

    def take_back(self, problem: KubenclaveError) -> None:
        """Say 0 bytes from now on, if this agent or one before it said any; offer no device."""
        self._inventory = None
        self._keeper.want(0)
        self._refused(problem)

    async def run(self) -> None:
        """Keep the bytes in the status and the plugins registered, until cancelled. What is in the status stays: the pods' EPC does."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keeper.run())
                group.create_task(self._enclave.run())
                if self._provision:
                    group.create_task(self._provision.run())
        finally:
            await self._api.close()

    def _offer_devices(self) -> None:
        inventory = self._inventory
        if inventory is None:
            return
        self._enclave.offer_counted(enclave_handout(inventory, self._settings.extras), simulated=inventory.simulated)
        if self._provision:
            self._provision.offer_counted(provision_handout(inventory, self._settings.extras), simulated=inventory.simulated)
        self._announcer.offered(inventory, self._dialect.resource)
        log.info(
            "epc.offered",
            resource=self._dialect.resource,
            epc_bytes=inventory.epc_bytes,
            source=inventory.source.value,
            numa={node.label: node.epc_bytes for node in inventory.numa},
            simulated=inventory.simulated,
        )

    def _refused(self, problem: KubenclaveError) -> None:
        self._announcer.hindered(problem)
        self._enclave.take_back()
        if self._provision:
            self._provision.take_back()
