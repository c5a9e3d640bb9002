"""The Azure VM sizes with SGX, as data with sources.

Reads the data file beside it and the EPC table of ``kubenclave.sgx``; nothing else. What a region and a subscription really offer is
a question to Azure, not to this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date  # noqa: TC003 - read at run time by msgspec
from enum import StrEnum
from functools import cache
from importlib import resources

import msgspec

from kubenclave.errors import NotFound
from kubenclave.sgx.tables import vm_size_epc_bytes


class Standing(StrEnum):
    """Say what a date means for a VM size, by its published retirement notice."""

    RETIRED = "retired"
    CLOSED_TO_NEW = "closed to new subscriptions"
    OFFERED = "no notice in force"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSize:
    """Describe one VM size with SGX.

    Attributes:
        name: As Azure spells it.
        series: The series it belongs to.
        cores: Physical cores; also what counts against the quota.
        memory_gib: Ordinary memory.
        epc_bytes: Nominal EPC, or None where no document says it. A node offers somewhat less.
        quota_family: The family whose quota it uses, or None where no document says it. Compare without regard to case.
        generation: The VM generation, or None where no document says it.
        retires_on: The day from which it is no longer offered, or None where no notice was found.
        closed_to_new_on: The day from which no new subscription gets it, or None.
        successors: Series named as its successors. DCasv6 and ECasv6 are SEV-SNP, DCesv6 and ECesv6 are TDX: none of these has SGX.
        remark: What surprises about it.
        source: The documents these facts are from.
    """

    name: str
    series: str
    cores: int
    memory_gib: int
    epc_bytes: int | None
    quota_family: str | None
    generation: int | None
    retires_on: date | None
    closed_to_new_on: date | None
    successors: tuple[str, ...]
    remark: str
    source: str


class _Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    tee: str
    quota_family: str | None
    generation: int | None
    retires_on: date | None
    closed_to_new_on: date | None
    successors: tuple[str, ...]
    remark: str
    source: str
    sizes: dict[str, tuple[int, int]]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    of: str
    note: str
    series: tuple[_Series, ...]


@cache
def vm_sizes() -> tuple[VmSize, ...]:
    """Return every known VM size with SGX, oldest series first, smallest size first."""
    text = resources.files(__package__).joinpath("vm_series.json").read_bytes()
    table = msgspec.json.decode(text, type=_Table)
    return tuple(
        VmSize(
            name=name,
            series=series.name,
            cores=cores,
            memory_gib=memory_gib,
            epc_bytes=_epc_bytes(name),
            quota_family=series.quota_family,
            generation=series.generation,
            retires_on=series.retires_on,
            closed_to_new_on=series.closed_to_new_on,
            successors=series.successors,
            remark=series.remark,
            source=series.source,
        )
        for series in table.series
        for name, (cores, memory_gib) in series.sizes.items()
    )


def standing(size: VmSize, *, today: date) -> Standing:
    """Say what the published notices mean for a size on a day."""
    if size.retires_on is not None and today >= size.retires_on:
        return Standing.RETIRED
    if size.closed_to_new_on is not None and today >= size.closed_to_new_on:
        return Standing.CLOSED_TO_NEW
    return Standing.OFFERED


def _epc_bytes(name: str) -> int | None:
    try:
        return vm_size_epc_bytes(name)
    except NotFound:
        return None
