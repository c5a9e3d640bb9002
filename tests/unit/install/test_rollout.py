from __future__ import annotations

from dataclasses import replace

import pytest

from kubenclave.errors import KubenclaveError, Refused
from kubenclave.install.daemon import arguments_of, image_of, offering, options_of
from kubenclave.install.objects import Resource
from kubenclave.install.plan import Plan
from kubenclave.install.rollout import NodeOffer, Order, install, strange_taints
from kubenclave.install.tolerations import parse_toleration
from kubenclave.kube import Node, Pod, Taint

RESOURCES = (Resource(dialect="openenclave", name="openenclave.io/sgx_epc_MiB", unit_bytes=1 << 20),)
PLAN = Plan(mode="device-plugin", dialect="openenclave", files=("agent.yaml", "rules.yaml"), lost=())
AGENT = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kubenclave-node, namespace: kube-system, labels: {app.kubernetes.io/name: kubenclave-node}}
spec:
  template:
    spec:
      tolerations:
        - key: x
          operator: Exists
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


AGENT_POD = Pod(
    name="agent",
    namespace="kube-system",
    uid="1",
    labels={},
    created_at=None,
    phase="Running",
    node="n",
    unschedulable="",
    reason="",
    message="",
    containers=(),
    requests={},
)


class Cluster:
    """The few answers that an installation asks for; the node offers its units as soon as the agent is applied."""

    def __init__(self, *, units, policies=(), installed=(), lame=False, agent_says=None):
        self.units, self.policies, self.installed, self.lame, self.agent_says = units, policies, installed, lame, agent_says
        self.applied = []

    def apply(self, documents):
        self.applied.append(list(documents))
        return tuple(f"{each['kind']} {each['metadata']['name']}" for each in documents)

    def pods(self, _namespace, _labels=None):
        return (AGENT_POD,) if self.agent_says else ()

    def ask_pod(self, _pod, _port, _path, *, timeout_seconds):
        assert timeout_seconds > 0
        return f"kubenclave_epc_total_bytes {self.agent_says}\nkubenclave_epc_offered_bytes {self.agent_says}\n"

    def events(self, _about, _namespace):
        return ()

    def nodes(self):
        offered = {RESOURCES[0].name: self.units if self.applied else 0}
        good = Node(name="n", resource_version="1", ready=True, labels={"tee": "sgx"}, taints=(), capacity=offered, allocatable=offered)
        return (good, replace(good, name="lame", capacity={}, allocatable={})) if self.lame else (good,)

    def objects(self, _version, kind, _labels=None):
        if kind == "ValidatingAdmissionPolicy" and not self.applied:
            return tuple(self.policies)
        if kind == "DaemonSet" and self.applied:
            status = {"observedGeneration": 1, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": 1}
            return ({"kind": kind, "apiVersion": "apps/v1", "metadata": {"name": "kubenclave-node", "generation": 1}, "status": status},)
        return self.installed if kind == "DaemonSet" else ()


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


def test_the_rules_keep_the_most_that_was_ever_offered(deploy):
    """A pool of large nodes that was scaled to zero grows by the very pod that only it could serve."""
    before = {
        "metadata": {"name": "kubenclave-epc-offered"},
        "spec": {"variables": [{"name": "largest", "expression": '{"openenclave": 90}'}]},
    }
    cluster = Cluster(units=40, policies=[{**before, "apiVersion": "v1", "kind": "x"}])
    run(cluster, deploy)

    assert [known(documents) for documents in cluster.applied] == ['{"openenclave": 90}']


def test_the_agent_tolerates_what_was_ordered(deploy):
    sku = parse_toleration("sku=sgx:NoSchedule")
    cluster = Cluster(units=40)
    order = Order(plan=PLAN, image="i", tolerations=(sku,))
    install(cluster, deploy, order, RESOURCES, lambda _: None, timeout_seconds=1)

    for documents in cluster.applied:
        (agent,) = [document for document in documents if document["kind"] == "DaemonSet"]
        assert agent["spec"]["template"]["spec"]["tolerations"] == [sku.document, {"key": "x", "operator": "Exists"}]


def test_one_node_that_offers_nothing_does_not_keep_the_rules_from_knowing_of_the_others(deploy):
    cluster = Cluster(units=40, lame=True)

    with pytest.raises(KubenclaveError, match="on 1 of 2 SGX nodes"):
        run(cluster, deploy)

    assert known(cluster.applied[-1]) == '{"openenclave": 40}'


def test_what_the_node_shows_of_the_agent_before_is_not_taken_for_the_new_ones(deploy, monkeypatch):
    """The kubelet writes the new agent's units into the status a little later than that one is ready."""
    cluster = Cluster(units=38, agent_says=40 << 20)
    monkeypatch.setattr("kubenclave.install.waiting.time.sleep", lambda _: setattr(cluster, "units", 40))

    assert run(cluster, deploy).nodes == (NodeOffer(node="n", epc_bytes=40 << 20),)


def test_an_agent_that_runs_and_offers_nothing_beside_the_one_before_is_told_of_in_the_end(deploy):
    """Such as with a reserve that leaves nothing: the node still shows what the agent before offers."""
    cluster = Cluster(units=40, agent_says=1)

    with pytest.raises(KubenclaveError, match="on 1 of 1 SGX nodes the agent does not offer EPC after"):
        run(cluster, deploy)


def test_the_taint_of_another_dialect_is_told(deploy):
    taint = Taint(key="kubernetes.azure.com/sgx_epc_mem_in_MiB", value="true", effect="NoSchedule")
    own, azure = RESOURCES[0], Resource(dialect="azure", name=taint.key, unit_bytes=1 << 20)
    node = Node(name="n", resource_version="1", ready=True, labels={"tee": "sgx"}, taints=(taint,), capacity={}, allocatable={})

    (told,) = strange_taints([node], own, (own, azure), ())
    assert "kubenclave node prepare n --dialect openenclave" in told
    assert list(strange_taints([node], azure, (own, azure), ())) == []
    # Pods with claims bring their toleration.
    assert list(strange_taints([node], None, (own, azure), ())) == []
    assert list(strange_taints([replace(node, labels={})], own, (own, azure), ())) == []


def test_a_pools_own_taint_is_told_until_it_is_tolerated():
    taints = (
        Taint(key="sku", value="sgx", effect="NoSchedule"),
        Taint(key="soft", value="", effect="PreferNoSchedule"),
        Taint(key="node.kubernetes.io/unschedulable", value="", effect="NoSchedule"),
    )
    node = Node(name="n", resource_version="1", ready=True, labels={"tee": "sgx"}, taints=taints, capacity={}, allocatable={})

    (told,) = strange_taints([node], RESOURCES[0], RESOURCES, (parse_toleration("sku=other:NoSchedule"),))
    assert "carries the taint sku=sgx:NoSchedule, which pods that ask for openenclave.io/sgx_epc_MiB do not tolerate" in told
    assert "--toleration=sku=sgx:NoSchedule" in told
    assert list(strange_taints([node], RESOURCES[0], RESOURCES, (parse_toleration("sku=sgx:NoSchedule"),))) == []


def test_while_no_node_offers_any_the_rules_keep_what_they_knew(deploy):
    before = {"metadata": {"name": "kubenclave-epc-offered"}, "spec": {"variables": [{"name": "largest", "expression": '{"azure": 7}'}]}}
    cluster = Cluster(units=0, policies=[{**before, "apiVersion": "v1", "kind": "x"}])

    with pytest.raises(KubenclaveError, match="on 1 of 1 SGX nodes the agent does not offer EPC"):
        run(cluster, deploy)

    assert [known(documents) for documents in cluster.applied] == ['{"azure": 7}']


def test_an_agent_that_somebody_else_manages_is_left_to_them(deploy):
    helms = {"kind": "DaemonSet", "metadata": {"name": "kubenclave-node", "labels": {"app.kubernetes.io/managed-by": "Helm"}}}
    cluster = Cluster(units=40, installed=[helms])

    with pytest.raises(Refused, match="is managed by Helm"):
        run(cluster, deploy)

    assert cluster.applied == []


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


def test_an_agents_tolerations_are_options_but_for_the_dialects_own():
    tolerations = [
        {"key": "sku", "operator": "Equal", "value": "sgx", "effect": "NoSchedule"},
        {"key": RESOURCES[0].name, "operator": "Exists", "effect": "NoSchedule"},
        # By another hand: the command line has no word for it.
        {"operator": "Exists"},
        {"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
        7,
    ]
    whole = {"spec": {"template": {"spec": {"containers": [{"args": ["--dialect=azure"]}], "tolerations": tolerations}}}}

    options = options_of(whole, RESOURCES)

    assert options.command == (
        "kubenclave node install --mode=device-plugin --dialect=azure --toleration=sku=sgx:NoSchedule --toleration=spot:NoExecute"
    )


def test_an_agent_of_any_form_has_arguments():
    whole = {"spec": {"template": {"spec": {"containers": [{"args": ["--mode=dra", 7], "image": "i"}]}}}}

    assert (arguments_of(whole), image_of(whole)) == (("--mode=dra", "7"), "i")
    for odd in ({}, {"spec": {}}, {"spec": {"template": {"spec": {"containers": []}}}}, {"spec": {"template": []}}):
        assert arguments_of(odd) == ()
