"""``kubenclave local``: Kubernetes on this machine. Reads the options, calls the room, shows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - read at run time by msgspec
from typing import Annotated

from cyclopts import Parameter

from kubenclave.cli.progress import say, step
from kubenclave.cli.show import OutputOption, show

NameOption = Annotated[str, Parameter(name="--name", help="Which local cluster; several can stand side by side.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Up:
    cluster: str
    started: bool
    kubeconfig: Path
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _NodeRow:
    name: str
    ready: bool
    simulated_epc_bytes: int
    allocatable_epc: str
    process: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Down:
    cluster: str
    removed: bool


def up(
    *,
    name: NameOption = "kubenclave",
    nodes: Annotated[str, Parameter(help="How many nodes: sgx=2,plain=1, or 3 for two with SGX and one without.")] = "2",
    epc: Annotated[str, Parameter(help="Simulated EPC of each SGX node: 40Mi, or 128Gi,128Gi for two NUMA nodes.")] = "40Mi",
    output: OutputOption = "table",
) -> None:
    """Start the cluster, or finish starting it. The SGX of its nodes is simulated; everything else is real."""
    from kubenclave.local import cluster, spec  # noqa: PLC0415 - the room is heavy, --help is not
    from kubenclave.local.places import places  # noqa: PLC0415

    sgx_nodes, plain_nodes = spec.parse_nodes(nodes)
    wanted = cluster.Wanted(name=name, sgx_nodes=sgx_nodes, plain_nodes=plain_nodes, epc_bytes=spec.parse_epc(epc))
    with step(f"local cluster {name}") as report:
        result = cluster.up(wanted, places(os.environ), report)
    if output == "table":
        say(f"Use it with: export KUBECONFIG={result.kubeconfig}")
    shown = _Up(
        cluster=result.name,
        started=result.started,
        kubeconfig=result.kubeconfig,
        nodes=tuple(f"{node.name} (simulated SGX)" if node.epc_bytes else node.name for node in result.spec.nodes),
    )
    show(shown, output=output)


def status(*, name: NameOption = "kubenclave", output: OutputOption = "table") -> None:
    """Show the cluster's nodes, as its API server and this machine see them."""
    from kubenclave.local import cluster  # noqa: PLC0415
    from kubenclave.local.places import places  # noqa: PLC0415

    found = cluster.find(name, places(os.environ))
    rows = [
        _NodeRow(
            name=node.name,
            ready=node.ready,
            simulated_epc_bytes=node.simulated_epc_bytes,
            allocatable_epc=", ".join(f"{resource}: {amount}" for resource, amount in node.allocatable_epc.items()) or "none",
            process=node.init,
        )
        for node in cluster.status(found)
    ]
    if output == "table":
        say(f"kubeconfig: {found.kubeconfig}")
    show(rows, output=output)


def down(*, name: NameOption = "kubenclave", output: OutputOption = "table") -> None:
    """Stop the cluster and remove everything it left on this machine."""
    from kubenclave.local import cluster  # noqa: PLC0415
    from kubenclave.local.places import places  # noqa: PLC0415

    with step(f"removing local cluster {name}") as report:
        removed = cluster.down(name, places(os.environ), report)
    if output == "json" or not removed:
        show(_Down(cluster=name, removed=removed), output=output)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    node: str
    image: str
    digest: str


def load(  # noqa: D417 - the options shared by several commands are described by their annotations
    archive: Path, /, *, name: NameOption = "kubenclave", output: OutputOption = "table"
) -> None:
    """Import an image archive into every node of the cluster, as there is no registry in it.

    Args:
        archive: An OCI archive, as kubenclave image build writes it.
    """
    from kubenclave.local import cluster  # noqa: PLC0415
    from kubenclave.local.places import places  # noqa: PLC0415

    with step(f"importing {archive}"):
        imported = cluster.load_image(cluster.find(name, places(os.environ)), archive)
    show([_Loaded(node=image.node, image=image.reference, digest=image.digest) for image in imported], output=output)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Built:
    kubernetes: str
    programs: Path


def build(*, output: OutputOption = "table") -> None:
    """Build the Kubernetes programs now, which up does by itself when they are missing."""
    from kubenclave.local import programs  # noqa: PLC0415
    from kubenclave.local.places import places  # noqa: PLC0415

    with step("building the Kubernetes programs") as report:
        folder = programs.build(places(os.environ).cache, report)
    show(_Built(kubernetes=programs.KUBERNETES_VERSION, programs=folder), output=output)
