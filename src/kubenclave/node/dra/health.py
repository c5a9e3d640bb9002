"""Tell the kubelet which devices work: it shows this in the status of the pods that hold them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from kubenclave.node._generated.drahealth_grpc import DRAResourceHealthBase
from kubenclave.node._generated.drahealth_pb2 import (
    HEALTHY,
    UNHEALTHY,
    DeviceHealth,
    DeviceIdentifier,
    NodeWatchResourcesRequest,
    NodeWatchResourcesResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from grpclib.server import Stream

# After this time without an answer the kubelet takes a device's health for unknown; told again three times as often.
_TIMEOUT_SECONDS = 30
_REPEAT_SECONDS = 10.0


class DevicesHealth(DRAResourceHealthBase):
    """The health service: all devices seen so far, sick while the host does not show them."""

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._sick: dict[str, str] = {}
        self._news = asyncio.Event()

    def set_healthy(self, devices: Iterable[str]) -> None:
        """Tell that these devices work from now on; those seen before and not named do not."""
        present = set(devices)
        self._sick = {name: "" if name in present else "the host no longer shows it" for name in {*self._sick, *present}}
        self._wake()

    def set_sick(self, why: str) -> None:
        """Tell that no device works from now on."""
        self._sick = dict.fromkeys(self._sick, why)
        self._wake()

    async def NodeWatchResources(  # noqa: N802 - the interface's name
        self, stream: Stream[NodeWatchResourcesRequest, NodeWatchResourcesResponse]
    ) -> None:
        """Send the health of all devices, again at each change, and again before it is taken for unknown."""
        await stream.recv_message()
        while True:
            news = self._news
            await stream.send_message(self._answer())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REPEAT_SECONDS):
                    await news.wait()

    def _answer(self) -> NodeWatchResourcesResponse:
        now = int(time.time())
        return NodeWatchResourcesResponse(
            devices=[
                DeviceHealth(
                    device=DeviceIdentifier(pool_name=self._node_name, device_name=name),
                    health=UNHEALTHY if why else HEALTHY,
                    last_updated_time=now,
                    health_check_timeout_seconds=_TIMEOUT_SECONDS,
                    message=why,
                )
                for name, why in sorted(self._sick.items())
            ]
        )

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
