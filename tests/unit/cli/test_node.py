from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import pytest

from kubenclave import install as installer
from kubenclave.cli import main
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
    monkeypatch.setattr(installer, "current", lambda _cluster: installer.Options())
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
    monkeypatch.setattr(installer, "current", lambda _cluster: there)

    assert main(["node", "install", "--no-provision"]) == 0

    ((_, order, _, _),) = ordered
    assert (order.plan.mode, order.plan.dialect, order.image) == ("device-plugin", "azure", "r/n@sha256:0")
    assert (order.arguments, order.mapped) == (("--reserve=2Mi",), True)
    said = capsys.readouterr().err
    assert "what is installed already stays as it is: kubenclave node install --mode=device-plugin --dialect=azure --reserve=2Mi" in said
    assert "a taint is strange" in said


@pytest.mark.parametrize(
    ("option", "words"), [("--reserve=2M", "whole pages"), ("--reserve=-1", "whole pages"), ("--timeout-seconds=-5", "leaves no time")]
)
def test_options_that_cannot_be_are_refused_before_anything_is_applied(ordered, capsys, option, words):
    assert main(["node", "install", option]) == 2

    assert ordered == []
    assert words in capsys.readouterr().err


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
