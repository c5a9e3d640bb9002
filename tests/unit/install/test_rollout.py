from __future__ import annotations

import pytest

from kubenclave.errors import KubenclaveError
from kubenclave.install.objects import Resource
from kubenclave.install.plan import Plan
from kubenclave.install.rollout import NodeOffer, Order, arguments_of, install, offering
from kubenclave.kube import Node

RESOURCES = (Resource(dialect="openenclave", name="openenclave.io/sgx_epc_MiB", unit_bytes=1 << 20),)
PLAN = Plan(mode="device-plugin", dialect="openenclave", files=("agent.yaml", "rules.yaml"), lost=())
AGENT = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kubenclave-node, namespace: kube-system, labels: {app.kubernetes.io/name: kubenclave-node}}
spec:
  template:
    spec:
      tolerations: [{key: x, operator: Exists}]
      containers:
        - name: agent
          image: kubenclave/node:local
          args:
            - --mode=device-plugin
            - --dialect=openenclave
            - --host-root=/host
"""
RULES = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: kubenclave-epc-offered}
spec:
  variables:
    - name: largest
      expression: '{}'
"""


class Cluster:
    """The few answers that an installation asks for; the node offers its units as soon as the agent is applied."""

    def __init__(self, *, units, policies=()):
        self.units, self.policies, self.applied = units, policies, []

    def apply(self, documents):
        self.applied.append(list(documents))
        return tuple(f"{each['kind']} {each['metadata']['name']}" for each in documents)

    def pods(self, _namespace, _labels=None):
        return ()

    def events(self, _about, _namespace):
        return ()

    def nodes(self):
        offered = {RESOURCES[0].name: self.units if self.applied else 0}
        return (Node(name="n", resource_version="1", ready=True, labels={"tee": "sgx"}, taints=(), capacity=offered, allocatable=offered),)

    def objects(self, _version, kind, _labels=None):
        if kind == "ValidatingAdmissionPolicy" and not self.applied:
            return tuple(self.policies)
        if kind == "DaemonSet" and self.applied:
            status = {"observedGeneration": 1, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": 1}
            return ({"kind": kind, "apiVersion": "apps/v1", "metadata": {"name": "kubenclave-node", "generation": 1}, "status": status},)
        return ()


@pytest.fixture
def deploy(tmp_path):
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "rules.yaml").write_text(RULES)
    return tmp_path


def run(cluster, deploy):
    return install(cluster, deploy, Order(plan=PLAN, image="i"), RESOURCES, lambda _: None, timeout_seconds=1)


def known(documents):
    (policy,) = [each for each in documents if each["kind"] == "ValidatingAdmissionPolicy"]
    return policy["spec"]["variables"][0]["expression"]


def test_the_rules_learn_what_the_nodes_offer_once_they_offer_it(deploy):
    cluster = Cluster(units=40)
    installed = run(cluster, deploy)

    assert installed.nodes == (NodeOffer(node="n", epc_bytes=40 << 20),)
    assert [known(documents) for documents in cluster.applied] == ["{}", '{"openenclave": 40}']


def test_while_no_node_offers_any_the_rules_keep_what_they_knew(deploy):
    before = {"metadata": {"name": "kubenclave-epc-offered"}, "spec": {"variables": [{"name": "largest", "expression": '{"azure": 7}'}]}}
    cluster = Cluster(units=0, policies=[{**before, "apiVersion": "v1", "kind": "x"}])

    with pytest.raises(KubenclaveError, match="on 1 of 1 SGX nodes the agent does not offer EPC"):
        run(cluster, deploy)

    assert [known(documents) for documents in cluster.applied] == ['{"azure": 7}']


@pytest.mark.parametrize(
    ("arguments", "offers"),
    [
        (["--mode=dra", "--host-root=/host"], ("dra", "")),
        (["--mode=extended-resource", "--dialect=intel", "--provision"], ("extended-resource", "intel")),
        (["--dialect=azure"], ("device-plugin", "azure")),
        ([], ("device-plugin", "")),
    ],
)
def test_an_agents_arguments_tell_how_it_offers_epc(arguments, offers):
    assert offering(arguments) == offers


def test_an_agent_of_any_form_has_arguments():
    container = {"args": ["--mode=dra", 7]}

    assert arguments_of({"spec": {"template": {"spec": {"containers": [container]}}}}) == ("--mode=dra", "7")
    for odd in ({}, {"spec": {}}, {"spec": {"template": {"spec": {"containers": []}}}}, {"spec": {"template": []}}):
        assert arguments_of(odd) == ()
