"""What an installer needs of a cluster: objects found by their labels, the end of a log, a resource taken back."""

from __future__ import annotations

import pytest
from lightkube.resources import core_v1
from lightkube.types import PatchType

from kubenclave.errors import NotFound, Refused

pytestmark = pytest.mark.integration

EPC = "sgx.intel.com/epc"
MARK = "kubenclave.dev/epc-bytes"


def config_map(name, namespace, **labels):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace, "labels": labels}}


def test_objects_are_found_by_their_labels_in_every_namespace(cluster, namespace):
    ours = {"part": "x", "made": "us"}
    cluster.apply([config_map("a", namespace, **ours), config_map("b", "default", **ours), config_map("c", namespace, part="x")])

    found = cluster.objects("v1", "ConfigMap", ours)

    assert {(each["kind"], each["metadata"]["name"], each["metadata"]["namespace"]) for each in found} == {
        ("ConfigMap", "a", namespace),
        ("ConfigMap", "b", "default"),
    }
    assert all(cluster.delete(each, timeout_seconds=10) for each in found)


def test_objects_of_the_whole_cluster_are_found_with_all_they_hold(cluster):
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "found", "labels": {"part": "x"}},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}],
    }
    cluster.apply([role])

    (found,) = cluster.objects("rbac.authorization.k8s.io/v1", "ClusterRole", {"part": "x"})

    assert found["rules"] == role["rules"]
    assert cluster.delete(found, timeout_seconds=10)


def test_a_kind_that_the_cluster_does_not_serve_has_no_objects(cluster):
    assert cluster.objects("storagemigration.k8s.io/v1beta1", "StorageVersionMigration") == ()


def test_a_resource_is_taken_from_a_nodes_status_with_its_mark_and_all_else_stays(cluster, raw, make_node):
    make_node("marked", {EPC: "40Mi", "nvidia.com/gpu": "1"})
    raw.patch(core_v1.Node, "marked", {"metadata": {"annotations": {MARK: "41943040", "other": "stays"}}}, patch_type=PatchType.MERGE)
    assert cluster.node("marked").annotations[MARK] == "41943040"

    cluster.withdraw("marked", EPC, MARK)
    cluster.withdraw("marked", EPC, MARK)

    node = cluster.node("marked")
    assert EPC not in node.capacity.keys() | node.allocatable.keys()
    assert node.allocatable["nvidia.com/gpu"] == 1
    assert MARK not in node.annotations
    assert node.annotations["other"] == "stays"


def test_taking_a_resource_from_a_node_that_is_not_there_is_not_found(cluster):
    with pytest.raises(NotFound, match="nowhere"):
        cluster.withdraw("nowhere", EPC, MARK)


def test_the_end_of_a_log_is_read_at_once_and_a_pod_without_one_has_none(cluster, raw, namespace, make_node, kubelet):
    make_node("node", {}, kubelet.port)
    kubelet.lines = [("2026-11-24T08:00:00.000000001Z", "one"), ("2026-11-24T08:00:00.000000002Z", "two")]
    kubelet.end.set()
    container = {"name": "agent", "image": "hello"}
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": namespace},
        "spec": {"containers": [container], "nodeName": "node"},
    }
    cluster.apply([document])
    (pod,) = cluster.wait_for_pods(lambda pods: any(pod.phase != "Pending" for pod in pods), namespace=namespace, timeout_seconds=20)

    lines = cluster.log_tail(pod, "agent", lines=7, previous=True)

    assert [line.partition(" ")[2] for line in lines] == ["one", "two"]
    (asked,) = kubelet.log_requests
    assert (asked["tailLines"], asked["previous"]) == ("7", "true")
    assert cluster.log_tail(pod, "no-such-container", lines=7) == ()


def test_a_pod_without_an_address_cannot_be_asked_and_one_that_is_not_there_is_not_found(cluster, namespace):
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": namespace},
        "spec": {"containers": [{"name": "agent", "image": "hello"}]},
    }
    cluster.apply([document])
    pod = cluster.pod("p", namespace)

    with pytest.raises(Refused, match="cannot ask pod p for metrics"):
        cluster.ask_pod(pod, 9120, "metrics")
    cluster.delete(document, timeout_seconds=20)
    with pytest.raises(NotFound):
        cluster.ask_pod(pod, 9120, "metrics")
