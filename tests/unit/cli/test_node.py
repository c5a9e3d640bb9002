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
        return installer.Installed(mode=order.plan.mode, dialect=order.plan.dialect, image=order.image, applied=(), removed=(), nodes=())

    @contextlib.contextmanager
    def connect(_kubeconfig, _context):
        yield SimpleNamespace(version="v1.35.2")

    monkeypatch.setattr(installer, "install", install)
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


def test_options_that_contradict_each_other_are_refused_before_anything_is_applied(ordered, capsys):
    assert main(["node", "install", "--mode=dra", "--dialect=intel"]) == 2

    assert ordered == []
    assert "leave --dialect out" in capsys.readouterr().err
