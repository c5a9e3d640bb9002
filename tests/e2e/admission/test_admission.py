"""What is added to pods that ask for EPC, what is refused of them, and whom no rule touches; on the real API server."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
FILES = ("admission.yaml", "admission-mutating.yaml")
OPENENCLAVE = "openenclave.io/sgx_epc_MiB"
AZURE = "kubernetes.azure.com/sgx_epc_mem_in_MiB"
ALIBABA = "alibabacloud.com/sgx_epc_MiB"
INTEL = "sgx.intel.com/epc"
DEVICE = "sgx.intel.com/enclave"
OFFERED = "kubenclave-epc-offered"
PRIVILEGED = {"securityContext": {"privileged": True}}
# What Kubernetes adds to every pod.
USUAL = {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}


def container(name="main", *, limits=None, **fields):
    return {"name": name, "image": "none.example/none", "resources": {"limits": limits or {}}, **fields}


def pod(*containers, namespace="default", name="p", **spec):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": list(containers) or [container()], **spec},
    }


def asking(**limits):
    return pod(container(limits=limits))


def host(path):
    return [{"name": "from-host", "hostPath": {"path": path}}]


def tolerated(spec):
    return [each for each in spec.get("tolerations", []) if each.get("key") not in USUAL]


def exists(key):
    return {"key": key, "operator": "Exists", "effect": "NoSchedule"}


def policies():
    return [document for name in FILES for document in yaml.safe_load_all((DEPLOY / name).read_text()) if document is not None]


@pytest.fixture(scope="module")
def installed(bring):
    api = bring("admission", policies())
    in_force(api)
    return api


def in_force(api):
    """Wait for each rule: the API server takes them up one by one, and one that refuses may be there before one that adds."""
    api.until(lambda: tolerated(api.admits_soon(asking(**{OPENENCLAVE: "1"}))), "the toleration")
    api.until(lambda: DEVICE in api.admits_soon(asking(**{INTEL: "1Mi"}))["containers"][0]["resources"]["limits"], "the device")
    api.refuses_soon(asking(**{OPENENCLAVE: "1Mi"}))
    api.refuses_soon(pod(volumes=host("/dev/sgx_enclave")))


@pytest.fixture
def api(installed):
    return installed


def offered_policy(expression):
    (policy,) = [each for each in policies() if each["metadata"]["name"] == OFFERED and each["kind"] == "ValidatingAdmissionPolicy"]
    (largest,) = [variable for variable in policy["spec"]["variables"] if variable["name"] == "largest"]
    largest["expression"] = expression
    return policy


@pytest.fixture
def limits(api):
    """The cluster offers 40 MiB as the 2020 guide names it, and nothing else."""
    api.apply(offered_policy('{"openenclave": 40}'))
    api.refuses_soon(asking(**{OPENENCLAVE: "41"}))
    yield api
    api.apply(offered_policy("{}"))
    api.admits_soon(asking(**{OPENENCLAVE: "41"}))


# --- what is added -----------------------------------------------------------------------------------------------------------------


def test_in_intels_dialect_each_asking_container_gets_the_device_once_and_no_other_does(api):
    spec = api.admits(
        pod(
            container("a", limits={INTEL: "10Mi"}),
            container("b", limits={INTEL: "10Mi", DEVICE: "1", "memory": "64Mi"}),
            container("c"),
            initContainers=[container("d", limits={INTEL: "1Mi", "cpu": "1"}), container("e")],
        ),
    )
    resources = {each["name"]: each["resources"] for each in spec["containers"] + spec["initContainers"]}

    assert resources["a"] == {"limits": {INTEL: "10Mi", DEVICE: "1"}, "requests": {INTEL: "10Mi", DEVICE: "1"}}
    assert resources["b"] == {
        "limits": {INTEL: "10Mi", DEVICE: "1", "memory": "64Mi"},
        "requests": {INTEL: "10Mi", DEVICE: "1", "memory": "64Mi"},
    }
    assert resources["d"]["limits"] == {INTEL: "1Mi", DEVICE: "1", "cpu": "1"}
    assert (resources["c"], resources["e"]) == ({}, {})


def test_what_was_admitted_once_is_admitted_again_without_a_further_change(api):
    once = api.admits(pod(container(limits={INTEL: "10Mi"}), initContainers=[container("init", limits={INTEL: "1Mi"})]))
    again = api.admits({**pod(), "spec": once})

    assert again == once


def test_a_second_mutation_calls_the_rules_again_and_nothing_doubles(api):
    """Another policy that adds a container which asks for EPC makes the API server ask ours a second time."""
    late = yaml.safe_load("""
      apiVersion: admissionregistration.k8s.io/v1
      kind: MutatingAdmissionPolicy
      metadata: {name: zz-late}
      spec:
        reinvocationPolicy: IfNeeded
        failurePolicy: Fail
        matchConstraints:
          resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
        matchConditions:
          - {name: marked, expression: '"late" in object.metadata.?labels.orValue({})'}
          - {name: once, expression: '!object.spec.containers.exists(c, c.name == "late")'}
        mutations:
          - patchType: JSONPatch
            jsonPatch:
              expression: >-
                [JSONPatch{op: "add", path: "/spec/containers/-", value: Object.spec.containers{name: "late", image: "none.example/none",
                resources: Object.spec.containers.resources{
                limits: {"sgx.intel.com/epc": "1Mi"}, requests: {"sgx.intel.com/epc": "1Mi"} } } }]
    """)
    binding = {
        "apiVersion": late["apiVersion"],
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "zz-late"},
        "spec": {"policyName": "zz-late"},
    }
    api.apply(late, binding)
    marked = asking(**{INTEL: "10Mi"})
    marked["metadata"]["labels"] = {"late": "yes"}
    try:
        api.until(lambda: len(api.admits(marked)["containers"]) > 1, "the added container")
        spec = api.admits(marked)
    finally:
        api.cluster.kubectl("delete", "mutatingadmissionpolicy,mutatingadmissionpolicybinding", "zz-late")

    assert [each["resources"]["limits"] for each in spec["containers"]] == [{INTEL: "10Mi", DEVICE: "1"}, {INTEL: "1Mi", DEVICE: "1"}]
    assert tolerated(spec) == [exists(INTEL)]


# --- what is refused ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", [OPENENCLAVE, AZURE, ALIBABA])
def test_bytes_where_mib_are_counted_are_refused(api, resource):
    assert (
        "container main asks for EPC in bytes where the resource counts MiB, 1 TiB or more: write the number of MiB alone, 10 and not"
        in (api.refuses(asking(**{resource: "10Mi"})))
    )


@pytest.mark.parametrize("amount", ["10", "0", "4095"])
@pytest.mark.parametrize("more", [{}, {DEVICE: "1"}])
def test_mib_where_bytes_are_counted_and_nothing_at_all_are_refused(api, amount, more):
    """With 0 bytes the device would come and nobody would count."""
    assert "container main asks for less than one page of EPC: sgx.intel.com/epc counts bytes, write 10Mi and not 10" in (
        api.refuses(asking(**{INTEL: amount}, **more))
    )


def test_a_unit_is_looked_at_in_init_containers_too(api):
    assert "container init asks" in api.refuses(pod(initContainers=[container("init", limits={OPENENCLAVE: "10Mi"})]))


def test_the_device_without_epc_is_refused(api):
    assert "asks for the device without EPC, which nobody would count: add sgx.intel.com/epc" in api.refuses(asking(**{DEVICE: "1"}))


def test_epc_without_the_device_is_refused_where_nothing_adds_it(api):
    """As on a cluster before 1.36, which has no mutating policies."""
    binding = next(each for each in policies() if each["kind"] == "MutatingAdmissionPolicyBinding" and "device" in each["metadata"]["name"])
    api.cluster.kubectl("delete", "mutatingadmissionpolicybinding", binding["metadata"]["name"])
    try:
        refusal = api.refuses_soon(asking(**{INTEL: "10Mi"}))
        api.admits(asking(**{INTEL: "10Mi", DEVICE: "1"}))
    finally:
        api.apply(binding)
        api.admits_soon(asking(**{INTEL: "10Mi"}))

    assert "container main asks for EPC without the device: add sgx.intel.com/enclave: 1 to its limits" in refusal


def test_more_than_the_largest_node_offers_is_refused_with_how_much_that_is(limits):
    sentence = (
        f"no node has that much EPC: ask for at most {OPENENCLAVE}: 40 in one pod; if a larger node has joined, kubenclave node status"
    )

    assert sentence in limits.refuses(asking(**{OPENENCLAVE: "41"}))
    assert sentence in limits.refuses(pod(container("a", limits={OPENENCLAVE: "30"}), container("b", limits={OPENENCLAVE: "11"})))
    assert sentence in limits.refuses(pod(initContainers=[container("init", limits={OPENENCLAVE: "41"})]))
    sidecar = container("sidecar", limits={OPENENCLAVE: "30"}, restartPolicy="Always")
    assert sentence in limits.refuses(pod(container(limits={OPENENCLAVE: "11"}), initContainers=[sidecar]))


def test_bytes_where_mib_are_counted_are_told_as_such_and_not_as_too_much(limits):
    refusals = {limits.refuses(asking(**{OPENENCLAVE: "10Mi"})) for _ in range(5)}

    assert all("write the number of MiB alone" in refusal and "no node has that much" not in refusal for refusal in refusals)


def test_as_much_as_the_largest_node_offers_is_admitted(limits):
    limits.admits(pod(container(limits={OPENENCLAVE: "40"}), initContainers=[container("init", limits={OPENENCLAVE: "40"})]))


@pytest.mark.parametrize(("resource", "amount"), [(AZURE, "10"), (ALIBABA, "10"), (INTEL, "10Mi")])
def test_a_dialect_that_no_node_speaks_is_refused_with_the_one_to_use(limits, resource, amount):
    assert f"no node of this cluster offers {resource}: ask for {OPENENCLAVE}" in limits.refuses(asking(**{resource: amount}))


def test_where_claims_are_the_one_way_a_resource_is_refused_with_the_class_to_claim(api):
    api.apply(offered_policy('{"claims": 41943040}'))
    try:
        refusal = api.refuses_soon(asking(**{OPENENCLAVE: "1"}))
    finally:
        api.apply(offered_policy("{}"))
        api.admits_soon(asking(**{OPENENCLAVE: "1"}))

    sentence = f"no node of this cluster offers {OPENENCLAVE}: ask for it by a resource claim of the class epc.kubenclave.dev"
    assert sentence in refusal


def test_a_cluster_of_which_nothing_is_known_refuses_no_amount_and_no_dialect(api):
    api.admits(asking(**{OPENENCLAVE: "262144"}))
    api.admits(asking(**{AZURE: "10"}))


def test_a_deployment_whose_pods_are_refused_shows_the_sentence_in_its_events(api):
    template = {"metadata": {"labels": {"app": "d"}}, "spec": pod(container(limits={OPENENCLAVE: "10Mi"}))["spec"]}
    api.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": template},
        }
    )

    def sentences():
        return [event["message"] for event in api.cluster.get("events")["items"] if event["reason"] == "FailedCreate"]

    try:
        api.until(lambda: any("write the number of MiB alone" in sentence for sentence in sentences()), "the sentence in an event")
    finally:
        api.cluster.kubectl("delete", "deployment", "d")


# --- what is left alone ------------------------------------------------------------------------------------------------------------


EVERYWHERE = [{"operator": "Exists"}]
# Pods that ask for no EPC, some of them as bold as a cluster's own daemons.
BYSTANDERS = {
    "plain": pod(),
    "other resources": asking(cpu="1", memory="64Mi", **{"nvidia.com/gpu": "1"}),
    "other volumes": pod(volumes=[*host("/dev/kvm"), {"name": "empty", "emptyDir": {}}]),
    "a name like a device's": pod(volumes=host("/dev/sgxfoo")),
    "privileged everywhere": pod(container(**PRIVILEGED), tolerations=EVERYWHERE, volumes=host("/dev")),
    "the host's root": pod(volumes=host("/"), tolerations=EVERYWHERE, hostPID=True, hostNetwork=True),
    "a privileged init container": pod(initContainers=[container("init", **PRIVILEGED)]),
    "many containers": pod(*[container(f"c{number}", limits={"cpu": "1"}) for number in range(1000)]),
}


@pytest.mark.parametrize("document", BYSTANDERS.values(), ids=BYSTANDERS.keys())
def test_a_pod_without_epc_passes_untouched(api, document):
    spec = api.admits(document)

    assert tolerated(spec) == document["spec"].get("tolerations", [])
    assert [each["resources"].get("limits", {}) for each in spec["containers"]] == [
        each["resources"]["limits"] for each in document["spec"]["containers"]
    ]


def test_in_kube_system_a_quoting_service_may_ask_for_the_device_alone(api):
    api.admits(pod(container(limits={DEVICE: "1", "sgx.intel.com/provision": "1"}), namespace="kube-system"))


def test_a_pod_that_exists_can_still_be_changed_and_deleted(api):
    """Rules that came later must not hold up a pod that would be refused now."""
    bindings = [each for each in policies() if each["kind"] == "ValidatingAdmissionPolicyBinding"]
    for binding in bindings:
        api.cluster.kubectl("delete", "validatingadmissionpolicybinding", binding["metadata"]["name"])
    wrong = pod(container(limits={OPENENCLAVE: "1Mi"}), name="old")
    api.admits_soon(wrong)
    api.apply(wrong)
    api.apply(*bindings)
    in_force(api)

    assert api.cluster.kubectl("label", "pod", "old", "a=b").returncode == 0
    assert api.cluster.kubectl("delete", "pod", "old", "--grace-period=0", "--force").returncode == 0


# --- broken rules ------------------------------------------------------------------------------------------------------------------


def broken():
    """Our policies with every expression behind the match conditions replaced by one that fails."""
    failing = '[object.metadata.name][1] == ""'
    for document in copy.deepcopy(policies()):
        for validation in document["spec"].get("validations", []):
            validation["expression"] = failing
            validation.pop("messageExpression", None)
        for mutation in document["spec"].get("mutations", []):
            kind = "jsonPatch" if "jsonPatch" in mutation else "applyConfiguration"
            empty = "[]" if kind == "jsonPatch" else "Object{}"
            other = '[JSONPatch{op: "remove", path: "/nothing"}]' if kind == "jsonPatch" else 'Object{metadata: Object.metadata{name: "x"}}'
            mutation[kind]["expression"] = f"{failing} ? {empty} : {other}"
        yield document


@pytest.fixture
def broken_rules(api):
    # Each alone: the first to fail would hide the others.
    documents = list(broken())
    api.apply(*documents)
    api.until(lambda: "index out of bounds" in api.asked(asking(**{OPENENCLAVE: "1"})).stderr, "the broken rules")
    yield api
    api.apply(*policies())
    api.admits_soon(asking(**{OPENENCLAVE: "1"}))
    in_force(api)


def test_broken_rules_stop_pods_that_ask_for_epc_and_nobody_else(broken_rules):
    refusal = broken_rules.refuses(asking(**{OPENENCLAVE: "1"}))
    for what, document in BYSTANDERS.items():
        assert broken_rules.asked(document).returncode == 0, what

    assert "kubenclave-" in refusal
    assert "index out of bounds" in broken_rules.refuses(pod(volumes=host("/dev/sgx_enclave")))
