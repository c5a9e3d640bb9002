"""Serve the kubelet: the list of EPC units, and the SGX device for each container that was given some."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import structlog
from grpclib.const import Status
from grpclib.encoding.proto import ProtoCodec
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from kubenclave.node._generated.deviceplugin_grpc import DevicePluginBase
from kubenclave.node._generated.deviceplugin_pb2 import (
    AllocateRequest,
    AllocateResponse,
    ContainerAllocateRequest,
    ContainerAllocateResponse,
    DevicePluginOptions,
    Empty,
    ListAndWatchResponse,
    PreferredAllocationRequest,
    PreferredAllocationResponse,
    PreStartContainerRequest,
    PreStartContainerResponse,
)
from kubenclave.node.offer import named_units

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from grpclib._typing import IProtoMessage
    from grpclib.server import Stream

    from kubenclave.node.offer import Offer

    _Watch = Stream[Empty, ListAndWatchResponse]

# How long a stream may take to end by itself, and a connection to close, before they are cut.
STOP_TIMEOUT_SECONDS = 1.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class EpcPlugin(DevicePluginBase):
    """The device plugin service: offers what was last published.

    Attributes:
        offer: What is offered now.
        answer: What a container gets that was given units.
        offered: Set once there was something to offer, and ever after.
        streams: How many ListAndWatch streams are open.
        allocations: How many containers were given units.
    """

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.answer = ContainerAllocateResponse()
        self.offered = asyncio.Event()
        self.streams = 0
        self.allocations = 0
        self._news = asyncio.Event()
        self._endings = 0

    def publish(self, offer: Offer, answer: ContainerAllocateResponse) -> None:
        """Offer something else from now on, with another answer; every open stream is told."""
        self.offer = offer
        self.answer = answer
        if offer.units:
            self.offered.set()
        self._wake()

    def end_streams(self) -> None:
        """Let the streams open now end by themselves: one that is only cut looks alive to its kubelet as long as the connection is."""
        self._endings += 1
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def ListAndWatch(self, stream: _Watch) -> None:  # noqa: N802 - the interface's name
        """Send the list, and again whenever it has changed, until the plugin stops or the kubelet goes away."""
        await stream.recv_message()
        endings = self._endings
        self.streams += 1
        try:
            while endings == self._endings:
                news = self._news
                log.info("list.sent", units=self.offer.units, message_bytes=len(self.offer.message), simulated=self.offer.simulated)
                await stream.send_message(self.offer.message)  # type: ignore[arg-type]  # _PreparedCodec sends bytes as they are
                await news.wait()
        finally:
            self.streams -= 1

    async def Allocate(self, stream: Stream[AllocateRequest, AllocateResponse]) -> None:  # noqa: N802 - the interface's name
        """Give the answer to each container that was given units, if they are units of this offer, each once."""
        request = await stream.recv_message()
        began = time.perf_counter()
        containers = request.container_requests if request else []
        self._check(containers)
        answers = [self.answer if container.devices_ids else ContainerAllocateResponse() for container in containers]
        await stream.send_message(AllocateResponse(container_responses=answers))
        self.allocations += sum(bool(container.devices_ids) for container in containers)
        log.info(
            "units.allocated",
            units=sum(len(container.devices_ids) for container in containers),
            device=",".join(dict.fromkeys(device.host_path for device in self.answer.devices)),
            milliseconds=round((time.perf_counter() - began) * 1000, 2),
            simulated=self.offer.simulated,
        )

    def _check(self, containers: Sequence[ContainerAllocateRequest]) -> None:
        names = named_units(containers, self.offer.units)
        if names is None:
            unknown = next(name for one in containers for name in one.devices_ids if not self._is_unit(name))
            self._refuse(f"{unknown[:63]!r} is not one of the {self.offer.units} units of {self.offer.resource} on this node")
        elif len(set(names)) != len(names):
            self._refuse(f"one of {len(names)} units of {self.offer.resource} is asked for twice")

    def _is_unit(self, name: str) -> bool:
        return named_units([ContainerAllocateRequest(devices_ids=[name])], self.offer.units) is not None

    def _refuse(self, reason: str) -> None:
        log.error("allocation.refused", what=reason, simulated=self.offer.simulated)
        raise GRPCError(Status.INVALID_ARGUMENT, reason)

    async def GetDevicePluginOptions(self, stream: Stream[Empty, DevicePluginOptions]) -> None:  # noqa: N802 - the interface's name
        """Say that neither of the two optional calls is wanted."""
        await stream.recv_message()
        await stream.send_message(DevicePluginOptions())

    async def GetPreferredAllocation(  # noqa: N802 - the interface's name
        self,
        stream: Stream[PreferredAllocationRequest, PreferredAllocationResponse],  # noqa: ARG002 - the interface's shape
    ) -> None:
        """Refuse: by its options the plugin has no preference among units."""
        raise GRPCError(Status.UNIMPLEMENTED, "this plugin has no preference among units, as its options say")

    async def PreStartContainer(  # noqa: N802 - the interface's name
        self,
        stream: Stream[PreStartContainerRequest, PreStartContainerResponse],  # noqa: ARG002 - the interface's shape
    ) -> None:
        """Refuse: by its options the plugin does nothing before a container starts."""
        raise GRPCError(Status.UNIMPLEMENTED, "this plugin does nothing before a container starts, as its options say")


class PluginServer:
    """The plugin on one socket, from start to stop."""

    def __init__(self, plugin: EpcPlugin) -> None:
        self._plugin = plugin
        self._server = Server([plugin], codec=_PreparedCodec())

    async def start(self, listener: socket.socket) -> None:
        """Serve the connections of a socket that already listens."""
        await self._server.start(sock=listener)

    async def stop(self) -> None:
        """End the streams, so that the kubelet knows at once, then stop serving; in bounded time."""
        self._plugin.end_streams()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                while self._plugin.streams:  # noqa: ASYNC110 - an event for the last moment of a process would be more, not less
                    await asyncio.sleep(0.01)
        self._server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await self._server.wait_closed()


class _PreparedCodec(ProtoCodec):
    """Protobuf, except that what is bytes already goes out as it is."""

    def encode(self, message: IProtoMessage | bytes, message_type: type[IProtoMessage]) -> bytes:
        return message if isinstance(message, bytes) else super().encode(message, message_type)
