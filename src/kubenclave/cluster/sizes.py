"""The confidential VM sizes of Azure, as data with sources: those with SGX, and those with SEV-SNP or TDX, which are something else.

Reads the data file beside it and the EPC table of ``kubenclave.sgx``; nothing else. What a region and a subscription really offer is
a question to Azure, not to this table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date  # noqa: TC003 - read at run time by msgspec
from enum import StrEnum
from functools import cache
from importlib import resources

import msgspec

from kubenclave.errors import NotFound
from kubenclave.sgx.tables import vm_size_epc_bytes

_CONFIDENTIAL = re.compile(r"standard_[de]c[0-9]+(?P<maker>[ae])[a-z]*_", re.IGNORECASE)


class Tee(StrEnum):
    """Say which trusted execution environment a VM size has. SGX protects an enclave in a process; the others protect the whole VM."""

    SGX = "SGX"
    SEV_SNP = "SEV-SNP"
    TDX = "TDX"


_TEE_LETTERS = {"a": Tee.SEV_SNP, "e": Tee.TDX}


class Standing(StrEnum):
    """Say what a date means for a VM size, by its published retirement notice."""

    RETIRED = "retired"
    CLOSED_TO_NEW = "closed to new subscriptions"
    OFFERED = "no notice in force"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSize:
    """Describe one confidential VM size.

    Attributes:
        name: As Azure spells it.
        series: The series it belongs to.
        tee: Its trusted execution environment. Only SGX has EPC and runs enclaves.
        cores: vCPUs, which is what counts against the quota. With SGX they are physical cores.
        memory_gib: Ordinary memory.
        epc_bytes: Nominal EPC, or None where no document says it or there is none. A node offers somewhat less.
        quota_family: The family whose quota it uses, or None where no document says it. Compare without regard to case.
        generation: The VM generation, or None where no document says it.
        retires_on: The day from which it is no longer offered, or None where no notice was found.
        closed_to_new_on: The day from which no new subscription gets it, or None.
        successors: Series that its retirement notice names as successors. Those of DCsv3 and DCdsv3 have no SGX.
        remark: What surprises about it.
        source: The documents these facts are from.
    """

    name: str
    series: str
    tee: Tee
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
    tee: Tee
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
    """Return every known confidential VM size: SGX first, in each the oldest series first and the smallest size first."""
    text = resources.files(__package__).joinpath("vm_series.json").read_bytes()
    table = msgspec.json.decode(text, type=_Table)
    return tuple(
        VmSize(
            name=name,
            series=series.name,
            tee=series.tee,
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


def known_size(name: str) -> VmSize | None:
    """Return the confidential VM size of this name, or None. Azure's names do not tell small letters from capitals."""
    return _by_name().get(name.lower())


def tee_of(name: str) -> Tee | None:
    """Say which TEE a VM size has, by the table or else by the rule of its name; None for an ordinary size.

    In every published series of DC and EC, an ``a`` after the number of vCPUs means AMD with SEV-SNP and an ``e`` Intel with TDX
    (azure-compute-docs, dc-family.md and ec-family.md). No name outside the table is taken for SGX.
    """
    if (size := known_size(name)) is not None:
        return size.tee
    match = _CONFIDENTIAL.match(name)
    return None if match is None else _TEE_LETTERS[match["maker"].lower()]


def standing(size: VmSize, *, today: date) -> Standing:
    """Say what the published notices mean for a size on a day."""
    if size.retires_on is not None and today >= size.retires_on:
        return Standing.RETIRED
    if size.closed_to_new_on is not None and today >= size.closed_to_new_on:
        return Standing.CLOSED_TO_NEW
    return Standing.OFFERED


@cache
def _by_name() -> dict[str, VmSize]:
    return {size.name.lower(): size for size in vm_sizes()}


def _epc_bytes(name: str) -> int | None:
    try:
        return vm_size_epc_bytes(name)
    except NotFound:
        return None
