"""What the node agent's ServiceAccount may do, by tokens that are bound to a node as the agent's own is."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
EPC = "sgx.intel.com/epc"
DRIVER = "epc.kubenclave.dev"
SECONDS = 20


def objects(name):
    """All but the agent itself."""
    return [each for each in yaml.safe_load_all((DEPLOY / name).read_text()) if each is not None and each["kind"] != "DaemonSet"]


class Agent:
    """Speaks to the API server as the agent of one node."""

    def __init__(self, cluster, folder, node):
        self.cluster = cluster
        bound = [] if node is None else ["--bound-object-kind=Node", f"--bound-object-name={node}"]
        token = cluster.kubectl("create", "token", "kubenclave-node", "--namespace=kube-system", *bound)
        assert token.returncode == 0, token.stderr
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        self.token, self.server = token.stdout.strip(), config["clusters"][0]["cluster"]["server"]
        authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
        trust = urllib.request.HTTPSHandler(context=ssl.create_default_context(cadata=authority))
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trust)
        config["users"][0]["user"] = {"token": self.token}
        self.kubeconfig = folder / f"{node}.kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def kubectl(self, *arguments, stdin=None):
        command = [str(self.cluster.shell.programs / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    def patch_status(self, node, patch):
        """Return what refuses the patch, empty where nothing does. Not by kubectl, which reads before it patches."""
        request = urllib.request.Request(  # noqa: S310 - the cluster's own address
            f"{self.server}/api/v1/nodes/{node}/status",
            data=json.dumps(patch).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/merge-patch+json"},
            method="PATCH",
        )
        try:
            with self.opener.open(request, timeout=20):
                return ""
        except urllib.error.HTTPError as exc:
            with exc:
                return json.load(exc)["message"]

    def create(self, document, *options):
        return self.kubectl("create", "-f", "-", *options, stdin=json.dumps(document))


def until_in_force(refusal, sentence):
    deadline = time.monotonic() + SECONDS
    while sentence not in refusal():
        assert time.monotonic() < deadline, f"never refused: {sentence}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster(shell):
    shell.down("account")
    yield shell.up("account")
    shell.down("account")


@pytest.fixture
def agent_of(cluster, tmp_path):
    made = []

    def make(name, node):
        made.extend(objects(name))
        for document in made:
            cluster.apply(document)
        return Agent(cluster, tmp_path, node)

    yield make
    for document in made:
        where = ["--namespace", document["metadata"]["namespace"]] if "namespace" in document["metadata"] else []
        cluster.kubectl("delete", document["kind"], document["metadata"]["name"], *where)


@pytest.fixture
def patching(agent_of, cluster):
    agent = agent_of("node-agent-extended-resource.yaml", "sgx-1")
    until_in_force(lambda: agent.patch_status("plain-1", {"status": {"capacity": {EPC: "1Mi"}}}), "no other node")
    yield agent
    gone = {"metadata": {"annotations": {"kubenclave.dev/epc-bytes": None}}, "status": {"capacity": {EPC: None}}}
    for node in ("sgx-1", "plain-1"):
        cluster.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "--patch", json.dumps(gone))


def test_the_agent_writes_its_own_nodes_epc_and_the_mark_of_it(patching, cluster):
    patch = {"metadata": {"annotations": {"kubenclave.dev/epc-bytes": "41943040"}}, "status": {"capacity": {EPC: "40Mi"}}}

    assert patching.patch_status("sgx-1", patch) == ""
    node = cluster.get("node", "sgx-1")
    assert (node["status"]["capacity"][EPC], node["metadata"]["annotations"]["kubenclave.dev/epc-bytes"]) == ("40Mi", "41943040")
    assert patching.patch_status("sgx-1", {"status": {"capacity": {EPC: None}}}) == ""


def test_the_agent_changes_no_other_node(patching):
    refused = patching.patch_status("plain-1", {"status": {"capacity": {EPC: "40Mi"}}})

    assert "the node agent of sgx-1 may change no other node" in refused


@pytest.mark.parametrize(
    "patch",
    [
        {"status": {"capacity": {"cpu": "64"}}},
        {"status": {"capacity": {"sgx.intel.com/enclave": "110"}}},
        {"status": {"allocatable": {"memory": "1Ti"}}},
        {"status": {"capacity": {EPC: "40Mi", "pods": None}}},
        {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
        {"status": {"addresses": []}},
        {"metadata": {"labels": {"tee": "none"}}},
        {"metadata": {"annotations": {"mine": "now"}}},
        {"metadata": {"finalizers": ["example.com/mine"]}},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "sgx-1", "uid": "u"}]}},
        {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}},
        {"status": {"nodeInfo": {"kubeletVersion": "v0"}}},
        {"status": {"images": []}},
        {"status": {"volumesAttached": [{"name": "v", "devicePath": "/dev/x"}]}},
        {"status": {"features": {"supplementalGroupsPolicy": False}}},
    ],
    ids=str,
)
def test_the_agent_changes_nothing_else_of_its_node(patching, patch):
    refused = patching.patch_status("sgx-1", patch)

    assert "may change sgx.intel.com/epc and kubenclave.dev/epc-bytes of its node and nothing else" in refused


@pytest.mark.parametrize(
    "words",
    [
        ["label", "node", "sgx-1", "a=b"],
        ["delete", "node", "sgx-1"],
        ["get", "secrets", "--namespace=kube-system"],
        ["get", "pods", "--all-namespaces"],
        ["get", "nodes"],
        ["create", "configmap", "x"],
    ],
    ids=" ".join,
)
def test_what_the_agent_does_not_need_it_is_not_allowed(patching, words):
    assert "forbidden" in patching.kubectl(*words).stderr.lower()


def test_a_token_that_is_bound_to_no_node_changes_nothing(patching, cluster, tmp_path):
    unbound = Agent(cluster, tmp_path, None)

    assert "this token is bound to no node" in unbound.patch_status("sgx-1", {"status": {"capacity": {EPC: "40Mi"}}})


def resource_slice(name, node, driver=DRIVER):
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    device = {"name": "epc-numa0", "allowMultipleAllocations": True, "capacity": {"epc": {"value": "40Mi"}}}
    spec = {"driver": driver, "nodeName": node, "pool": pool, "devices": [device]}
    return {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name}, "spec": spec}


def test_the_agent_writes_resource_slices_of_its_own_node_and_driver_only(agent_of, cluster):
    agent = agent_of("node-agent-dra.yaml", "sgx-1")
    probe = resource_slice("probe", "plain-1")
    until_in_force(lambda: agent.create(probe, "--dry-run=server").stderr, "no other node")
    cluster.apply(resource_slice("theirs", "plain-1"))

    made = agent.create(resource_slice("mine", "sgx-1"))
    of_another_node = agent.create(resource_slice("other", "plain-1"))
    of_another_driver = agent.create(resource_slice("gpu", "sgx-1", driver="gpu.example.com"))
    taken = agent.kubectl("delete", "resourceslice", "theirs")
    theirs = cluster.get("resourceslice", "theirs")
    theirs["spec"]["pool"]["generation"] = 2
    changed = agent.kubectl("replace", "-f", "-", stdin=json.dumps(theirs))
    removed = agent.kubectl("delete", "resourceslice", "mine")

    assert made.returncode == 0, made.stderr
    assert removed.returncode == 0, removed.stderr
    for refused in (of_another_node, taken, changed):
        assert "the node agent of sgx-1 may change ResourceSlices of no other node" in refused.stderr
    assert "may change ResourceSlices of no driver but epc.kubenclave.dev" in of_another_driver.stderr
    cluster.kubectl("delete", "resourceslice", "--all")
