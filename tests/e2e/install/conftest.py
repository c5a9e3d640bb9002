"""A cluster with the agent's images on which an administrator installs, and what such a one does."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kubenclave.image import ImageSpec, build_image, build_node_agent_image, parse_reference
from kubenclave.local import boxes

AGENT = "kubenclave/node:local"
BUSYBOX = "kubenclave.test/busybox:1"
RESOURCE = "openenclave.io/sgx_epc_MiB"
NODE = "sgx-1"
CLUSTER = "install"
OURS = "app.kubernetes.io/name=kubenclave-node,app.kubernetes.io/managed-by=kubenclave"
KINDS = (
    "daemonset,serviceaccount,configmap,clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding,"
    "mutatingadmissionpolicy,mutatingadmissionpolicybinding,deviceclass"
)


class Admin:
    """Somebody with a kubeconfig."""

    KINDS, OURS = KINDS, OURS

    def __init__(self, cluster):
        self.cluster = cluster

    def node(self, *words):
        return self.cluster.shell.kubenclave("node", *words, "--kubeconfig", str(self.cluster.kubeconfig))

    def ok(self, *words):
        result = self.node(*words, "--output", "json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def allocatable(self):
        return self.cluster.get("node", NODE)["status"]["allocatable"].get(RESOURCE)

    def objects(self):
        found = self.cluster.get(KINDS, "--all-namespaces", "--selector", OURS)["items"]
        # The generation counts changes of what is wished; the resource version, those of the status as well.
        versions = [each["metadata"].get("generation") or each["metadata"]["resourceVersion"] for each in found]
        return {(each["kind"], each["metadata"]["name"]): version for each, version in zip(found, versions, strict=True)}

    def until(self, condition, what, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not seen within {seconds} s: {what}"
            time.sleep(0.1)

    def soon(self, document):
        """Make an object as soon as the admission rules are in force, a second or two after they were applied."""
        deadline = time.monotonic() + 30
        while (result := self.cluster.kubectl("create", "-f", "-", stdin=json.dumps(document))).returncode != 0:
            assert time.monotonic() < deadline, result.stderr
            time.sleep(0.2)

    @staticmethod
    def holder(name, amount, resource=RESOURCE, **spec):
        """A pod that asks for EPC in its limits, or for nothing."""
        container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": ["/app/busybox", "sleep", "3600"]}
        container |= {"resources": {"limits": {resource: str(amount)}}}
        whole = {"containers": [container], "terminationGracePeriodSeconds": 0} | spec
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": whole}

    def root(self):
        """The node's files, seen from outside."""
        return Path(f"/proc/{boxes.running(CLUSTER)[NODE].init}/root")

    def life(self, pod):
        """What changes when a pod is disturbed."""
        found = self.cluster.get("pod", pod)
        (status,) = found["status"]["containerStatuses"]
        return found["metadata"]["uid"], status["containerID"], status["restartCount"], status["state"]["running"]

    @classmethod
    def claiming(cls, name, *, provision=False):
        """A pod that asks for 10 MiB by a claim of its own, and for the provisioning device by a second request."""
        asked = [{"name": "epc", "exactly": {"deviceClassName": "epc.kubenclave.dev", "capacity": {"requests": {"epc": "10Mi"}}}}]
        asked += [{"name": "provision", "exactly": {"deviceClassName": "provision.epc.kubenclave.dev"}}] if provision else []
        template_name = "epc-10mi-provision" if provision else "epc-10mi"
        template = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": template_name, "namespace": "default"},
            "spec": {"spec": {"devices": {"requests": asked}}},
        }
        pod = cls.holder(name, 0, resourceClaims=[{"name": "epc", "resourceClaimTemplateName": template_name}])
        pod["spec"]["containers"][0]["resources"] = {"claims": [{"name": "epc"}]}
        return template, pod


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    agent, busybox = folder / "agent.tar", folder / "busybox.tar"
    build_node_agent_image(parse_reference(AGENT), agent, lambda _news: None)
    build_image(ImageSpec(reference=parse_reference(BUSYBOX), host=Path("/bin/busybox")), busybox, lambda _news: None)
    return agent, busybox


@pytest.fixture(scope="module")
def bare(shell, images):
    """A cluster whose nodes have the images, and on which nothing is installed."""
    shell.down(CLUSTER)
    cluster = shell.up(CLUSTER, "--epc", "40Mi")
    for box in (NODE, "plain-1"):
        for archive in images:
            boxes.import_image(boxes.running(CLUSTER)[box], archive)
    admin = Admin(cluster)
    yield admin
    shell.down(CLUSTER)


@pytest.fixture
def admin(bare):
    bare.ok("prepare", NODE, "--dialect", "openenclave")
    yield bare
    # While the driver is there: without it the kubelet cannot end a pod with a claim.
    bare.cluster.kubectl("delete", "pod", "--all", "--namespace", "default", "--force", "--grace-period=0")
    bare.until(lambda: not bare.cluster.get("resourceclaims")["items"], "no claim is left")
    bare.node("uninstall")


@pytest.fixture
def installed(admin):
    admin.ok("install")
    return admin


@pytest.fixture
def untainted(admin):
    """The node carries the label alone: the taint of the 2020 guide would keep off who speaks another dialect."""
    admin.cluster.kubectl("taint", "node", NODE, f"{RESOURCE}-")
    return admin
