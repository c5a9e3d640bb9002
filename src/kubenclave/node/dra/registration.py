"""Stay in the kubelet's folders: a socket by which it finds the driver, and the one on which it calls it.

The kubelet watches its folder ``plugins_registry``; it asks a socket that appears there who it is, and forgets the plugin when the file
goes. Both files are looked at five times a second, as the device plugin's are, and made anew where they are gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog
from grpclib.server import Server

from kubenclave.errors import KubenclaveError, Refused
from kubenclave.node._generated.pluginregistration_grpc import RegistrationBase
from kubenclave.node._generated.pluginregistration_pb2 import PluginInfo, RegistrationStatusResponse
from kubenclave.node.dialect import DRIVER
from kubenclave.node.kubelet import check_folder, identity, listen, release, remove_stale
from kubenclave.node.problems import Problems

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from grpclib._typing import IServable
    from grpclib.server import Stream

    from kubenclave.node._generated.pluginregistration_pb2 import InfoRequest, RegistrationStatus
    from kubenclave.node.registration import FileIdentity

# Which of the kubelet's interfaces the driver serves; a kubelet that does not know one leaves it out (the second: since 1.37).
INTERFACES = ("v1.DRAPlugin", "v1.DRAResourceHealth")

_POLL_SECONDS = 0.2
_STOP_SECONDS = 1.0

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Registrar(RegistrationBase):
    """Answers the kubelet's question who the plugin is.

    Attributes:
        registered: The kubelet has said that it took the plugin.
        registrations: How often it did.
    """

    def __init__(self, endpoint: Path) -> None:
        self.registered = False
        self.registrations = 0
        self._endpoint = endpoint
        self._problems = Problems("driver.not_registered")

    async def GetInfo(self, stream: Stream[InfoRequest, PluginInfo]) -> None:  # noqa: N802 - the interface's name
        """Say who the plugin is and where it is served."""
        await stream.recv_message()
        info = PluginInfo(type="DRAPlugin", name=DRIVER, endpoint=str(self._endpoint), supported_versions=INTERFACES)
        await stream.send_message(info)

    async def NotifyRegistrationStatus(  # noqa: N802 - the interface's name
        self, stream: Stream[RegistrationStatus, RegistrationStatusResponse]
    ) -> None:
        """Hear whether the kubelet took it."""
        status = await stream.recv_message()
        await stream.send_message(RegistrationStatusResponse())
        self.registered = status is not None and status.plugin_registered
        if self.registered:
            self.registrations += 1
            self._problems.clear()
            log.info("driver.registered", driver=DRIVER, endpoint=str(self._endpoint))
        elif status is not None:
            self._problems.report(Refused(f"the kubelet refused the driver {DRIVER}: {status.error}", "see the kubelet's own log for more"))


class DriverSockets:
    """Serves the driver and its registration on one socket each.

    Raises:
        NotFound: One of the folders is not there.
        UsageError: A socket's path would be too long.
    """

    def __init__(self, services: Sequence[IServable], *, registry_dir: Path, driver_dir: Path, pod_uid: str) -> None:
        instance = f"-{pod_uid}" if pod_uid else ""
        self._driver_path = driver_dir / f"dra{instance}.sock"
        self._registry_path = registry_dir / f"{DRIVER}{instance}-reg.sock"
        check_folder(self._driver_path, "DRA drivers", "--driver-dir")
        check_folder(self._registry_path, "DRA drivers", "--registry-dir")
        self.registrar = Registrar(self._driver_path)
        self._served = ((self._driver_path, list(services)), (self._registry_path, [self.registrar]))
        self._open: list[tuple[Path, FileIdentity, Server]] = []
        self._problems = Problems("driver.not_listening")

    async def run(self) -> None:
        """Serve until cancelled; then leave, the registration's socket first, so that the kubelet calls no longer."""
        try:
            remove_stale(self._registry_path.parent, f"{DRIVER}*-reg.sock")
            remove_stale(self._driver_path.parent, "dra*.sock")
            while True:
                if len(self._open) < len(self._served) or any(identity(path) != own for path, own, _ in self._open):
                    await self._listen()
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            await self._close()

    async def _listen(self) -> None:
        await self._close()
        try:
            for path, services in self._served:
                listener = listen(path)
                own = identity(path)
                server = Server(services)
                await server.start(sock=listener)
                if own is not None:  # None: deleted again already, which the next look shows
                    self._open.append((path, own, server))
        except KubenclaveError as exc:
            self._problems.report(exc)
        else:
            self._problems.clear()
            log.info("driver.listening", socket=str(self._registry_path), endpoint=str(self._driver_path))

    async def _close(self) -> None:
        self.registrar.registered = False
        while self._open:
            path, own, server = self._open.pop()
            release(path, own)
            server.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await server.wait_closed()
