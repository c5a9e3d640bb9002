from __future__ import annotations

import struct

import pytest

from kubenclave.errors import Refused
from kubenclave.sgx import read_enclave
from kubenclave.sgx.elf import read_elf, segment_runs


def changed(data, at, form, *values):
    result = bytearray(data)
    struct.pack_into(form, result, at, *values)
    return bytes(result)


def first_section(data):
    return struct.unpack_from("<Q", data, 40)[0] + 64


@pytest.mark.parametrize(
    ("at", "form", "value", "what"),
    [
        (4, "<B", 1, r"EI_CLASS 1, EI_DATA 1 at offset 4"),
        (5, "<B", 2, r"EI_DATA 2 at offset 4"),
        (18, "<H", 183, r"e_machine 183 at offset 18"),
        (16, "<H", 2, r"e_type 2 at offset 16"),
        (32, "<Q", 1 << 63, r"e_phoff at offset 32 is 0x8000000000000000"),
        (40, "<Q", 1 << 63, r"e_shoff at offset 40 is 0x8000000000000000"),
        (54, "<H", 57, r"e_phentsize at offset 54 is 57"),
        (58, "<H", 65, r"e_shentsize at offset 58 is 65"),
        (56, "<H", 0xFFFF, r"e_phoff at offset 32 .* table of 65535 headers"),
        (60, "<H", 0xFFFF, r"e_shoff at offset 40 .* table of 65535 headers"),
        (64 + 8, "<Q", 1 << 63, r"PT_LOAD at address 0x0 \(header at offset 0x40\) has p_filesz 0x1000 from p_offset 0x8000000000000000"),
        (64 + 32, "<Q", 1 << 63, r"header at offset 0x40\) has p_filesz 0x8000000000000000, past its memory"),
        (64 + 56 + 40, "<Q", 1 << 63, r"header at offset 0xb0\) is out of order or shares a page|header at offset 0x78\) has p_memsz"),
        (64 + 56 + 16, "<Q", 0x800, r"PT_LOAD at address 0x800 \(header at offset 0x78\) is out of order"),
        (64 + 2 * 56 + 16, "<Q", 0x1000, r"header at offset 0xb0\) is out of order"),
        (64 + 3 * 56 + 8, "<Q", 1 << 62, r"PT_DYNAMIC .* p_offset 0x4000000000000000"),
        (64 + 3 * 56 + 32, "<Q", 17000, r"PT_DYNAMIC .* past the file|PT_DYNAMIC .* more than 1024 entries"),
    ],
)
def test_damaged_headers_are_refused_with_field_and_offset(open_enclave, at, form, value, what):
    with pytest.raises(Refused, match=what) as caught:
        read_enclave(changed(open_enclave(), at, form, value))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("section", "field", "form", "value", "what"),
    [
        (0, 40, "<I", 99, r"\.dynsym .* has sh_link 99, which is no section"),
        (0, 24, "<Q", 1 << 63, r"\.dynsym .* has sh_size .* from sh_offset 0x8000000000000000"),
        (1, 32, "<Q", 1 << 63, r"\.dynstr .* has sh_size 0x8000000000000000"),
        (2, 32, "<Q", 1 << 63, r"\.rela\.dyn .* has sh_size 0x8000000000000000"),
        (2, 4, "<I", 8, r"\.rela\.dyn .* has no content in the file"),
        (5, 24, "<Q", 1 << 63, r"\.oeinfo .* from sh_offset 0x8000000000000000"),
        (5, 32, "<Q", 20, r"\.oeinfo at offset 0x3100: the section is 20 bytes long"),
        (5, 32, "<Q", 1000, r"\.oeinfo at offset 0x3100: header.size is 1960, but the section has 1000"),
    ],
)
def test_damaged_sections_are_refused_with_field_and_offset(open_enclave, section, field, form, value, what):  # noqa: PLR0917 - a table
    data = open_enclave()

    with pytest.raises(Refused, match=what):
        read_enclave(changed(data, first_section(data) + 64 * section + field, form, value))


def test_every_truncation_of_a_file_is_refused(open_enclave, sdk):
    for data in (open_enclave(), sdk.file(sdk.block(sdk.thread_layout))):
        for cut in [*range(0, 400, 7), *range(400, len(data), 331), len(data) - 1]:
            with pytest.raises(Refused):
                read_enclave(data[:cut])


def test_an_elf_file_of_no_sdk_says_what_can_be_done(plain_elf):
    with pytest.raises(Refused, match=r"neither a section \.oeinfo nor \.note\.sgxmeta") as caught:
        read_enclave(plain_elf)
    assert "enclave pack" in caught.value.hint


def test_the_pages_of_a_segment_are_views_of_the_file_where_they_are_whole(make_elf, segment):
    data = make_elf([segment(0x1000, b"\x90" * 10000, 5)])
    runs = segment_runs(read_elf(data), read_elf(data).segments[0])

    assert [(run.page_count, type(run.content)) for run in runs] == [(2, memoryview), (1, bytes)]


def test_more_segments_than_any_linker_writes_are_refused(make_elf, segment):
    data = make_elf([segment(0x1000 * place, b"", 4, memory_bytes=1) for place in range(65)])

    with pytest.raises(Refused, match=r"e_phnum at offset 56 is 65, with 65 PT_LOAD segments: more than 64"):
        read_enclave(data)


def test_more_symbols_than_any_enclave_has_are_refused(open_enclave):
    data = open_enclave().ljust(0x2000000, b"\0")
    huge = changed(data, first_section(data) + 24, "<QQ", 0x10000, 24 * ((1 << 20) + 1))

    with pytest.raises(Refused, match=r"\.dynsym .* more than 1048576 symbols"):
        read_enclave(huge)
