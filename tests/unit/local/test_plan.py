from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography import x509

from kubenclave.local.box import Box
from kubenclave.local.plan import HostFacts, plan_boxes
from kubenclave.local.spec import CONTROL_PLANE, plan_cluster

HOST = HostFacts(snapshotter="overlayfs", restrict_oom_score_adj=True)


@pytest.fixture(scope="module")
def spec():
    return plan_cluster("demo", sgx_nodes=1, plain_nodes=1, epc_bytes=(40 << 20,), taken=[])


@pytest.fixture(scope="module")
def plan(spec):
    return plan_boxes(spec, folder=Path("/state/demo"), programs=Path("/cache/k8s"), host=HOST)


@pytest.fixture(scope="module")
def boxes(plan):
    return {box.name: box for box in plan.boxes}


def test_a_box_reads_back_as_it_was_written(plan):
    for box in plan.boxes:
        assert Box.from_json(box.to_json()) == box


def test_only_the_sgx_node_has_the_stand_in_devices_and_the_simulated_mark(boxes):
    sgx, plain = boxes["sgx-1"], boxes["plain-1"]
    assert {device.path for device in sgx.devices} == {"/dev/sgx_enclave", "/dev/sgx_provision"}
    assert "/run/kubenclave/simulated" in dict(sgx.files)
    assert plain.devices == ()
    assert "/run/kubenclave/simulated" not in dict(plain.files)
    assert all(bind.target != "/sys/devices/system/node" for bind in plain.binds)


def test_the_stand_in_devices_are_not_among_those_that_every_container_may_open(boxes):
    # runc allows null, zero, full, random, urandom, tty, console, ptmx and the pts devices to all: majors 1, 5 and 136.
    assert all(device.major not in (1, 5, 136) for device in boxes["sgx-1"].devices)


def test_every_kubelet_has_a_cgroup_root_of_its_own(boxes):
    roots = {name: json.loads(dict(boxes[name].files)["/etc/kubernetes/kubelet.json"])["cgroupRoot"] for name in ("sgx-1", "plain-1")}
    assert roots == {"sgx-1": "/kubenclave-demo/sgx-1", "plain-1": "/kubenclave-demo/plain-1"}


def test_pods_of_each_node_are_reached_by_a_route_from_every_other_box(spec, boxes):
    for node in spec.nodes:
        for name, box in boxes.items():
            has_route = (node.pod_network, node.address) in box.routes
            assert has_route == (name != node.name)


def test_the_api_servers_certificate_covers_every_address_it_is_reached_at(spec, boxes):
    pem = dict(boxes[CONTROL_PLANE].files)["/etc/kubernetes/apiserver.crt"]
    names = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {spec.api_address, "10.96.0.1", "127.0.0.1"}
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)


def test_every_certificate_is_signed_by_the_clusters_own_authority(boxes):
    authority = x509.load_pem_x509_certificate(dict(boxes["sgx-1"].files)["/etc/kubernetes/ca.crt"].encode())
    certificates = [text for box in boxes.values() for path, text in box.files if path.endswith(".crt")]
    assert len(certificates) > len(boxes)
    for text in certificates:
        x509.load_pem_x509_certificate(text.encode()).verify_directly_issued_by(authority)


def test_the_users_kubeconfig_needs_no_other_file(spec, plan):
    kubeconfig = json.loads(plan.kubeconfig)
    assert kubeconfig["clusters"][0]["cluster"]["server"] == f"https://{spec.api_address}"
    certificate = x509.load_pem_x509_certificate(b64decode(kubeconfig["users"][0]["user"]["client-certificate-data"]))
    assert "O=system:masters" in certificate.subject.rfc4514_string()


def test_a_kubelet_is_no_administrator(boxes):
    kubeconfig = json.loads(dict(boxes["plain-1"].files)["/etc/kubernetes/kubelet.conf"])
    certificate = x509.load_pem_x509_certificate(b64decode(kubeconfig["users"][0]["user"]["client-certificate-data"]))
    assert certificate.subject.rfc4514_string() == "O=system:nodes,CN=system:node:plain-1"
