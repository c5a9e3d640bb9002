"""``kubenclave local azure``: a simulated Azure on this machine. Reads the options, calls the room, shows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - read at run time by msgspec
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kubenclave.cli.progress import say, step
from kubenclave.cli.show import OutputOption, show

if TYPE_CHECKING:
    from kubenclave.local.azure.process import Reachable

_PORT = 18443


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    simulated: bool
    url: str
    ca: Path
    tenant: str
    subscription: str
    client_id: str
    client_secret_file: Path
    environment_file: Path
    kubernetes: bool
    local_clusters: tuple[str, ...]
    schema: Path | None
    process: int
    started: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Down:
    simulated: bool
    removed: bool


def up(
    *,
    port: Annotated[int, Parameter(help="Port on loopback.")] = _PORT,
    operation_seconds: Annotated[float, Parameter(help="How long an operation takes, beside what it really does.")] = 2.0,
    without_kubernetes: Annotated[bool, Parameter(help="Bring up no local Kubernetes behind a managed cluster; needs no root.")] = False,
    schema: Annotated[Path | None, Parameter(help="The published ARM schema of AKS, to check request bodies with.")] = None,
    output: OutputOption = "table",
) -> None:
    """Start a simulated Azure: Entra ID, ARM and Graph on loopback, with a local Kubernetes behind each managed cluster."""
    from kubenclave.local.azure import process  # noqa: PLC0415 - the room is heavy, --help is not
    from kubenclave.local.places import places  # noqa: PLC0415

    kubernetes = not without_kubernetes and os.geteuid() == 0
    with step("simulated Azure"):
        found = process.up(places(os.environ), port=port, operation_seconds=operation_seconds, kubernetes=kubernetes, schema=schema)
    if output == "table":
        if not found.kubernetes:
            say("simulated: no Kubernetes stands behind managed clusters, and no kubeconfig is handed out (that needs root).")
        if found.schema is None:
            say("simulated: request bodies are not checked against the ARM schema (--schema FILE does).")
        say(f"Point kubenclave cluster at it: . {found.environment_file}")
        say("Point the Azure CLI at it as docs/reference/azure-stand-in.md says.")
    show(_shown(found), output=output)


def status(*, output: OutputOption = "table") -> None:
    """Show how the simulated Azure is reached."""
    from kubenclave.local.azure import process  # noqa: PLC0415
    from kubenclave.local.places import places  # noqa: PLC0415

    show(_shown(process.require(places(os.environ))), output=output)


def down(*, output: OutputOption = "table") -> None:
    """Stop the simulated Azure and remove what it made, the local Kubernetes behind its clusters included."""
    from kubenclave.local.azure import process  # noqa: PLC0415
    from kubenclave.local.places import places  # noqa: PLC0415

    with step("removing the simulated Azure") as report:
        removed = process.down(places(os.environ), report)
    if output == "json" or not removed:
        show(_Down(simulated=True, removed=removed), output=output)


def _shown(found: Reachable) -> _Shown:
    return _Shown(
        simulated=True,
        url=found.url,
        ca=found.ca,
        tenant=found.tenant,
        subscription=found.subscription,
        client_id=found.client_id,
        client_secret_file=found.client_secret_file,
        environment_file=found.environment_file,
        kubernetes=found.kubernetes,
        local_clusters=found.local_clusters,
        schema=found.schema,
        process=found.process,
        started=found.started,
    )
