"""Whoever else hands out the enclave device on the node is seen by the socket that it serves, and nothing is offered beside it."""

from __future__ import annotations

import dataclasses

import pytest
from structlog.testing import capture_logs

from kubenclave.errors import Refused
from kubenclave.node.agent import HostWatch
from kubenclave.node.device_plugin import DevicePluginWay
from kubenclave.node.dialect import DRIVER, dialect_named
from kubenclave.node.kubelet import listen
from kubenclave.node.rivals import Rivals, check_sockets

pytestmark = [pytest.mark.integration]

OWN = dialect_named("openenclave")


@pytest.fixture
def registry(folder):
    (folder / "registry").mkdir()
    return folder / "registry"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sgx.intel.com-enclave.sock", "Intel's SGX device plugin already serves"),
        ("kubenclave-azure-7c1.sock", "offers this node's EPC as kubernetes.azure.com/sgx_epc_mem_in_MiB"),
        ("kubenclave-intel.sock", "offers this node's EPC as sgx.intel.com/epc"),
        (f"registry/{DRIVER}-7c1-reg.sock", "offers this node's EPC to resource claims"),
    ],
)
def test_a_served_socket_of_another_is_named(folder, registry, name, sentence):
    with listen(folder / name), pytest.raises(Refused, match=sentence) as refusal:
        check_sockets(folder, registry, OWN)
    assert str(folder / name) in refusal.value.what
    assert refusal.value.hint

    # Its file is still there, and nobody serves it any more.
    assert (folder / name).is_socket()
    check_sockets(folder, registry, OWN)


@pytest.mark.parametrize("name", ["kubenclave-openenclave-7c1.sock", "nvidia-gpu.sock", "registry/gpu.example.com-reg.sock"])
def test_the_next_agent_of_the_same_dialect_and_plugins_of_other_devices_are_no_rivals(folder, registry, name):
    with listen(folder / name):
        check_sockets(folder, registry, OWN)


def test_without_a_folder_of_drivers_there_is_no_driver(folder):
    check_sockets(folder, folder / "missing", OWN)


def test_a_rival_that_comes_later_is_told_once_and_takes_nothing_back(folder, registry):
    rivals = Rivals(folder, registry, OWN)
    rivals.check(offered=False)

    with capture_logs() as logs:
        with listen(folder / "sgx.intel.com-enclave.sock"):
            for _ in range(3):
                rivals.check(offered=True)
        rivals.check(offered=True)

    assert [entry["event"] for entry in logs] == ["epc.offered_twice"]
    assert "Intel's SGX device plugin" in logs[0]["what"]


async def scanned(watch):
    watch.scan()
    return watch.inventory


@pytest.mark.asyncio
async def test_an_agent_offers_nothing_beside_the_driver_of_claims_and_begins_when_that_has_gone(host, folder, registry, settings):
    host.set_epc(40 << 20)
    settings = dataclasses.replace(settings, registry_dir=registry)
    way = DevicePluginWay(settings, simulated=False)
    watch = HostWatch(way, settings)

    with capture_logs() as logs, listen(registry / f"{DRIVER}-reg.sock"):
        assert await scanned(watch) is None
        assert not way.ready
    assert [entry["event"] for entry in logs] == ["epc.not_offered"]

    assert (await scanned(watch)).epc_bytes == 40 << 20
