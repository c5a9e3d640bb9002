"""Brings the local Kubernetes clusters to what the managed clusters of the simulated Azure ask for, one after the other.

It compares what is wanted with what is noted as being there. Both are in the saved state, and every step may be done again,
so a stand-in that was killed anywhere goes on where it was.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from kubenclave import kube
from kubenclave.errors import KubenclaveError, NotFound, UsageError
from kubenclave.local import cluster
from kubenclave.local.azure import backing
from kubenclave.local.azure.state import Kubernetes

if TYPE_CHECKING:
    from pathlib import Path

    from kubenclave.local.azure.backing import Backing
    from kubenclave.local.azure.stand_in import StandIn
    from kubenclave.local.azure.state import State
    from kubenclave.local.places import Places

_IDLE_SECONDS = 0.2  # how soon a request's wish is noticed; looking costs microseconds

_AFTER_FAILURE_SECONDS = 5.0  # a removal that fails is not tried in a loop


def read_kubeconfig(places: Places, name: str) -> str:
    """Read the kubeconfig of a local cluster.

    Raises:
        NotFound: The cluster is not up.
    """
    try:
        return cluster.find(name, places).kubeconfig.read_text(encoding="utf-8")
    except OSError as exc:
        raise NotFound(
            f"The kubeconfig of the local cluster {name!r} is gone: {exc.strerror}.", "Remove the cluster and make it anew."
        ) from exc


class Reconciler:
    """Work in a thread of its own until it is stopped."""

    def __init__(self, stand_in: StandIn, places: Places) -> None:
        self._stand_in = stand_in
        self._places = places
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="kubernetes")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step that is being done."""
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        with self._stand_in.changing() as state:
            _distrust(state)
        while not self._stopped.wait(_IDLE_SECONDS):
            with self._stand_in.changing() as state:
                name, goal = next_step(state)
            if name and not self._carry_out(name, goal):
                self._stopped.wait(_AFTER_FAILURE_SECONDS)

    def _carry_out(self, name: str, goal: Backing | None) -> bool:
        try:
            if goal is None:
                cluster.down(name, self._places, _say)
            else:
                self._bring_up(name, goal)
            error = ""
        except KubenclaveError as exc:
            error = f"{exc.what} {exc.hint}"
            _say(f"{name}: {error}")
        with self._stand_in.changing() as state:
            record(state, name, goal, error)
        return not error

    def _bring_up(self, name: str, goal: Backing) -> None:
        wanted = cluster.Wanted(
            name=name, sgx_nodes=goal.sgx_nodes, plain_nodes=goal.plain_nodes, epc_bytes=(goal.epc_bytes,) if goal.epc_bytes else ()
        )
        try:
            found = cluster.up(wanted, self._places, _say)
        except UsageError:
            # It is up with other nodes. A local cluster cannot gain or lose any: it is made anew, and what ran there is gone.
            cluster.down(name, self._places, _say)
            found = cluster.up(wanted, self._places, _say)
        _mark(found.kubeconfig, goal)


def next_step(state: State) -> tuple[str, Backing | None]:
    """Choose what to do next, and note that it is being done: a cluster to remove, one to bring up, or nothing (no name)."""
    goals = backing.wanted(state)
    for name in state.kubernetes:
        if name not in goals:
            state.kubernetes[name].phase = "working"
            return name, None
    for name, goal in goals.items():
        have = state.kubernetes.get(name)
        if have is None or have.phase == "working" or not backing.is_as(have, goal):
            state.kubernetes[name] = Kubernetes(
                sgx_nodes=goal.sgx_nodes,
                plain_nodes=goal.plain_nodes,
                epc_bytes=goal.epc_bytes,
                marks=goal.marks_text,
                phase="working",
            )
            return name, goal
    return "", None


def record(state: State, name: str, goal: Backing | None, error: str) -> None:
    """Note how a step ended. A removal that failed is tried again; a cluster that did not come up waits until a client asks again."""
    if goal is None:
        if not error:
            state.kubernetes.pop(name, None)
        return
    have = state.kubernetes[name]
    have.phase, have.error = ("failed", error) if error else ("ready", "")


def _mark(kubeconfig: Path, goal: Backing) -> None:
    """Give the nodes what their pools give them. A label that a pool has no more goes; a taint stays until it is taken away by hand."""
    with kube.connect(kubeconfig) as api:
        api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": mark.node, "labels": mark.labels}} for mark in goal.marks)
        for mark in goal.marks:
            for text in mark.taints:
                key, _, rest = text.partition("=")
                value, _, effect = rest.rpartition(":")
                api.label_and_taint(mark.node, ("agentpool", mark.labels["agentpool"]), kube.Taint(key=key, value=value, effect=effect))


def _distrust(state: State) -> None:
    """Look at every cluster again after a start: the machine may have been restarted in between. Looking at one that is up costs little."""
    for have in state.kubernetes.values():
        if have.phase == "ready":
            have.phase = "working"


def _say(text: str) -> None:
    sys.stderr.write(f"simulated Azure: {text}\n")
    sys.stderr.flush()
