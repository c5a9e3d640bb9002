"""The agent's pages over HTTP, and what it sees of the kubelet's pods and of real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import pytest_asyncio
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server
from structlog.testing import capture_logs

from kubenclave.errors import HostUnfit
from kubenclave.node._generated.podresources_grpc import PodResourcesListerBase
from kubenclave.node._generated.podresources_pb2 import ContainerDevices, ContainerResources, ListPodResourcesResponse, PodResources
from kubenclave.node.accounts import Accountant
from kubenclave.node.agent import run
from kubenclave.node.dialect import MIB
from kubenclave.node.holdings import Container, Holding, held_units
from kubenclave.node.mapped import Process
from kubenclave.node.processes import ProcessReading, read_processes
from kubenclave.node.scrape import Pages

pytestmark = [pytest.mark.integration]

UNITS = "openenclave.io/sgx_epc_MiB"
# Maps a size that nothing else here has, of a device that can be mapped; then says so and waits.
MAPPED_BYTES = 37 * 4096
MAPPER = f"""
import mmap, os, sys
room = mmap.mmap(os.open('/dev/zero', os.O_RDWR), {MAPPED_BYTES}, flags=mmap.MAP_PRIVATE)
print('mapped', flush=True)
sys.stdin.read()
"""
# Looks at processes of which it never hears, and leaves.
HANGING = """
import asyncio, threading
from pathlib import Path
from kubenclave.node import accounts

async def no_pods(_path):
    return None

accounts.list_pods = no_pods
accounts.read_processes = lambda _root, _device: threading.Event().wait()
accounts.PROCESSES_SECONDS = 0.1
accountant = accounts.Accountant(Path('pods.sock'), lambda _pods: (), (Path('/'), lambda: Path('/dev/null')))
assert asyncio.run(accountant.look()).usages is None
"""


class Pods(PodResourcesListerBase):
    """The kubelet's list: one container with some units."""

    def __init__(self, units):
        self.units = units
        self.refuse = False
        self.asked = 0
        self.asking = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def List(self, stream):  # noqa: N802 - the interface's name
        await stream.recv_message()
        self.asked += 1
        self.asking.set()
        await self.answers.wait()
        if self.refuse:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, "asked too often")
        devices = [ContainerDevices(resource_name=UNITS, device_ids=[str(unit)]).SerializeToString() for unit in range(self.units)]
        container = ContainerResources(name="main", devices=devices)
        await stream.send_message(
            ListPodResourcesResponse(pod_resources=[PodResources(name="enclave", namespace="app", containers=[container])])
        )


@pytest_asyncio.fixture
async def pods(folder):
    service = Pods(units=4)
    server = Server([service])
    await server.start(path=str(folder / "pods.sock"))
    yield service
    server.close()
    await server.wait_closed()


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest_asyncio.fixture
async def agent(settings, folder, pods, port):
    task = asyncio.get_running_loop().create_task(run(replace(settings, pod_resources=folder / "pods.sock", metrics_port=port)))
    for _ in range(500):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            break
        await asyncio.sleep(0.01)
    yield task
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def said(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        writer.write(request)
        await writer.drain()
    with contextlib.suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer
    return b""


async def get(port, page):
    answer = await said(port, f"GET {page} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b" ")[1].decode(), body.decode()


@pytest.mark.asyncio
async def test_ready_follows_the_kubelet_and_health_does_not(host, kubelet, agent, port):
    assert await get(port, "/healthz") == ("200", "ok\n")
    assert (await get(port, "/readyz"))[0] == "503"

    host.set_epc(40 * MIB)
    await kubelet.until(lambda seen: len(seen.units) == 40)
    assert await get(port, "/readyz") == ("200", "ready\n")

    await kubelet.stop()
    async with asyncio.timeout(5):
        while (await get(port, "/readyz"))[0] != "503":  # noqa: ASYNC110 - the agent is seen from outside
            await asyncio.sleep(0.02)
    assert (await get(port, "/healthz"))[0] == "200"


@pytest.mark.asyncio
async def test_the_metrics_tell_what_is_offered_and_which_container_holds_how_much(host, kubelet, agent, port, pods):
    host.set_epc(40 * MIB)
    await kubelet.until(lambda seen: len(seen.units) == 40)
    await kubelet.allocate(["0"], ["1", "2"])

    status, text = await get(port, "/metrics")

    assert status == "200"
    for line in (
        'kubenclave_epc_offered_bytes{numa="0"} 4.194304e+07',
        'kubenclave_epc_pod_bytes{container="main",namespace="app",pod="enclave"} 4.194304e+06',
        'kubenclave_epc_allocated_bytes{numa="0"} 4.194304e+06',
        "kubenclave_allocations_total 2.0",
        "kubenclave_registrations_total 1.0",
        "kubenclave_kubelet_restarts_total 0.0",
    ):
        assert line in text.splitlines()
    assert "kubenclave_epc_mapped_bytes{" not in text


@pytest.mark.asyncio
async def test_a_restarted_kubelet_is_counted_and_a_lost_socket_is_not(host, folder, kubelet, agent, port):
    host.set_epc(40 * MIB)
    await kubelet.until(lambda seen: len(seen.units) == 40)
    (folder / "kubenclave-openenclave.sock").unlink()
    await kubelet.until(lambda seen: len(seen.registrations) == 2)
    await kubelet.stop()
    await kubelet.start()
    await kubelet.until(lambda seen: len(seen.registrations) == 3)

    async with asyncio.timeout(5):
        while "kubenclave_registrations_total 3.0" not in (text := (await get(port, "/metrics"))[1]):  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.02)
    assert "kubenclave_kubelet_restarts_total 1.0" in text


@pytest.mark.asyncio
async def test_a_kubelet_that_does_not_list_its_pods_is_counted_and_said_once(host, kubelet, agent, port, pods):
    host.set_epc(40 * MIB)
    await kubelet.until(lambda seen: len(seen.units) == 40)
    pods.refuse = True

    with capture_logs() as logs:
        _, text = await get(port, "/metrics")

    assert 'kubenclave_observation_failures_total{source="pod-resources"} 1.0' in text
    assert "kubenclave_epc_pod_bytes{" not in text
    assert ["asked too often" in entry["what"] for entry in logs if entry["event"] == "accounts.incomplete"] == [True]


@pytest.mark.asyncio
async def test_many_scrapes_at_once_ask_the_kubelet_once(host, kubelet, agent, port, pods):
    host.set_epc(40 * MIB)
    await kubelet.until(lambda seen: len(seen.units) == 40)

    answers = await asyncio.gather(*[get(port, "/metrics") for _ in range(8)])

    assert [status for status, _ in answers] == ["200"] * 8
    assert pods.asked == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", b"200"),
        (b"\r\n\r\n", b"405"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", b""),
        (bytes(range(256)) * 100, b""),
    ],
)
async def test_what_is_no_request_for_a_page_is_refused_or_cut_off(agent, port, request_bytes, status):
    answer = await said(port, request_bytes)

    assert answer.split(b" ")[1:2] == ([status] if status else [])
    assert (await get(port, "/healthz"))[0] == "200"


@pytest.mark.asyncio
async def test_connections_that_say_nothing_give_way_to_a_probe_the_oldest_first(agent, port):
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]

    assert await get(port, "/healthz") == ("200", "ok\n")

    assert await asyncio.wait_for(silent[0][0].read(), 1) == b""
    reader, writer = silent[-1]
    writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 1)).startswith(b"HTTP/1.1 200")
    for _, writer in silent:
        writer.close()


@pytest.mark.asyncio
async def test_scrapes_that_hang_do_not_keep_a_probe_out(host, kubelet, agent, port, pods):
    host.set_epc(40 * MIB)
    await kubelet.until(lambda seen: len(seen.units) == 40)
    pods.answers.clear()
    scrapes = [asyncio.create_task(get(port, "/metrics")) for _ in range(16)]
    await asyncio.wait_for(pods.asking.wait(), 5)
    await asyncio.sleep(0.1)

    assert await get(port, "/healthz") == ("200", "ok\n")

    pods.answers.set()
    ended = await asyncio.gather(*scrapes, return_exceptions=True)
    assert sum(isinstance(end, tuple) and end[0] == "200" for end in ended) == 7


@pytest.mark.asyncio
async def test_an_answer_that_takes_too_long_is_cut_off(port, monkeypatch):
    class Slow:
        ready = True

        async def metrics(self):
            await asyncio.Event().wait()

    monkeypatch.setattr("kubenclave.node.scrape._ANSWER_SECONDS", 0.1)
    serving = asyncio.create_task(Pages(Slow(), port).run())
    await asyncio.sleep(0.1)

    assert await asyncio.wait_for(said(port, b"GET /metrics HTTP/1.1\r\n\r\n"), 2) == b""

    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


@pytest.mark.asyncio
async def test_a_port_that_is_taken_is_said_and_epc_is_offered_all_the_same(host, kubelet, settings, port):
    host.set_epc(40 * MIB)
    with socket.socket() as taken, capture_logs() as logs:
        taken.bind(("0.0.0.0", port))  # noqa: S104 - as the agent does
        taken.listen()
        task = asyncio.get_running_loop().create_task(run(replace(settings, metrics_port=port)))
        await kubelet.until(lambda seen: len(seen.units) == 40)
        async with asyncio.timeout(10):
            while not any(entry["event"] == "metrics.not_served" for entry in logs):  # noqa: ASYNC110 - a list of dicts wakes nobody
                await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    assert [entry["event"] for entry in logs if "port" in entry.get("what", "")] == ["metrics.not_served"]


@pytest.fixture
def host_of_processes(host):
    """The machine's real processes, with a device that can be mapped in the enclave device's place."""
    host.device.unlink()
    host.device.symlink_to("/dev/zero")
    (host.root / "proc").symlink_to("/proc")
    (host.root / "var/log/containers").mkdir(parents=True)
    return host


@pytest.fixture
def mapper():
    with subprocess.Popen([sys.executable, "-c", MAPPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "mapped\n"
        yield process
        process.stdin.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees the maps of all processes")
def test_a_process_that_maps_the_device_is_found_with_the_size_of_its_mapping(host_of_processes, mapper):
    reading = read_processes(host_of_processes.root, host_of_processes.device)

    assert Process(container_id="", mapped_bytes=MAPPED_BYTES) in reading.processes


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees the maps of all processes")
def test_a_mapping_of_another_device_does_not_count_whatever_its_path(host_of_processes, mapper):
    host_of_processes.device.unlink()
    host_of_processes.device.symlink_to("/dev/null")

    reading = read_processes(host_of_processes.root, host_of_processes.device)

    assert Process(container_id="", mapped_bytes=MAPPED_BYTES) not in reading.processes


def test_without_the_hosts_processes_it_is_said_what_is_missing(host):
    with pytest.raises(HostUnfit, match="proc cannot be read") as caught:
        read_processes(host.root, host.device)

    assert "SYS_PTRACE" in caught.value.hint


def test_a_process_with_more_mappings_than_are_read_counts_as_unread_and_not_as_one_with_few(host_of_processes, monkeypatch):
    (host_of_processes.root / "proc").unlink()
    process = host_of_processes.root / "proc/7"
    process.mkdir(parents=True)
    (process / "maps").write_text("7f0000000000-7f0000001000 rw-s 00000000 00:05 5 /dev/sgx_enclave\n" * 100)
    (process / "cgroup").write_text("0::/\n")
    monkeypatch.setattr("kubenclave.node.processes._MAX_MAPS_BYTES", 1000)

    assert read_processes(host_of_processes.root, host_of_processes.device).processes == (Process(container_id="", mapped_bytes=None),)


def test_processes_that_are_not_reached_in_time_count_as_unread(host_of_processes, monkeypatch):
    (host_of_processes.root / "proc").unlink()
    for pid in (7, 8):
        process = host_of_processes.root / f"proc/{pid}"
        process.mkdir(parents=True)
        lines = [f"{number:x}000-{number:x}fff rw-s 00000000 00:05 5 /shared/{number}\n" for number in range(1, 2000)]
        (process / "maps").write_text("".join(lines))
        (process / "cgroup").write_text(f"0::/{pid:064x}\n")
    monkeypatch.setattr("kubenclave.node.processes._READ_SECONDS", 0.1)
    monkeypatch.setattr("kubenclave.node.processes._is_device", lambda *_: time.sleep(0.005))
    started = time.monotonic()

    reading = read_processes(host_of_processes.root, host_of_processes.device)

    assert time.monotonic() - started < 2
    assert {(process.container_id, process.mapped_bytes) for process in reading.processes} == {(f"{7:064x}", None), (f"{8:064x}", None)}


@pytest.fixture
def dead_mount(monkeypatch):
    """Processes whose mappings cannot be looked at until the event is set; and how often it was tried."""
    alive, tries = threading.Event(), []

    def read(_root, _device):
        tries.append(1)
        alive.wait(60)
        return ProcessReading(processes=(), log_names=())

    monkeypatch.setattr("kubenclave.node.accounts.read_processes", read)
    monkeypatch.setattr("kubenclave.node.accounts.PROCESSES_SECONDS", 0.2)
    monkeypatch.setattr("kubenclave.node.accounts.FRESH_SECONDS", 0.0)
    yield alive, tries
    alive.set()


@pytest.mark.asyncio
async def test_processes_that_cannot_be_looked_at_leave_the_rest_of_the_scrape_and_no_second_thread(host, folder, pods, dead_mount):
    alive, tries = dead_mount
    accountant = Accountant(folder / "pods.sock", lambda answer: held_units(answer, UNITS, 1024), (host.root, lambda: host.device))

    with capture_logs() as logs:
        async with asyncio.timeout(5):
            seen = [await accountant.look() for _ in range(5)]

    assert [(len(accounts.holdings), accounts.usages) for accounts in seen] == [(1, None)] * 5
    assert (len(tries), accountant.failures["processes"]) == (1, 5)
    assert ["NFS" in entry["hint"] for entry in logs if entry["event"] == "accounts.incomplete"] == [True]
    alive.set()
    async with asyncio.timeout(5):
        while (await accountant.look()).usages is None:  # noqa: ASYNC110 - a thread wakes nobody here
            await asyncio.sleep(0.02)


def test_an_agent_whose_look_at_the_processes_hangs_can_end():
    with subprocess.Popen([sys.executable, "-c", HANGING]) as process:
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.asyncio
async def test_a_scrape_that_is_given_up_takes_nothing_from_the_others(folder, pods):
    accountant = Accountant(folder / "pods.sock", lambda answer: held_units(answer, UNITS, 1024), None)
    pods.answers.clear()
    first, second = (asyncio.create_task(accountant.look()) for _ in range(2))
    await asyncio.wait_for(pods.asking.wait(), 5)
    first.cancel()
    pods.answers.set()

    assert len((await second).holdings) == 1
    assert pods.asked == 1


@pytest.mark.asyncio
@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees the maps of all processes")
async def test_a_container_that_maps_more_than_it_was_given_is_told_once(host_of_processes, folder, pods, mapper, monkeypatch):
    # This process alone: every process is said to be of the one container.
    (host_of_processes.root / "proc").unlink()
    (host_of_processes.root / "proc").mkdir()
    (host_of_processes.root / f"proc/{mapper.pid}").symlink_to(f"/proc/{mapper.pid}")
    container_id = "a" * 64
    (host_of_processes.root / f"var/log/containers/enclave_app_main-{container_id}.log").touch()
    monkeypatch.setattr("kubenclave.node.processes.container_id", lambda _cgroup: container_id)
    monkeypatch.setattr("kubenclave.node.accounts.FRESH_SECONDS", 0.0)
    mapped = (host_of_processes.root, lambda: host_of_processes.device)
    accountant = Accountant(folder / "pods.sock", lambda answer: held_units(answer, UNITS, 1024), mapped)

    with capture_logs() as logs:
        accounts = await accountant.look()
        await accountant.look()

    main = Container(namespace="app", pod="enclave", name="main")
    assert accounts.holdings == (Holding(container=main, epc_bytes={"unknown": 4096}),)
    (usage,) = [usage for usage in accounts.usages if usage.container == main]
    assert (usage.mapped_bytes, usage.over) == (MAPPED_BYTES, True)
    assert [entry["event"] for entry in logs if "app/enclave" in entry.get("what", "")] == ["epc.over_mapped"]
