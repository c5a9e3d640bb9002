from __future__ import annotations

import pytest

from kubenclave.sgx import compare, read_enclave


def changed(data, at):
    result = bytearray(data)
    result[at] ^= 0x10
    return bytes(result)


def fields(difference):
    return {change.field: (change.first, change.second) for change in difference.fields}


def test_the_same_file_is_the_same(open_enclave, sdk, signed):
    for data in (open_enclave(), signed(sdk.file(sdk.block(sdk.thread_layout)))):
        difference = compare(read_enclave(data), read_enclave(data))
        assert difference.is_same
        assert (difference.fields, difference.pages, difference.first_page, difference.unknown) == ((), (), None, "")


def test_a_changed_byte_of_code_is_found_with_its_section_and_symbol(open_enclave):
    data = open_enclave(symbols=("_enclave_rva", "_reloc_rva", "_reloc_size"))
    difference = compare(read_enclave(data), read_enclave(changed(data, 0x1234)))

    assert set(fields(difference)) == {"measured MRENCLAVE"}
    page = difference.first_page
    assert (page.page_offset, page.address, page.what, page.kind, page.section) == (0x1000, 0x1234, "content", "code", ".text")
    assert difference.pages == ()


def test_the_symbol_of_a_changed_byte_is_the_last_one_that_starts_before_it(open_enclave, make_symbol_name):
    data = open_enclave()
    # Behind the last variable of .data, in .oeinfo: the configuration's product number.
    difference = compare(read_enclave(data), read_enclave(changed(data, 0x3100 + 32)))

    assert difference.first_page.section == ".oeinfo"
    assert difference.first_page.symbol == make_symbol_name(0x3100 + 32)


@pytest.fixture
def make_symbol_name():
    last = 0x3020 + 8 * 8
    return lambda address: f"_td_from_tcs_offset+{address - last:#x}"


def test_sizes_are_told_by_kind_and_the_first_page_by_its_kind(open_enclave):
    difference = compare(read_enclave(open_enclave(heap_pages=4)), read_enclave(open_enclave(heap_pages=6)))

    assert [(change.field, change.first, change.second) for change in difference.pages] == [("heap rw-", "4", "6")]
    # What .oeinfo says of the heap is itself a byte of the image.
    assert (difference.first_page.kind, difference.first_page.section) == ("data", ".oeinfo")
    assert fields(difference)["EPC pages"] == ("24", "26")


def test_a_new_signature_of_the_same_pages_differs_in_what_it_says(open_enclave, signed):
    data = open_enclave(attributes=4)
    difference = compare(read_enclave(signed(data)), read_enclave(signed(data, isv_svn=8)))

    assert fields(difference) == {"ISVSVN": ("3", "8")}
    assert (difference.first_page, difference.is_same) == (None, False)


def test_a_signed_and_an_unsigned_build_differ_in_all_that_is_signed(open_enclave, signed):
    difference = compare(read_enclave(open_enclave()), read_enclave(signed(open_enclave())))

    assert fields(difference)["ISVPRODID"] == ("unsigned", "7")
    assert difference.first_page is None


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ((1, 3, 2, 0x10000, 0, 0, 0x203), "only in the second"),
        ((1, 3, 1, 0x10000, 0, 0, 0x201), "permissions"),
        ((1, 1, 1, 0x10000, 0, 0, 0x203), "measured"),
        ((1, 3, 1, 0x10000, 7, 0, 0x203), "content"),
        ((1, 3, 1, 0x20000, 0, 0, 0x203), "only in the first"),
    ],
)
def test_the_first_page_that_differs_says_in_what(sdk, entry, what):
    first = read_enclave(sdk.file(sdk.block([sdk.entry(1, 3, 1, 0x10000, 0, 0, 0x203)])))
    second = read_enclave(sdk.file(sdk.block([sdk.entry(*entry)])))

    page = compare(first, second).first_page

    assert page.what == what
    assert page.page_offset == (0x11000 if what == "only in the second" else 0x10000)
    assert (page.section, page.symbol) == ("", "")


def test_pages_that_are_not_known_are_said_not_to_be_compared(open_enclave):
    older, newer = read_enclave(open_enclave(size=1920)), read_enclave(open_enclave())

    difference = compare(older, newer)

    assert "0.6-0.12" in difference.unknown
    assert fields(difference)["format"][0] == "Open Enclave ELF 0.6-0.12"


def test_a_long_run_of_differing_pages_is_walked_from_its_start(make_elf, segment, sdk):
    del make_elf, segment
    content = bytes(range(256)) * 16 * 40
    entries = [sdk.entry(1, 3, 41, 0x10000, len(content), 1888, 0x203)]
    altered = bytearray(content)
    altered[33 * 4096 + 5] ^= 1
    first, second = (read_enclave(sdk.file(sdk.block(entries, contents=bytes(data)))) for data in (content, altered))

    assert compare(first, second).first_page.address == 0x10000 + 33 * 4096 + 5
