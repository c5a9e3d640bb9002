"""The module's own check of a finished cluster: does something make EPC a resource, and do the SGX nodes offer it? Pure.

Sources of the names: the manifests of aks-engine and of the AKS add-on, Intel's device plugin, and this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.cluster.findings import Finding
from kubenclave.cluster.sizes import Tee, known_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kubenclave.kube import Node, Pod

# Label of its pods, and what it is called.
_PLUGINS = (
    (("app.kubernetes.io/name", "kubenclave-node"), "the node agent"),
    (("app", "sgx-plugin"), "the AKS add-on"),
    (("app", "intel-sgx-plugin"), "Intel's device plugin"),
    (("app", "sgx-device-plugin"), "aks-engine's device plugin"),
    (("app", "oe-sgx-device-plugin"), "aks-engine's first device plugin"),
)
_SIZE_LABELS = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedNode:
    """Hold one SGX node: its VM size, and the EPC that pods can ask for, as the resource is called."""

    name: str
    ready: bool
    vm_size: str
    epc_bytes: int
    offered_as: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Hold what the check saw: which plugins have pods, how many of them run, the SGX nodes, and what is amiss."""

    plugins: tuple[str, ...]
    nodes: tuple[CheckedNode, ...]
    findings: tuple[Finding, ...]


def check(nodes: Sequence[Node], pods: Sequence[Pod], *, resources: Mapping[str, int], label: tuple[str, str], context: str) -> Checked:
    """Return what the check saw.

    Args:
        nodes: All of the cluster's.
        pods: All of the cluster's.
        resources: Bytes of EPC in one unit, by the names under which it is offered.
        label: By which SGX nodes are marked for the node agent.
        context: The kubeconfig's context, for the lines that are to be run.
    """
    running = {name: [pod for pod in pods if pod.labels.get(mark[0]) == mark[1]] for mark, name in _PLUGINS}
    plugins = tuple(
        f"{name}: {sum(pod.phase == 'Running' for pod in found)} of {len(found)} pods run" for name, found in running.items() if found
    )
    checked = tuple(_node(node, resources) for node in nodes if _is_sgx(node, resources, label))
    return Checked(plugins=plugins, nodes=checked, findings=(*_of_nodes(checked, nodes, label, context, plugins=bool(plugins)),))


def _of_nodes(
    checked: Sequence[CheckedNode], nodes: Sequence[Node], label: tuple[str, str], context: str, *, plugins: bool
) -> list[Finding]:
    if not checked:
        return [
            Finding(
                about="nodes",
                what="No node of the cluster has SGX now.",
                evidence=f"{len(nodes)} nodes, none of a VM size with SGX, labelled {'='.join(label)} or offering EPC",
                fix="A pool that scales from zero has none until a pod asks for EPC; else add a pool of a size with SGX.",
                blocks=False,
            )
        ]
    if not plugins and not any(node.epc_bytes for node in checked):
        unmarked = [node.name for node in nodes if node.name in {each.name for each in checked} and node.labels.get(label[0]) != label[1]]
        prepare = "".join(f"kubenclave node prepare {name} --context {context}; " for name in unmarked)
        return [
            Finding(
                about="EPC",
                what="Nothing makes EPC a resource: no pod can ask for it.",
                evidence=f"{len(checked)} SGX nodes, no pods of {', '.join(name for _, name in _PLUGINS)}",
                fix=f"{prepare}kubenclave node install --context {context}; or sgx.by: addon in the cluster file, and up again.",
                blocks=True,
            )
        ]
    return [
        Finding(
            about=f"node {node.name}",
            what="It offers no EPC as a resource of the node.",
            evidence=f"ready: {'yes' if node.ready else 'no'}; allocatable has none of the names",
            fix=f"It may be starting, or offer claims instead: kubenclave node status --context {context}",
            blocks=False,
        )
        for node in checked
        if not node.epc_bytes
    ]


def _node(node: Node, resources: Mapping[str, int]) -> CheckedNode:
    offered = {name: node.allocatable[name] * unit for name, unit in resources.items() if node.allocatable.get(name)}
    best = max(offered, key=lambda name: offered[name], default="")
    return CheckedNode(name=node.name, ready=node.ready, vm_size=_size(node), epc_bytes=offered.get(best, 0), offered_as=best)


def _is_sgx(node: Node, resources: Mapping[str, int], label: tuple[str, str]) -> bool:
    size = known_size(_size(node))
    by_size = size is not None and size.tee is Tee.SGX
    return by_size or node.labels.get(label[0]) == label[1] or any(node.allocatable.get(name) for name in resources)


def _size(node: Node) -> str:
    return next((node.labels[name] for name in _SIZE_LABELS if name in node.labels), "")
