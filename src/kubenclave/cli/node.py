"""``kubenclave node``: the cluster's SGX nodes."""

from __future__ import annotations

from dataclasses import dataclass

from kubenclave.cli.show import OutputOption, show
from kubenclave.cli.target import ContextOption, KubeconfigOption, connect


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prepared node; ``changed`` is empty where nothing had to be done."""

    node: str
    label: str
    taint: str
    changed: tuple[str, ...]


def prepare(  # noqa: D417 - the options shared by several commands are described by their annotations
    node: str,
    /,
    *,
    dialect: str | None = None,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    output: OutputOption = "table",
) -> None:
    """Label a node as an SGX node, for the node agent, and taint it, so that ordinary pods stay off.

    Args:
        node: Name of the node.
        dialect: How the node offers EPC: intel, azure, openenclave or alibaba. Without this: what the node offers, else openenclave.
    """
    from kubenclave import kube, workload  # noqa: PLC0415 - bring the API client, which --help does not need

    wanted = workload.dialect_of(dialect) if dialect is not None else None
    with connect(kubeconfig, context) as cluster:
        chosen = wanted or workload.dialect_for(cluster.node(node))
        taint = kube.Taint(key=chosen.taint_key, value=workload.TAINT_VALUE, effect=workload.TAINT_EFFECT)
        changed = cluster.label_and_taint(node, workload.NODE_LABEL, taint)
    label = "=".join(workload.NODE_LABEL)
    show(Prepared(node=node, label=label, taint=f"{taint.key}={taint.value}:{taint.effect}", changed=changed), output=output)
