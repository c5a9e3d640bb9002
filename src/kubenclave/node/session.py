"""Keep the plugin listening in the kubelet's folder and registered with its kubelet, whatever happens to either.

The two socket files are looked at five times a second rather than watched with inotify: a look is two system calls, it cannot miss
anything (a folder deleted and made anew, an overflowing queue, the moment between deciding and watching), needs no ctypes, and
one second is the time allowed.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from kubenclave.errors import KubenclaveError
from kubenclave.node.kubelet import KUBELET_SOCKET, identity, listen, register, release
from kubenclave.node.plugin import PluginServer
from kubenclave.node.problems import Problems
from kubenclave.node.registration import Situation, Standing, Step, attempted, listening, next_step, watched

if TYPE_CHECKING:
    from pathlib import Path

    from kubenclave.node.plugin import EpcPlugin
    from kubenclave.node.registration import FileIdentity

POLL_SECONDS = 0.2
STAND_BY_SECONDS = 1.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class KubeletSession:
    """One plugin's life with the kubelet of its node.

    Attributes:
        registrations: How often the kubelet has taken the plugin.
        kubelet_restarts: How often it was another kubelet than the time before.
    """

    def __init__(self, plugin: EpcPlugin, socket_path: Path) -> None:
        self._plugin = plugin
        self._socket_path = socket_path
        self._kubelet_dir = socket_path.parent
        self._server: PluginServer | None = None
        self._standing = Standing()
        self._known_kubelet: FileIdentity | None = None
        self.registrations = 0
        self.kubelet_restarts = 0
        self._listen_problems = Problems("plugin.not_listening")
        self._register_problems = Problems("plugin.not_registered")

    async def run(self) -> None:
        """Wait for something to offer, then stay registered until cancelled; then leave, taking the socket along."""
        await self._plugin.offered.wait()
        try:
            while True:
                await self._take_step()
        finally:
            await self._stop_listening()

    async def _take_step(self) -> None:
        if self._plugin.streams:
            self._standing = watched(self._standing)
        situation = self._look()
        match next_step(self._standing, situation):
            case Step.LISTEN:
                await self._listen()
            case Step.REGISTER:
                await self._register(situation)
            case Step.WAIT:
                await asyncio.sleep(POLL_SECONDS)

    def _look(self) -> Situation:
        return Situation(
            kubelet=identity(self._kubelet_dir / KUBELET_SOCKET),
            own=identity(self._socket_path),
            streams=self._plugin.streams,
            now_seconds=time.monotonic(),
        )

    async def _listen(self) -> None:
        await self._stop_listening()
        try:
            listener = listen(self._socket_path)
        except KubenclaveError as exc:
            self._listen_problems.report(exc)
            await asyncio.sleep(STAND_BY_SECONDS)
            return
        own = identity(self._socket_path)
        server = PluginServer(self._plugin)
        await server.start(listener)
        self._server = server
        if own is not None:  # None: deleted again already, which the next look shows
            self._standing = listening(self._standing, own)
            self._listen_problems.clear()
            log.info("plugin.listening", socket=str(self._socket_path))

    async def _stop_listening(self) -> None:
        """Leave in the order that a kubelet needs: its stream ends before another plugin may register for the resource."""
        server, self._server = self._server, None
        if self._standing.bound is not None:
            release(self._socket_path, self._standing.bound)
        if server is not None:
            await server.stop()
        self._standing = Standing(attempts=self._standing.attempts, retry_at_seconds=self._standing.retry_at_seconds)

    async def _register(self, situation: Situation) -> None:
        offer = self._plugin.offer
        try:
            await register(self._kubelet_dir, self._socket_path.name, offer.resource)
        except KubenclaveError as exc:
            self._register_problems.report(exc)
            accepted = False
        else:
            self._register_problems.clear()
            self._count(situation.kubelet)
            log.info("plugin.registered", resource=offer.resource, units=offer.units, simulated=offer.simulated)
            accepted = True
        self._standing = attempted(self._standing, situation.kubelet, time.monotonic(), accepted=accepted)

    def _count(self, kubelet: FileIdentity | None) -> None:
        self.registrations += 1
        if self._known_kubelet not in {None, kubelet}:
            self.kubelet_restarts += 1
        self._known_kubelet = kubelet
