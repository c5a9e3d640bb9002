"""Ways to the device past the counting of EPC: volumes, privileged containers, scheduling gates; on the real API server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
POLICY = "kubenclave-raw-sgx"
OPENENCLAVE = "openenclave.io/sgx_epc_MiB"
PRIVILEGED = {"securityContext": {"privileged": True}}


def container(name="main", *, limits=None, **fields):
    return {"name": name, "image": "none.example/none", "resources": {"limits": limits or {}}, **fields}


def pod(*containers, namespace="default", name="p", **spec):
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": list(containers) or [container()], **spec}}


def host(path):
    return [{"name": "from-host", "hostPath": {"path": path}}]


def exists(key):
    return {"key": key, "operator": "Exists", "effect": "NoSchedule"}


@pytest.fixture(scope="module")
def api(bring):
    """A cluster with this rule alone."""
    documents = [each for each in yaml.safe_load_all((DEPLOY / "admission.yaml").read_text()) if each is not None]
    api = bring("admission-raw", [each for each in documents if each["metadata"]["name"] == POLICY])
    api.refuses_soon(pod(volumes=host("/dev/sgx_enclave")))
    return api


@pytest.mark.parametrize(
    "path",
    ["/dev/sgx_enclave", "/dev/sgx_provision", "/dev/sgx", "/dev/sgx/enclave", "/dev/isgx", "//dev//sgx_enclave", "/dev/./sgx_enclave"],
)
def test_an_sgx_device_of_the_host_as_a_volume_is_refused_in_any_pod(api, path):
    assert "volume from-host is the host's SGX device, which nobody would count: remove it and ask for EPC" in api.refuses(
        pod(volumes=host(path))
    )


@pytest.mark.parametrize(
    "meant",
    [
        {"containers": [container(limits={OPENENCLAVE: "1"}, **PRIVILEGED)]},
        {"containers": [container(limits={OPENENCLAVE: "1"})], "initContainers": [container("main", **PRIVILEGED)]},
        {"containers": [container(**PRIVILEGED)], "tolerations": [exists(OPENENCLAVE)]},
        {"containers": [container(**PRIVILEGED)], "nodeSelector": {"tee": "sgx"}},
        {
            "containers": [container(**PRIVILEGED)],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "tee", "operator": "In", "values": ["sgx"]}]}]
                    }
                }
            },
        },
        {
            "containers": [container(**PRIVILEGED)],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "tee", "operator": "Exists"}]}]
                    }
                }
            },
        },
    ],
    ids=["asks", "init", "tolerates", "selects", "affinity", "affinity to any"],
)
def test_a_privileged_container_on_its_way_to_an_sgx_node_is_refused(api, meant):
    document = pod()
    document["spec"] |= meant
    if "initContainers" in meant:
        document["spec"]["initContainers"][0]["name"] = "init"

    assert "is privileged and so reaches the SGX device past the counting of EPC: remove privileged" in api.refuses(document)


@pytest.mark.parametrize("path", ["/", "/dev", "/dev/", "//dev/.", "/."])
def test_all_devices_of_the_host_as_a_volume_of_an_epc_pod_are_refused(api, path):
    document = pod(container(limits={OPENENCLAVE: "1"}), volumes=host(path))

    assert "volume from-host is all of the host's /dev and with it the SGX device: mount what is needed of it" in api.refuses(document)


def test_a_privileged_ephemeral_container_in_an_epc_pod_is_refused_and_a_plain_one_is_not(api):
    api.apply(pod(container(limits={OPENENCLAVE: "1"}), name="debugged"))
    plain = ["debug", "debugged", "--image=none.example/none", "--profile=restricted", "--attach=false"]
    try:
        refused = api.cluster.kubectl("debug", "debugged", "--image=none.example/none", "--profile=sysadmin", "--attach=false")
        admitted = api.cluster.kubectl(*plain)
        kept = api.cluster.get("pod", "debugged")["spec"]["ephemeralContainers"]
    finally:
        api.cluster.kubectl("delete", "pod", "debugged", "--force", "--grace-period=0")

    assert "is privileged and so reaches the SGX device past the counting of EPC" in refused.stderr
    assert admitted.returncode == 0, admitted.stderr
    assert len(kept) == 1


def test_a_privileged_pod_that_waits_at_a_gate_is_not_sent_to_an_sgx_node_later(api):
    gated = pod(container(**PRIVILEGED), name="gated", schedulingGates=[{"name": "example.com/wait"}])
    api.apply(gated)

    def changed(patch):
        return api.cluster.kubectl("patch", "pod", "gated", "--type=strategic", "--patch", json.dumps(patch))

    try:
        selecting = changed({"spec": {"nodeSelector": {"tee": "sgx"}}})
        tolerating = changed({"spec": {"tolerations": [exists(OPENENCLAVE)]}})
        labelled = changed({"metadata": {"labels": {"a": "b"}}})
        elsewhere = changed({"spec": {"nodeSelector": {"disk": "fast"}}})
    finally:
        api.cluster.kubectl("delete", "pod", "gated", "--force", "--grace-period=0")

    assert "is privileged and so reaches the SGX device past the counting of EPC" in selecting.stderr
    assert "is privileged and so reaches the SGX device past the counting of EPC" in tolerating.stderr
    assert labelled.returncode == 0, labelled.stderr
    assert elsewhere.returncode == 0, elsewhere.stderr


def test_in_kube_system_the_hosts_devices_may_be_looked_at(api):
    api.admits(pod(namespace="kube-system", nodeSelector={"tee": "sgx"}, volumes=host("/dev")))
