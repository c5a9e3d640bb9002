"""What a user of the local cluster expects of any Kubernetes, and what its simulated SGX host shows."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from kubenclave.image import ImageSpec, build_image, build_node_agent_image, parse_reference
from kubenclave.local import boxes

BUSYBOX = "kubenclave.test/busybox:1"
# Calls the API with the pod's own ServiceAccount, checking the server's certificate, as any in-cluster program does.
CALL_API = (
    "import ssl, urllib.request, os;"
    "d='/var/run/secrets/kubernetes.io/serviceaccount/';"
    "u='https://%s:%s/version' % (os.environ['KUBERNETES_SERVICE_HOST'], os.environ['KUBERNETES_SERVICE_PORT']);"
    "r=urllib.request.Request(u, headers={'Authorization': 'Bearer '+open(d+'token').read()});"
    "print(urllib.request.urlopen(r, context=ssl.create_default_context(cafile=d+'ca.crt'), timeout=10).read().decode())"
)


def pod(name: str, *command: str, node: str = "", image: str = BUSYBOX) -> dict:
    container = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", "command": list(command)}
    spec: dict = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


@pytest.fixture(scope="module")
def busybox(cluster, tmp_path_factory):
    archive = tmp_path_factory.mktemp("image") / "busybox.tar"
    build_image(ImageSpec(reference=parse_reference(BUSYBOX), host=Path("/bin/busybox")), archive, lambda _news: None)
    for name, box in boxes.running(cluster.name).items():
        if name != "control-plane":
            boxes.import_image(box, archive)
    return cluster


@pytest.fixture
def run(busybox):
    made = []

    def start(document: dict) -> str:
        busybox.apply(document)
        made.append(document["metadata"]["name"])
        return f"pod/{document['metadata']['name']}"

    yield start
    for name in made:
        busybox.kubectl("delete", "pod", name, "--grace-period=0", "--force", "--wait=true")


def test_the_nodes_run_the_pinned_kubernetes_and_containerd(cluster):
    info = {node["metadata"]["name"]: node["status"]["nodeInfo"] for node in cluster.get("nodes")["items"]}
    assert set(info) == {"sgx-1", "plain-1"}
    assert {i["kubeletVersion"] for i in info.values()} == {"v1.37.2"}
    assert {i["containerRuntimeVersion"].partition("://")[0] for i in info.values()} == {"containerd"}
    assert '"gitVersion": "v1.37.2"' in cluster.kubectl("get", "--raw", "/version").stdout


def test_logs_of_a_pod_reach_the_user(busybox, run):
    name = run(pod("talker", "/app/busybox", "echo", "spoken in the pod"))
    busybox.wait(name, "jsonpath={.status.phase}=Succeeded")
    assert busybox.kubectl("logs", "talker").stdout == "spoken in the pod\n"


def test_a_pod_calls_the_api_server_by_its_service_account(busybox, run, tmp_path):
    archive = tmp_path / "python.tar"
    image = build_node_agent_image(parse_reference("kubenclave.test/python:1"), archive, lambda _news: None)
    interpreter = next(file.path for file in image.files if "/bin/python3" in file.path)
    boxes.import_image(boxes.running(busybox.name)["plain-1"], archive)
    name = run(pod("caller-of-the-api", interpreter, "-c", CALL_API, node="plain-1", image=image.reference))
    busybox.wait(name, "jsonpath={.status.phase}=Succeeded")
    assert json.loads(busybox.kubectl("logs", "caller-of-the-api").stdout)["gitVersion"] == "v1.37.2"


def test_exec_runs_a_program_with_its_input(busybox, run):
    name = run(pod("worker", "/app/busybox", "sleep", "300"))
    busybox.wait(name, "condition=Ready")
    result = busybox.kubectl("exec", "-i", "worker", "--", "/app/busybox", "tr", "a-z", "A-Z", stdin="through and back\n")
    assert result.stdout == "THROUGH AND BACK\n"


@pytest.mark.parametrize(("server", "client"), [("sgx-1", "plain-1"), ("plain-1", "sgx-1")])
def test_pods_reach_each_other_across_nodes(busybox, run, server, client):
    listener = run(pod("listener", "/app/busybox", "nc", "-ll", "-p", "8080", "-e", "/app/busybox", "echo", "answered", node=server))
    busybox.wait(listener, "condition=Ready")
    address = busybox.get("pod", "listener")["status"]["podIP"]
    caller = run(pod("caller", "/app/busybox", "nc", "-w", "5", address, "8080", node=client))
    busybox.wait(caller, "jsonpath={.status.phase}=Succeeded")
    assert busybox.kubectl("logs", "caller").stdout == "answered\n"


def test_a_killed_kubelet_and_containerd_come_back_and_pods_live_on(busybox, run):
    name = run(pod("survivor", "/app/busybox", "sleep", "300", node="sgx-1"))
    busybox.wait(name, "condition=Ready")
    started = busybox.get("pod", "survivor")["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    before = programs_of("sgx-1", busybox.name)

    for pid in before.values():
        Path(f"/proc/{pid}").exists()
        subprocess.run(["kill", "-9", str(pid)], check=True)

    deadline = time.monotonic() + 30
    while True:
        after = programs_of("sgx-1", busybox.name)
        if set(after) == set(before) and not set(after.values()) & set(before.values()):
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    result = ""
    while "still here" not in result and time.monotonic() < deadline:
        result = busybox.kubectl("exec", "survivor", "--", "/app/busybox", "echo", "still here").stdout
    assert "still here" in result
    assert busybox.get("pod", "survivor")["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] == started


def programs_of(node: str, cluster: str) -> dict[str, int]:
    init = boxes.running(cluster)[node].init
    found = {}
    for child in Path(f"/proc/{init}/task/{init}/children").read_text().split():
        name = Path(Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].decode()).name
        if name in ("kubelet", "containerd"):
            found[name] = int(child)
    return found


def test_the_sgx_node_shows_epc_as_linux_does_and_the_plain_node_none(cluster):
    roots = {name: Path(f"/proc/{box.init}/root") for name, box in boxes.running(cluster.name).items()}
    sizes = [path.read_text() for path in roots["sgx-1"].glob("sys/devices/system/node/node*/x86/sgx_total_bytes")]
    assert sizes == ["41943040\n"]
    assert (roots["sgx-1"] / "dev/sgx_enclave").is_char_device()
    assert "simulated" in (roots["sgx-1"] / "run/kubenclave/simulated").read_text()
    assert not list(roots["plain-1"].glob("sys/devices/system/node/node*/x86/sgx_total_bytes"))
    assert not (roots["plain-1"] / "dev/sgx_enclave").exists()


def test_a_pod_may_not_open_the_sgx_device_by_making_its_own_node(busybox, run):
    command = "/app/busybox mknod /tmp/sgx c 10 229 && /app/busybox cat /tmp/sgx; echo ended $?"
    document = pod("sneaky", "/app/busybox", "sh", "-c", command, node="sgx-1")
    document["spec"]["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    document["spec"]["containers"][0]["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - a folder inside the pod
    document["spec"]["containers"][0]["securityContext"] = {"runAsUser": 0, "capabilities": {"add": ["MKNOD"]}}
    name = run(document)
    busybox.wait(name, "jsonpath={.status.phase}=Succeeded")
    assert "Operation not permitted" in busybox.kubectl("logs", "sneaky").stdout


def test_256_gib_of_epc_on_two_numa_nodes_is_shown_as_such(shell):
    cluster = shell.up("numa", "--nodes", "1", "--epc", "128Gi,128Gi")
    try:
        root = Path(f"/proc/{boxes.running('numa')['sgx-1'].init}/root")
        sizes = {path.parts[-3]: int(path.read_text()) for path in root.glob("sys/devices/system/node/node*/x86/sgx_total_bytes")}
        assert sizes == {"node0": 128 << 30, "node1": 128 << 30}
        assert cluster.get("node", "sgx-1")["metadata"]["name"] == "sgx-1"
    finally:
        shell.down("numa")
