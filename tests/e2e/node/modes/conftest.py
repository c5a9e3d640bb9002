"""A node on which the agent is installed in the modes that go through the API server, and what pods ask for there."""

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

DEPLOY = Path(__file__).parents[4] / "deploy"
CLUSTER, NODE = "node-modes", "sgx-1"
AGENT, BUSYBOX = "kubenclave/node:local", "kubenclave.test/busybox:1"
DRIVER = "epc.kubenclave.dev"
MIB = 1 << 20
# Two NUMA nodes of 24 and 16 MiB.
SIZES = (24 * MIB, 16 * MIB)
SLEEP = ("/app/busybox", "sleep", "3600")


class Installation:
    """The agent as deploy/ installs it, on a node that a test may hurt."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.documents: list[dict] = []

    def install(self, file, *arguments):
        self.documents = list(yaml.safe_load_all((DEPLOY / file).read_text()))
        for document in self.documents:
            if document["kind"] == "DaemonSet":
                document["spec"]["template"]["spec"]["containers"][0]["args"] += arguments
        self._apply(self.documents)
        self.cluster.kubectl("rollout", "status", "daemonset/kubenclave-node", "-n", "kube-system", "--timeout=60s", timeout=90)

    def uninstall(self):
        text = "---\n".join(json.dumps(document) + "\n" for document in self.documents)
        self.cluster.kubectl("delete", "-f", "-", "--ignore-not-found", "--cascade=foreground", "--wait", stdin=text)

    def _apply(self, documents):
        result = self.cluster.kubectl("apply", "-f", "-", stdin="---\n".join(json.dumps(document) + "\n" for document in documents))
        assert result.returncode == 0, result.stderr

    def node(self):
        return self.cluster.get("node", NODE)

    def allocatable(self, resource):
        return self.node()["status"]["allocatable"].get(resource)

    def log(self):
        text = self.cluster.kubectl("logs", "-n", "kube-system", "daemonset/kubenclave-node", "--tail=-1").stdout
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def root(self):
        return Path(f"/proc/{boxes.running(CLUSTER)[NODE].init}/root")

    def cdi_folder(self):
        # /var/run is a link to /run, which would be followed out of the node's root.
        return self.root() / "run/cdi"

    def cdi_files(self):
        folder = self.cdi_folder()
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def checkpoint(self):
        path = self.root() / f"var/lib/kubelet/plugins/{DRIVER}/checkpoint.json"
        return json.loads(path.read_text()) if path.exists() else {"claims": {}}

    def slice(self):
        found = self.cluster.get("resourceslices")["items"]
        return next((item for item in found if item["spec"]["driver"] == DRIVER), None)

    def kill_agent(self):
        """Kill the agent's process with SIGKILL; the kubelet starts the container again."""
        self.signal_agent(signal.SIGKILL)

    def signal_agent(self, number):
        pods = self.cluster.get("pods", "-n", "kube-system", "-l", "app.kubernetes.io/name=kubenclave-node")["items"]
        container = pods[0]["status"]["containerStatuses"][0]["containerID"].partition("://")[2]
        for pid in processes_of(container):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_kubelet(self):
        init = boxes.running(CLUSTER)[NODE].init
        for child in Path(f"/proc/{init}/task/{init}/children").read_text().split():
            if Path(Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].decode()).name == "kubelet":
                os.kill(int(child), signal.SIGKILL)

    def run(self, document):
        self.cluster.apply(document)
        return f"pod/{document['metadata']['name']}"

    def started(self, document):
        name = self.run(document)
        self.cluster.wait(name, "condition=Ready")
        return name.removeprefix("pod/")

    def inside(self, pod, *command):
        result = self.cluster.kubectl("exec", pod, "--", "/app/busybox", *command)
        return result.stdout.strip() + result.stderr.strip()

    def pending(self, pod):
        """The scheduler's reason for not placing a pod."""

        def reason():
            for condition in self.cluster.get("pod", pod)["status"].get("conditions", []):
                if condition["type"] == "PodScheduled" and condition["status"] == "False":
                    return condition["message"]
            return ""

        until(reason, f"pod {pod} is told why it is not scheduled")
        return reason()

    def delete(self, *names):
        self.cluster.kubectl("delete", *names, "--grace-period=0", "--wait", "--ignore-not-found")

    # --- what is asked for ---------------------------------------------------------------------------------------------------------

    @staticmethod
    def pod(name, limits=None, **spec):
        container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": list(SLEEP)}
        if limits:
            container["resources"] = {"limits": limits}
        whole = {"containers": [container], "terminationGracePeriodSeconds": 0, "nodeSelector": {"kubernetes.io/hostname": NODE}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": whole | spec}

    @classmethod
    def claiming(cls, name, template, **limits):
        document = cls.pod(name, limits, resourceClaims=[{"name": "epc", "resourceClaimTemplateName": template}])
        document["spec"]["containers"][0].setdefault("resources", {})["claims"] = [{"name": "epc"}]
        return document

    @staticmethod
    def template(name, epc, *, selector="", device_class=DRIVER):
        exactly = {"deviceClassName": device_class}
        if epc:
            exactly["capacity"] = {"requests": {"epc": str(epc)}}
        if selector:
            exactly["selectors"] = [{"cel": {"expression": selector}}]
        devices = {"requests": [{"name": "epc", "exactly": exactly}]}
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"spec": {"devices": devices}},
        }


def processes_of(container):
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if container in path.read_text():
                yield int(path.parent.name)
        except OSError:
            continue


def until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not seen within {seconds} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def installation(shell, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    agent, busybox = folder / "agent.tar", folder / "busybox.tar"
    build_node_agent_image(parse_reference(AGENT), agent, lambda _news: None)
    build_image(ImageSpec(reference=parse_reference(BUSYBOX), host=Path("/bin/busybox")), busybox, lambda _news: None)
    shell.down(CLUSTER)
    cluster = shell.up(CLUSTER, "--epc", ",".join(str(size) for size in SIZES))
    boxes.import_image(boxes.running(CLUSTER)[NODE], agent)
    boxes.import_image(boxes.running(CLUSTER)[NODE], busybox)
    cluster.kubectl("label", "node", NODE, "tee=sgx", "--overwrite")
    until(lambda: cluster.kubectl("get", "serviceaccount", "default").returncode == 0, "the default ServiceAccount")
    yield Installation(cluster)
    shell.down(CLUSTER)
