"""``kubenclave demo``: the whole guide, on a local cluster or on one that the user has."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kubenclave.cli.printable import printable
from kubenclave.cli.progress import say
from kubenclave.cli.show import OutputOption, show
from kubenclave.errors import HostUnfit, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.status import Status

    from kubenclave.local.demo import DemoResult, Observation, Target

NAME = "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    module: int
    step: str
    seen: int
    time_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _SizeRow:
    image: str
    compressed_bytes: int
    unpacked_bytes: int


class _Told:
    """Writes the story to stderr as it happens; on a terminal what is being done now is a moving line below it."""

    def __init__(self, status: Status | None) -> None:
        self._status = status
        self._number = 0

    def step(self, module: int, title: str) -> None:
        self._number += 1
        self._line(f"\n{self._number}. {title} (module {module})", style="bold")

    def news(self, text: str) -> None:
        if self._status is None:
            say(f"   ... {text}")
        else:
            self._status.update(printable(text))

    def saw(self, observation: Observation) -> None:
        self._line(f"   {observation.what}: {observation.value}")

    def _line(self, text: str, style: str | None = None) -> None:
        if self._status is None:
            say(text)
        else:
            self._status.console.print(printable(text), style=style, markup=False, highlight=False)


@contextmanager
def _watching(*, asks: bool) -> Iterator[_Told]:
    # A question cannot be answered below a moving line.
    if asks or not sys.stderr.isatty():
        yield _Told(None)
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it

    with Console(stderr=True).status("starting") as status:
        yield _Told(status)


def demo(
    *,
    keep: Annotated[bool, Parameter(help="Leave the local cluster up, with the demo's pods, for a look.")] = False,
    report: Annotated[Path | None, Parameter(help="Write the result as a self-contained HTML page to this file.")] = None,
    epc: Annotated[str | None, Parameter(help="Simulated EPC of the local SGX node; 40Mi by default.")] = None,
    azure_rehearsal: Annotated[
        bool, Parameter(help="Make the cluster by way of a simulated Azure: checked, planned, created and removed as on AKS.")
    ] = False,
    kubeconfig: Annotated[
        Path | None, Parameter(help="Run on this cluster instead of a local one; nothing is installed there without asking.")
    ] = None,
    node: Annotated[str | None, Parameter(help="With --kubeconfig: the node that has SGX, where none is labelled tee=sgx.")] = None,
    yes: Annotated[bool, Parameter(help="With --kubeconfig: answer every question with yes.")] = False,
    output: OutputOption = "table",
) -> None:
    """Run an enclave program on a real Kubernetes on this machine, from nothing to its log."""
    from kubenclave.local.demo import page, tell  # noqa: PLC0415 - the room is heavy, --help is not
    from kubenclave.local.places import places  # noqa: PLC0415

    if report is not None and not os.access(report.absolute().parent, os.W_OK):
        raise HostUnfit(f"The report cannot be written to {report}.", "Name a file in a folder that is there and that you may write to.")
    target = _target(epc=epc, keep=keep, azure_rehearsal=azure_rehearsal, kubeconfig=kubeconfig, node=node, yes=yes)
    with tempfile.TemporaryDirectory(prefix="kubenclave-demo-") as folder, _watching(asks=kubeconfig is not None) as told:
        result = tell(target, Path(folder), places(os.environ).cache, told)
    if report is not None:
        _write(report, page(result))
        say(f"\nreport: {report}")
    if output == "json":
        show(result, output=output)
        return
    _tables(result)


def _target(*, epc: str | None, keep: bool, azure_rehearsal: bool, kubeconfig: Path | None, node: str | None, yes: bool) -> Target:
    if not azure_rehearsal:
        return _local(epc or "40Mi", keep=keep) if kubeconfig is None else _foreign(kubeconfig, node, yes=yes)
    if kubeconfig is not None:
        raise UsageError("--azure-rehearsal makes a cluster, --kubeconfig names one that is there", "give one of them")
    if epc is not None:
        raise UsageError("--epc says nothing with --azure-rehearsal: there the VM size says it", "leave --epc out")
    return _rehearsal(keep=keep)


def _rehearsal(*, keep: bool) -> Target:
    from kubenclave.cli.cluster_cloud import needs_sdks  # noqa: PLC0415
    from kubenclave.local.places import places  # noqa: PLC0415

    with needs_sdks():
        from kubenclave.local.demo.azure_target import AzureTarget, rehearsal_places  # noqa: PLC0415 - brings the SDKs
    return AzureTarget(places=rehearsal_places(places(os.environ)), keep=keep)


def _local(epc: str, *, keep: bool) -> Target:
    from kubenclave.local import cluster, spec  # noqa: PLC0415
    from kubenclave.local.demo import LocalTarget  # noqa: PLC0415
    from kubenclave.local.places import places  # noqa: PLC0415

    wanted = cluster.Wanted(name=NAME, sgx_nodes=1, plain_nodes=1, epc_bytes=spec.parse_epc(epc))
    return LocalTarget(wanted=wanted, places=places(os.environ), keep=keep)


def _foreign(kubeconfig: Path, node: str | None, *, yes: bool) -> Target:
    from kubenclave.local.demo import ForeignTarget  # noqa: PLC0415

    return ForeignTarget(kubeconfig=kubeconfig, node=node, ask=lambda what: yes or _ask(what))


def _ask(what: str) -> bool:
    if not sys.stdin.isatty():
        say(f"   May the demo {what}? (no terminal to ask on: taken as no; --yes says yes)")
        return False
    sys.stderr.write(f"   May the demo {what}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _tables(result: DemoResult) -> None:
    rows = [_Row(module=s.module, step=s.title, seen=len(s.observations), time_seconds=s.seconds) for s in result.steps]
    rows.append(_Row(module=0, step="all", seen=sum(row.seen for row in rows), time_seconds=result.seconds))
    sizes = [_SizeRow(image=s.what, compressed_bytes=s.compressed_bytes, unpacked_bytes=s.uncompressed_bytes) for s in result.sizes]
    say("")
    show(rows, output="table")
    say("")
    show(sizes, output="table")
    say(f"\n{'SGX was simulated: the program ran, nothing was isolated. ' if result.simulated else ''}{result.left}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise HostUnfit(
            f"The report cannot be written to {path}: {exc.strerror}.", "Name a file in a folder that you may write to."
        ) from exc
