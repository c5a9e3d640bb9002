from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kubenclave.node import agent, sysfs
from kubenclave.node.__main__ import read_settings
from kubenclave.node.dialect import DIALECTS
from kubenclave.node.inventory import EPC_DEVICE, SYSFS_NODES

MANIFEST = Path(__file__).parents[3] / "deploy" / "node-agent.yaml"


@pytest.fixture
def objects():
    return list(yaml.safe_load_all(MANIFEST.read_text()))


@pytest.fixture
def daemon_set(objects):
    return next(item for item in objects if item["kind"] == "DaemonSet")


@pytest.fixture
def pod(daemon_set):
    return daemon_set["spec"]["template"]["spec"]


@pytest.fixture
def container(pod):
    (container,) = pod["containers"]
    return container


def test_all_objects_live_in_the_system_namespace_under_one_name(objects):
    assert [(item["kind"], item["metadata"]["name"], item["metadata"]["namespace"]) for item in objects] == [
        ("ServiceAccount", "kubenclave-node", "kube-system"),
        ("DaemonSet", "kubenclave-node", "kube-system"),
    ]


def test_the_pods_are_those_the_daemon_set_selects(daemon_set):
    assert daemon_set["spec"]["selector"]["matchLabels"].items() <= daemon_set["spec"]["template"]["metadata"]["labels"].items()


def test_it_runs_on_labelled_nodes_and_tolerates_the_taint_of_every_dialect_and_no_other(pod):
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "tee": "sgx"}
    assert {item["key"] for item in pod["tolerations"]} == {dialect.taint_key for dialect in DIALECTS}
    assert all((item["operator"], item["effect"]) == ("Exists", "NoSchedule") for item in pod["tolerations"])


def test_it_has_no_way_to_the_kubernetes_api(objects, pod):
    account = next(item for item in objects if item["kind"] == "ServiceAccount")

    assert account["automountServiceAccountToken"] is False
    assert pod["automountServiceAccountToken"] is False


def test_it_is_root_without_any_privilege(pod, container):
    assert pod["securityContext"] == {"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()


def test_its_memory_is_bounded_and_it_is_not_the_first_to_be_evicted(pod, container):
    assert container["resources"]["requests"] == {"cpu": "10m", "memory": "48Mi"}
    assert container["resources"]["limits"] == {"memory": "96Mi"}
    assert pod["priorityClassName"] == "system-node-critical"


def test_its_image_is_never_fetched_where_it_is_there_already(container):
    assert container["image"] == "kubenclave/node:local"
    assert container["imagePullPolicy"] == "IfNotPresent"


@pytest.mark.parametrize("name", [dialect.name for dialect in DIALECTS])
def test_its_arguments_are_the_agents_and_one_word_chooses_the_dialect(container, name):
    arguments = [argument.replace("--dialect=openenclave", f"--dialect={name}") for argument in container["args"]]

    assert read_settings(arguments).dialect.name == name


def test_everything_the_agent_reads_is_mounted_where_it_looks_and_only_the_kubelets_folder_can_be_written(pod, container):
    settings = read_settings(container["args"])
    volumes = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: (volumes.pop(mount["name"]), mount.get("readOnly", False)) for mount in container["volumeMounts"]}

    root = str(settings.host_root)
    assert isinstance(settings, agent.Settings)
    assert mounts == {
        str(settings.kubelet_dir): ("/var/lib/kubelet/device-plugins", False),
        f"{root}/{SYSFS_NODES}": (f"/{SYSFS_NODES}", True),
        f"{root}/{Path(EPC_DEVICE).parent}": ("/dev", True),
        f"{root}/{Path(sysfs.SIMULATED_MARK).parent}": ("/run/kubenclave", True),
    }
    assert not volumes
