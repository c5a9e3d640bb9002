"""Wait until an installation has done what it is for, and say what it waits for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, NotFound
from kubenclave.install import dra
from kubenclave.install.daemon import answers, at, daemon_set, tolerations_of
from kubenclave.install.diagnose import Evidence, Finding, diagnose
from kubenclave.install.objects import NAME, NAMESPACE, NODE_LABEL, POD_LABELS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kubenclave.install.objects import Resource
    from kubenclave.kube import Cluster, Document, Node, Pod

    Report = Callable[[str], None]

_POLL_SECONDS = 0.5
# How long a reason that waiting will hardly mend must hold before the waiting ends: an image may be imported, a taint removed meanwhile.
_SURE_SECONDS = 10.0
_LOG_LINES = 50
# Claims are offered in whole pages of each NUMA node: what is left of a page on each of 64 is not.
_ROUNDED_BYTES = 64 * 4096


class Rollout:
    """Waits until the DaemonSet's pods are all new and every SGX node offers EPC, by the resource or, without one, to claims."""

    def __init__(self, cluster: Cluster, resource: Resource | None, image: str, documents: Sequence[Document]) -> None:
        self._cluster = cluster
        self._resource = resource
        self._image = image
        agent = next(document for document in documents if document["kind"] == "DaemonSet")
        self._tolerated = tolerations_of(agent)

    def wait(self, report: Report, timeout_seconds: float) -> dict[str, int]:
        """Return the EPC that each SGX node offers, as soon as all do."""
        began = time.monotonic()
        told: dict[str, str] = {}
        sure_since: dict[str, float] = {}
        while True:
            nodes = [node for node in self._cluster.nodes() if node.labels.get(NODE_LABEL[0]) == NODE_LABEL[1]]
            if not nodes:
                raise NotFound(
                    f"the agent is installed, but no node carries the label {'='.join(NODE_LABEL)}",
                    "label the SGX nodes: kubenclave node prepare NODE",
                )
            offered, all_new = self._offered(nodes), self._all_new()
            if all_new and all(offered.get(node.name) for node in nodes) and self._agreed(nodes, offered):
                return offered
            now = time.monotonic()
            over = now - began > timeout_seconds
            findings = self._findings(nodes, offered, all_new=all_new, over=over)
            for finding in findings:
                if told.get(finding.node) != finding.what:
                    told[finding.node] = finding.what
                    report(f"{finding.node}: {finding.what}")
            # The kubelet words one reason in several ways by turns, so it is the sureness that must last.
            sure_since = {finding.node: sure_since.get(finding.node, now) for finding in findings if finding.sure}
            hopeless = findings and all(now - sure_since.get(finding.node, now) > _SURE_SECONDS for finding in findings)
            if hopeless or over:
                raise _given_up(findings, len(nodes), now - began)
            time.sleep(_POLL_SECONDS)

    def _offered(self, nodes: Sequence[Node]) -> dict[str, int]:
        resource = self._resource
        if resource is None:
            return dra.offered(self._cluster)
        return {node.name: node.allocatable.get(resource.name, 0) * resource.unit_bytes for node in nodes}

    def _all_new(self) -> bool:
        installed = daemon_set(self._cluster)
        status = installed.get("status") if installed else None
        wanted = at(installed, "metadata", "generation") if installed else None
        if not isinstance(status, Mapping) or status.get("observedGeneration") != wanted:
            return False
        desired = status.get("desiredNumberScheduled")
        return desired == status.get("updatedNumberScheduled") == status.get("numberAvailable")

    def _agreed(self, nodes: Sequence[Node], offered: Mapping[str, int]) -> bool:
        """Tell whether the nodes show what their new agents offer, and no longer what those before them did."""
        return not self._disagreeing(self._cluster.pods(NAMESPACE, POD_LABELS), nodes, offered)

    def _disagreeing(self, pods: Sequence[Pod], nodes: Sequence[Node], offered: Mapping[str, int]) -> set[str]:
        """Return the nodes that show something else than their agents offer; where one does not answer, what the node shows is believed."""
        youngest = {node.name: pod for node in nodes if (pod := _youngest(pods, node)) is not None and pod.node}
        said = answers(self._cluster, list(youngest.values()))
        views = {node: view for node, pod in youngest.items() if (view := said[pod.name].view) is not None}
        rest_bytes = self._resource.unit_bytes if self._resource else _ROUNDED_BYTES
        return {node for node, view in views.items() if not 0 <= view.offered_bytes - offered.get(node, 0) < rest_bytes}

    def _findings(self, nodes: Sequence[Node], offered: Mapping[str, int], *, all_new: bool, over: bool) -> list[Finding]:
        """Say for each node what it waits for: EPC, or a new agent in the place of one that still offers it.

        A new agent that runs is not spoken of before the time is ``over``: it may be ready in a moment.
        """
        pods = self._cluster.pods(NAMESPACE, POD_LABELS)
        disagreeing = self._disagreeing(pods, nodes, offered) if over else set()
        found = []
        for node in nodes:
            pod = _youngest(pods, node)
            if not offered.get(node.name, 0) or (not all_new and not _runs(pod)) or node.name in disagreeing:
                evidence = self._evidence(pod)
                found.append(diagnose(node, evidence, tolerated=self._tolerated, image=self._image))
        return found

    def _evidence(self, pod: Pod | None) -> Evidence:
        events = self._cluster.events(pod.name if pod else NAME, NAMESPACE)
        container = next(iter(pod.containers), None) if pod else None
        if pod is None or container is None:
            return Evidence(pod=pod, events=events, log=())
        log = self._cluster.log_tail(pod, container.name, lines=_LOG_LINES)
        if not log and container.state != "running":
            log = self._cluster.log_tail(pod, container.name, lines=_LOG_LINES, previous=True)
        return Evidence(pod=pod, events=events, log=log)


def _youngest(pods: Sequence[Pod], node: Node) -> Pod | None:
    """Return the youngest pod on a node, or one that waits for a place where the node has none."""
    here = [pod for pod in pods if pod.node == node.name or (not pod.node and pod.unschedulable)]
    return max(here, key=lambda pod: (bool(pod.node), str(pod.created_at)), default=None)


def _runs(pod: Pod | None) -> bool:
    return pod is not None and bool(pod.containers) and pod.containers[0].state == "running"


def _given_up(findings: Sequence[Finding], of: int, seconds: float) -> KubenclaveError:
    if not findings:
        return KubenclaveError(
            f"EPC is offered, but not all of the agent's pods are the new ones and ready after {seconds:.0f} s",
            f"see kubectl -n {NAMESPACE} rollout status daemonset/{NAME}",
        )
    reasons = "; ".join(f"{finding.node}: {finding.what}" for finding in findings)
    hints = "; ".join(dict.fromkeys(finding.hint for finding in findings if finding.hint))
    return KubenclaveError(f"on {len(findings)} of {of} SGX nodes the agent does not offer EPC after {seconds:.0f} s: {reasons}", hints)
