"""Mode dra, whatever is killed, wiped or filled up: claims never have more than there is, nothing is left over, and no pod notices."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime

import pytest

TIMES = 20
BUSYBOX = "kubenclave.test/busybox:1"
DRIVER = "epc.kubenclave.dev"
INVENTORY_BYTES = 40 << 20
CLAIM_BYTES = 10 << 20
API_AWAY_SECONDS = 30
# What a user is promised: so soon after the kubelet is back, it has the driver, and the scheduler the slice that the kubelet deletes
# when it starts.
BACK_SECONDS = 1.0


def until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not seen within {seconds} s: {what}"
        time.sleep(0.05)


def pod(name):
    """A pod that asks for nothing."""
    container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": ["/app/busybox", "sleep", "3600"]}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def claimant(name):
    document = pod(name)
    document["spec"]["resourceClaims"] = [{"name": "epc", "resourceClaimTemplateName": "ten"}]
    document["spec"]["containers"][0]["resources"] = {"claims": [{"name": "epc"}]}
    return document


def rivals():
    """Pods that together want more than there is, each ending after some seconds and followed by the next."""
    spec = claimant("rivals")["spec"] | {"restartPolicy": "Never"}
    spec["containers"][0]["command"] = ["/app/busybox", "sleep", "4"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "rivals", "namespace": "default"},
        "spec": {"parallelism": 5, "completions": 10_000, "backoffLimit": 10_000, "template": {"spec": spec}},
    }


@pytest.fixture(scope="class")
def claiming(hurt_node):
    small_disk(hurt_node)
    hurt_node.install("node-agent-dra.yaml")
    until(lambda: any(line["event"] == "driver.registered" for line in hurt_node.log()), "the kubelet took the driver")
    hurt_node.apply(template())
    yield hurt_node
    hurt_node.delete("pods", "--all")
    hurt_node.uninstall()
    inside(hurt_node, "umount", f"/var/lib/kubelet/plugins/{DRIVER}")


class TestWhileAllIsWell:
    """Claims are prepared, or refused whole."""

    def test_the_metrics_tell_the_claims_bytes_by_container(self, claiming):
        name = claiming.started(claimant("asks"))

        lines = claiming.page("metrics").splitlines()

        assert f'kubenclave_epc_pod_bytes{{container="main",namespace="default",pod="{name}"}} 1.048576e+07' in lines
        assert "kubenclave_allocations_total 1.0" in lines
        claiming.delete(f"pod/{name}")

    def test_a_full_disk_refuses_the_pod_and_leaves_nothing_behind(self, claiming):
        node = claiming
        steady = node.started(claimant("before"))
        before = node.life(steady)
        ballast = driver_dir(node) / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(b"\0" * 512)
                file.flush()

        try:
            node.apply(claimant("refused"))
            until(lambda: any(line["event"] == "claim.not_prepared" for line in node.log()), "the claim is refused")
            refusal = next(line for line in node.log() if line["event"] == "claim.not_prepared")
            assert "No space left on device" in refusal["what"]
            assert set(checkpoint(node)["claims"]) == {claim_uid(node, steady)}
            assert len(cdi_files(node)) == 1
        finally:
            ballast.unlink()

        node.cluster.wait("pod/refused", "condition=Ready")
        assert node.life(steady) == before
        node.delete("pod/before", "pod/refused")
        until(lambda: not cdi_files(node) and not checkpoint(node)["claims"], "nothing is left over")
        assert not node.cluster.get("resourceclaims")["items"]

    def test_a_rolling_update_keeps_the_slice_and_prepares_on(self, claiming):
        node = claiming
        published = [item["metadata"]["uid"] for item in node.cluster.get("resourceslices")["items"]]
        node.cluster.kubectl("rollout", "restart", "daemonset/kubenclave-node", "-n", "kube-system")
        until(lambda: len(node.agents()) == 2, "the next agent runs beside the last")
        during = node.started(claimant("during"))
        node.rolled_out()
        until(lambda: len(node.agents()) == 1, "the last has gone")
        after = node.started(claimant("after"))

        assert [item["metadata"]["uid"] for item in node.cluster.get("resourceslices")["items"]] == published
        node.delete(f"pod/{during}", f"pod/{after}")
        until(lambda: not cdi_files(node) and not checkpoint(node)["claims"], "nothing is left over")


class TestFaults:
    """A pod that stays and rivals for the rest, while everything around them is killed."""

    @pytest.fixture
    def crowded(self, claiming, claims_witness):
        node = claiming
        node.started(claimant("steady"))
        node.apply(rivals())
        until(lambda: node.cluster.get("job", "rivals")["status"].get("ready"), "rivals run")
        with claims_witness(node) as witness:
            node.witness = witness
            yield node
            finished = succeeded(node)
            until(lambda: succeeded(node) > finished + 3, "rivals come and go again")
        node.delete("job/rivals")
        until(lambda: [each["metadata"]["name"] for each in node.cluster.get("pods")["items"]] == ["steady"], "the rivals are gone")
        until(lambda: set(checkpoint(node)["claims"]) == {claim_uid(node, "steady")}, "one claim is prepared", seconds=90)
        until(lambda: len(cdi_files(node)) == 1, "and has a CDI file")
        node.delete("pod/steady")
        until(lambda: not cdi_files(node) and not checkpoint(node)["claims"], "nothing is left over")
        assert not node.cluster.get("resourceclaims")["items"]
        assert witness.samples > 5
        assert CLAIM_BYTES < witness.most <= INVENTORY_BYTES
        assert not witness.twice
        assert witness.offered <= {0, INVENTORY_BYTES}
        sys.stdout.write(
            f"\nslice away for at most {witness.longest_away:.2f} s, {witness.samples} samples, most {witness.most >> 20} MiB\n"
        )

    @pytest.fixture
    def watched(self, crowded):
        before = crowded.life("steady")
        yield crowded
        assert crowded.life("steady") == before
        assert crowded.witness.longest_away <= BACK_SECONDS

    def test_kubelet_and_agent_are_killed_twenty_times_each(self, watched):
        back = watched.kill_often(TIMES, registered, published)

        sys.stdout.write(f"\n{TIMES} kubelets: slice back after {min(back):.2f} to {max(back):.2f} s\n")
        assert max(back) <= BACK_SECONDS

    def test_containerd_is_killed(self, watched):
        watched.restart_containerd()

    def test_the_folders_of_sockets_are_wiped(self, watched):
        for path in (*(watched.root / "var/lib/kubelet/plugins_registry").glob("*.sock"), *driver_dir(watched).glob("*.sock")):
            path.unlink()
        wiped = time.time()

        until(lambda: registered(watched, wiped), "the kubelet has the driver again", seconds=10)

    def test_two_agents_on_the_node_prepare_each_claim_once(self, watched):
        with watched.second_agent():
            finished = succeeded(watched)
            until(lambda: succeeded(watched) > finished + 3, "rivals come and go")
            os.kill(watched.agents()[0], signal.SIGKILL)

    def test_the_api_server_is_away_for_thirty_seconds(self, watched):
        with watched.without_api(API_AWAY_SECONDS):
            pass

    def test_the_node_is_rebooted(self, crowded):
        crowded.reboot(registered)

        # Claims are prepared when a pod starts, not when it is admitted: unlike one with units, a pod by itself comes back.
        crowded.cluster.wait("pod/steady", "condition=Ready")


def succeeded(node):
    """How many rivals have ended well."""
    return node.cluster.get("job", "rivals")["status"].get("succeeded", 0)


def registered(node, since):
    """The times after a moment at which a kubelet took the driver."""
    return told(node, "driver.registered", since)


def published(node, since):
    """The times after a moment at which the slice was published: a starting kubelet deletes it."""
    return told(node, "slice.published", since)


def told(node, event, since):
    times = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in node.log() if line["event"] == event]
    return [at for at in times if at >= since]


def driver_dir(node):
    return node.root / f"var/lib/kubelet/plugins/{DRIVER}"


def small_disk(node):
    """Give the driver's folder a disk of its own, of 64 KiB, before the agent is there."""
    folder = f"/var/lib/kubelet/plugins/{DRIVER}"
    inside(node, "mkdir", "-p", folder)
    inside(node, "mount", "-t", "tmpfs", "-o", "size=64k", "small-disk", folder)


def inside(node, *command):
    subprocess.run(["nsenter", "-t", str(node.box.init), "-m", *command], check=True)


def template():
    exactly = {"deviceClassName": DRIVER, "capacity": {"requests": {"epc": "10Mi"}}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "ten", "namespace": "default"},
        "spec": {"spec": {"devices": {"requests": [{"name": "epc", "exactly": exactly}]}}},
    }


def claim_uid(node, name):
    (status,) = node.cluster.get("pod", name)["status"]["resourceClaimStatuses"]
    return node.cluster.get("resourceclaim", status["resourceClaimName"])["metadata"]["uid"]


def cdi_files(node):
    return sorted(path.name for path in (node.root / "run/cdi").glob("*.json"))


def checkpoint(node):
    return json.loads((driver_dir(node) / "checkpoint.json").read_text())
