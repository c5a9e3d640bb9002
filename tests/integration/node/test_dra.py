"""The DRA driver's calls as the kubelet makes them, over a socket, with a stand-in of the API server and folders of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio
from grpclib.client import Channel

from kubenclave.errors import HostUnfit, NotFound, Refused, Unreachable
from kubenclave.node._generated.dra_grpc import DRAPluginStub
from kubenclave.node._generated.dra_pb2 import Claim, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest
from kubenclave.node._generated.drahealth_grpc import DRAResourceHealthStub
from kubenclave.node._generated.drahealth_pb2 import HEALTHY, UNHEALTHY, NodeWatchResourcesRequest
from kubenclave.node._generated.pluginregistration_grpc import RegistrationStub
from kubenclave.node._generated.pluginregistration_pb2 import InfoRequest, RegistrationStatus
from kubenclave.node.dialect import DRIVER
from kubenclave.node.dra import files
from kubenclave.node.dra.cdi import CdiFolder
from kubenclave.node.dra.checkpoint import Checkpoint
from kubenclave.node.dra.driver import ClaimsDriver, Devices
from kubenclave.node.dra.health import DevicesHealth
from kubenclave.node.dra.registration import DriverSockets
from kubenclave.node.handout import Handout

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

UID, OTHER_UID = "0a1b2c3d-0000-4000-8000-000000000001", "0a1b2c3d-0000-4000-8000-000000000002"
ENCLAVE = Handout(
    devices=(("/dev/sgx_enclave", "/dev/sgx_enclave"), ("/dev/sgx_enclave", "/dev/sgx/enclave")),
    folders=("/var/run/aesmd",),
    variables=(("SGX_AESM_ADDR", "1"),),
)
PROVISION = Handout(devices=(("/dev/sgx_provision", "/dev/sgx_provision"),))


class StandInApi:
    """ResourceClaims by their names, or an error in their place."""

    def __init__(self):
        self.claims = {}

    def allocate(self, name, uid, *devices, share="s1"):
        results = [
            {
                "request": f"r{number}",
                "driver": DRIVER,
                "pool": "a",
                "device": device,
                "shareID": share,
                "consumedCapacity": {"epc": "10Mi"},
            }
            for number, device in enumerate(devices)
        ]
        self.claims[name] = {"metadata": {"uid": uid}, "status": {"allocation": {"devices": {"results": results}}}}

    async def get(self, path):
        found = self.claims.get(path.rpartition("/")[2])
        if found is None:
            raise NotFound("no such claim")
        if isinstance(found, Exception):
            raise found
        return found


class Node:
    def __init__(self, folder):
        self.registry, self.driver_dir, self.cdi = (folder / name for name in ("registry", "driver", "cdi"))
        for path in (self.registry, self.driver_dir, self.cdi):
            path.mkdir()
        self.api = StandInApi()
        self.health = DevicesHealth("a")
        self.start()

    def start(self, uid=""):
        """Start another driver on the same folders, as after a kill."""
        self.driver = ClaimsDriver(self.api, "a", Checkpoint(self.driver_dir), CdiFolder(self.cdi))
        self.driver.devices = Devices(handouts={"epc-numa0": ENCLAVE, "provision": PROVISION}, simulated=True)
        self.sockets = DriverSockets([self.driver, self.health], registry_dir=self.registry, driver_dir=self.driver_dir, pod_uid=uid)
        return self.sockets

    def files(self):
        return sorted(path.name for path in self.cdi.iterdir())

    def checkpoint(self):
        return json.loads((self.driver_dir / "checkpoint.json").read_text())

    @contextlib.asynccontextmanager
    async def dialled(self, path=None):
        channel = Channel(path=str(path or self.driver_dir / "dra.sock"))
        try:
            yield channel
        finally:
            channel.close()

    async def prepare(self, *claims):
        async with self.dialled() as channel:
            request = NodePrepareResourcesRequest(claims=[Claim(namespace="default", name=name, uid=uid) for name, uid in claims])
            return (await DRAPluginStub(channel).NodePrepareResources(request, timeout=10)).claims

    async def unprepare(self, *claims):
        async with self.dialled() as channel:
            request = NodeUnprepareResourcesRequest(claims=[Claim(namespace="default", name=name, uid=uid) for name, uid in claims])
            return (await DRAPluginStub(channel).NodeUnprepareResources(request, timeout=10)).claims


@pytest_asyncio.fixture
async def node():
    # Not tmp_path: a socket's path may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="dra-"))
    node = Node(folder)
    task = asyncio.create_task(node.sockets.run())
    await eventually((node.driver_dir / "dra.sock").exists)
    yield node
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    shutil.rmtree(folder)


async def eventually(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - files have no event to wait for
            await asyncio.sleep(0.01)


async def test_a_claim_gets_a_cdi_file_and_an_entry_and_the_kubelet_their_names(node):
    node.api.allocate("epc", UID, "epc-numa0")

    (device,) = (await node.prepare(("epc", UID)))[UID].devices

    assert (device.pool_name, device.device_name, device.share_id) == ("a", "epc-numa0", "s1")
    assert list(device.request_names) == ["r0"]
    assert list(device.cdi_device_ids) == [f"{DRIVER}/claim={UID}-epc-numa0"]
    spec = json.loads((node.cdi / f"{DRIVER}-claim-{UID}.json").read_text())
    assert (spec["cdiVersion"], spec["kind"]) == ("0.6.0", f"{DRIVER}/claim")
    (written,) = spec["devices"]
    assert written["name"] == f"{UID}-epc-numa0"
    edits = written["containerEdits"]
    assert [(edit["hostPath"], edit["path"], edit["permissions"]) for edit in edits["deviceNodes"]] == [
        ("/dev/sgx_enclave", "/dev/sgx_enclave", "rw"),
        ("/dev/sgx_enclave", "/dev/sgx/enclave", "rw"),
    ]
    assert edits["env"] == ["SGX_AESM_ADDR=1"]
    assert [(mount["hostPath"], "ro" in mount["options"]) for mount in edits["mounts"]] == [("/var/run/aesmd", True)]
    assert set(node.checkpoint()["claims"]) == {UID}


async def test_a_device_of_a_choice_is_told_under_the_request_that_containers_name(node):
    node.api.allocate("epc", UID, "epc-numa0")
    node.api.claims["epc"]["status"]["allocation"]["devices"]["results"][0]["request"] = "epc/small"

    (device,) = (await node.prepare(("epc", UID)))[UID].devices

    assert list(device.request_names) == ["epc"]


async def test_the_provisioning_device_is_apart_from_the_enclaves_in_the_same_claim(node):
    node.api.allocate("both", UID, "epc-numa0", "provision")

    devices = (await node.prepare(("both", UID)))[UID].devices

    assert [list(device.cdi_device_ids) for device in devices] == [
        [f"{DRIVER}/claim={UID}-epc-numa0"],
        [f"{DRIVER}/claim={UID}-provision"],
    ]
    spec = json.loads((node.cdi / f"{DRIVER}-claim-{UID}.json").read_text())
    paths = {device["name"]: [edit["path"] for edit in device["containerEdits"]["deviceNodes"]] for device in spec["devices"]}
    assert paths[f"{UID}-provision"] == ["/dev/sgx_provision"]
    assert "/dev/sgx_provision" not in paths[f"{UID}-epc-numa0"]


async def test_both_calls_may_come_any_number_of_times(node):
    node.api.allocate("epc", UID, "epc-numa0")

    first = await node.prepare(("epc", UID))
    assert await node.prepare(("epc", UID)) == first
    assert node.driver.prepared == 1
    for _ in range(2):
        assert (await node.unprepare(("epc", UID)))[UID].error == ""
    assert node.files() == []
    assert node.checkpoint()["claims"] == {}


async def test_a_lost_cdi_file_is_written_again_by_the_next_call(node):
    node.api.allocate("epc", UID, "epc-numa0")
    await node.prepare(("epc", UID))
    (file,) = node.cdi.iterdir()
    file.unlink()

    await node.prepare(("epc", UID))

    assert node.files() == [file.name]


async def test_a_claim_that_was_allocated_anew_is_prepared_as_it_is_now(node):
    node.api.allocate("epc", UID, "epc-numa0", share="s1")
    await node.prepare(("epc", UID))
    node.api.allocate("epc", UID, "epc-numa0", share="s2")

    (device,) = (await node.prepare(("epc", UID)))[UID].devices

    assert device.share_id == "s2"
    assert node.checkpoint()["claims"][UID]["devices"][0]["share_id"] == "s2"


async def test_one_claim_that_cannot_be_prepared_says_why_and_hinders_no_other(node):
    node.api.allocate("good", UID, "epc-numa0")
    node.api.claims["bad"] = Unreachable("the API server is away", "it is tried again")

    answers = await node.prepare(("bad", OTHER_UID), ("good", UID))

    assert answers[OTHER_UID].error == "the API server is away; it is tried again"
    assert answers[UID].error == ""
    assert node.files() == [f"{DRIVER}-claim-{UID}.json"]


async def test_nothing_is_prepared_while_the_host_shows_no_device(node):
    node.api.allocate("epc", UID, "epc-numa0")
    node.driver.devices = Devices(handouts={}, simulated=True)

    assert "which node a does not have" in (await node.prepare(("epc", UID)))[UID].error
    assert node.files() == []


async def test_a_uid_that_names_another_file_is_refused_by_both_calls(node):
    (node.driver_dir / "victim.json").write_text("{}")

    assert "names no ResourceClaim" in (await node.prepare(("x", "../driver/victim")))["../driver/victim"].error
    assert "names no ResourceClaim" in (await node.unprepare(("x", "../driver/victim")))["../driver/victim"].error
    assert (node.driver_dir / "victim.json").exists()


@pytest.mark.parametrize("full", ["cdi", "driver"])
async def test_a_full_disk_is_told_in_words_and_nothing_is_half_done(node, monkeypatch, full):
    node.api.allocate("kept", OTHER_UID, "epc-numa0")
    await node.prepare(("kept", OTHER_UID))
    before = node.checkpoint()
    node.api.allocate("epc", UID, "epc-numa0")
    real = os.fsync

    def fsync(descriptor):
        if full in Path(f"/proc/self/fd/{descriptor}").readlink().parent.name:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    error = (await node.prepare(("epc", UID)))[UID].error
    monkeypatch.undo()

    assert "cannot be written: No space left on device" in error
    assert "disk is full" in error
    assert node.files() == [f"{DRIVER}-claim-{OTHER_UID}.json"]
    assert node.checkpoint() == before
    assert sorted(path.name for path in node.driver_dir.iterdir() if path.name.startswith(".")) == []
    assert (await node.prepare(("epc", UID)))[UID].error == ""


async def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_whole(path, b"old")
    monkeypatch.setattr(files.os, "fsync", lambda _descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(HostUnfit, match="No space left"):
        files.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-3],
        lambda _text: b"",
        lambda _text: b"{}",
        lambda text: text.replace(b'"share_id":"s1"', b'"share_id":"s9"'),
        lambda text: text.replace(b'"version":1', b'"version":2'),
        lambda _text: b"\xff" * 100,
    ],
    ids=["cut short", "empty", "another document", "changed", "another version", "garbage"],
)
async def test_a_damaged_checkpoint_is_refused_with_a_hint_and_never_replaced(node, damage):
    node.api.allocate("epc", UID, "epc-numa0")
    await node.prepare(("epc", UID))
    path = node.driver_dir / "checkpoint.json"
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)

    with pytest.raises(Refused, match=r"checkpoint\.json") as caught:
        node.driver.check_files()
    assert "drain the node" in caught.value.hint
    assert "checkpoint.json" in (await node.prepare(("epc", UID)))[UID].error
    assert "checkpoint.json" in (await node.unprepare(("epc", UID)))[UID].error
    assert path.read_bytes() == damaged


async def test_a_sweep_forgets_claims_that_are_gone_and_removes_files_of_nobody(node):
    node.api.allocate("stays", UID, "epc-numa0")
    node.api.allocate("goes", OTHER_UID, "epc-numa0")
    await node.prepare(("stays", UID), ("goes", OTHER_UID))
    del node.api.claims["goes"]
    for name in (f"{DRIVER}-claim-stale.json", f".{DRIVER}-claim-half.json.1", "another-vendor.json"):
        (node.cdi / name).write_text("{}")

    node.start()
    await node.driver.sweep()

    assert node.files() == ["another-vendor.json", f"{DRIVER}-claim-{UID}.json"]
    assert set(node.checkpoint()["claims"]) == {UID}


async def test_a_sweep_while_the_api_server_is_away_forgets_nothing(node):
    node.api.allocate("epc", UID, "epc-numa0")
    await node.prepare(("epc", UID))
    node.api.claims["epc"] = Unreachable("away")

    await node.driver.sweep()

    assert set(node.checkpoint()["claims"]) == {UID}
    assert len(node.files()) == 1


async def test_the_kubelet_is_told_who_the_driver_is_and_its_answer_is_heard(node):
    async with node.dialled(node.registry / f"{DRIVER}-reg.sock") as channel:
        info = await RegistrationStub(channel).GetInfo(InfoRequest(), timeout=5)
        assert (info.type, info.name, info.endpoint) == ("DRAPlugin", DRIVER, str(node.driver_dir / "dra.sock"))
        assert list(info.supported_versions) == ["v1.DRAPlugin", "v1.DRAResourceHealth"]
        await RegistrationStub(channel).NotifyRegistrationStatus(RegistrationStatus(plugin_registered=True), timeout=5)
        assert node.sockets.registrar.registered
        await RegistrationStub(channel).NotifyRegistrationStatus(RegistrationStatus(error="no"), timeout=5)
        assert not node.sockets.registrar.registered


async def test_sockets_that_were_wiped_are_made_anew(node):
    paths = [node.driver_dir / "dra.sock", node.registry / f"{DRIVER}-reg.sock"]
    for path in paths:
        path.unlink()

    await eventually(lambda: all(path.exists() for path in paths))
    node.api.allocate("epc", UID, "epc-numa0")
    assert (await node.prepare(("epc", UID)))[UID].error == ""


async def test_the_next_agent_serves_beside_the_one_before_it_and_removes_the_sockets_of_the_dead(node):
    dead = node.registry / f"{DRIVER}-dead-reg.sock"
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(dead))
    following = asyncio.create_task(node.start("next").run())

    await eventually((node.registry / f"{DRIVER}-next-reg.sock").exists)

    assert not dead.exists()
    assert (node.registry / f"{DRIVER}-reg.sock").exists()
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    assert not (node.registry / f"{DRIVER}-next-reg.sock").exists()
    assert (node.driver_dir / "dra.sock").exists()


async def test_a_missing_folder_is_named(node):
    with pytest.raises(NotFound, match="nowhere"):
        DriverSockets([], registry_dir=node.registry / "nowhere", driver_dir=node.driver_dir, pod_uid="")


async def test_the_health_of_each_device_is_told_and_told_again_when_it_changes(node):
    node.health.set_healthy(["epc-numa0", "epc-numa1"])
    async with node.dialled() as channel, DRAResourceHealthStub(channel).NodeWatchResources.open() as stream:
        await stream.send_message(NodeWatchResourcesRequest(), end=True)
        first = await stream.recv_message()
        node.health.set_healthy(["epc-numa0"])
        second = await stream.recv_message()
        node.health.set_sick("the device is gone")
        third = await stream.recv_message()
        await stream.cancel()

    def told(answer):
        return {one.device.device_name: (one.health, one.message) for one in answer.devices}

    assert told(first) == {"epc-numa0": (HEALTHY, ""), "epc-numa1": (HEALTHY, "")}
    assert told(second) == {"epc-numa0": (HEALTHY, ""), "epc-numa1": (UNHEALTHY, "the host no longer shows it")}
    assert {health for health, _ in told(third).values()} == {UNHEALTHY}
    assert {one.device.pool_name for one in third.devices} == {"a"}
