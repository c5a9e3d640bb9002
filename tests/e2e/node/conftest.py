"""A node with the agent that a test may hurt, and a witness who watches all the time what its pods hold."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
import yaml

from kubenclave.errors import KubenclaveError
from kubenclave.image import ImageSpec, build_image, build_node_agent_image, parse_reference
from kubenclave.kube import connect
from kubenclave.local import boxes
from kubenclave.node._generated.podresources_pb2 import ContainerDevices, ListPodResourcesRequest, ListPodResourcesResponse

DEPLOY = Path(__file__).parents[3] / "deploy"
NODE = "sgx-1"
AGENT, BUSYBOX = "kubenclave/node:local", "kubenclave.test/busybox:1"
UNITS = "openenclave.io/sgx_epc_MiB"
PLUGINS = "var/lib/kubelet/device-plugins"
SAMPLE_SECONDS = 0.1


class HurtNode:
    """The node ``sgx-1`` of a cluster, reached from outside: its files, its processes, its pods."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.documents: list[dict] = []

    @property
    def box(self):
        return boxes.running(self.cluster.name)[NODE]

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.box.init}/root")

    # --- the agent -----------------------------------------------------------------------------------------------------------------

    def install(self, file, *arguments, change=lambda _pod_spec: None):
        self.documents = list(yaml.safe_load_all((DEPLOY / file).read_text()))
        (daemon_set,) = [document for document in self.documents if document["kind"] == "DaemonSet"]
        daemon_set["spec"]["template"]["spec"]["containers"][0]["args"] += arguments
        change(daemon_set["spec"]["template"]["spec"])
        self.apply(*self.documents)
        self.rolled_out()

    def rolled_out(self):
        done = self.cluster.kubectl("rollout", "status", "daemonset/kubenclave-node", "-n", "kube-system", "--timeout=60s", timeout=90)
        assert done.returncode == 0, done.stdout + done.stderr

    def uninstall(self):
        self.cluster.kubectl("delete", "-f", "-", "--ignore-not-found", "--cascade=foreground", "--wait", stdin=as_text(self.documents))

    def agents(self) -> list[int]:
        """The agents' processes, the oldest first."""
        found = []
        for pid, command in processes_in(self.box.init).items():
            if "kubenclave.node" in command:
                found.append((int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]), pid))
        return [pid for _, pid in sorted(found)]

    def log(self) -> list[dict]:
        """Every line that agents wrote on this node, from its files: they are there while the kubelet is not."""
        lines = []
        for path in self.root.glob("var/log/pods/kube-system_kubenclave-node-*/agent/*.log"):
            with contextlib.suppress(OSError):
                lines += [line.split(" ", 3)[3] for line in path.read_text().splitlines() if line.count(" ") > 2]
        return sorted((json.loads(line) for line in lines if line.startswith("{")), key=lambda line: line["timestamp"])

    def page(self, path, pod=None):
        name = pod or self.agent_pods()[0]
        return self.cluster.kubectl("get", "--raw", f"/api/v1/namespaces/kube-system/pods/{name}:9120/proxy/{path}").stdout

    def agent_pods(self) -> list[str]:
        found = self.cluster.get("pods", "-n", "kube-system", "-l", "app.kubernetes.io/name=kubenclave-node")["items"]
        return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]

    # --- the node ------------------------------------------------------------------------------------------------------------------

    def program(self, name, box=NODE) -> int:
        """The process of one of a box's own programs; 0 while it does not run."""
        init = boxes.running(self.cluster.name)[box].init
        for pid in children(init):
            with contextlib.suppress(OSError):
                if Path(command_of(pid)[0]).name == name:
                    return pid
        return 0

    def processes(self) -> list[int]:
        """Everything that runs on the node, its pods included."""
        return list(processes_in(self.box.init))

    def kill(self, name) -> None:
        os.kill(self.program(name), signal.SIGKILL)

    def allocatable(self, resource=UNITS):
        return self.cluster.get("node", NODE)["status"]["allocatable"].get(resource)

    def kubelet_socket_ns(self) -> int:
        """When the kubelet's socket was made; 0 while there is none."""
        try:
            return (self.root / PLUGINS / "kubelet.sock").stat().st_ctime_ns
        except OSError:
            return 0

    # --- pods ----------------------------------------------------------------------------------------------------------------------

    def apply(self, *documents):
        result = self.cluster.kubectl("apply", "-f", "-", stdin=as_text(documents))
        assert result.returncode == 0, result.stderr

    def started(self, document):
        self.apply(document)
        self.cluster.wait(f"pod/{document['metadata']['name']}", "condition=Ready")
        return document["metadata"]["name"]

    def delete(self, *names):
        self.cluster.kubectl("delete", *names, "--grace-period=0", "--wait", "--ignore-not-found")

    def life(self, pod):
        """What changes when a pod is disturbed: its identity, its start, its container and restarts."""
        found = self.cluster.get("pod", pod)
        (status,) = found["status"].get("containerStatuses", [{}])
        return found["metadata"]["uid"], status.get("state", {}).get("running"), status.get("containerID"), status.get("restartCount")


class Witness:
    """Looks ten times a second at what the kubelet says its pods hold, and at what runs, and remembers the worst.

    Attributes:
        samples: How often it could look.
        most: The most units held at once.
        twice: Units that two containers held at once.
    """

    def __init__(self, node: HurtNode, resource=UNITS):
        self.samples = 0
        self.most = 0
        self.twice: set[str] = set()
        self._node = node
        self._resource = resource
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(look,)) for look in (self._kubelet, self._api)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, look):
        while not self._stop.is_set():
            with contextlib.suppress(OSError, KubenclaveError, grpc.RpcError):
                self.most = max(self.most, look())
                self.samples += 1
            self._stop.wait(SAMPLE_SECONDS)

    def _kubelet(self) -> int:
        held = Counter(self._units())
        self.twice |= {name for name, times in held.items() if times > 1}
        return len(held)

    def _units(self):
        with grpc.insecure_channel(f"unix://{self._node.root}/var/lib/kubelet/pod-resources/kubelet.sock") as channel:
            call = channel.unary_unary(
                "/v1.PodResourcesLister/List", ListPodResourcesRequest.SerializeToString, ListPodResourcesResponse.FromString
            )
            answer = call(ListPodResourcesRequest(), timeout=1)
        for pod in answer.pod_resources:
            for container in pod.containers:
                for device in map(ContainerDevices.FromString, container.devices):
                    if device.resource_name == self._resource:
                        yield from device.device_ids

    def _api(self) -> int:
        with connect(self._node.cluster.kubeconfig) as api:
            pods = [pod for pod in api.pods("default") if pod.phase == "Running" and pod.node == NODE]
        return sum(pod.requests.get(self._resource, 0) for pod in pods)


def as_text(documents):
    return "---\n".join(json.dumps(document) + "\n" for document in documents)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")


def processes_in(init) -> dict[int, list[str]]:
    """All processes of a box but its first."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) != init and belongs(int(folder.name), init):
                found[int(folder.name)] = command_of(folder.name)
    return found


def belongs(pid, init) -> bool:
    while pid > 1:
        if pid == init:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not seen within {seconds} s: {what}"
        time.sleep(0.05)


def quickly_restarting(node: HurtNode):
    """Have the kubelet start killed containers again after a second at most: its default grows to five minutes."""
    path = node.root / "etc/kubernetes/kubelet.json"
    configuration = json.loads(path.read_text())
    path.write_text(json.dumps({**configuration, "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"}}))
    node.kill("kubelet")


@pytest.fixture(scope="session")
def node_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node-images")
    build_node_agent_image(parse_reference(AGENT), folder / "agent.tar", lambda _news: None)
    build_image(ImageSpec(reference=parse_reference(BUSYBOX), host=Path("/bin/busybox")), folder / "busybox.tar", lambda _news: None)
    return [folder / "agent.tar", folder / "busybox.tar"]


@pytest.fixture(scope="module")
def hurt_node(shell, node_images):
    """A cluster of its own with one node of 40 MiB, on which containers start again within a second."""
    name = "node-faults"
    shell.down(name)
    node = HurtNode(shell.up(name, "--nodes", "1", "--epc", "40Mi"))
    quickly_restarting(node)
    for archive in node_images:
        boxes.import_image(node.box, archive)
    node.cluster.kubectl("label", "node", NODE, "tee=sgx", "--overwrite")
    until(lambda: node.cluster.kubectl("get", "serviceaccount", "default").returncode == 0, "the default ServiceAccount")
    yield node
    shell.down(name)


@pytest.fixture
def witnessed():
    return Witness
