from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest

from kubenclave import install as installer
from kubenclave.cli import main
from kubenclave.kube import Node, Taint
from kubenclave.kube.preparing import preparation
from kubenclave.workload import dialects


@pytest.fixture
def ordered(monkeypatch):
    """What the command orders, on a cluster of a version that never is asked."""
    orders = []

    def install(_cluster, deploy, order, resources, _report, *, timeout_seconds):
        orders.append((deploy, order, resources, timeout_seconds))
        return installer.Installed(
            mode=order.plan.mode,
            dialect=order.plan.dialect,
            image=order.image,
            applied=(),
            removed=(),
            nodes=(),
            findings=("a taint is strange",),
        )

    @contextlib.contextmanager
    def connect(_kubeconfig, _context):
        yield SimpleNamespace(version="v1.35.2")

    monkeypatch.setattr(installer, "install", install)
    monkeypatch.setattr(installer, "current", lambda _cluster, _resources: installer.Options())
    monkeypatch.setattr("kubenclave.cli.node.connect", connect)
    return orders


def test_install_orders_what_the_options_say_and_tells_what_the_cluster_is_too_old_for(ordered, capsys):
    code = main(["node", "install", "--dialect=intel", "--image=i@sha256:0", "--reserve=2Mi", "--aesm", "--mapped", "--output=json"])

    captured = capsys.readouterr()
    ((deploy, order, resources, timeout_seconds),) = ordered
    assert code == 0
    assert (order.plan.mode, order.image, order.arguments, order.mapped) == (
        "extended-resource",
        "i@sha256:0",
        ("--reserve=2Mi", "--aesm"),
        True,
    )
    assert order.plan.files == ("node-agent-extended-resource.yaml", "admission.yaml")
    assert all((deploy / name).is_file() for name in order.plan.files)
    assert {resource.name for resource in resources} == {dialect.resource for dialect in dialects()}
    assert timeout_seconds == 120
    assert "this is Kubernetes v1.35.2: nothing is added to pods" in captured.err
    assert json.loads(captured.out)["mode"] == "extended-resource"


def test_without_options_it_is_the_guides_dialect_with_the_rules(ordered):
    assert main(["node", "install"]) == 0

    ((_, order, _, _),) = ordered
    assert (order.plan.mode, order.plan.dialect, order.arguments, order.mapped) == ("device-plugin", "openenclave", (), False)
    assert order.image == "kubenclave/node:local"
    assert "admission.yaml" in order.plan.files


def test_without_admission_the_agent_comes_alone(ordered):
    assert main(["node", "install", "--no-admission", "--legacy-paths", "--provision"]) == 0

    ((_, order, _, _),) = ordered
    assert order.plan.files == ("node-agent.yaml",)
    assert order.arguments == ("--provision", "--legacy-paths")


def test_what_is_installed_keeps_the_options_of_which_nothing_is_said(ordered, monkeypatch, capsys):
    there = installer.Options(mode="device-plugin", dialect="azure", image="r/n@sha256:0", reserve="2Mi", provision=True, mapped=True)
    monkeypatch.setattr(installer, "current", lambda _cluster, _resources: there)

    assert main(["node", "install", "--no-provision"]) == 0

    ((_, order, _, _),) = ordered
    assert (order.plan.mode, order.plan.dialect, order.image) == ("device-plugin", "azure", "r/n@sha256:0")
    assert (order.arguments, order.mapped) == (("--reserve=2Mi",), True)
    said = capsys.readouterr().err
    assert "what is installed already stays as it is: kubenclave node install --mode=device-plugin --dialect=azure --reserve=2Mi" in said
    assert "a taint is strange" in said


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--reserve=2M", "whole pages"),
        ("--reserve=-1", "whole pages"),
        ("--timeout-seconds=-5", "leaves no time"),
        ("--toleration=sku=sgx", "key[=value]:Effect"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_applied(ordered, capsys, option, words):
    assert main(["node", "install", option]) == 2

    assert ordered == []
    assert words in capsys.readouterr().err


def test_tolerations_are_given_one_by_one_kept_and_taken_away(ordered, monkeypatch):
    sku, spot = (installer.parse_toleration(text) for text in ("sku=sgx:NoSchedule", "spot:NoExecute"))

    assert main(["node", "install", "--toleration=sku=sgx:NoSchedule", "--toleration=spot:NoExecute"]) == 0
    monkeypatch.setattr(installer, "current", lambda _cluster, _resources: installer.Options(tolerations=(sku, spot)))
    assert main(["node", "install"]) == 0
    assert main(["node", "install", "--toleration", "spot:NoExecute"]) == 0
    assert main(["node", "install", "--no-toleration"]) == 0

    assert [order.tolerations for _, order, _, _ in ordered] == [(sku, spot), (sku, spot), (spot,), ()]


class OneNode:
    """A cluster with one node, which remembers as what that was prepared."""

    def __init__(self, taints=(), offers=()):
        amounts = dict.fromkeys(offers, 40)
        self.one = Node(name="n", resource_version="1", ready=True, labels={}, taints=taints, capacity=amounts, allocatable=amounts)

    def node(self, _name):
        return self.one

    def label_and_taint(self, _name, label, taint, *, instead_of):
        return preparation(self.one, label, taint, instead_of).words


AZURE_TAINT = Taint(key="kubernetes.azure.com/sgx_epc_mem_in_MiB", value="true", effect="NoSchedule")


@pytest.mark.parametrize(
    ("cluster", "words", "changed"),
    [
        (OneNode(), [], ["label tee=sgx", "taint openenclave.io/sgx_epc_MiB=true:NoSchedule"]),
        # Nothing says that it is to be another dialect: pods with claims tolerate the taint that is there.
        (OneNode((AZURE_TAINT,)), [], ["label tee=sgx"]),
        (
            OneNode((AZURE_TAINT,)),
            ["--dialect=intel"],
            ["label tee=sgx", "taint sgx.intel.com/epc=true:NoSchedule", f"no longer taint {AZURE_TAINT}"],
        ),
        (
            OneNode((AZURE_TAINT,), offers=["openenclave.io/sgx_epc_MiB"]),
            [],
            ["label tee=sgx", "taint openenclave.io/sgx_epc_MiB=true:NoSchedule", f"no longer taint {AZURE_TAINT}"],
        ),
    ],
)
def test_a_node_gets_the_taint_of_its_dialect_in_the_place_of_anothers(monkeypatch, capsys, cluster, words, changed):
    monkeypatch.setattr("kubenclave.cli.node.connect", lambda _kubeconfig, _context: contextlib.nullcontext(cluster))

    assert main(["node", "prepare", "n", *words, "--output=json"]) == 0

    assert json.loads(capsys.readouterr().out)["changed"] == changed


def test_options_that_contradict_each_other_are_refused_before_anything_is_applied(ordered, capsys):
    assert main(["node", "install", "--mode=dra", "--dialect=intel"]) == 2

    assert ordered == []
    assert "leave --dialect out" in capsys.readouterr().err


def test_what_status_finds_is_said_beside_the_table_and_not_in_it(ordered, monkeypatch, capsys):
    row = installer.NodeEpc(node="n", sgx="yes", total_bytes=1, offered_bytes=1, allocated_bytes=0, offered_as="x", agent="a", pods=())
    monkeypatch.setattr(installer, "status", lambda _cluster, _resources: installer.Status(nodes=(row,), findings=("the rules are old",)))

    code = main(["node", "status", "--output=json"])

    captured = capsys.readouterr()
    assert code == 0
    assert [each["node"] for each in json.loads(captured.out)] == ["n"]
    assert "the rules are old" in captured.err
