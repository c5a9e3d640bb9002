"""Mode dra on the real local cluster: EPC in exact bytes by claims."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from kubenclave.kube import parse_quantity

EXAMPLES = Path(__file__).parents[4] / "examples/dra"
BUSYBOX = "kubenclave.test/busybox:1"
DRIVER = "epc.kubenclave.dev"
MIB = 1 << 20
# Two NUMA nodes of 24 and 16 MiB.
SIZES = (24 * MIB, 16 * MIB)
SLEEP = ("/app/busybox", "sleep", "3600")


def until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not seen within {seconds} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="class")
def claims(installation):
    installation.install("node-agent-dra.yaml", "--provision", "--legacy-paths")
    until(lambda: installation.slice() is not None, "the ResourceSlice")
    until(lambda: any(line["event"] == "driver.registered" for line in installation.log()), "the kubelet took the driver")
    for document in (
        installation.template("ten", "10Mi"),
        installation.template("sixteen", "16Mi"),
        installation.template("odd", 5_000_000),
        installation.template("second-numa-node", "1Mi", selector=f'device.attributes["{DRIVER}"].numaNode == 1'),
        installation.template("provision", None, device_class=f"provision.{DRIVER}"),
    ):
        installation.cluster.apply(document)
    yield installation
    installation.delete("pods", "--all")
    installation.uninstall()


class TestClaims:
    """Mode dra: exact bytes by claims."""

    @pytest.fixture(autouse=True)
    def agent(self, claims):
        yield claims
        claims.delete("pods", "--all")
        until(lambda: not claims.cdi_files() and not claims.cluster.get("resourceclaims")["items"], "no claim and no CDI file is left")
        assert claims.checkpoint()["claims"] == {}

    def allocation(self, agent, pod_name):
        (status,) = agent.cluster.get("pod", pod_name)["status"]["resourceClaimStatuses"]
        claim = agent.cluster.get("resourceclaim", status["resourceClaimName"])
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        return claim, result

    def test_two_numa_nodes_are_two_devices_whose_bytes_are_shared(self, agent):
        published = agent.slice()

        epc = {device["name"]: device for device in published["spec"]["devices"] if "capacity" in device}
        offered = {name: parse_quantity(device["capacity"]["epc"]["value"]) for name, device in epc.items()}
        assert offered == {"epc-numa0": SIZES[0], "epc-numa1": SIZES[1]}
        assert all(device["allowMultipleAllocations"] for device in epc.values())
        assert [device["attributes"]["numaNode"]["int"] for device in epc.values()] == [0, 1]
        assert all(device["attributes"]["simulated"]["bool"] for device in epc.values())
        assert published["spec"]["pool"]["resourceSliceCount"] == 1
        assert [owner["kind"] for owner in published["metadata"]["ownerReferences"]] == ["Node"]

    def test_a_claim_of_exact_bytes_gets_the_device_and_its_consumption_is_recorded(self, agent):
        name = agent.started(agent.claiming("asks", "ten"))

        assert agent.inside(name, "ls", "/dev/sgx_enclave") == "/dev/sgx_enclave"
        assert agent.inside(name, "ls", "/dev/sgx/enclave") == "/dev/sgx/enclave"
        assert "No such file" in agent.inside(name, "ls", "/dev/sgx_provision")
        claim, result = self.allocation(agent, name)
        assert parse_quantity(result["consumedCapacity"]["epc"]) == 10 * MIB
        assert agent.checkpoint()["claims"][claim["metadata"]["uid"]]["devices"][0]["share_id"] == result["shareID"]
        assert agent.cdi_files() == [f"{DRIVER}-claim-{claim['metadata']['uid']}.json"]

    def test_the_device_is_in_no_other_container(self, agent):
        document = agent.claiming("two-containers", "ten")
        document["spec"]["containers"].append(
            {"name": "other", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": list(SLEEP)},
        )
        name = agent.started(document)
        plain = agent.started(agent.pod("plain"))

        for target in ((name, "-c", "other"), (plain,)):
            seen = agent.cluster.kubectl("exec", *target, "--", "/app/busybox", "ls", "/dev/sgx_enclave")
            assert "No such file" in seen.stderr

    def test_bytes_are_rounded_up_to_whole_pages(self, agent):
        name = agent.started(agent.claiming("odd", "odd"))

        _, result = self.allocation(agent, name)
        assert parse_quantity(result["consumedCapacity"]["epc"]) == -(-5_000_000 // 4096) * 4096

    def test_claims_are_placed_until_the_sum_is_full_and_the_next_is_told_why(self, agent):
        for name, wanted in (("one", "ten"), ("two", "ten"), ("three", "sixteen")):
            agent.started(agent.claiming(name, wanted))
        agent.run(agent.claiming("four", "ten"))

        assert "cannot allocate all claims" in agent.pending("four")
        agent.delete("pod/one")
        agent.cluster.wait("pod/four", "condition=Ready")

    def test_a_claim_can_choose_its_numa_node(self, agent):
        _, result = self.allocation(agent, agent.started(agent.claiming("near", "second-numa-node")))

        assert result["device"] == "epc-numa1"

    def test_the_provisioning_device_has_a_class_of_its_own(self, agent):
        name = agent.started(agent.claiming("quotes", "provision"))

        assert agent.inside(name, "ls", "/dev/sgx_provision", "/dev/sgx/provision").split() == ["/dev/sgx/provision", "/dev/sgx_provision"]
        assert "No such file" in agent.inside(name, "ls", "/dev/sgx_enclave")

    def test_an_agent_killed_between_prepare_and_unprepare_converges(self, agent):
        name = agent.started(agent.claiming("survives", "ten"))
        agent.kill_agent()
        agent.delete(f"pod/{name}")

        until(lambda: not agent.cdi_files(), "the claim is unprepared")
        assert agent.checkpoint()["claims"] == {}

    def test_what_nobody_prepared_is_removed_when_the_agent_starts(self, agent):
        folder = agent.cdi_folder()
        (folder / f"{DRIVER}-claim-00000000-0000-0000-0000-000000000000.json").write_text("{}")
        (folder / "other-vendor.json").write_text("{}")
        agent.kill_agent()

        until(lambda: agent.cdi_files() == ["other-vendor.json"], "the stale file is removed and the other's stays")
        (folder / "other-vendor.json").unlink()

    def test_a_killed_kubelet_finds_the_driver_again_and_the_pod_undisturbed(self, agent):
        name = agent.started(agent.claiming("lives-on", "ten"))
        agent.kill_kubelet()
        agent.started(agent.claiming("after", "ten"))

        assert agent.cluster.get("pod", name)["status"]["containerStatuses"][0]["restartCount"] == 0

    def test_a_deleted_slice_is_published_again(self, agent):
        agent.cluster.kubectl("delete", "resourceslice", agent.slice()["metadata"]["name"])

        until(lambda: agent.slice() is not None, "the slice is back", seconds=10)

    def test_the_examples_run(self, agent):
        text = (EXAMPLES / "enclave.yaml").read_text()
        documents = [document for document in yaml.safe_load_all(text) if document["kind"] != "Pod"]
        for document in documents:
            agent.cluster.apply(document)
        (example,) = [document for document in yaml.safe_load_all(text) if document["kind"] == "Pod"]
        example["spec"]["containers"][0] |= {"image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": list(SLEEP)}
        name = agent.started(example)

        assert agent.inside(name, "ls", "/dev/sgx_enclave") == "/dev/sgx_enclave"

    def test_a_damaged_checkpoint_stops_the_agent_with_a_hint_and_is_left_as_it_is(self, agent):
        path = agent.root() / f"var/lib/kubelet/plugins/{DRIVER}/checkpoint.json"
        whole = path.read_bytes()
        path.write_bytes(whole[:-3])
        agent.kill_agent()

        def failed():
            return next((line for line in reversed(agent.log()) if line["event"] == "agent.failed"), None)

        until(failed, "the agent stops")
        assert "checkpoint.json" in failed()["what"]
        assert "drain the node" in failed()["hint"]
        assert path.read_bytes() == whole[:-3]
        path.write_bytes(whole)
        until(lambda: any(line["event"] == "driver.registered" for line in agent.log()), "the agent is back", seconds=90)
