"""What the agent keeps at the API server, against a stand-in of it that others write to as well."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from kubenclave.errors import NotFound, Refused, Unreachable
from kubenclave.node import keeper
from kubenclave.node.dialect import DRIVER
from kubenclave.node.dra.publisher import SlicePublisher
from kubenclave.node.dra.slices import SLICES
from kubenclave.node.extended_resource import StatusKeeper
from kubenclave.node.node_status import MARK

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

EPC = "sgx.intel.com/epc"
DEVICE = {"name": "epc-numa0", "allowMultipleAllocations": True, "capacity": {"epc": {"value": "1048576"}}}


class StandInApi:
    """One Node and the ResourceSlices; every change ends the watches, as it would be seen by them."""

    def __init__(self):
        self.node = {
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "1", "annotations": {}},
            "status": {"capacity": {}, "allocatable": {}},
        }
        self.slices = {}
        self.version = 1
        self.away = False
        self.denies = False
        self.drops = ()
        self.knows_slices = True
        self.gets = 0
        self.writes = 0
        self._changed = asyncio.Event()

    def change(self):
        self.version += 1
        self.node["metadata"]["resourceVersion"] = str(self.version)
        self._changed.set()
        self._changed = asyncio.Event()

    def say(self, amount):
        """Write another number into the Node's status, as a kubelet without a checkpoint does."""
        self.node["status"]["capacity"][EPC] = self.node["status"]["allocatable"][EPC] = amount
        self.change()

    def delete_slices(self):
        self.slices.clear()
        self.change()

    def answer(self):
        if self.away:
            raise Unreachable("the API server is away")
        if self.denies:
            raise Refused("not allowed to get the Node", "ask the cluster's administrator for this right")

    async def get(self, path, selector=None):
        self.answer()
        self.gets += 1
        if path == SLICES:
            if not self.knows_slices:
                raise NotFound("no such resource")
            assert selector == {"spec.driver": DRIVER, "spec.nodeName": "a"}
            return {"metadata": {"resourceVersion": str(self.version)}, "items": list(self.slices.values())}
        return self.node

    async def merge(self, path, patch):
        self.answer()
        assert path == "api/v1/nodes/a/status"
        self.writes += 1
        self.node["metadata"]["annotations"] |= patch["metadata"]["annotations"]
        for kind, amounts in patch["status"].items():
            self.node["status"][kind] |= amounts
        self.change()
        return self.node

    async def create(self, _path, document):
        self.answer()
        self.writes += 1
        devices = [{key: value for key, value in device.items() if key not in self.drops} for device in document["spec"]["devices"]]
        kept = document | {"spec": document["spec"] | {"devices": devices}}
        self.slices[document["metadata"]["name"]] = kept
        self.change()
        return kept

    async def replace(self, path, document):
        return await self.create(path, document)

    async def delete(self, path):
        self.answer()
        if self.slices.pop(path.rpartition("/")[2], None) is None:
            raise NotFound("gone")
        self.change()

    async def watch(self, _path, _selector, version):
        while version == str(self.version):
            await self._changed.wait()
            self.answer()
        yield "MODIFIED", {}


class Seen:
    def __init__(self):
        self.settled = 0
        self.refusals = []

    def on_settled(self):
        self.settled += 1


@pytest.fixture
def seen():
    return Seen()


@pytest_asyncio.fixture
async def running(monkeypatch):
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 0.02)
    tasks = []

    def start(kept):
        tasks.append(asyncio.create_task(kept.run()))
        return kept

    yield start
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def eventually(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a stand-in has no event to wait for
            await asyncio.sleep(0.005)


def status_keeper(api, seen):
    return StatusKeeper(api, "a", EPC, on_settled=seen.on_settled, on_refused=seen.refusals.append)


def publisher(api, seen):
    return SlicePublisher(api, "a", on_settled=seen.on_settled, on_refused=seen.refusals.append)


async def test_the_bytes_are_written_once_and_then_only_watched(running, seen):
    api = StandInApi()
    kept = running(status_keeper(api, seen))
    kept.want(4096)
    await eventually(lambda: kept.settled)

    before = api.gets
    await asyncio.sleep(0.2)

    assert api.node["status"]["allocatable"] == {EPC: "4096"}
    assert api.node["metadata"]["annotations"] == {MARK: "4096"}
    assert (api.writes, api.gets - before, seen.settled) == (1, 0, 1)


async def test_bytes_that_somebody_set_to_0_are_back_at_once(running, seen):
    api = StandInApi()
    kept = running(status_keeper(api, seen))
    kept.want(4096)
    await eventually(lambda: kept.settled)

    for _ in range(3):
        api.say("0")
        await eventually(lambda: api.node["status"]["capacity"][EPC] == "4096")


async def test_another_inventory_is_written_without_waiting_for_a_change_of_the_node(running, seen):
    api = StandInApi()
    kept = running(status_keeper(api, seen))
    kept.want(4096)
    await eventually(lambda: kept.settled)

    kept.want(8192)
    await eventually(lambda: api.node["status"]["allocatable"][EPC] == "8192")
    kept.want(0)
    await eventually(lambda: api.node["status"]["allocatable"][EPC] == "0")


async def test_an_api_server_that_was_away_finds_the_bytes_written_and_nobody_was_told_of_a_refusal(running, seen):
    api = StandInApi()
    api.away = True
    kept = running(status_keeper(api, seen))
    kept.want(4096)
    await asyncio.sleep(0.1)
    assert not kept.settled

    api.away = False
    await eventually(lambda: kept.settled)
    assert api.node["status"]["allocatable"][EPC] == "4096"
    assert seen.refusals == []


@pytest.mark.parametrize(
    ("kind", "wishes"),
    [(status_keeper, (4096, 8192)), (publisher, ([DEVICE], [DEVICE | {"name": "epc-other"}]))],
    ids=["status", "slice"],
)
async def test_two_agents_with_different_settings_write_less_and_less_often_and_say_so(running, seen, kind, wishes):
    api = StandInApi()
    with capture_logs() as logs:
        for wish in wishes:
            running(kind(api, seen)).want(wish)
        await asyncio.sleep(1.2)

    # Each waits 0.02, 0.04 and so on, 0.64 s at the end: some 7 corrections, and what it wrote first.
    assert 4 <= api.writes <= 20
    assert [entry["event"] for entry in logs if "event" in entry and entry["event"] == "correction.undone"] == ["correction.undone"] * 2
    assert seen.refusals == []


async def test_a_slice_is_taken_away_while_somebody_else_offers_the_nodes_epc(running, seen):
    api = StandInApi()
    kept = running(publisher(api, seen))
    kept.want([DEVICE])
    await eventually(lambda: api.slices)

    api.node["status"]["allocatable"]["openenclave.io/sgx_epc_MiB"] = "40"
    kept.wake()
    await eventually(lambda: not api.slices)
    assert "openenclave.io" in seen.refusals[0].what

    api.node["status"]["allocatable"]["openenclave.io/sgx_epc_MiB"] = "0"
    await eventually(lambda: api.slices)


async def test_a_slice_that_is_deleted_again_and_again_is_there_again_at_once_each_time(running, seen, monkeypatch):
    """As by a kubelet that starts again and again."""
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 60.0)
    api = StandInApi()
    kept = running(publisher(api, seen))
    kept.want([DEVICE])
    await eventually(lambda: api.slices)

    for _ in range(5):
        api.slices.clear()
        api.change()
        await eventually(lambda: api.slices)


async def test_a_server_that_says_no_for_a_moment_takes_nothing_back(running, seen):
    api = StandInApi()
    kept = running(status_keeper(api, seen))
    kept.want(4096)
    await eventually(lambda: kept.settled)

    api.denies = True
    api.change()
    await eventually(lambda: not kept.settled)
    api.denies = False
    await eventually(lambda: kept.settled)

    assert seen.refusals == []


async def test_a_server_that_says_no_from_the_start_is_told_of(running, seen):
    api = StandInApi()
    api.denies = True
    running(status_keeper(api, seen)).want(4096)

    await eventually(lambda: seen.refusals)
    assert "not allowed" in seen.refusals[0].what


async def test_a_rival_that_comes_later_is_told_of_though_the_bytes_were_settled(running, seen):
    api = StandInApi()
    kept = running(status_keeper(api, seen))
    kept.want(4096)
    await eventually(lambda: kept.settled)

    api.node["status"]["allocatable"]["openenclave.io/sgx_epc_MiB"] = "40"
    api.change()

    await eventually(lambda: seen.refusals)
    assert "openenclave.io" in seen.refusals[0].what


async def test_a_rival_is_told_once_and_not_written_over_until_it_is_gone(running, seen):
    api = StandInApi()
    api.node["metadata"]["managedFields"] = [{"manager": "nfd-master", "fieldsV1": {"f:status": {"f:capacity": {f"f:{EPC}": {}}}}}]
    kept = running(status_keeper(api, seen))
    kept.want(4096)
    await eventually(lambda: seen.refusals)
    await asyncio.sleep(0.2)

    (refusal,) = seen.refusals
    assert isinstance(refusal, Refused)
    assert api.writes == 0
    del api.node["metadata"]["managedFields"]
    await eventually(lambda: kept.settled)
    assert api.node["status"]["allocatable"][EPC] == "4096"


async def test_a_slice_is_published_put_back_when_deleted_and_taken_away_with_the_last_device(running, seen):
    api = StandInApi()
    kept = running(publisher(api, seen))
    kept.want([DEVICE])
    await eventually(lambda: kept.settled)
    assert list(api.slices) == [f"a-{DRIVER}"]

    api.delete_slices()
    await eventually(lambda: api.slices)
    kept.want(())
    await eventually(lambda: not api.slices)


async def test_a_cluster_that_drops_fields_is_told_and_not_written_to_every_second(running, seen):
    api = StandInApi()
    api.drops = ("allowMultipleAllocations",)
    kept = running(publisher(api, seen))
    kept.want([DEVICE])
    await eventually(lambda: seen.refusals)
    await asyncio.sleep(0.3)

    assert "claims cannot share EPC" in seen.refusals[0].what
    assert len(seen.refusals) == 1
    # 0.04, 0.08, 0.16 s and so on instead of every 0.02 s.
    assert api.writes <= 5
    assert not kept.settled


async def test_a_cluster_without_dynamic_resource_allocation_is_named(running, seen):
    api = StandInApi()
    api.knows_slices = False
    running(publisher(api, seen)).want([DEVICE])
    await eventually(lambda: seen.refusals)

    assert "1.36" in seen.refusals[0].hint


async def test_claims_are_not_offered_on_a_node_whose_epc_is_offered_by_name(running, seen):
    api = StandInApi()
    api.node["status"]["allocatable"]["openenclave.io/sgx_epc_MiB"] = "40"
    running(publisher(api, seen)).want([DEVICE])
    await eventually(lambda: seen.refusals)

    assert api.slices == {}
