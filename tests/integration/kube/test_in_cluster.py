"""The node agent's view of a real API server: what it writes is kept, what it watches it sees, what is refused comes in words."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing

import pytest
import pytest_asyncio

from kubenclave.errors import NotFound, Refused, Unreachable
from kubenclave.kube import config as kubeconfig
from kubenclave.kube.in_cluster import InCluster, own_service_account
from kubenclave.node.announce import event
from kubenclave.node.dra.slices import SLICES, check_stored, plan, read_slices
from kubenclave.node.node_status import MARK, patch_for, view_of

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

EPC = "sgx.intel.com/epc"
DEVICE = {
    "name": "epc-numa0",
    "allowMultipleAllocations": True,
    "attributes": {"kind": {"string": "epc"}, "numaNode": {"int": 0}},
    "capacity": {"epc": {"value": "25165824", "requestPolicy": {"default": "1048576", "validRange": {"min": "4096", "step": "4096"}}}},
}


@pytest_asyncio.fixture
async def api(control_plane):
    connected = InCluster(kubeconfig.read(control_plane.admin, None), "kubenclave-node")
    yield connected
    await connected.close()


@pytest.fixture
def node(make_node):
    name = f"node-{uuid.uuid4().hex[:8]}"
    make_node(name, {})
    return name


async def test_the_bytes_are_kept_in_the_status_and_not_written_a_second_time(api, node):
    path = f"api/v1/nodes/{node}"
    patch = patch_for(view_of(await api.get(path)), EPC, 33_554_000)

    await api.merge(f"{path}/status", patch)

    kept = view_of(await api.get(path))
    assert kept.metadata.annotations[MARK] == "33554000"
    assert patch_for(kept, EPC, 33_554_000) is None


async def test_a_change_by_another_is_seen_by_the_watch_of_one_object(api, node):
    path = f"api/v1/nodes/{node}"
    version = view_of(await api.get(path)).metadata.resource_version

    async with asyncio.timeout(20), aclosing(api.watch("api/v1/nodes", {"metadata.name": node}, version)) as changes:
        await api.merge(path, {"metadata": {"labels": {"seen": "yes"}}})
        seen = [(change, found["metadata"]["name"]) async for change, found in changes_with_label(changes)]

    assert seen == [("MODIFIED", node)]


async def changes_with_label(changes):
    async for change, found in changes:
        if found["metadata"].get("labels", {}).get("seen"):
            yield change, found
            return


async def test_a_watch_from_a_version_that_is_no_longer_kept_ends_and_raises_nothing(api, node):
    async with asyncio.timeout(20), aclosing(api.watch("api/v1/nodes", {"metadata.name": node}, "1")) as changes:
        async for _ in changes:
            break


async def test_a_slice_is_kept_whole_found_by_its_node_and_replaced_in_the_next_generation(api, node):
    view = view_of(await api.get(f"api/v1/nodes/{node}"))
    selector = {"spec.driver": "epc.kubenclave.dev", "spec.nodeName": node}
    created = plan([], view, [DEVICE]).create
    await api.create(SLICES, created)
    (found,) = read_slices(await api.get(SLICES, selector)).items
    check_stored(found, [DEVICE])
    assert plan([found], view, [DEVICE]).replace is None

    smaller = DEVICE | {"capacity": {"epc": DEVICE["capacity"]["epc"] | {"value": "16777216"}}}
    replaced = plan([found], view, [smaller]).replace
    await api.replace(f"{SLICES}/{created['metadata']['name']}", replaced)
    (found,) = read_slices(await api.get(SLICES, selector)).items
    assert found.spec.pool.generation == 2

    with pytest.raises(Refused):
        await api.replace(f"{SLICES}/{created['metadata']['name']}", replaced)
    await api.delete(f"{SLICES}/{created['metadata']['name']}")
    assert read_slices(await api.get(SLICES, selector)).items == []


async def test_an_event_about_the_node_is_accepted(api, node):
    written = await api.create("apis/events.k8s.io/v1/namespaces/default/events", event(node, "Normal", "EpcOffered", "x" * 5000))

    assert len(written["note"]) <= 1024
    assert written["regarding"]["name"] == node


async def test_what_is_not_there_and_what_is_not_allowed_are_told_apart(api, control_plane):
    with pytest.raises(NotFound):
        await api.get("api/v1/nodes/nowhere")
    reader = InCluster(kubeconfig.read(control_plane.reader, None), "kubenclave-node")
    with pytest.raises(Refused, match="not allowed"):
        await reader.get("api/v1/nodes")
    await reader.close()


async def test_a_server_that_is_away_is_unreachable(control_plane):
    config = kubeconfig.read(control_plane.admin, None)
    away = InCluster(config._replace(cluster=type(config.cluster)(server="http://127.0.0.1:1")), "kubenclave-node")
    with pytest.raises(Unreachable):
        await away.get("api/v1/nodes")
    await away.close()


async def test_outside_of_a_pod_there_is_no_service_account_and_the_error_says_what_a_pod_needs():
    with pytest.raises(NotFound, match="ServiceAccount") as caught:
        own_service_account("kubenclave-node")

    assert "automountServiceAccountToken" in caught.value.hint
