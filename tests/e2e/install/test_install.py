"""`kubenclave node install`, `status` and `uninstall` on the real local cluster, as an administrator meets them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from kubenclave.local.places import places

DEPLOY = Path(__file__).parents[3] / "deploy"
HELM_VERSION = re.compile(r"helm\.sh/helm/v4 v([0-9.]+)")
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


@pytest.fixture(scope="module")
def helm():
    version = HELM_VERSION.search((Path(__file__).parents[2] / "tools" / "helm" / "go.mod").read_text())[1]
    program = places(os.environ).cache / "tools" / f"helm-{version}" / "helm"
    if not program.exists():
        pytest.skip(f"{program} is not built: make tools")
    return lambda *words: subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=120)


def test_where_no_node_is_labelled_the_agent_is_installed_and_the_way_on_is_said(bare):
    bare.cluster.kubectl("label", "node", NODE, "tee-")
    result = bare.node("install")
    bare.node("uninstall")

    assert result.returncode == 5
    assert "no node carries the label tee=sgx" in result.stderr
    assert "kubenclave node prepare NODE" in result.stderr


def test_install_waits_until_epc_is_allocatable_and_a_pod_needs_to_know_nothing_but_how_much(admin):
    installed = admin.ok("install")

    assert installed["nodes"] == [{"node": NODE, "epc_bytes": 40 << 20}]
    assert admin.allocatable() == "40"
    # No toleration in the pod: the admission rule brings it.
    admin.soon(admin.holder("a", 10))
    admin.cluster.wait("pod/a", "condition=Ready")
    refused = admin.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(admin.holder("b", 41)))
    assert "ask for at most openenclave.io/sgx_epc_MiB: 40 in one pod" in refused.stderr


def test_status_shows_what_a_node_offers_and_which_pod_holds_how_much(installed):
    installed.cluster.apply(installed.holder("a", 10))
    installed.cluster.wait("pod/a", "condition=Ready")

    # What the agent was asked a moment ago it does not look at again.
    installed.until(lambda: [pod["held_bytes"] for pod in installed.ok("status")[0]["pods"]] == [10 << 20], "the agent has seen the pod")
    (row,) = installed.ok("status")
    table = installed.node("status").stdout

    assert (row["node"], row["offered_as"], row["agent"]) == (NODE, RESOURCE, "device-plugin openenclave: Running")
    assert (row["sgx"], row["total_bytes"], row["offered_bytes"], row["allocated_bytes"]) == ("simulated", 40 << 20, 40 << 20, 10 << 20)
    assert row["pods"] == [{"pod": "default/a", "asked_bytes": 10 << 20, "held_bytes": 10 << 20, "mapped_bytes": None}]
    assert "default/a" in table
    assert "plain-1" not in table


def test_limits_of_another_time_are_told_by_status_with_the_command_that_renews_them(admin):
    """The nodes come to offer more, as where a larger one has joined: here the agent is told by hand to keep less back."""
    admin.ok("install", "--reserve", "20Mi")
    assert "limits" not in admin.node("status").stderr
    change = {"op": "replace", "path": "/spec/template/spec/containers/0/args/3", "value": "--reserve=2Mi"}
    patched = admin.cluster.kubectl(
        "patch", "daemonset", "kubenclave-node", "-n", "kube-system", "--type=json", "--patch", json.dumps([change])
    )
    assert patched.returncode == 0, patched.stderr
    admin.until(lambda: admin.allocatable() == "38", "the node offers more")

    refused = admin.cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(admin.holder("a", 30)))
    told = admin.node("status")
    command = re.search(r"renew them: kubenclave node (.*)", told.stderr)[1].split()
    # What is installed keeps its options, said or not.
    admin.ok("install")
    admin.soon(admin.holder("a", 30))

    assert "ask for at most openenclave.io/sgx_epc_MiB: 20 in one pod" in refused.stderr
    assert told.returncode == 0
    assert "the admission rules judge by limits of another time (openenclave 20, the nodes offer 38)" in told.stderr
    assert command == ["install", "--mode=device-plugin", "--dialect=openenclave", "--reserve=2Mi"]
    assert "limits" not in admin.node("status").stderr


def test_installing_again_changes_nothing(installed):
    before = installed.objects()
    pods = [pod["metadata"]["uid"] for pod in installed.cluster.get("pods", "-n", "kube-system")["items"]]

    again = installed.ok("install")

    after = installed.objects()
    assert after == before
    assert again["removed"] == []
    assert [pod["metadata"]["uid"] for pod in installed.cluster.get("pods", "-n", "kube-system")["items"]] == pods


def test_without_admission_the_rules_go_and_the_agent_stays(installed):
    result = installed.ok("install", "--no-admission")

    assert {kind for kind, _ in installed.objects()} == {"DaemonSet", "ServiceAccount"}
    assert len(result["removed"]) == 10


def test_uninstall_removes_what_was_installed_and_nothing_else(installed):
    stranger = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "stranger", "namespace": "kube-system", "labels": {"app.kubernetes.io/managed-by": "kubenclave"}},
    }
    installed.cluster.apply(stranger)
    installed.cluster.apply(installed.holder("a", 10))
    installed.cluster.wait("pod/a", "condition=Ready")

    removed = installed.ok("uninstall")

    assert removed["still_holding"] == ["default/a"]
    assert installed.objects() == {}
    assert installed.cluster.get("pod", "a")["status"]["phase"] == "Running"
    assert installed.cluster.get("configmap", "stranger", "-n", "kube-system")
    installed.until(lambda: installed.allocatable() in {None, "0"}, "the node without EPC")
    again = installed.node("uninstall")
    assert again.returncode == 5
    assert "nothing that kubenclave node install applied is on this cluster" in again.stderr
    installed.cluster.kubectl("delete", "configmap", "stranger", "-n", "kube-system")


def test_an_agent_that_somebody_else_manages_is_left_to_them(admin):
    foreign = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": "kubenclave-node",
            "namespace": "kube-system",
            "labels": {"app.kubernetes.io/name": "kubenclave-node", "app.kubernetes.io/managed-by": "Helm"},
        },
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "x", "image": BUSYBOX}]}},
        },
    }
    admin.cluster.apply(foreign)
    result = admin.node("uninstall")
    admin.cluster.kubectl("delete", "daemonset", "kubenclave-node", "-n", "kube-system")

    assert result.returncode == 3
    assert "DaemonSet kubenclave-node is managed by Helm" in result.stderr


def test_an_image_that_is_not_to_be_had_is_said_and_the_agent_that_runs_goes_on(installed):
    installed.cluster.apply(installed.holder("a", 10))
    began = time.monotonic()
    result = installed.node("install", "--image", "kubenclave.invalid/node:none")

    assert result.returncode == 1
    assert f"{NODE}: the agent's image kubenclave.invalid/node:none is not to be had" in result.stderr
    assert "--image" in result.stderr
    assert time.monotonic() - began < 60
    assert installed.allocatable() == "40"
    installed.cluster.wait("pod/a", "condition=Ready")
    installed.ok("install", "--image", AGENT)


def test_a_taint_that_keeps_the_agent_off_is_named(admin):
    admin.cluster.kubectl("taint", "node", NODE, "spot=yes:NoSchedule")
    try:
        result = admin.node("install")
    finally:
        admin.cluster.kubectl("taint", "node", NODE, "spot:NoSchedule-")

    assert result.returncode == 1
    assert f"{NODE}: the agent does not tolerate the node's taint spot=yes:NoSchedule" in result.stderr


def test_a_node_without_sgx_is_told_by_the_agents_own_words(installed):
    installed.cluster.kubectl("label", "node", "plain-1", "tee=sgx")
    try:
        result = installed.node("install", "--timeout-seconds", "15")
        rows = {row["node"]: row for row in installed.ok("status")}
    finally:
        installed.cluster.kubectl("label", "node", "plain-1", "tee-")

    assert result.returncode == 1
    assert "on 1 of 2 SGX nodes the agent does not offer EPC" in result.stderr
    assert "plain-1: the agent says: " in result.stderr
    assert (rows["plain-1"]["offered_as"], rows[NODE]["offered_as"]) == ("nothing", RESOURCE)


def test_how_epc_is_offered_is_not_changed_under_the_pods_that_hold_it(installed):
    installed.cluster.apply(installed.holder("a", 10))
    installed.cluster.wait("pod/a", "condition=Ready")

    result = installed.node("install", "--dialect", "azure")

    assert result.returncode == 3
    assert "EPC is offered as device-plugin openenclave and held so by default/a" in result.stderr
    assert installed.allocatable() == "40"


def test_what_an_older_installation_had_besides_is_removed(installed):
    old = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "kubenclave-node-old", "labels": dict(pair.split("=") for pair in OURS.split(","))},
        "rules": [],
    }
    installed.cluster.apply(old)

    assert installed.ok("install")["removed"] == ["ClusterRole kubenclave-node-old"]


def test_a_new_agent_takes_over_without_a_moment_of_capacity_0_and_pods_start_meanwhile(installed):
    """An update is a rolling one: here to an agent that also looks at what containers map."""
    program = [str(installed.cluster.shell.programs / "kubectl"), "--kubeconfig", str(installed.cluster.kubeconfig)]
    path = RESOURCE.replace(".", r"\.")
    shown = ["get", "node", NODE, "--watch", "-o", f'jsonpath={{.status.capacity.{path}}} {{.status.allocatable.{path}}}{{"\\n"}}']
    watch = subprocess.Popen([*program, *shown], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    update = subprocess.Popen(
        installed.cluster.shell.command("node", "install", "--mapped", "--kubeconfig", str(installed.cluster.kubeconfig)),
        env=installed.cluster.shell.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    names = []
    while update.poll() is None or len(names) < 5:
        names.append(f"p{len(names)}")
        pod = installed.holder(names[-1], 1, restartPolicy="Never")
        pod["spec"]["containers"][0]["command"] = ["/app/busybox", "true"]
        installed.cluster.apply(pod)
    for name in names:
        installed.cluster.wait(f"pod/{name}", "jsonpath={.status.phase}=Succeeded")
    # One more turn of the kubelet's status, so that a late 0 would be seen.
    time.sleep(5)
    watch.terminate()
    states = watch.communicate()[0].splitlines()

    assert update.returncode == 0
    assert len(states) > 1
    assert set(states) == {"40 40"}


def test_helm_installs_the_same_and_what_is_helms_is_left_to_helm(admin, helm):
    values = ["--namespace", "kube-system", "--set", "largest.openenclave=40", "--kubeconfig", str(admin.cluster.kubeconfig)]
    made = helm("install", "kubenclave-node", str(DEPLOY), *values, "--wait", "--timeout", "60s")
    try:
        assert made.returncode == 0, made.stderr
        admin.until(lambda: admin.allocatable() == "40", "the EPC")
        admin.soon(admin.holder("a", 10))
        admin.cluster.wait("pod/a", "condition=Ready")
        (row,) = admin.ok("status")
        refused = admin.node("uninstall")
    finally:
        gone = helm("uninstall", "kubenclave-node", "--namespace", "kube-system", "--kubeconfig", str(admin.cluster.kubeconfig), "--wait")

    assert (row["offered_as"], row["sgx"], row["total_bytes"]) == (RESOURCE, "simulated", 40 << 20)
    assert [(pod["pod"], pod["held_bytes"]) for pod in row["pods"]] == [("default/a", 10 << 20)]
    assert refused.returncode == 3
    assert gone.returncode == 0, gone.stderr
    assert not admin.cluster.get(KINDS, "--all-namespaces", "--selector", "app.kubernetes.io/name=kubenclave-node")["items"]
