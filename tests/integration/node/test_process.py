from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from kubenclave.node._generated import deviceplugin_pb2
from kubenclave.node.dialect import MIB

pytestmark = [pytest.mark.integration]


def command(host, folder, dialect="openenclave"):
    return [
        *(sys.executable, "-m", "kubenclave.node", "--dialect", dialect),
        *("--host-root", str(host.root), "--kubelet-dir", str(folder)),
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_program_with_its_socket_removed_and_every_line_of_its_log_json(host, folder, kubelet, number):
    host.set_epc(40 * MIB)
    process = await asyncio.create_subprocess_exec(*command(host, folder, "azure"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        await kubelet.until(lambda seen: len(seen.units) == 40)
        process.send_signal(number)
        out, err = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()

    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert process.returncode == 0
    assert err == b""
    assert events[0] == "agent.started"
    assert events[-1] == "agent.stopping"
    assert kubelet.registrations[0].resource_name == "kubernetes.azure.com/sgx_epc_mem_in_MiB"
    assert [path.name for path in folder.iterdir()] == ["kubelet.sock"]


@pytest.mark.asyncio
async def test_the_whole_list_of_a_large_node_passes_a_grpc_client_with_its_default_limit_and_costs_little_memory(host, folder):
    host.set_epc(256 * 1024 * MIB)
    process = await asyncio.create_subprocess_exec(*command(host, folder), stdout=subprocess.PIPE)
    try:
        await wait_for_event(process, "plugin.listening")
        devices = await asyncio.to_thread(first_list, folder / "kubenclave-openenclave.sock")
        status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
    finally:
        process.terminate()
        await process.communicate()

    assert len(devices) == 262_144
    assert len({device.ID for device in devices}) == 262_144
    assert {device.health for device in devices} == {"Healthy"}
    # The devices as protobuf objects would take over 150 MiB more.
    assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < 80 * 1024


@pytest.mark.asyncio
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can give its capabilities up, with setpriv")
async def test_root_without_any_capability_is_enough(host, folder, kubelet):
    host.set_epc(40 * MIB)
    folder.chmod(0o750)
    bare = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", *command(host, folder)]
    process = await asyncio.create_subprocess_exec(*bare, stdout=subprocess.PIPE)
    try:
        await kubelet.until(lambda seen: len(seen.units) == 40)
        status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
    finally:
        process.terminate()
        await process.communicate()

    assert "CapEff:\t0000000000000000" in status
    assert [path.name for path in folder.iterdir()] == ["kubelet.sock"]


def test_a_failure_is_one_line_of_words_and_an_exit_code_of_its_kind(host, tmp_path):
    done = subprocess.run(command(host, tmp_path / "nowhere"), capture_output=True, timeout=20, check=False)

    (line,) = [json.loads(text) for text in done.stdout.splitlines()]
    assert done.returncode == 5
    assert done.stderr == b""
    assert line["event"] == "agent.failed"
    assert "nowhere" in line["what"]
    assert line["hint"]
    assert line["exit_code"] == 5


def test_an_unknown_dialect_is_a_usage_error(host, tmp_path):
    done = subprocess.run(command(host, tmp_path, "sgx"), capture_output=True, timeout=20, check=False, text=True)

    assert done.returncode == 2
    assert "openenclave" in done.stderr
    assert "Traceback" not in done.stderr


async def wait_for_event(process, event):
    async with asyncio.timeout(20):
        async for line in process.stdout:
            if json.loads(line)["event"] == event:
                return
    raise AssertionError(event)


def first_list(path):
    with grpc.insecure_channel(f"unix://{path}") as channel:
        call = channel.unary_stream(
            "/v1beta1.DevicePlugin/ListAndWatch",
            request_serializer=deviceplugin_pb2.Empty.SerializeToString,
            response_deserializer=deviceplugin_pb2.ListAndWatchResponse.FromString,
        )
        stream = call(deviceplugin_pb2.Empty(), timeout=20)
        devices = list(next(stream).devices)
        stream.cancel()
    return devices
