from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.node.processor import EpcSection, Registers, SgxFeatures, describe_processor

GIB = 1024**3
NOTHING = (0, 0, 0, 0)

# The shape of a Standard_DC2ds_v3 (one section of 8 GiB, SGX1, SGX2, flexible launch control) and of larger sizes of that family.
DC2DS_V3 = {
    (0, 0): (0x1B, 0, 0, 0),
    (7, 0): (0, 1 << 2, 1 << 30, 0),
    (0x12, 0): (0x3, 0, 0, 0x2F1F),
    (0x12, 2): (0x40000001, 0x2, 0x1, 0x2),
}
DC48S_V3 = DC2DS_V3 | {(0x12, 2): (0xC0000001, 0x1F, 0x1, 0x20), (0x12, 3): (0x1, 0x5F, 0x2, 0x20)}


def processor(dump):
    def cpuid(leaf, subleaf):
        eax, ebx, ecx, edx = dump.get((leaf, subleaf), NOTHING)
        return Registers(eax=eax, ebx=ebx, ecx=ecx, edx=edx)

    return describe_processor(cpuid)


def test_one_section_of_eight_gibibytes_is_found():
    found = processor(DC2DS_V3)

    assert found.features == SgxFeatures(sgx1=True, sgx2=True, flc=True)
    assert found.sections == (EpcSection(base=0x240000000, size_bytes=8 * GIB),)


def test_sections_are_counted_up_to_the_first_invalid_one():
    dump = DC48S_V3 | {(0x12, 5): (0x1, 0, 0x1, 0x1)}

    assert [section.size_bytes for section in processor(dump).sections] == [128 * GIB, 128 * GIB]


def test_a_first_generation_processor_has_sgx1_alone():
    dump = DC2DS_V3 | {(7, 0): (0, 1 << 2, 0, 0), (0x12, 0): (0x1, 0, 0, 0), (0x12, 2): (0x70200001, 0, 0x5D80001, 0)}
    found = processor(dump)

    assert found.features == SgxFeatures(sgx1=True, sgx2=False, flc=False)
    # 23,936 pages: the 93.5 MiB that plugins of that time wrote down as a constant.
    assert found.sections[0].size_bytes == 23_936 * 4096


@pytest.mark.parametrize(
    "dump",
    [
        {(0, 0): (0x10, 0, 0, 0), (7, 0): (0, 1 << 2, 0, 0), (0x12, 0): (3, 0, 0, 0)},
        DC2DS_V3 | {(7, 0): (0, 0, 1 << 30, 0)},
        DC2DS_V3 | {(0x12, 0): NOTHING},
    ],
    ids=["no leaf 12H", "no SGX in leaf 7", "SGX off in the firmware"],
)
def test_where_sgx_cannot_be_used_there_are_no_sections(dump):
    found = processor(dump)

    assert not found.features.sgx1
    assert found.sections == ()


def test_a_processor_that_never_ends_its_list_is_not_followed_for_ever():
    def cpuid(leaf, subleaf):
        return Registers(eax=0x1 if subleaf > 1 else 0xFF, ebx=1 << 2, ecx=1 << 30, edx=0)

    assert len(describe_processor(cpuid).sections) == 64


@given(base=st.integers(0, 2**40 - 1), pages=st.integers(0, 2**40 - 1), low=st.integers(0, 15))
def test_every_range_below_the_largest_address_is_read_back(base, pages, low):
    words = (base & 0xFFFFF) << 12 | 1, base >> 20, (pages & 0xFFFFF) << 12 | low, pages >> 20

    assert processor(DC2DS_V3 | {(0x12, 2): words}).sections[0] == EpcSection(base=base << 12, size_bytes=pages << 12)
