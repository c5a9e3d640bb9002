"""A node with the agent that a test may hurt."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from kubenclave.image import ImageSpec, build_image, build_node_agent_image, parse_reference
from kubenclave.local import boxes

DEPLOY = Path(__file__).parents[3] / "deploy"
NODE = "sgx-1"
AGENT, BUSYBOX = "kubenclave/node:local", "kubenclave.test/busybox:1"
UNITS = "openenclave.io/sgx_epc_MiB"
PLUGINS = "var/lib/kubelet/device-plugins"


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

    # --- what befalls it -----------------------------------------------------------------------------------------------------------

    def kill_often(self, times, heard, back_again=None) -> list[float]:
        """Kill kubelet and agent by turns; return after how many seconds from a kubelet's socket on everything was as before.

        Args:
            times: How often.
            heard: Gives the times after a moment at which a kubelet took what the agent offers.
            back_again: Gives the times at which everything was as before after the kubelet's death; ``heard`` without this.
        """
        back = []
        for _ in range(times):
            socket, killed = self.kubelet_socket_ns(), time.time()
            self.kill("kubelet")
            until(lambda old=socket: self.kubelet_socket_ns() not in {0, old}, "the kubelet is back")
            made = self.kubelet_socket_ns() / 1e9
            for event in (heard, back_again or heard):
                until(lambda event=event, since=killed: event(self, since), "what was there before is there again")
            back.append(max(0.0, (back_again or heard)(self, killed)[0] - made))
            until(self.agents, "the agent runs")
            (agent,) = self.agents()
            os.kill(agent, signal.SIGKILL)
            until(lambda old=agent: self.agents() not in ([], [old]), "the agent is back")
            killed = time.time()
            until(lambda since=killed: heard(self, since - 1), "the agent is registered")
        return back

    def restart_containerd(self):
        self.kill("containerd")
        until(lambda: (self.root / "run/containerd/containerd.sock").is_socket() and self.program("containerd"), "containerd is back")

    @contextlib.contextmanager
    def second_agent(self):
        """One more agent on the node beside the DaemonSet's."""
        (daemon_set,) = [document for document in self.documents if document["kind"] == "DaemonSet"]
        spec = daemon_set["spec"]["template"]["spec"] | {"nodeSelector": {"kubernetes.io/hostname": NODE}}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "second-agent", "namespace": "kube-system"}, "spec": spec})
        try:
            until(lambda: len(self.agents()) == 2, "both run")
            yield
        finally:
            self.cluster.kubectl("delete", "pod", "second-agent", "-n", "kube-system", "--wait")

    @contextlib.contextmanager
    def without_api(self, seconds):
        """Keep the API server from answering for so long, and as long as the block takes; the agent is killed meanwhile and comes back."""
        server = self.program("kube-apiserver", "control-plane")
        os.kill(server, signal.SIGSTOP)
        try:
            until_back = time.monotonic() + seconds
            (agent,) = self.agents()
            os.kill(agent, signal.SIGKILL)
            until(lambda: self.agents() not in ([], [agent]), "the agent is back without the API server", seconds=20)
            yield
            time.sleep(max(0.0, until_back - time.monotonic()))
        finally:
            os.kill(server, signal.SIGCONT)
        until(lambda: self.cluster.kubectl("get", "--raw", "/readyz").stdout == "ok", "the API server is back")

    def reboot(self, heard):
        """Kill everything on the node and wait until it is back with its agent."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed = time.time()
        until(lambda: self.kubelet_socket_ns() > killed * 1e9 and self.agents(), "kubelet and agent are back")
        until(lambda: heard(self, killed), "the kubelet has the agent again")

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
