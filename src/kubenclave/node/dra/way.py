"""Wire the DRA driver: inventory to ResourceSlice, claims to CDI files."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from kubenclave.kube.in_cluster import own_service_account
from kubenclave.node.announce import Announcer
from kubenclave.node.dialect import DRIVER
from kubenclave.node.dra.cdi import CdiFolder
from kubenclave.node.dra.checkpoint import Checkpoint
from kubenclave.node.dra.driver import ClaimsDriver, Devices
from kubenclave.node.dra.health import DevicesHealth
from kubenclave.node.dra.publisher import SlicePublisher
from kubenclave.node.dra.registration import DriverSockets
from kubenclave.node.dra.slices import PROVISION_DEVICE, device_name, devices_of
from kubenclave.node.handout import enclave_handout, provision_handout
from kubenclave.node.holdings import UNKNOWN_NODE, held_claims
from kubenclave.node.metrics import Figures
from kubenclave.node.node_status import FIELD_MANAGER

if TYPE_CHECKING:
    from kubenclave.errors import KubenclaveError
    from kubenclave.node._generated.podresources_pb2 import ListPodResourcesResponse
    from kubenclave.node.handout import Handout
    from kubenclave.node.holdings import Holding
    from kubenclave.node.inventory import Inventory
    from kubenclave.node.settings import Settings

# How soon somebody is seen who came later and offers this node's EPC under a resource's name.
_LOOK_AGAIN_SECONDS = 60.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class ClaimsWay:
    """EPC in exact bytes for resource claims."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._api = own_service_account(FIELD_MANAGER)
        self._announcer = Announcer(self._api, settings)
        self._checkpoint = Checkpoint(settings.driver_dir)
        self._driver = ClaimsDriver(self._api, settings.node_name, self._checkpoint, CdiFolder(settings.cdi_dir))
        self._health = DevicesHealth(settings.node_name)
        self._sockets = DriverSockets(
            [self._driver, self._health],
            registry_dir=settings.registry_dir,
            driver_dir=settings.driver_dir,
            pod_uid=settings.pod_uid,
        )
        self._publisher = SlicePublisher(self._api, settings.node_name, on_settled=self._say_offer, on_refused=self._refused)
        self._inventory: Inventory | None = None
        self._hindered = False

    @property
    def ready(self) -> bool:
        """Whether the kubelet knows the driver and the API server has the slice."""
        return self._inventory is not None and self._publisher.settled and self._sockets.registrar.registered

    @property
    def figures(self) -> Figures:
        """What was counted; a registration says nothing of which kubelet it is."""
        return Figures(
            offered=None if self._hindered else self._inventory,
            ready=self.ready,
            allocations=self._driver.prepared,
            registrations=self._sockets.registrar.registrations,
        )

    def holdings(self, pods: ListPodResourcesResponse) -> tuple[Holding, ...]:
        """Return what containers hold by claims, with the bytes that were noted when the claims were prepared.

        Raises:
            Refused: The checkpoint is damaged.
            HostUnfit: It cannot be read.
        """
        nodes = {device_name(node): node.label for node in self._inventory.numa} if self._inventory else {}
        with self._checkpoint.locked() as claims:
            shares = {
                (claim.namespace, claim.name, one.device, one.share_id): (nodes.get(one.device, UNKNOWN_NODE), one.epc_bytes)
                for _, claim in claims
                for one in claim.devices
                if one.epc_bytes
            }
        return held_claims(pods, DRIVER, shares.get)

    def check(self) -> None:
        """Leave it to the publisher: who else offers this node's EPC is seen in the Node's status."""

    def offer(self, inventory: Inventory) -> None:
        """Offer the EPC, one device for each NUMA node.

        Raises:
            Refused: There are more NUMA nodes than a slice takes.
        """
        devices = devices_of(inventory, provision=self._settings.extras.provision)
        self._inventory = inventory
        handouts = self._handouts(inventory)
        self._driver.devices = Devices(handouts=handouts, simulated=inventory.simulated)
        self._health.set_healthy(handouts)
        self._publisher.want(devices)

    def take_back(self, problem: KubenclaveError) -> None:
        """Publish no device as long as there is this problem, and prepare no claim."""
        self._inventory = None
        self._driver.devices = Devices(handouts={}, simulated=self._driver.devices.simulated)
        self._health.set_sick(problem.what)
        self._publisher.want(())
        self._announcer.hindered(problem)

    async def run(self) -> None:
        """Serve the kubelet and keep the slice, until cancelled.

        The slice stays when the agent ends: the kubelet deletes it if no other agent comes within 30 s.

        Raises:
            Refused: The checkpoint is damaged.
            HostUnfit: The driver's or the runtime's folder cannot be read.
        """
        try:
            self._driver.check_files()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sockets.run())
                group.create_task(self._publisher.run())
                group.create_task(self._driver.keep_swept())
                group.create_task(self._look_again())
        finally:
            await self._api.close()

    def _handouts(self, inventory: Inventory) -> dict[str, Handout]:
        enclave = enclave_handout(inventory, self._settings.extras)
        provision = provision_handout(inventory, self._settings.extras)
        handouts = {device_name(node): enclave for node in inventory.numa}
        return handouts if provision is None else handouts | {PROVISION_DEVICE: provision}

    async def _look_again(self) -> None:
        """Have the Node looked at again and again: the publisher is told of changes of its slices, not of the Node's."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            self._publisher.wake()

    def _refused(self, problem: KubenclaveError) -> None:
        self._hindered = True
        self._announcer.hindered(problem)

    def _say_offer(self) -> None:
        self._hindered = False
        inventory = self._inventory
        if inventory is None:
            return
        self._announcer.offered(inventory, f"devices of driver {DRIVER}")
        log.info(
            "epc.offered",
            driver=DRIVER,
            epc_bytes=inventory.epc_bytes,
            source=inventory.source.value,
            numa={node.label: node.epc_bytes for node in inventory.numa},
            simulated=inventory.simulated,
        )
