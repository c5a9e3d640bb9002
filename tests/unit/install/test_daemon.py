from __future__ import annotations

import time

import pytest

from kubenclave.errors import NotFound, Refused, Unreachable
from kubenclave.install import daemon
from kubenclave.install.daemon import Answer, answers
from kubenclave.kube import Pod

METRICS = "kubenclave_epc_total_bytes 4096\n"


def pod(name):
    return Pod(
        name=name,
        namespace="kube-system",
        uid=name,
        labels={},
        created_at=None,
        phase="Running",
        node=name,
        unschedulable="",
        reason="",
        message="",
        containers=(),
    )


class Cluster:
    """Agents by name: what each answers, raises, or for how many seconds it says nothing."""

    def __init__(self, **agents):
        self.agents = agents

    def ask_pod(self, pod, _port, _path, *, timeout_seconds):
        says = self.agents[pod.name]
        if isinstance(says, Exception):
            raise says
        if isinstance(says, float):
            time.sleep(says)
            raise Unreachable(f"nothing within {timeout_seconds} s")
        return says


def test_agents_that_hang_cost_the_time_of_one_and_hide_no_other(monkeypatch):
    monkeypatch.setattr(daemon, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(daemon, "ASKED_AT_A_TIME", 8)
    hanging = [f"hangs{number}" for number in range(7)]
    cluster = Cluster(**dict.fromkeys(hanging, 0.6), well=METRICS, too=METRICS)

    began = time.monotonic()
    said = answers(cluster, [pod(name) for name in cluster.agents])

    assert time.monotonic() - began < 0.55
    assert [said[name].view.total_bytes for name in ("well", "too")] == [4096, 4096]
    assert [said[name] for name in hanging] == 7 * [Answer(silent=True)]


def test_agents_whose_turn_did_not_come_are_not_called_silent(monkeypatch):
    monkeypatch.setattr(daemon, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(daemon, "ASKED_AT_A_TIME", 1)
    cluster = Cluster(hangs=0.4, well=METRICS)

    assert answers(cluster, [pod("hangs"), pod("well")]) == {"hangs": Answer(silent=True), "well": Answer()}


@pytest.mark.parametrize(
    ("says", "silent"), [(Unreachable("no connection"), True), (NotFound("gone"), True), (Refused("may not ask"), False), ("<html>", False)]
)
def test_who_may_not_ask_does_not_call_an_agent_silent(says, silent):
    assert answers(Cluster(agent=says), [pod("agent")]) == {"agent": Answer(silent=silent)}


def test_where_there_are_no_agents_nobody_is_asked():
    assert answers(Cluster(), []) == {}
