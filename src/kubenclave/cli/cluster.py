"""``kubenclave cluster``: clusters on Azure with SGX nodes. Reads the options, calls the room, shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kubenclave.cli.progress import say
from kubenclave.cli.show import OutputOption, show
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.cli.show import Output
    from kubenclave.cluster import VmSize


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    name: str
    tee: str
    cores: int
    memory_gib: int
    epc_bytes: int | None
    quota_family: str | None
    retires_on: date | None
    standing: str
    successors: tuple[str, ...]
    remark: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    name: str
    tee: str
    cores: int
    memory: str
    epc_bytes: int | None
    quota_family: str | None
    retires: str
    standing: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    name: str
    nodes: int
    pods_per_node: int
    cores: int
    spare_epc_bytes: int
    quota_family: str | None
    standing: str


def sizes(
    *,
    epc: Annotated[str, Parameter(help="EPC that each pod asks for, such as 40Mi: recommend sizes for it.")] = "",
    pods: Annotated[int | None, Parameter(help="With --epc: how many such pods run at once; 1 by default.")] = None,
    max_pods: Annotated[
        int | None, Parameter(help="With --epc: the limit of pods on a node, the system's included; 30 by default.")
    ] = None,
    output: OutputOption = "table",
) -> None:
    """Show the confidential VM sizes of Azure, or those with SGX that fit a number of pods, best first."""
    from kubenclave import cluster  # noqa: PLC0415 - --help does not need it
    from kubenclave.cluster.recommend import DEFAULT_MAX_PODS, recommend  # noqa: PLC0415
    from kubenclave.cluster.sizes import standing  # noqa: PLC0415

    today = datetime.now(tz=UTC).date()
    if not epc:
        if pods is not None or max_pods is not None:
            raise UsageError("--pods and --max-pods say nothing without --epc", "add --epc, such as --epc 40Mi")
        _show_all(cluster.vm_sizes(), today, output=output)
        return
    from kubenclave.workload.epc import parse_epc  # noqa: PLC0415

    fits = recommend(
        cluster.vm_sizes(),
        epc_bytes=parse_epc(epc),
        pods=1 if pods is None else pods,
        today=today,
        max_pods=DEFAULT_MAX_PODS if max_pods is None else max_pods,
    )
    if output == "table":
        say("Weighed: nominal EPC and the number of pods, by published tables. Not asked: your region and quota; `az vm list-skus` tells.")
    rows = [
        _Fit(
            name=fit.size.name,
            nodes=fit.nodes,
            pods_per_node=fit.pods_per_node,
            cores=fit.cores,
            spare_epc_bytes=fit.spare_epc_bytes,
            quota_family=fit.size.quota_family,
            standing=standing(fit.size, today=today).value,
        )
        for fit in fits
    ]
    show(rows, output=output)


def _show_all(known: tuple[VmSize, ...], today: date, *, output: Output) -> None:
    from kubenclave.cluster.sizes import standing  # noqa: PLC0415

    if output == "json":
        show([_size(size, standing(size, today=today).value) for size in known], output=output)
        return
    rows = [
        _Row(
            name=size.name,
            tee=size.tee.value,
            cores=size.cores,
            memory=f"{size.memory_gib} GiB",
            epc_bytes=size.epc_bytes,
            quota_family=size.quota_family,
            retires=str(size.retires_on or ""),
            standing=standing(size, today=today).value,
        )
        for size in known
    ]
    show(rows, output=output)


def _size(size: VmSize, its_standing: str) -> _Size:
    return _Size(
        name=size.name,
        tee=size.tee.value,
        cores=size.cores,
        memory_gib=size.memory_gib,
        epc_bytes=size.epc_bytes,
        quota_family=size.quota_family,
        retires_on=size.retires_on,
        standing=its_standing,
        successors=size.successors,
        remark=size.remark,
        source=size.source,
    )
