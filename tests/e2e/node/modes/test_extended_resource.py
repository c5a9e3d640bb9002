"""Mode extended-resource on the real local cluster: EPC in bytes in the Node's status, the device counted."""

from __future__ import annotations

import json
import time

import pytest

from kubenclave.kube import connect

NODE = "sgx-1"
EPC, ENCLAVE, PROVISION = "sgx.intel.com/epc", "sgx.intel.com/enclave", "sgx.intel.com/provision"
MARK = "kubenclave.dev/epc-bytes"
MIB = 1 << 20
# Two NUMA nodes of 24 and 16 MiB.
SIZES = (24 * MIB, 16 * MIB)


def until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not seen within {seconds} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="class")
def extended(installation):
    installation.install("node-agent-extended-resource.yaml", "--provision", "--reserve=2Mi")
    until(lambda: installation.allocatable(ENCLAVE) == "1024", "the enclave device is counted")
    yield installation
    installation.delete("pods", "--all")
    installation.uninstall()
    with connect(installation.cluster.kubeconfig) as api:
        api.withdraw(NODE, EPC, MARK)
    until(lambda: installation.allocatable(ENCLAVE) == "0", "the enclave device is taken back")


class TestExtendedResource:
    """Mode extended-resource, dialect intel: bytes in the Node's status, the device counted."""

    @pytest.fixture(autouse=True)
    def agent(self, extended):
        yield extended
        extended.delete("pods", "--all")

    def test_the_bytes_less_the_reserve_are_in_capacity_and_allocatable_with_the_agents_mark(self, agent):
        node = agent.node()

        expected = str(sum(SIZES) - 2 * MIB)
        assert node["status"]["capacity"][EPC] == node["status"]["allocatable"][EPC] == expected
        assert node["metadata"]["annotations"][MARK] == expected
        written = agent.cluster.get("node", NODE, "--show-managed-fields")["metadata"]["managedFields"]
        assert {entry["manager"] for entry in written if EPC in json.dumps(entry["fieldsV1"])} == {"kubenclave-node"}

    def test_the_choice_and_its_reason_are_in_the_log_and_in_an_event(self, agent):
        started = next(line for line in agent.log() if line["event"] == "agent.started")
        assert (started["mode"], started["dialect"], started["reason"]) == ("extended-resource", "intel", "configured by --mode")

        events = [event for event in agent.cluster.get("events", "-n", "default")["items"] if event["reason"] == "EpcOffered"]
        assert any("mode extended-resource: configured by --mode" in event["message"] for event in events)
        assert {event["involvedObject"]["name"] for event in events} == {NODE}

    def test_a_pod_that_asks_for_bytes_and_the_device_runs_with_the_device_alone(self, agent):
        name = agent.started(agent.pod("asks", {EPC: "10Mi", ENCLAVE: "1"}))

        assert agent.inside(name, "ls", "/dev/sgx_enclave") == "/dev/sgx_enclave"
        assert "No such file" in agent.inside(name, "ls", "/dev/sgx_provision")

    def test_a_pod_that_asks_for_nothing_gets_no_device(self, agent):
        assert "No such file" in agent.inside(agent.started(agent.pod("plain")), "ls", "/dev/sgx_enclave")

    def test_the_provisioning_device_goes_only_to_those_that_ask_for_it(self, agent):
        assert agent.allocatable(PROVISION) == "1024"

        name = agent.started(agent.pod("quotes", {EPC: "1Mi", ENCLAVE: "1", PROVISION: "1"}))

        assert agent.inside(name, "ls", "/dev/sgx_provision") == "/dev/sgx_provision"

    def test_bytes_are_counted_to_the_last_one(self, agent):
        left = sum(SIZES) - 2 * MIB - 30 * MIB
        agent.started(agent.pod("most", {EPC: "30Mi", ENCLAVE: "1"}))
        agent.run(agent.pod("too-much", {EPC: str(left + 1), ENCLAVE: "1"}))

        assert f"Insufficient {EPC}" in agent.pending("too-much")
        agent.started(agent.pod("the-rest", {EPC: str(left), ENCLAVE: "1"}))

    def test_a_killed_kubelet_finds_the_capacity_where_it_was(self, agent):
        expected = agent.allocatable(EPC)
        running = agent.started(agent.pod("lives-on", {EPC: "30Mi", ENCLAVE: "1"}))
        agent.kill_kubelet()

        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            assert agent.allocatable(EPC) == expected
            time.sleep(0.1)
        until(lambda: agent.allocatable(ENCLAVE) == "1024", "the enclave device is counted again")
        assert agent.cluster.get("pod", running)["status"]["containerStatuses"][0]["restartCount"] == 0

    def test_a_capacity_set_to_0_as_a_kubelet_without_its_checkpoint_does_is_back_within_a_second(self, agent):
        expected = agent.allocatable(EPC)
        zero = json.dumps({"status": {"capacity": {EPC: "0"}, "allocatable": {EPC: "0"}}})

        result = agent.cluster.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", zero)

        assert result.returncode == 0, result.stderr
        until(lambda: agent.allocatable(EPC) == expected, "the capacity is back", seconds=1)
        assert any(line["event"] == "status.written" and line["before"] == "0" for line in agent.log())

    def test_a_killed_agent_leaves_the_bytes_in_the_status(self, agent):
        expected = agent.allocatable(EPC)
        agent.kill_agent()

        until(
            lambda: agent.allocatable(ENCLAVE) == "1024" and any(line["event"] == "plugin.registered" for line in agent.log()),
            "the agent is back",
        )
        assert agent.allocatable(EPC) == expected

    def test_node_feature_discovery_is_not_fought(self, agent):
        told = "nfd.node.kubernetes.io/extended-resources"
        agent.cluster.kubectl("annotate", "node", NODE, f"{told}={EPC}")
        try:
            until(lambda: agent.allocatable(ENCLAVE) == "0", "the device is taken back")
            until(lambda: any(line["event"] == "epc.not_in_status" for line in agent.log()), "the refusal is in the log")
            refusal = next(line for line in reversed(agent.log()) if line["event"] == "epc.not_in_status")
            assert "node feature discovery manages sgx.intel.com/epc" in refusal["what"]
            assert refusal["hint"]
        finally:
            agent.cluster.kubectl("annotate", "node", NODE, f"{told}-")
        until(lambda: agent.allocatable(ENCLAVE) == "1024", "the device is offered again")

    def test_what_uninstalling_does_takes_the_bytes_and_the_mark_away_for_good(self, agent):
        agent.uninstall()
        with connect(agent.cluster.kubeconfig) as api:
            api.withdraw(NODE, EPC, MARK)

        until(lambda: agent.allocatable(EPC) is None, "the resource is gone")
        time.sleep(3)
        node = agent.node()
        assert EPC not in node["status"]["capacity"]
        assert MARK not in node["metadata"]["annotations"]
