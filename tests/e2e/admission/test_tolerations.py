"""Which tolerations are added to pods that ask for EPC: of the dialect's taint, and of taints of one's own; on the real API server."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
POLICY = "kubenclave-epc-toleration"
OPENENCLAVE = "openenclave.io/sgx_epc_MiB"
AZURE = "kubernetes.azure.com/sgx_epc_mem_in_MiB"
ALIBABA = "alibabacloud.com/sgx_epc_MiB"
INTEL = "sgx.intel.com/epc"
SKU = {"key": "sku", "operator": "Equal", "value": "sgx", "effect": "NoSchedule"}
SPOT = {"key": "spot", "operator": "Exists", "effect": "NoExecute"}
# What Kubernetes adds to every pod.
USUAL = {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}


def container(name="main", *, limits=None):
    return {"name": name, "image": "none.example/none", "resources": {"limits": limits or {}}}


def pod(*containers, **spec):
    metadata = {"name": "p", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": list(containers) or [container()], **spec}}


def asking(**limits):
    return pod(container(limits=limits))


def tolerated(spec):
    return [each for each in spec.get("tolerations", []) if each.get("key") not in USUAL]


def exists(key):
    return {"key": key, "operator": "Exists", "effect": "NoSchedule"}


def policy_and_binding(further="[]"):
    documents = yaml.safe_load_all((DEPLOY / "admission-mutating.yaml").read_text())
    found = copy.deepcopy([each for each in documents if each is not None and each["metadata"]["name"] == POLICY])
    (variable,) = [each for each in found[0]["spec"]["variables"] if each["name"] == "further"]
    variable["expression"] = further
    return found


def adds(api, number):
    api.until(lambda: len(tolerated(api.admits_soon(asking(**{OPENENCLAVE: "1"})))) == number, f"{number} tolerations")


@pytest.fixture(scope="module")
def installed(bring):
    """A cluster with this rule alone."""
    api = bring("admission-taints", policy_and_binding())
    adds(api, 1)
    return api


@pytest.fixture
def api(installed):
    return installed


@pytest.fixture(scope="class")
def further(installed):
    """The SGX nodes have two taints besides the dialects'."""
    installed.apply(*policy_and_binding(json.dumps([SKU, SPOT])))
    adds(installed, 3)
    yield installed
    installed.apply(*policy_and_binding())
    adds(installed, 1)


@pytest.mark.parametrize("resource", [OPENENCLAVE, AZURE, ALIBABA, INTEL])
def test_the_toleration_of_the_dialect_is_added(api, resource):
    amount = "10Mi" if resource == INTEL else "10"

    assert tolerated(api.admits(asking(**{resource: amount}))) == [exists(resource)]


def test_an_init_container_that_asks_is_enough(api):
    assert tolerated(api.admits(pod(initContainers=[container("init", limits={OPENENCLAVE: "10"})]))) == [exists(OPENENCLAVE)]


def test_tolerations_of_the_pods_own_are_kept_and_come_first(api):
    other = {"key": "spot", "operator": "Exists"}

    assert tolerated(api.admits(pod(container(limits={OPENENCLAVE: "10"}), tolerations=[other]))) == [other, exists(OPENENCLAVE)]


@pytest.mark.parametrize(
    "own",
    [
        exists(OPENENCLAVE),
        {"key": OPENENCLAVE, "operator": "Exists"},
        {"key": OPENENCLAVE, "operator": "Equal", "value": "true", "effect": "NoSchedule"},
        {"operator": "Exists"},
    ],
)
def test_a_pod_that_tolerates_already_is_left_as_it_is(api, own):
    assert tolerated(api.admits(pod(container(limits={OPENENCLAVE: "10"}), tolerations=[own]))) == [own]


class TestTaintsOfOnesOwn:
    @pytest.mark.parametrize(
        ("own", "added"),
        [
            ([], [SKU, SPOT]),
            ([SKU], [SPOT]),
            ([{"key": "sku", "operator": "Exists"}], [SPOT]),
            ([SKU | {"value": "other"}], [SKU, SPOT]),
            ([SKU | {"effect": "NoExecute"}], [SKU, SPOT]),
            ([{"key": "spot", "value": "mine"}], [SKU]),
            ([{"operator": "Exists", "effect": "NoExecute"}], [SKU]),
        ],
    )
    def test_further_taints_are_tolerated_where_the_pod_does_not_do_so_already(self, further, own, added):
        spec = further.admits(pod(container(limits={OPENENCLAVE: "10"}), tolerations=own))

        assert tolerated(spec) == [*own, exists(OPENENCLAVE), *added]

    def test_a_pod_without_epc_is_given_no_further_toleration(self, further):
        assert tolerated(further.admits(pod())) == []
