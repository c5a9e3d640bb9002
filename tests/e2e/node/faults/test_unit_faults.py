"""Whatever is killed, wiped or filled up: no more EPC is held than there is, nothing is left over, and no pod notices."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import datetime

import pytest

TIMES = 20
UNITS = "openenclave.io/sgx_epc_MiB"
BUSYBOX = "kubenclave.test/busybox:1"
INVENTORY = 40
# What a user is promised: the kubelet has the list again so soon after it is back.
BACK_SECONDS = 1.0
API_AWAY_SECONDS = 30


def until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not seen within {seconds} s: {what}"
        time.sleep(0.05)


def container(units, seconds=3600):
    resources = {"limits": {UNITS: str(units)}} if units else {}
    command = ["/app/busybox", "sleep", str(seconds)]
    return {"name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": command, "resources": resources}


def pod(name, units):
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container(units)]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def rivals(parallelism, units):
    """Pods that together want more than there is, each ending after some seconds and followed by the next."""
    spec = {"terminationGracePeriodSeconds": 0, "restartPolicy": "Never", "containers": [container(units, seconds=4)]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "rivals", "namespace": "default"},
        "spec": {"parallelism": parallelism, "completions": 10_000, "backoffLimit": 10_000, "template": {"spec": spec}},
    }


@pytest.fixture(scope="class")
def offering(hurt_node):
    hurt_node.install("node-agent.yaml")
    until(lambda: hurt_node.allocatable() == str(INVENTORY), "the units are offered")
    yield hurt_node
    hurt_node.delete("jobs,pods", "--all")
    hurt_node.uninstall()


class TestUnits:
    """Mode device-plugin: a pod that stays and rivals for the rest, while everything around them is killed."""

    @pytest.fixture
    def crowded(self, offering, units_witness):
        node = offering
        node.started(pod("steady", 10))
        node.apply(rivals(5, 10))
        until(lambda: node.cluster.get("job", "rivals")["status"].get("ready"), "rivals run")
        with units_witness(node) as witness:
            yield node
            until(lambda: node.allocatable() == str(INVENTORY), "all units are allocatable")
        node.delete("job/rivals", "pod/steady")
        assert witness.samples > 5
        assert 10 < witness.most <= INVENTORY
        assert not witness.twice

    @pytest.fixture
    def watched(self, crowded):
        before = crowded.life("steady")
        yield crowded
        assert crowded.life("steady") == before

    def test_kubelet_and_agent_are_killed_twenty_times_each(self, watched):
        back = watched.kill_often(TIMES, list_sent)

        sys.stdout.write(f"\n{TIMES} kubelets: list back after {min(back):.2f} to {max(back):.2f} s\n")
        assert max(back) <= BACK_SECONDS

    def test_containerd_is_killed(self, watched):
        watched.restart_containerd()

        watched.delete("pod/after")
        watched.apply(pod("after", 0))
        watched.cluster.wait("pod/after", "condition=Ready")
        watched.delete("pod/after")

    def test_the_folder_of_sockets_is_wiped(self, watched):
        for path in (watched.root / "var/lib/kubelet/device-plugins").glob("*.sock"):
            if path.name != "kubelet.sock":
                path.unlink()
        wiped = time.time()

        until(lambda: list_sent(watched, wiped), "the list is sent again", seconds=5)
        assert list_sent(watched, wiped)[0] - wiped < BACK_SECONDS

    def test_the_kubelets_own_checkpoint_is_damaged(self, watched):
        """It starts with none: who holds what is known to the scheduler alone, which counts on."""
        (watched.root / "var/lib/kubelet/device-plugins/kubelet_internal_checkpoint").write_text('{"broken')
        killed = time.time()
        watched.kill("kubelet")

        until(lambda: list_sent(watched, killed), "the list is sent to the kubelet")
        finished = succeeded(watched)
        until(lambda: succeeded(watched) > finished + 5, "rivals come and go")

    def test_two_agents_on_the_node_offer_the_same_units_once(self, watched):
        with watched.second_agent():
            for _ in range(20):
                assert watched.allocatable() == str(INVENTORY)
                time.sleep(0.1)
            os.kill(watched.agents()[0], signal.SIGKILL)
            time.sleep(2)
            assert watched.allocatable() == str(INVENTORY)

    def test_a_rolling_update_has_no_moment_without_capacity(self, watched):
        kubelet_log = watched.cluster.kubeconfig.parent / "boxes/sgx-1/logs/kubelet.log"
        start = kubelet_log.stat().st_size
        seen = set()
        watched.cluster.kubectl("rollout", "restart", "daemonset/kubenclave-node", "-n", "kube-system")
        until(lambda: seen.add(watched.allocatable()) or len(watched.agents()) == 2, "the next agent runs beside the last")
        until(lambda: seen.add(watched.allocatable()) or len(watched.agents()) == 1, "the last has gone")
        watched.rolled_out()

        assert seen == {str(INVENTORY)}
        said = kubelet_log.read_bytes()[start:].decode(errors="replace")
        assert "Device plugin connected" in said
        assert "Last device plugin for this resource disconnected" not in said

    def test_the_api_server_is_away_for_thirty_seconds(self, watched):
        with watched.without_api(API_AWAY_SECONDS):
            killed = time.time()
            until(lambda: list_sent(watched, killed - 1), "the agent is registered without the API server")

    def test_the_node_is_rebooted(self, crowded):
        finished = succeeded(crowded)
        before = crowded.cluster.get("pods", "-l", "job-name=rivals", "--field-selector", "status.phase=Running")["items"]
        crowded.reboot(list_sent)

        # Until then the kubelet refuses the pods it had. One by itself stays failed, that of a Job is followed by another.
        until(lambda: crowded.cluster.get("pod", "steady")["status"]["phase"] == "Failed", "the pod by itself has failed")
        assert crowded.cluster.get("pod", "steady")["status"]["reason"] == "UnexpectedAdmissionError"
        until(lambda: succeeded(crowded) > finished + 5, "rivals run again")
        known = {pod["metadata"]["name"] for pod in before}
        after = crowded.cluster.get("pods", "-l", "job-name=rivals", "--field-selector", "status.phase=Running")["items"]
        assert after
        assert not known & {pod["metadata"]["name"] for pod in after}


def succeeded(node):
    """How many rivals have ended well."""
    return node.cluster.get("job", "rivals")["status"].get("succeeded", 0)


def list_sent(node, since):
    """The times at which a list with all units was sent after a moment."""
    times = [
        datetime.fromisoformat(line["timestamp"]).timestamp()
        for line in node.log()
        if line["event"] == "list.sent" and line["units"] == INVENTORY
    ]
    return [at for at in times if at >= since]
