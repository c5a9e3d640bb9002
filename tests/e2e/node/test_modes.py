"""The node agent's two modes that go through the API server, on the real local cluster: EPC in bytes, and EPC by claims."""

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
from kubenclave.kube import connect, parse_quantity
from kubenclave.local import boxes

DEPLOY = Path(__file__).parents[3] / "deploy"
EXAMPLES = Path(__file__).parents[3] / "examples/dra"
CLUSTER, NODE = "node-modes", "sgx-1"
AGENT, BUSYBOX = "kubenclave/node:local", "kubenclave.test/busybox:1"
EPC, ENCLAVE, PROVISION = "sgx.intel.com/epc", "sgx.intel.com/enclave", "sgx.intel.com/provision"
MARK = "kubenclave.dev/epc-bytes"
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


def pod(name, limits=None, **spec):
    container = {"name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": list(SLEEP)}
    if limits:
        container["resources"] = {"limits": limits}
    whole = {"containers": [container], "terminationGracePeriodSeconds": 0, "nodeSelector": {"kubernetes.io/hostname": NODE}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": whole | spec}


def claiming(name, template, **limits):
    document = pod(name, limits, resourceClaims=[{"name": "epc", "resourceClaimTemplateName": template}])
    document["spec"]["containers"][0].setdefault("resources", {})["claims"] = [{"name": "epc"}]
    return document


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


@pytest.fixture(scope="class")
def extended(installation):
    installation.install("node-agent-extended-resource.yaml", "--provision", "--reserve=2Mi")
    until(lambda: installation.allocatable(ENCLAVE) == "110", "the enclave device is counted")
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
        name = agent.started(pod("asks", {EPC: "10Mi", ENCLAVE: "1"}))

        assert agent.inside(name, "ls", "/dev/sgx_enclave") == "/dev/sgx_enclave"
        assert "No such file" in agent.inside(name, "ls", "/dev/sgx_provision")

    def test_a_pod_that_asks_for_nothing_gets_no_device(self, agent):
        assert "No such file" in agent.inside(agent.started(pod("plain")), "ls", "/dev/sgx_enclave")

    def test_the_provisioning_device_goes_only_to_those_that_ask_for_it(self, agent):
        assert agent.allocatable(PROVISION) == "110"

        name = agent.started(pod("quotes", {EPC: "1Mi", ENCLAVE: "1", PROVISION: "1"}))

        assert agent.inside(name, "ls", "/dev/sgx_provision") == "/dev/sgx_provision"

    def test_bytes_are_counted_to_the_last_one(self, agent):
        left = sum(SIZES) - 2 * MIB - 30 * MIB
        agent.started(pod("most", {EPC: "30Mi", ENCLAVE: "1"}))
        agent.run(pod("too-much", {EPC: str(left + 1), ENCLAVE: "1"}))

        assert f"Insufficient {EPC}" in agent.pending("too-much")
        agent.started(pod("the-rest", {EPC: str(left), ENCLAVE: "1"}))

    def test_a_killed_kubelet_finds_the_capacity_where_it_was(self, agent):
        expected = agent.allocatable(EPC)
        running = agent.started(pod("lives-on", {EPC: "30Mi", ENCLAVE: "1"}))
        agent.kill_kubelet()

        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            assert agent.allocatable(EPC) == expected
            time.sleep(0.1)
        until(lambda: agent.allocatable(ENCLAVE) == "110", "the enclave device is counted again")
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
            lambda: agent.allocatable(ENCLAVE) == "110" and any(line["event"] == "plugin.registered" for line in agent.log()),
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
        until(lambda: agent.allocatable(ENCLAVE) == "110", "the device is offered again")

    def test_what_uninstalling_does_takes_the_bytes_and_the_mark_away_for_good(self, agent):
        agent.uninstall()
        with connect(agent.cluster.kubeconfig) as api:
            api.withdraw(NODE, EPC, MARK)

        until(lambda: agent.allocatable(EPC) is None, "the resource is gone")
        time.sleep(3)
        node = agent.node()
        assert EPC not in node["status"]["capacity"]
        assert MARK not in node["metadata"]["annotations"]


@pytest.fixture(scope="class")
def claims(installation):
    installation.install("node-agent-dra.yaml", "--provision", "--legacy-paths")
    until(lambda: installation.slice() is not None, "the ResourceSlice")
    until(lambda: any(line["event"] == "driver.registered" for line in installation.log()), "the kubelet took the driver")
    for document in (
        template("ten", "10Mi"),
        template("sixteen", "16Mi"),
        template("odd", 5_000_000),
        template("second-numa-node", "1Mi", selector=f'device.attributes["{DRIVER}"].numaNode == 1'),
        template("provision", None, device_class=f"provision.{DRIVER}"),
    ):
        installation.cluster.apply(document)
    yield installation
    installation.delete("pods", "--all")
    installation.uninstall()


class TestClaims:
    """Mode dra: exact bytes by claims."""

    @pytest.fixture(autouse=True)
    def agent(self, claims):
        yield claims
        claims.delete("pods", "--all")
        until(lambda: not claims.cdi_files() and not claims.cluster.get("resourceclaims")["items"], "no claim and no CDI file is left")
        assert claims.checkpoint()["claims"] == {}

    def allocation(self, agent, pod_name):
        (status,) = agent.cluster.get("pod", pod_name)["status"]["resourceClaimStatuses"]
        claim = agent.cluster.get("resourceclaim", status["resourceClaimName"])
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        return claim, result

    def test_two_numa_nodes_are_two_devices_whose_bytes_are_shared(self, agent):
        published = agent.slice()

        epc = {device["name"]: device for device in published["spec"]["devices"] if "capacity" in device}
        offered = {name: parse_quantity(device["capacity"]["epc"]["value"]) for name, device in epc.items()}
        assert offered == {"epc-numa0": SIZES[0], "epc-numa1": SIZES[1]}
        assert all(device["allowMultipleAllocations"] for device in epc.values())
        assert [device["attributes"]["numaNode"]["int"] for device in epc.values()] == [0, 1]
        assert all(device["attributes"]["simulated"]["bool"] for device in epc.values())
        assert published["spec"]["pool"]["resourceSliceCount"] == 1
        assert [owner["kind"] for owner in published["metadata"]["ownerReferences"]] == ["Node"]

    def test_a_claim_of_exact_bytes_gets_the_device_and_its_consumption_is_recorded(self, agent):
        name = agent.started(claiming("asks", "ten"))

        assert agent.inside(name, "ls", "/dev/sgx_enclave") == "/dev/sgx_enclave"
        assert agent.inside(name, "ls", "/dev/sgx/enclave") == "/dev/sgx/enclave"
        assert "No such file" in agent.inside(name, "ls", "/dev/sgx_provision")
        claim, result = self.allocation(agent, name)
        assert parse_quantity(result["consumedCapacity"]["epc"]) == 10 * MIB
        assert agent.checkpoint()["claims"][claim["metadata"]["uid"]]["devices"][0]["share_id"] == result["shareID"]
        assert agent.cdi_files() == [f"{DRIVER}-claim-{claim['metadata']['uid']}.json"]

    def test_the_device_is_in_no_other_container(self, agent):
        document = claiming("two-containers", "ten")
        document["spec"]["containers"].append(
            {"name": "other", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": list(SLEEP)},
        )
        name = agent.started(document)
        plain = agent.started(pod("plain"))

        for target in ((name, "-c", "other"), (plain,)):
            seen = agent.cluster.kubectl("exec", *target, "--", "/app/busybox", "ls", "/dev/sgx_enclave")
            assert "No such file" in seen.stderr

    def test_bytes_are_rounded_up_to_whole_pages(self, agent):
        name = agent.started(claiming("odd", "odd"))

        _, result = self.allocation(agent, name)
        assert parse_quantity(result["consumedCapacity"]["epc"]) == -(-5_000_000 // 4096) * 4096

    def test_claims_are_placed_until_the_sum_is_full_and_the_next_is_told_why(self, agent):
        for name, wanted in (("one", "ten"), ("two", "ten"), ("three", "sixteen")):
            agent.started(claiming(name, wanted))
        agent.run(claiming("four", "ten"))

        assert "cannot allocate all claims" in agent.pending("four")
        agent.delete("pod/one")
        agent.cluster.wait("pod/four", "condition=Ready")

    def test_a_claim_can_choose_its_numa_node(self, agent):
        _, result = self.allocation(agent, agent.started(claiming("near", "second-numa-node")))

        assert result["device"] == "epc-numa1"

    def test_the_provisioning_device_has_a_class_of_its_own(self, agent):
        name = agent.started(claiming("quotes", "provision"))

        assert agent.inside(name, "ls", "/dev/sgx_provision", "/dev/sgx/provision").split() == ["/dev/sgx/provision", "/dev/sgx_provision"]
        assert "No such file" in agent.inside(name, "ls", "/dev/sgx_enclave")

    def test_an_agent_killed_between_prepare_and_unprepare_converges(self, agent):
        name = agent.started(claiming("survives", "ten"))
        agent.kill_agent()
        agent.delete(f"pod/{name}")

        until(lambda: not agent.cdi_files(), "the claim is unprepared")
        assert agent.checkpoint()["claims"] == {}

    def test_what_nobody_prepared_is_removed_when_the_agent_starts(self, agent):
        folder = agent.cdi_folder()
        (folder / f"{DRIVER}-claim-00000000-0000-0000-0000-000000000000.json").write_text("{}")
        (folder / "other-vendor.json").write_text("{}")
        agent.kill_agent()

        until(lambda: agent.cdi_files() == ["other-vendor.json"], "the stale file is removed and the other's stays")
        (folder / "other-vendor.json").unlink()

    def test_a_killed_kubelet_finds_the_driver_again_and_the_pod_undisturbed(self, agent):
        name = agent.started(claiming("lives-on", "ten"))
        agent.kill_kubelet()
        agent.started(claiming("after", "ten"))

        assert agent.cluster.get("pod", name)["status"]["containerStatuses"][0]["restartCount"] == 0

    def test_a_deleted_slice_is_published_again(self, agent):
        agent.cluster.kubectl("delete", "resourceslice", agent.slice()["metadata"]["name"])

        until(lambda: agent.slice() is not None, "the slice is back", seconds=10)

    def test_the_examples_run(self, agent):
        text = (EXAMPLES / "enclave.yaml").read_text()
        documents = [document for document in yaml.safe_load_all(text) if document["kind"] != "Pod"]
        for document in documents:
            agent.cluster.apply(document)
        (example,) = [document for document in yaml.safe_load_all(text) if document["kind"] == "Pod"]
        example["spec"]["containers"][0] |= {"image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": list(SLEEP)}
        name = agent.started(example)

        assert agent.inside(name, "ls", "/dev/sgx_enclave") == "/dev/sgx_enclave"

    def test_a_damaged_checkpoint_stops_the_agent_with_a_hint_and_is_left_as_it_is(self, agent):
        path = agent.root() / f"var/lib/kubelet/plugins/{DRIVER}/checkpoint.json"
        whole = path.read_bytes()
        path.write_bytes(whole[:-3])
        agent.kill_agent()

        def failed():
            return next((line for line in reversed(agent.log()) if line["event"] == "agent.failed"), None)

        until(failed, "the agent stops")
        assert "checkpoint.json" in failed()["what"]
        assert "drain the node" in failed()["hint"]
        assert path.read_bytes() == whole[:-3]
        path.write_bytes(whole)
        until(lambda: any(line["event"] == "driver.registered" for line in agent.log()), "the agent is back", seconds=90)
