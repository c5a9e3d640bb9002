"""``kubenclave node``: the cluster's SGX nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from kubenclave.cli.progress import say, step
from kubenclave.cli.show import OutputOption, show
from kubenclave.cli.target import ContextOption, KubeconfigOption, connect
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.install import Resource
    from kubenclave.kube import Node
    from kubenclave.workload import Dialect


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
    """Label a node as an SGX node, for the node agent, and taint it, so that ordinary pods stay off; it takes another dialect's taint away.

    Args:
        node: Name of the node.
        dialect: How the node offers EPC: intel, azure, openenclave or alibaba. Without this: as the node offers it or
            is tainted already, else openenclave.
    """
    from kubenclave import kube, workload  # noqa: PLC0415 - bring the API client, which --help does not need

    wanted = workload.dialect_of(dialect) if dialect is not None else None
    with connect(kubeconfig, context) as cluster:
        chosen = wanted or _usual_dialect(cluster.node(node))
        taint = kube.Taint(key=chosen.taint_key, value=workload.TAINT_VALUE, effect=workload.TAINT_EFFECT)
        of_dialects = [dialect.taint_key for dialect in workload.dialects()]
        changed = cluster.label_and_taint(node, workload.NODE_LABEL, taint, instead_of=of_dialects)
    show(Prepared(node=node, label="=".join(workload.NODE_LABEL), taint=str(taint), changed=changed), output=output)


def _usual_dialect(node: Node) -> Dialect:
    """Return the dialect of what a node offers; of a taint that it has, while it offers nothing; else the guide's."""
    from kubenclave import workload  # noqa: PLC0415 - brings the API client, which --help does not need

    keys = {taint.key for taint in node.taints if taint.effect == workload.TAINT_EFFECT}
    tainted = next((dialect for dialect in workload.dialects() if dialect.taint_key in keys), None)
    return tainted if tainted and not workload.offers_of([node]) else workload.dialect_for(node)


def install(  # noqa: D417 - the options shared by several commands are described by their annotations
    *,
    dialect: Literal["openenclave", "azure", "intel"] | None = None,
    mode: Literal["device-plugin", "extended-resource", "dra"] | None = None,
    image: str | None = None,
    reserve: str | None = None,
    provision: Annotated[bool | None, Parameter(negative="--no-provision")] = None,
    aesm: Annotated[bool | None, Parameter(negative="--no-aesm")] = None,
    legacy_paths: Annotated[bool | None, Parameter(negative="--no-legacy-paths")] = None,
    mapped: Annotated[bool | None, Parameter(negative="--no-mapped")] = None,
    toleration: Annotated[tuple[str, ...] | None, Parameter(negative="--no-toleration")] = None,
    admission: Annotated[bool, Parameter(negative="--no-admission")] = True,
    timeout_seconds: float = 120,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    output: OutputOption = "table",
) -> None:
    """Install the node agent, and wait until every SGX node offers its EPC; run again, it brings the installation up to date.

    What is installed already keeps the options about which nothing is said.

    Args:
        dialect: By which names EPC is offered. Without this: the mode's usual ones, else those of the 2020 guide, openenclave.
        mode: How EPC is offered. Without this: device-plugin for openenclave and azure, extended-resource for intel.
        image: The agent's image, where the nodes can fetch it; kubenclave/node:local without this.
        reserve: EPC of each node that is kept back for quoting enclaves, such as 2Mi.
        provision: Offer /dev/sgx_provision as well, as a resource of its own: sgx.intel.com/provision, or the claims' device of that name.
        aesm: Mount the host's AESM socket into containers that are given EPC.
        legacy_paths: Show the devices under /dev/sgx/ as well, where programs of before Linux 5.11 look for them.
        mapped: Let the agent see what containers map of the device. It then has the capability SYS_PTRACE and sees the host's processes.
        toleration: A taint of the SGX nodes that the agent tolerates, and by the rules every pod that asks for EPC, such as
            sku=sgx:NoSchedule; without a value, every value. For several taints, give it several times: those given replace those before.
        admission: Rules for pods that ask for EPC, evaluated by the API server itself.
        timeout_seconds: How long to wait for the nodes. What was applied stays when the time is over.
    """
    from kubenclave import install as installer  # noqa: PLC0415 - brings the API client, which --help does not need
    from kubenclave.local.checkout import project_file  # noqa: PLC0415

    if timeout_seconds <= 0:
        raise UsageError(f"--timeout-seconds {timeout_seconds:g} leaves no time", "give a number of seconds above 0")
    said = installer.Options(
        mode=mode or "",
        dialect=dialect or "",
        image=image or "",
        reserve=reserve or "",
        provision=provision,
        aesm=aesm,
        legacy_paths=legacy_paths,
        mapped=mapped,
        tolerations=None if toleration is None else tuple(map(installer.parse_toleration, toleration)),
    )
    with connect(kubeconfig, context) as cluster:
        wanted = said.over(installer.current(cluster, _resources()))
        chosen = installer.plan(wanted.mode or None, wanted.dialect or None, version=cluster.version, admission=admission)
        for sentence in chosen.lost:
            say(f"this is Kubernetes {cluster.version}: {sentence}")
        if wanted.command != said.command:
            say(f"what is installed already stays as it is: {wanted.command}")
        order = installer.Order(
            plan=chosen,
            image=wanted.image or installer.DEFAULT_IMAGE,
            arguments=wanted.arguments,
            mapped=bool(wanted.mapped),
            tolerations=wanted.tolerations or (),
        )
        with step("installing the node agent") as report:
            installed = installer.install(cluster, project_file("deploy"), order, _resources(), report, timeout_seconds=timeout_seconds)
    for sentence in installed.findings:
        say(sentence)
    show(installed, output=output)


def uninstall(
    *,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    output: OutputOption = "table",
) -> None:
    """Remove what install applied, and nothing else. Pods that hold EPC keep it until they end."""
    from kubenclave import install as installer  # noqa: PLC0415 - brings the API client, which --help does not need

    with connect(kubeconfig, context) as cluster, step("removing the node agent") as report:
        removed = installer.uninstall(cluster, _resources(), report)
    show(removed, output=output)


def status(
    *,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = None,
    output: OutputOption = "table",
) -> None:
    """Show each SGX node's EPC: how much there is, how much is offered, and which pod holds how much."""
    from kubenclave import install as installer  # noqa: PLC0415 - brings the API client, which --help does not need

    with connect(kubeconfig, context) as cluster:
        found = installer.status(cluster, _resources())
    if not found.nodes:
        say("no node of this cluster has, offers or is labelled for EPC; see kubenclave node prepare")
    for sentence in found.findings:
        say(sentence)
    show(found.nodes, output=output)


def _resources() -> tuple[Resource, ...]:
    """Return the names by which EPC is asked for, in the installer's words."""
    from kubenclave import install as installer  # noqa: PLC0415
    from kubenclave import workload  # noqa: PLC0415

    return tuple(
        installer.Resource(dialect=dialect.name, name=dialect.resource, unit_bytes=dialect.unit_bytes) for dialect in workload.dialects()
    )
