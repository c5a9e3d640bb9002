"""The demo's facts, asked of the Kubernetes API after it ran; nothing is believed because the demo printed it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kubenclave.local import boxes, cgroups
from kubenclave.local.plan import cgroup_root

EPC = "openenclave.io/sgx_epc_MiB"
NAMESPACE = "kubenclave-demo"
GREETING = "Hello world from the enclave"


@pytest.fixture(scope="module")
def demo(shell, tmp_path_factory):
    """The demo's own result, its page, and the cluster that it left up."""
    page = tmp_path_factory.mktemp("demo") / "report.html"
    shell.down("demo")
    result = json.loads(shell.ok("demo", "--keep", "--output", "json", "--report", str(page)))
    yield result, page.read_text(), shell.up("demo")
    shell.down("demo")


@pytest.fixture(scope="module")
def cluster(demo):
    return demo[2]


@pytest.fixture(scope="module")
def pods(cluster):
    return {pod["metadata"]["name"]: pod for pod in cluster.get("pods", "--namespace", NAMESPACE)["items"]}


def unschedulable(pod) -> str:
    return next(c["message"] for c in pod["status"]["conditions"] if c["type"] == "PodScheduled" and c["status"] == "False")


def test_the_sgx_node_carries_the_guides_label_and_taint(cluster):
    node = cluster.get("node", "sgx-1")
    assert node["metadata"]["labels"]["tee"] == "sgx"
    assert {"key": EPC, "value": "true", "effect": "NoSchedule"} in node["spec"]["taints"]
    assert "taints" not in cluster.get("node", "plain-1")["spec"]


def test_allocatable_shows_the_40_mib_of_the_guides_figure(cluster):
    assert cluster.get("node", "sgx-1")["status"]["allocatable"][EPC] == "40"
    assert EPC not in cluster.get("node", "plain-1")["status"]["allocatable"]


def test_the_job_ran_the_measured_enclave_on_the_sgx_node(demo, cluster, pods):
    assert cluster.get("job", "hello-enclave", "--namespace", NAMESPACE)["status"]["succeeded"] == 1
    pod = next(pod for name, pod in pods.items() if name.startswith("hello-enclave-"))
    assert pod["spec"]["nodeName"] == "sgx-1"
    assert pod["spec"]["containers"][0]["resources"]["limits"][EPC] == "10"
    log = cluster.kubectl("logs", pod["metadata"]["name"], "--namespace", NAMESPACE).stdout.splitlines()
    assert log[0] == GREETING
    assert f"MRENCLAVE {demo[0]['mrenclave']}" in log
    assert any("simulated" in line for line in log)


def test_the_jobs_pod_has_no_privilege_and_is_not_root(pods):
    pod = next(pod for name, pod in pods.items() if name.startswith("hello-enclave-"))
    container = pod["spec"]["containers"][0]["securityContext"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["capabilities"]["drop"] == ["ALL"]
    assert not container.get("privileged")


def test_an_ordinary_pod_runs_elsewhere_and_is_kept_off_the_tainted_node(pods):
    assert (pods["plain"]["status"]["phase"], pods["plain"]["spec"]["nodeName"]) == ("Running", "plain-1")
    assert pods["insists"]["status"]["phase"] == "Pending"
    assert "untolerated taint" in unschedulable(pods["insists"])


def test_four_pods_of_a_quarter_fit_and_the_fifth_ran_when_one_had_ended(pods):
    assert pods["holder-1"]["status"]["phase"] == "Succeeded"
    held = [pods[f"holder-{number}"] for number in (2, 3, 4, 5)]
    assert [(pod["status"]["phase"], pod["spec"]["nodeName"]) for pod in held] == [("Running", "sgx-1")] * 4
    assert sum(int(pod["spec"]["containers"][0]["resources"]["limits"][EPC]) for pod in held) == 40
    # The fifth was placed only after the first had ended, though it was made long before.
    ended = pods["holder-1"]["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
    placed = next(c["lastTransitionTime"] for c in pods["holder-5"]["status"]["conditions"] if c["type"] == "PodScheduled")
    assert placed >= ended > pods["holder-5"]["metadata"]["creationTimestamp"]


def test_one_more_pod_stays_pending_with_the_schedulers_reason(cluster):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one-too-many", "namespace": NAMESPACE},
        "spec": {
            "tolerations": [{"key": EPC, "operator": "Exists"}],
            "containers": [{"name": "main", "image": "kubenclave.local/pause:1", "resources": {"limits": {EPC: "1"}}}],
        },
    }
    cluster.apply(pod)
    try:
        cluster.wait("pod/one-too-many", "condition=PodScheduled=False", "--namespace", NAMESPACE)
        assert f"Insufficient {EPC}" in unschedulable(cluster.get("pod", "one-too-many", "--namespace", NAMESPACE))
    finally:
        cluster.kubectl("delete", "pod", "one-too-many", "--namespace", NAMESPACE)


def test_the_direct_way_ran_on_a_node_whose_epc_was_all_given_away(pods):
    direct = pods["direct"]
    assert (direct["status"]["phase"], direct["spec"]["nodeName"]) == ("Succeeded", "sgx-1")
    assert direct["spec"]["containers"][0]["securityContext"]["privileged"] is True
    assert EPC not in direct["spec"]["containers"][0].get("resources", {}).get("limits", {})
    assert pods["direct-anywhere"]["spec"]["nodeName"] == "plain-1"
    assert pods["direct-anywhere"]["status"]["phase"] == "Pending"


def test_the_node_agent_runs_without_privileges(cluster):
    agents = cluster.get("pods", "--namespace", "kube-system", "--selector", "app.kubernetes.io/name=kubenclave-node")["items"]
    assert [pod["spec"]["nodeName"] for pod in agents] == ["sgx-1"]
    container = agents[0]["spec"]["containers"][0]["securityContext"]
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["allowPrivilegeEscalation"] is False
    assert not container.get("privileged")
    pid = process_of("kubenclave.node")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_only_containers_that_asked_for_epc_have_the_device(cluster):
    name = "holder-2"
    holder = process_of("holder", pod=cluster.get("pod", name, "--namespace", NAMESPACE)["metadata"]["uid"])
    assert Path(f"/proc/{holder}/root/dev/sgx_enclave").is_char_device()
    plain = process_of("plain", pod=cluster.get("pod", "plain", "--namespace", NAMESPACE)["metadata"]["uid"])
    assert not Path(f"/proc/{plain}/root/dev/sgx_enclave").exists()


def test_the_agent_offers_epc_again_after_the_kubelet_was_killed(cluster):
    init = boxes.running("demo")["sgx-1"].init
    kubelet = next(
        int(pid)
        for pid in Path(f"/proc/{init}/task/{init}/children").read_text().split()
        if b"/kubelet\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    since = time.time()
    subprocess.run(["kill", "-9", str(kubelet)], check=True)
    deadline = time.monotonic() + 60
    registered: list[str] = []
    while not registered and time.monotonic() < deadline:
        log = cluster.kubectl("logs", "--namespace", "kube-system", "ds/kubenclave-node", f"--since={int(time.time() - since) + 1}s").stdout
        registered = [line for line in log.splitlines() if "plugin.registered" in line and json.loads(line)["timestamp"] > stamp(since)]
        time.sleep(0.2)
    assert registered
    while cluster.get("node", "sgx-1")["status"]["allocatable"][EPC] != "40":
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_more_epc_than_the_node_has_is_refused_before_anything_is_made(cluster, shell):
    result = shell.kubenclave(
        "deploy", "kubenclave.local/hello-enclave:1", "--epc", "41Mi", "--name", "greedy", "--kubeconfig", str(cluster.kubeconfig)
    )
    assert result.returncode == 3
    assert "41 MiB" in result.stderr
    assert "40 MiB" in result.stderr
    assert cluster.kubectl("get", "job", "greedy").returncode != 0


def test_the_report_is_one_file_that_says_it_was_simulated(demo):
    result, page, _cluster = demo
    assert result["simulated"] is True
    assert "simulated" in page
    assert result["mrenclave"] in page
    assert not re.search(r"<script|(src|href)=|url\(", page)


def test_every_step_says_where_it_saw_its_facts(demo):
    steps = demo[0]["steps"]
    assert [step["module"] for step in steps] == sorted(step["module"] for step in steps)
    assert {step["module"] for step in steps} == {1, 2, 3}
    assert all(observation["seen_in"] for step in steps for observation in step["observations"])


def test_on_a_cluster_of_the_users_nothing_is_done_without_asking(cluster, shell):
    before = cluster.get("daemonsets,namespaces", "--all-namespaces")
    result = shell.kubenclave("demo", "--kubeconfig", str(cluster.kubeconfig))
    assert result.returncode == 3
    assert "May the demo" in result.stderr
    after = cluster.get("daemonsets,namespaces", "--all-namespaces")
    assert [item["metadata"]["uid"] for item in after["items"]] == [item["metadata"]["uid"] for item in before["items"]]


def test_on_a_cluster_of_the_users_it_runs_with_leave_and_removes_its_pods(cluster, shell):
    result = json.loads(shell.ok("demo", "--kubeconfig", str(cluster.kubeconfig), "--yes", "--output", "json"))
    log = [o["value"] for step in result["steps"] for o in step["observations"] if o["what"] == "log"]
    assert GREETING in log
    assert cluster.kubectl("get", "namespace", NAMESPACE).returncode != 0
    assert cluster.get("node", "sgx-1")["status"]["allocatable"][EPC] == "40"


@pytest.mark.parametrize("seconds", [2.0, 6.0, 12.0])
def test_an_interrupted_demo_leaves_nothing(cluster, shell, seconds):
    shell.down("demo")
    process = shell.start("demo")
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _out, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert not cgroups.exists(cgroup_root("demo"))


def process_of(word: str, pod: str = "") -> int:
    """Find a process of the demo's cluster by a word of its command line, or any process of a pod."""
    for pid in cgroups.processes(cgroup_root("demo")):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if pod and pod in Path(f"/proc/{pid}/cgroup").read_text() and b"pause" not in command:
            return pid
        if not pod and word.encode() in command and b"unshare" not in command:
            return pid
    if pod:
        # A plain pod's own program is named pause as well: any process of the pod shows the same devices.
        return next(pid for pid in cgroups.processes(cgroup_root("demo")) if pod in Path(f"/proc/{pid}/cgroup").read_text())
    raise AssertionError(f"no process of {word}")


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def test_a_report_that_could_not_be_written_is_refused_before_anything_starts(shell):
    result = shell.kubenclave("demo", "--report", "/nonexistent/report.html")
    assert result.returncode == 6
    assert "/nonexistent/report.html" in result.stderr
    assert "module 1" not in result.stderr
