"""Serve the kubelet's calls to a DRA driver: prepare a claim's devices before its pod starts, and take them back afterwards.

Both calls may come any number of times. A claim is prepared when its CDI file and its entry in the checkpoint are on disk, in this order;
what a failure or a kill leaves in between is removed or completed by the next call, or when the agent starts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from kubenclave.errors import HostUnfit, KubenclaveError, NotFound
from kubenclave.node._generated.dra_grpc import DRAPluginBase
from kubenclave.node._generated.dra_pb2 import (
    Device,
    NodePrepareResourceResponse,
    NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse,
    NodeUnprepareResourcesResponse,
)
from kubenclave.node.dra.cdi import cdi_spec, device_id
from kubenclave.node.dra.checkpoint import PreparedClaim, PreparedDevice
from kubenclave.node.dra.claims import ClaimName, allotments, check_name, is_allocated
from kubenclave.node.problems import Problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grpclib.server import Stream

    from kubenclave.kube.in_cluster import InCluster
    from kubenclave.node._generated.dra_pb2 import Claim, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest
    from kubenclave.node.dra.cdi import CdiFolder
    from kubenclave.node.dra.checkpoint import Checkpoint
    from kubenclave.node.handout import Handout

# How often it is looked whether claims that are prepared are still there; the kubelet unprepares them long before in the usual way.
SWEEP_SECONDS = 60.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What can be prepared now: each device's handout by the device's name, and whether it is that of a simulated host."""

    handouts: Mapping[str, Handout]
    simulated: bool


class ClaimsDriver(DRAPluginBase):
    """The DRA driver service of one node.

    Attributes:
        devices: What can be prepared now; without devices as long as the host shows none.
        prepared: How many claims were prepared, for the metrics.
    """

    def __init__(self, api: InCluster, node_name: str, checkpoint: Checkpoint, cdi: CdiFolder) -> None:
        self.devices = Devices(handouts={}, simulated=False)
        self.prepared = 0
        self._api = api
        self._node_name = node_name
        self._checkpoint = checkpoint
        self._cdi = cdi

    async def NodePrepareResources(  # noqa: N802 - the interface's name
        self, stream: Stream[NodePrepareResourcesRequest, NodePrepareResourcesResponse]
    ) -> None:
        """Prepare each claim by itself; one that cannot be prepared says why and hinders no other."""
        request = await stream.recv_message()
        answer = NodePrepareResourcesResponse()
        for claim in request.claims if request else ():
            try:
                devices = await self._prepare(_name(claim))
            except KubenclaveError as exc:
                log.error("claim.not_prepared", claim=f"{claim.namespace}/{claim.name}", what=exc.what, hint=exc.hint)  # noqa: TRY400
                answer.claims[claim.uid].CopyFrom(NodePrepareResourceResponse(error=f"{exc.what}; {exc.hint}"))
            else:
                answer.claims[claim.uid].CopyFrom(NodePrepareResourceResponse(devices=devices))
        await stream.send_message(answer)

    async def NodeUnprepareResources(  # noqa: N802 - the interface's name
        self, stream: Stream[NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse]
    ) -> None:
        """Take each claim's devices back; one that was not prepared is none the less not prepared."""
        request = await stream.recv_message()
        answer = NodeUnprepareResourcesResponse()
        for claim in request.claims if request else ():
            try:
                check_name(_name(claim))
                self._forget(claim.uid)
            except KubenclaveError as exc:
                log.error("claim.not_unprepared", claim=f"{claim.namespace}/{claim.name}", what=exc.what, hint=exc.hint)  # noqa: TRY400
                answer.claims[claim.uid].CopyFrom(NodeUnprepareResourceResponse(error=f"{exc.what}; {exc.hint}"))
            else:
                answer.claims[claim.uid].CopyFrom(NodeUnprepareResourceResponse())
                log.info("claim.unprepared", claim=f"{claim.namespace}/{claim.name}", uid=claim.uid, simulated=self.devices.simulated)
        await stream.send_message(answer)

    async def sweep(self) -> None:
        """Forget claims that are gone or no longer allocated, and remove files that belong to no prepared claim.

        Raises:
            Refused: The checkpoint is damaged.
            HostUnfit: A file cannot be read or removed.
        """
        with self._checkpoint.locked() as claims:
            known = dict(claims)
            self._cdi.remove_halves()
            for uid in set(self._cdi.claims()) - set(known):
                self._cdi.remove(uid)
                log.info("cdi.removed", uid=uid, what="a file of a claim that is not prepared")
        for uid, claim in known.items():
            if await self._is_gone(ClaimName(namespace=claim.namespace, name=claim.name, uid=uid)):
                self._forget(uid)
                log.info("claim.forgotten", claim=f"{claim.namespace}/{claim.name}", uid=uid)

    def check_files(self) -> None:
        """Make sure before anything is offered that the checkpoint is whole and the runtime's folder there.

        Raises:
            Refused: The checkpoint is damaged.
            HostUnfit: A file or folder cannot be read.
        """
        with self._checkpoint.locked():
            self._cdi.claims()

    async def keep_swept(self) -> None:
        """Sweep now and every minute, until cancelled.

        Raises:
            Refused: The checkpoint is damaged.
        """
        problems = Problems("sweep.failed")
        while True:
            try:
                await self.sweep()
                problems.clear()
            except HostUnfit as exc:  # such as a full disk: better next time
                problems.report(exc)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _prepare(self, name: ClaimName) -> list[Device]:
        check_name(name)
        document = await self._api.get(name.path)
        allotted = allotments(document, name, self._node_name, self.devices.handouts)
        prepared = PreparedClaim(
            namespace=name.namespace,
            name=name.name,
            pool=self._node_name,
            devices=tuple(
                PreparedDevice(request=one.request, device=one.device, share_id=one.share_id, epc_bytes=one.epc_bytes) for one in allotted
            ),
        )
        handouts = {one.device: self.devices.handouts[one.device] for one in allotted}
        with self._checkpoint.locked() as claims:
            known = claims.get(name.uid)
            self._cdi.write(name.uid, cdi_spec(name.uid, handouts))
            if known != prepared:
                try:
                    claims.put(name.uid, prepared)
                except KubenclaveError:
                    if known is None:
                        self._cdi.remove(name.uid)
                    raise
        if known is None:
            self.prepared += 1
        log.info(
            "claim.prepared",
            claim=f"{name.namespace}/{name.name}",
            uid=name.uid,
            devices=sorted(handouts),
            again=known is not None,
            simulated=self.devices.simulated,
        )
        return [_device(name.uid, prepared.pool, device) for device in prepared.devices]

    def _forget(self, uid: str) -> None:
        with self._checkpoint.locked() as claims:
            self._cdi.remove(uid)
            claims.remove(uid)

    async def _is_gone(self, name: ClaimName) -> bool:
        try:
            return not is_allocated(await self._api.get(name.path), name)
        except NotFound:
            return True
        except KubenclaveError:
            return False  # not known: it is looked again


def _name(claim: Claim) -> ClaimName:
    return ClaimName(namespace=claim.namespace, name=claim.name, uid=claim.uid)


def _device(uid: str, pool: str, device: PreparedDevice) -> Device:
    return Device(
        # A choice of several (firstAvailable) is allocated as request/subrequest; the kubelet matches what containers name, the request.
        request_names=[device.request.partition("/")[0]],
        pool_name=pool,
        device_name=device.device,
        cdi_device_ids=[device_id(uid, device.device)],
        share_id=device.share_id or None,
    )
