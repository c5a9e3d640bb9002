"""Understand what CPUID says of SGX: the features, and the EPC's sections. Pure.

Source: Intel SDM volume 3D, "Discovering Support for Intel SGX", and volume 2A, CPUID leaves 07H and 12H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_FEATURES_LEAF = 0x07
_SGX_LEAF = 0x12
# Sub-leaves 0 and 1 of leaf 12H hold features; the EPC's sections start at 2 and end with the first of type 0.
_FIRST_SECTION = 2
# No limit in the manual. Linux takes 8 (SGX_MAX_EPC_SECTIONS); a processor that goes on and on must not hold the agent up.
_MAX_SECTIONS = 64
_TYPE_EPC = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Registers:
    """What CPUID leaves in the four registers."""

    eax: int
    ebx: int
    ecx: int
    edx: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpcSection:
    """A range of physical memory that is EPC."""

    base: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxFeatures:
    """What a processor can do: SGX1, SGX2 (pages added to running enclaves), FLC (enclaves of any signer may be launched)."""

    sgx1: bool
    sgx2: bool
    flc: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxProcessor:
    """Features and EPC of a processor."""

    features: SgxFeatures
    sections: tuple[EpcSection, ...]


def describe_processor(cpuid: Callable[[int, int], Registers]) -> SgxProcessor:
    """Describe the processor that answers; one without SGX has neither features nor sections."""
    without = SgxProcessor(features=SgxFeatures(sgx1=False, sgx2=False, flc=False), sections=())
    if cpuid(0, 0).eax < _SGX_LEAF:
        return without
    features = cpuid(_FEATURES_LEAF, 0)
    if not features.ebx >> 2 & 1:
        return without
    sgx = cpuid(_SGX_LEAF, 0).eax
    return SgxProcessor(
        features=SgxFeatures(sgx1=bool(sgx & 1), sgx2=bool(sgx >> 1 & 1), flc=bool(features.ecx >> 30 & 1)),
        sections=_sections(cpuid) if sgx & 1 else (),
    )


def _sections(cpuid: Callable[[int, int], Registers]) -> tuple[EpcSection, ...]:
    found = []
    for subleaf in range(_FIRST_SECTION, _FIRST_SECTION + _MAX_SECTIONS):
        section = cpuid(_SGX_LEAF, subleaf)
        if section.eax & 0xF != _TYPE_EPC:
            break
        found.append(EpcSection(base=_address(section.eax, section.ebx), size_bytes=_address(section.ecx, section.edx)))
    return tuple(found)


def _address(low: int, high: int) -> int:
    """Join bits 31:12 of one register and 19:0 of the next: a multiple of 4 KiB below 2^52."""
    return (low & 0xFFFFF000) | (high & 0xFFFFF) << 32
