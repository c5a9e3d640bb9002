from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from structlog.testing import capture_logs

from kubenclave.errors import NotFound, UsageError
from kubenclave.node._generated.deviceplugin_pb2 import DevicePluginOptions, Empty, PreferredAllocationRequest, PreStartContainerRequest
from kubenclave.node.agent import run
from kubenclave.node.choice import choose
from kubenclave.node.dialect import MIB
from kubenclave.node.offer import unit_id
from kubenclave.node.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def eventually(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - files and logs have no event to wait for
            await asyncio.sleep(0.01)


async def test_the_kubelet_gets_the_epc_as_units_of_the_dialect(host, kubelet, start_agent):
    host.set_epc(40 * MIB)

    start_agent()
    await kubelet.until(lambda seen: len(seen.units) == 40)

    (registration,) = kubelet.registrations
    assert registration.version == "v1beta1"
    assert registration.resource_name == "openenclave.io/sgx_epc_MiB"
    assert registration.endpoint == "kubenclave-openenclave.sock"
    assert kubelet.units == {unit_id(unit): [] for unit in range(40)}


async def test_units_of_several_numa_nodes_say_where_they_lie(host, kubelet, start_agent):
    host.set_epc(MIB, 2 * MIB)

    start_agent()
    await kubelet.until(lambda seen: seen.units)

    assert kubelet.units == {"0": [0], "1": [1], "2": [1]}


async def test_each_container_that_was_given_units_gets_the_enclave_device_and_no_other(host, kubelet, start_agent):
    host.set_epc(40 * MIB)
    start_agent()
    await kubelet.until(lambda seen: seen.units)

    answer = await kubelet.allocate(["0", "a"], [], ["1"])

    devices = [[(d.host_path, d.container_path, d.permissions) for d in one.devices] for one in answer.container_responses]
    enclave = ("/dev/sgx_enclave", "/dev/sgx_enclave", "rw")
    assert devices == [[enclave], [], [enclave]]
    assert all(not (one.mounts or one.envs or one.annotations or one.cdi_devices) for one in answer.container_responses)


@pytest.mark.parametrize(
    ("containers", "reason"),
    [
        ([[unit_id(40)]], "is not one of the 40 units"),
        ([["0"], ["unit-1"]], "'unit-1' is not one of the 40 units"),
        ([[""]], "'' is not one of the 40 units"),
        ([["1", "1"]], "asked for twice"),
        ([["1"], ["1"]], "asked for twice"),
    ],
)
async def test_units_that_are_not_offered_or_asked_for_twice_are_refused(host, kubelet, start_agent, containers, reason):
    host.set_epc(40 * MIB)
    start_agent()
    await kubelet.until(lambda seen: seen.units)

    with pytest.raises(GRPCError) as caught:
        await kubelet.allocate(*containers)

    assert caught.value.status is Status.INVALID_ARGUMENT
    assert reason in caught.value.message


async def test_a_pod_may_take_thirty_two_thousand_units_at_once(host, kubelet, start_agent):
    host.set_epc(64 * 1024 * MIB)
    start_agent()
    await kubelet.until(lambda seen: seen.units)

    answer = await kubelet.allocate([unit_id(unit) for unit in range(32_768)])

    assert len(answer.container_responses[0].devices) == 1


async def test_the_optional_calls_are_declared_unwanted_and_refused(host, kubelet, start_agent):
    host.set_epc(40 * MIB)
    start_agent()
    await kubelet.until(lambda seen: seen.units)

    assert await kubelet.plugin.GetDevicePluginOptions(Empty()) == DevicePluginOptions()
    for call, request in [
        (kubelet.plugin.GetPreferredAllocation, PreferredAllocationRequest()),
        (kubelet.plugin.PreStartContainer, PreStartContainerRequest()),
    ]:
        with pytest.raises(GRPCError) as caught:
            await call(request)
        assert caught.value.status is Status.UNIMPLEMENTED


async def test_a_restarted_kubelet_that_wiped_the_folder_gets_the_units_again(host, kubelet, start_agent):
    host.set_epc(40 * MIB)
    start_agent()
    await kubelet.until(lambda seen: seen.units)

    for restart in range(1, 4):
        await kubelet.stop()
        kubelet.units = {}
        await kubelet.start()
        await kubelet.until(lambda seen: len(seen.units) == 40)
        assert len(kubelet.registrations) == restart + 1


async def test_the_folder_made_anew_under_the_agent_is_used_again(host, folder, kubelet, start_agent):
    host.set_epc(40 * MIB)
    start_agent()
    await kubelet.until(lambda seen: seen.units)

    await kubelet.stop()
    shutil.rmtree(folder)
    folder.mkdir()
    kubelet.units = {}
    await kubelet.start()

    await kubelet.until(lambda seen: len(seen.units) == 40)


async def test_a_lost_stream_is_registered_anew_without_a_kubelet_restart(host, kubelet, start_agent):
    host.set_epc(40 * MIB)
    kubelet.drop_next_watch = True

    start_agent()
    await kubelet.until(lambda seen: seen.units)

    assert len(kubelet.registrations) == 2


async def test_a_refusing_kubelet_is_tried_again_and_its_reason_logged_once(host, kubelet, start_agent):
    host.set_epc(40 * MIB)
    kubelet.refuse = "the resource name is not to my liking"

    with capture_logs() as logs:
        start_agent()
        await eventually(lambda: any(entry["event"] == "plugin.not_registered" for entry in logs))
        await asyncio.sleep(0.7)  # the second and third attempt
        kubelet.refuse = ""
        await kubelet.until(lambda seen: len(seen.units) == 40)

    refusals = [entry["what"] for entry in logs if entry["event"] == "plugin.not_registered"]
    assert len(refusals) == 1
    assert "not to my liking" in refusals[0]


async def test_an_agent_that_is_there_before_the_kubelet_waits_for_it(host, folder, kubelet, start_agent):
    host.set_epc(40 * MIB)
    await kubelet.stop()
    (folder / "kubelet.sock").unlink()

    start_agent()
    await eventually((folder / "kubenclave-openenclave.sock").exists)
    await kubelet.start()

    await kubelet.until(lambda seen: len(seen.units) == 40)


async def test_the_list_follows_the_host(host, kubelet, start_agent):
    host.set_epc(40 * MIB)
    start_agent()
    await kubelet.until(lambda seen: len(seen.units) == 40)

    host.set_epc(16 * MIB)
    await kubelet.until(lambda seen: len(seen.units) == 16)

    host.set_epc(64 * MIB)
    await kubelet.until(lambda seen: len(seen.units) == 64)
    assert len(kubelet.registrations) == 1
    assert kubelet.lists == 3


async def test_units_are_taken_back_while_the_device_is_gone_or_the_number_garbled(host, kubelet, start_agent):
    host.set_epc(40 * MIB)
    start_agent()
    await kubelet.until(lambda seen: len(seen.units) == 40)

    host.device.unlink()
    await kubelet.until(lambda seen: not seen.units)
    with pytest.raises(GRPCError, match="not one of the 0 units"):
        await kubelet.allocate(["0"])
    host.add_device()
    await kubelet.until(lambda seen: len(seen.units) == 40)

    host.write_epc(0, b"forty\n")
    await kubelet.until(lambda seen: not seen.units)
    host.set_epc(40 * MIB)
    await kubelet.until(lambda seen: len(seen.units) == 40)
    assert len(kubelet.registrations) == 1


async def test_a_node_without_sgx_is_waited_on_and_said_once(host, folder, kubelet, start_agent):
    with capture_logs() as logs:
        agent = start_agent()
        await eventually(lambda: any(entry["event"] == "epc.not_offered" for entry in logs))
        await asyncio.sleep(0.3)  # several more scans

    assert not agent.done()
    assert not kubelet.registrations
    assert not (folder / "kubenclave-openenclave.sock").exists()
    (problem,) = [entry for entry in logs if entry["event"] == "epc.not_offered"]
    assert "sgx_total_bytes is not there" in problem["what"]
    assert problem["hint"]

    host.set_epc(40 * MIB)
    await kubelet.until(lambda seen: len(seen.units) == 40)


async def test_more_epc_than_one_list_can_say_is_refused_with_the_numbers_and_nothing_offered(host, kubelet, start_agent):
    host.set_epc(512 * 1024 * MIB)

    with capture_logs() as logs:
        agent = start_agent()
        await eventually(lambda: any(entry["event"] == "epc.not_offered" for entry in logs))

    (problem,) = [entry for entry in logs if entry["event"] == "epc.not_offered"]
    assert "524288 units" in problem["what"]
    assert "4194304" in problem["what"]
    assert not agent.done()
    assert not kubelet.registrations


@pytest.mark.parametrize("simulated", [True, False])
async def test_whatever_is_said_of_the_epc_says_whether_it_is_simulated(host, kubelet, start_agent, simulated):
    host.set_epc(40 * MIB)
    if simulated:
        (host.root / "run/kubenclave").mkdir(parents=True)
        (host.root / "run/kubenclave/simulated").touch()

    with capture_logs() as logs:
        start_agent()
        await kubelet.until(lambda seen: seen.units)
        await kubelet.allocate(["0"])

    told = {entry["event"]: entry["simulated"] for entry in logs if "simulated" in entry}
    assert told == dict.fromkeys(["agent.started", "epc.offered", "plugin.registered", "list.sent", "units.allocated"], simulated)


async def test_an_agent_that_leaves_ends_its_stream_and_takes_its_socket_along(host, folder, kubelet, start_agent):
    host.set_epc(40 * MIB)
    agent = start_agent()
    await kubelet.until(lambda seen: seen.units)

    agent.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await agent

    await kubelet.until(lambda seen: not seen.watching)
    assert [path.name for path in folder.iterdir()] == ["kubelet.sock"]


async def test_a_socket_left_by_an_agent_that_was_killed_is_replaced(host, folder, kubelet, start_agent):
    host.set_epc(40 * MIB)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "kubenclave-openenclave.sock"))

    start_agent()

    await kubelet.until(lambda seen: len(seen.units) == 40)


async def test_a_second_agent_stands_by_until_the_first_is_gone(host, kubelet, start_agent):
    host.set_epc(40 * MIB)
    first = start_agent()
    await kubelet.until(lambda seen: seen.units)

    with capture_logs() as logs:
        start_agent()
        await eventually(lambda: any(entry["event"] == "plugin.not_listening" for entry in logs))
        assert len(kubelet.registrations) == 1
        kubelet.units = {}
        first.cancel()
        await kubelet.until(lambda seen: len(seen.units) == 40)

    assert len(kubelet.registrations) == 2
    assert "another program serves" in next(entry["what"] for entry in logs if entry["event"] == "plugin.not_listening")


async def test_a_file_that_is_no_socket_is_not_deleted(host, folder, kubelet, start_agent):
    host.set_epc(40 * MIB)
    path = folder / "kubenclave-openenclave.sock"
    path.write_text("mine")

    with capture_logs() as logs:
        start_agent()
        await eventually(lambda: any(entry["event"] == "plugin.not_listening" for entry in logs))

    assert path.read_text() == "mine"
    path.unlink()
    await kubelet.until(lambda seen: len(seen.units) == 40)


async def test_a_missing_kubelet_folder_and_too_long_a_path_are_named(host, tmp_path):
    missing = Settings(choice=choose(None, "azure"), host_root=host.root, kubelet_dir=tmp_path / "nowhere")
    with pytest.raises(NotFound, match="nowhere"):
        await run(missing)

    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(UsageError, match="107 bytes"):
        await run(Settings(choice=choose(None, "azure"), host_root=host.root, kubelet_dir=deep))
