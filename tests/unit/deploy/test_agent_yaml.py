"""What the node agent is allowed, in each of the ways it offers EPC."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kubenclave.install.objects import KINDS, LABELS, METRICS_PORT, NAME, NAMESPACE, NODE_LABEL, POD_LABELS
from kubenclave.install.plan import DIALECTS, MODES, plan
from kubenclave.node import sysfs
from kubenclave.node.__main__ import read_settings
from kubenclave.node.inventory import ENCLAVE_DEVICES, SYSFS_NODES
from kubenclave.node.scrape import DEFAULT_PORT
from kubenclave.workload import dialects

DEPLOY = Path(__file__).parents[3] / "deploy"
# The two modes that write to the Kubernetes API.
WITH_TOKEN = ("extended-resource", "dra")
HOST = {
    f"/host/{SYSFS_NODES}": (f"/{SYSFS_NODES}", "Directory", True),
    f"/host/{Path(ENCLAVE_DEVICES[0]).parent}": ("/dev", "Directory", True),
    "/var/lib/kubelet/pod-resources": ("/var/lib/kubelet/pod-resources", "Directory", True),
    f"/host/{Path(sysfs.SIMULATED_MARK).parent}": ("/run/kubenclave", "DirectoryOrCreate", True),
}
DEVICE_PLUGINS = {
    "/var/lib/kubelet/device-plugins": ("/var/lib/kubelet/device-plugins", "Directory", False),
    # Only to see whether the driver of claims is served beside it.
    "/var/lib/kubelet/plugins_registry": ("/var/lib/kubelet/plugins_registry", "Directory", True),
}


def objects_of(mode):
    name = plan(mode, None, version="v1.37.2", admission=False).files[0]
    return [document for document in yaml.safe_load_all((DEPLOY / name).read_text()) if document is not None]


def of_kind(objects, kind):
    return [document for document in objects if document["kind"] == kind]


@pytest.fixture(params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def objects(mode):
    return objects_of(mode)


@pytest.fixture
def daemon_set(objects):
    (found,) = of_kind(objects, "DaemonSet")
    return found


@pytest.fixture
def pod(daemon_set):
    return daemon_set["spec"]["template"]["spec"]


@pytest.fixture
def container(pod):
    (container,) = pod["containers"]
    return container


def test_every_object_is_of_a_kind_that_uninstall_looks_for_and_carries_its_labels(objects):
    for document in objects:
        assert (document["apiVersion"], document["kind"]) in KINDS
        assert document["metadata"]["labels"] == LABELS
        # Events about nodes are kept in the namespace default.
        elsewhere = "default" if document["kind"] in {"Role", "RoleBinding"} else NAMESPACE
        assert document["metadata"].get("namespace", NAMESPACE) == elsewhere


def test_the_pods_are_those_the_daemon_set_selects(daemon_set):
    assert daemon_set["metadata"]["name"] == NAME
    assert daemon_set["spec"]["selector"]["matchLabels"] == POD_LABELS
    assert daemon_set["spec"]["template"]["metadata"]["labels"].items() >= POD_LABELS.items()


def test_a_new_agent_starts_before_the_old_one_ends(daemon_set):
    assert daemon_set["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_it_runs_on_labelled_nodes_and_tolerates_the_taint_of_every_dialect_it_offers_and_no_other(pod):
    offered = {"openenclave", "azure", "intel"}

    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", NODE_LABEL[0]: NODE_LABEL[1]}
    assert {item["key"] for item in pod["tolerations"]} == {dialect.taint_key for dialect in dialects() if dialect.name in offered}
    assert all((item["operator"], item["effect"]) == ("Exists", "NoSchedule") for item in pod["tolerations"])


def test_it_is_root_without_any_privilege(pod, container):
    assert pod["securityContext"] == {"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()


def test_it_has_a_way_to_the_kubernetes_api_only_where_it_writes_there(mode, objects, pod):
    (account,) = of_kind(objects, "ServiceAccount")

    assert account["automountServiceAccountToken"] is False
    assert pod["automountServiceAccountToken"] is (mode in WITH_TOKEN)
    assert bool(of_kind(objects, "ClusterRole")) is (mode in WITH_TOKEN)


def test_where_it_may_write_a_policy_holds_it_to_its_own_node(mode, objects):
    policies = of_kind(objects, "ValidatingAdmissionPolicy")
    if mode not in WITH_TOKEN:
        assert not policies
        return
    (role,) = of_kind(objects, "ClusterRole")
    (policy,) = policies
    (binding,) = of_kind(objects, "ValidatingAdmissionPolicyBinding")
    reading = {"get", "list", "watch"}
    written = {resource for rule in role["rules"] if not set(rule["verbs"]) <= reading for resource in rule["resources"]}
    guarded = {resource for rule in policy["spec"]["matchConstraints"]["resourceRules"] for resource in rule["resources"]}

    assert written <= guarded
    assert "*" not in {word for rule in role["rules"] for words in rule.values() for word in words}
    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"] == f'request.userInfo.username == "system:serviceaccount:{NAMESPACE}:{NAME}"'
    assert policy["spec"]["failurePolicy"] == "Fail"
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}


def test_events_may_be_made_and_not_read(mode, objects):
    roles = of_kind(objects, "Role")

    assert [role["rules"] for role in roles] == (
        [[{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}]] if mode in WITH_TOKEN else []
    )


def test_its_memory_is_bounded_and_it_is_not_the_first_to_be_evicted(pod, container):
    assert container["resources"]["requests"] == {"cpu": "10m", "memory": "64Mi"}
    assert container["resources"]["limits"] == {"memory": "96Mi"}
    assert pod["priorityClassName"] == "system-node-critical"


def test_it_is_ready_when_it_says_so_and_started_anew_when_it_hangs(container):
    assert container["ports"] == [{"name": "metrics", "containerPort": DEFAULT_PORT}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    # The kubelet restarts more quickly than a starved node answers: a minute of silence is a hang.
    assert container["livenessProbe"]["periodSeconds"] * container["livenessProbe"]["failureThreshold"] == 60


def test_its_image_is_never_fetched_where_it_is_there_already(container):
    assert container["image"] == "kubenclave/node:local"
    assert container["imagePullPolicy"] == "IfNotPresent"


def test_everything_it_mounts_is_known_and_only_what_it_must_write_can_be_written(mode, pod, container):
    volumes = {volume["name"]: volume["hostPath"] for volume in pod["volumes"]}
    mounts = {}
    for mount in container["volumeMounts"]:
        volume = volumes.pop(mount["name"])
        mounts[mount["mountPath"]] = (volume["path"], volume["type"], mount.get("readOnly", False))
    driver = "/var/lib/kubelet/plugins/epc.kubenclave.dev"
    own = {
        "device-plugin": DEVICE_PLUGINS,
        "extended-resource": DEVICE_PLUGINS,
        "dra": {
            "/var/lib/kubelet/plugins_registry": ("/var/lib/kubelet/plugins_registry", "Directory", False),
            driver: (driver, "DirectoryOrCreate", False),
            "/var/run/cdi": ("/var/run/cdi", "DirectoryOrCreate", False),
        },
    }

    assert mounts == HOST | own[mode]
    assert not volumes


def test_the_three_ways_differ_in_nothing_but_what_they_must():
    """Arguments, environment, mounts, volumes and the token; everything else of the DaemonSet is said three times in the same words."""
    bare = []
    for mode in MODES:
        (daemon_set,) = of_kind(objects_of(mode), "DaemonSet")
        pod = daemon_set["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        for where, name in ((container, "args"), (container, "env"), (container, "volumeMounts"), (pod, "volumes")):
            where.pop(name, None)
        pod.pop("automountServiceAccountToken")
        bare.append(daemon_set)

    assert bare[0] == bare[1] == bare[2]


@pytest.mark.parametrize(("mode", "dialect"), [(mode, dialect) for mode in MODES for dialect in DIALECTS[mode] or ("",)])
def test_its_arguments_are_the_agents_and_one_word_chooses_the_dialect(mode, dialect):
    (daemon_set,) = of_kind(objects_of(mode), "DaemonSet")
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    settings = read_settings([argument.replace("--dialect=openenclave", f"--dialect={dialect}") for argument in container["args"]])

    assert (settings.choice.mode.value, settings.choice.dialect_name) == (mode, dialect)
    assert (str(settings.host_root), settings.metrics_port, settings.mapped) == ("/host", METRICS_PORT, False)
    assert str(settings.pod_resources.parent) in HOST
    # Whatever folder the agent writes to is mounted where it looks for it.
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    written = {settings.registry_dir, settings.driver_dir, settings.cdi_dir} if mode == "dra" else {settings.kubelet_dir}
    assert {str(folder) for folder in written} <= mounted
