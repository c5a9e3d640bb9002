"""A host made of files, and a kubelet's side of the device plugin API: what the agent meets on a node, in a temporary folder."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Server

from kubenclave.node._generated.deviceplugin_grpc import DevicePluginStub, RegistrationBase
from kubenclave.node._generated.deviceplugin_pb2 import AllocateRequest, ContainerAllocateRequest, Empty
from kubenclave.node.agent import run
from kubenclave.node.choice import choose
from kubenclave.node.settings import Settings

PATIENCE_SECONDS = 20.0


class HostOfFiles:
    """What a host shows, under a root of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "dev").mkdir(parents=True)
        self.device = root / "dev/sgx_enclave"
        self.add_device()

    def add_device(self) -> None:
        self.device.symlink_to("/dev/null")

    def set_epc(self, *epc_bytes: int) -> None:
        for node, size in enumerate(epc_bytes):
            self.write_epc(node, b"%d\n" % size)

    def write_epc(self, node: int, content: bytes) -> None:
        path = self.root / f"sys/devices/system/node/node{node}/x86/sgx_total_bytes"
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(path)


class StandInKubelet(RegistrationBase):
    """The kubelet's side as its device manager plays it: dial back inside Register, then watch the list."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registrations = []
        self.units: dict[str, list[int]] = {}
        self.lists = 0
        self.watching = False
        self.refuse = ""
        self.drop_next_watch = False
        self._changed = asyncio.Condition()
        self._channel: Channel | None = None
        self._watch: asyncio.Task[None] | None = None
        self._server: Server | None = None

    async def start(self) -> None:
        """Start as a kubelet does: every socket in the folder is deleted, then kubelet.sock is made."""
        for path in self.folder.iterdir():
            if path.is_socket():
                path.unlink()
        self._server = Server([self])
        await self._server.start(path=str(self.folder / "kubelet.sock"))

    async def stop(self) -> None:
        """Stop as a killed kubelet does: its socket file stays behind, its connections break."""
        if self._watch:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._channel:
            self._channel.close()
        if self._server:
            self._server.close()
            await self._server.wait_closed()
        self._watch = self._channel = self._server = None

    async def Register(self, stream) -> None:  # noqa: N802 - the interface's name
        request = await stream.recv_message()
        if self.refuse:
            raise GRPCError(Status.UNKNOWN, self.refuse)
        channel = Channel(path=str(self.folder / request.endpoint))
        await DevicePluginStub(channel).GetDevicePluginOptions(Empty(), timeout=10)
        await stream.send_message(Empty())
        if self._watch:
            self._watch.cancel()
        if self._channel:
            self._channel.close()
        self._channel = channel
        self.registrations.append(request)
        self._watch = asyncio.get_running_loop().create_task(self._list_and_watch(channel))

    async def _list_and_watch(self, channel: Channel) -> None:
        try:
            with contextlib.suppress(StreamTerminatedError, GRPCError):
                async with DevicePluginStub(channel).ListAndWatch.open() as stream:
                    await stream.send_message(Empty(), end=True)
                    if self.drop_next_watch:
                        self.drop_next_watch = False
                        await stream.cancel()
                        return
                    async for message in stream:
                        units = {device.ID: [node.ID for node in device.topology.nodes] for device in message.devices}
                        await self._note(units=units, watching=True, lists=self.lists + 1)
        finally:
            await self._note(watching=False)

    async def _note(self, **changes) -> None:
        async with self._changed:
            for name, value in changes.items():
                setattr(self, name, value)
            self._changed.notify_all()

    async def until(self, condition) -> None:
        """Wait until the condition holds of this kubelet's state."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    async def allocate(self, *containers):
        """Ask for units, one list a container."""
        request = AllocateRequest(container_requests=[ContainerAllocateRequest(devices_ids=ids) for ids in containers])
        return await DevicePluginStub(self._channel).Allocate(request, timeout=10)

    @property
    def plugin(self) -> DevicePluginStub:
        return DevicePluginStub(self._channel)


@pytest.fixture
def folder():
    # Not tmp_path: a socket's path may have 107 bytes.
    path = Path(tempfile.mkdtemp(prefix="kubelet-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def host(tmp_path):
    return HostOfFiles(tmp_path / "host")


@pytest_asyncio.fixture
async def kubelet(folder):
    kubelet = StandInKubelet(folder)
    await kubelet.start()
    yield kubelet
    await kubelet.stop()


@pytest.fixture
def settings(host, folder):
    return Settings(choice=choose(None, "openenclave"), host_root=host.root, kubelet_dir=folder, scan_seconds=0.05)


@pytest_asyncio.fixture
async def start_agent(settings):
    tasks = []

    def start():
        task = asyncio.get_running_loop().create_task(run(settings))
        tasks.append(task)
        return task

    yield start
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
