from __future__ import annotations

import struct

import pytest

from kubenclave.errors import Refused
from kubenclave.sgx import PageKind, describe, read_enclave
from kubenclave.sgx.tcs import TCS

PAGE = 4096
R, RW, RX = 0x201, 0x203, 0x205
IMAGE_END = 0x6000


def pages(layout):
    """Page offset to (SECINFO, whether measured, content), in the order in which they are added."""
    return {
        run.offset + index * PAGE: (run.secinfo, bool(run.measured_chunks), bytes(run.page(index)))
        for run in layout.runs
        for index in range(run.page_count)
    }


def u64(content, at):
    return struct.unpack_from("<Q", content, at)[0]


def test_the_pages_are_added_in_the_loaders_order(open_enclave):
    layout = read_enclave(open_enclave()).layout
    kinds = [(run.kind, run.page_count) for run in layout.runs]

    thread = [(PageKind.STACK, 2), (PageKind.TCS, 1), (PageKind.SSA, 2), (PageKind.THREAD_DATA, 1)]
    assert sum(count for _, count in kinds[:-10]) == 1 + 1 + 3
    assert kinds[-10:] == [(PageKind.RELOCATIONS, 1), (PageKind.HEAP, 4), *thread, *thread]
    # Image 6 pages, relocations 1, heap 4, twice: stack 2, two guards, and 5 more.
    assert layout.elrange_bytes == 1 << (PAGE * (6 + 1 + 4 + 2 * 9)).bit_length()


def test_guards_are_holes_and_the_heap_is_not_measured(open_enclave):
    found = pages(read_enclave(open_enclave(tcs=1)).layout)
    heap, thread = IMAGE_END + PAGE, IMAGE_END + 5 * PAGE

    assert [found[heap + at * PAGE][:2] for at in range(4)] == [(RW, False)] * 4
    assert all(measured for offset, (_, measured, _) in found.items() if not heap <= offset < thread)
    for guard in (thread, thread + 3 * PAGE, thread + 7 * PAGE):
        assert guard not in found
    assert found[thread + PAGE] == (RW, True, b"\xcc" * PAGE)


def test_a_tcs_enters_at_the_elf_entry_and_points_to_the_threads_own_page(open_enclave):
    found = pages(read_enclave(open_enclave(tdata=100, tbss=4096)).layout)
    tcs = next(offset for offset, (secinfo, _, _) in found.items() if secinfo == 0x100)
    fields = TCS.unpack_from(found[tcs][2])

    # 100 bytes of .tdata by its segment's alignment of 64 and 4096 of .tbss take two pages before the thread's own.
    assert fields[2:9] == (tcs + PAGE, 0, 2, 0x1010, 0, tcs + 6 * PAGE, tcs + 6 * PAGE)
    assert tcs + 6 * PAGE in found
    assert tcs + 7 * PAGE not in found


def test_what_the_loader_tells_the_enclave_is_patched_before_it_is_measured(open_enclave):
    layout = read_enclave(open_enclave(tdata=100, tbss=40)).layout
    data = pages(layout)[0x3000][2]

    assert [u64(data, 0x20 + 8 * place) for place in range(9)] == [0x3020, IMAGE_END, PAGE, 0x3A00, 100, 64, 40, 32, 5 * PAGE]
    assert struct.unpack_from("<6Q", data, 0x100 + 96) == (0x3100, 1960, IMAGE_END, PAGE, IMAGE_END + PAGE, layout.elrange_bytes)
    assert data[0x100 + 144 : 0x100 + 1952] == bytes(1808)


def test_thread_local_symbols_are_left_alone_where_there_is_no_thread_local_data(open_enclave):
    data = pages(read_enclave(open_enclave()).layout)[0x3000][2]

    assert [u64(data, 0x20 + 8 * place) for place in range(3, 9)] == [0, 0, 0, 0, 0, 4 * PAGE]


def test_the_signature_does_not_change_what_is_measured(open_enclave, signed):
    unsigned = open_enclave()

    assert read_enclave(signed(unsigned)).mrenclave == read_enclave(unsigned).mrenclave
    read_enclave(signed(unsigned)).verified_identity()


def test_relocations_are_joined_padded_and_get_the_thread_local_offset_of_their_symbol(open_enclave):
    tpoff = (0x3010, 2 << 32 | 18, 0)
    found = pages(read_enclave(open_enclave(relocations=((0x3000, 8, 5), tpoff), plt=((0x3018, 8, 9),))).layout)

    table = b"".join(struct.pack("<QQq", *row) for row in [(0x3000, 8, 5), (0x3010, 2 << 32 | 18, 0x3028), (0x3018, 8, 9)])
    assert found[IMAGE_END] == (R, True, table.ljust(PAGE, b"\0"))


def test_without_relocations_the_heap_follows_the_image(open_enclave):
    layout = read_enclave(open_enclave(relocations=())).layout

    assert not [run for run in layout.runs if run.kind is PageKind.RELOCATIONS]
    assert next(run.offset for run in layout.runs if run.kind is PageKind.HEAP) == IMAGE_END


@pytest.mark.parametrize(("size", "releases"), [(1856, "0.4"), (1920, "0.6-0.12"), (1952, "0.14-0.17")])
def test_identity_and_properties_of_older_files_are_read_and_their_pages_are_said_to_be_unknown(
    open_enclave, signature_of, plain_layout, size, releases
):
    enclave = read_enclave(open_enclave(size=size, sigstruct=signature_of(plain_layout, isv_svn=9)))
    report = describe(enclave)

    assert (enclave.version, enclave.sigstruct.isv_svn) == (releases, 9)
    assert (enclave.properties.heap_pages, enclave.properties.stack_pages, enclave.properties.tcs_count) == (4, 2, 2)
    assert (enclave.properties.isv_prod_id, enclave.properties.isv_svn, enclave.properties.attributes) == (7, 3, 6)
    assert enclave.properties.isv_family_id == (b"f" * 16 if size == 1952 else bytes(16))
    assert (report.memory, report.signature.is_valid) == (None, True)
    with pytest.raises(Refused, match=f"Open Enclave {releases} builds an enclave by rules that are not supported"):
        _ = enclave.mrenclave


@pytest.mark.parametrize(("choices", "why"), [({"needed": True}, "DT_NEEDED"), ({"flags": 2}, "zero base")])
def test_files_whose_pages_follow_other_rules_are_read_and_not_measured(open_enclave, choices, why):
    enclave = read_enclave(open_enclave(**choices))

    assert enclave.known_layout is None
    assert why in enclave.layout_gap


@pytest.mark.parametrize(
    ("choices", "what"),
    [
        ({"size": 1900}, r"\.oeinfo at offset 0x3100: header.size is 1900"),
        ({"kind": 3}, r"\.oeinfo at offset 0x3104: header.enclave_type is 3"),
        ({"heap_pages": 1 << 63}, r"\.oeinfo at offset 0x3108: heap_pages is 9223372036854775808"),
        ({"stack_pages": 1 << 63}, r"\.oeinfo at offset 0x3110: stack_pages"),
        ({"stack_pages": 1 << 20, "tcs": 2}, "measured pages, more than"),
        ({"tcs": 1 << 63}, r"\.oeinfo at offset 0x3118: tcs_count"),
        ({"symbols": ("_enclave_rva", "_reloc_rva")}, "no dynamic symbol _reloc_size"),
        ({"relocations": ((0x3000, 99 << 32 | 18, 0),)}, "relocation 0 .* is for symbol 99"),
        ({"sigstruct": b"\1" * 1808}, "SIGSTRUCT field reserved1 at offset 12732 is not zero"),
    ],
)
def test_a_damaged_file_is_refused_with_field_and_offset(open_enclave, choices, what):
    with pytest.raises(Refused, match=what) as caught:
        read_enclave(open_enclave(**choices))
    assert caught.value.hint


def test_a_symbol_outside_the_image_is_refused(open_enclave):
    data = bytearray(open_enclave())
    struct.pack_into("<Q", data, 0x400 + 24 + 8, 1 << 63)

    with pytest.raises(Refused, match=r"symbol _enclave_rva .* has st_value 0x8000000000000000"):
        read_enclave(bytes(data))


def test_flipping_a_bit_of_code_or_configuration_changes_mrenclave_and_of_the_signature_does_not(open_enclave):
    data = open_enclave()
    mrenclave = read_enclave(data).mrenclave

    def with_flipped(at):
        changed = bytearray(data)
        changed[at] ^= 1
        return read_enclave(bytes(changed)).mrenclave

    assert with_flipped(0x1300) != mrenclave
    assert with_flipped(0x3100 + 34) != mrenclave
    # The end marker behind the signature, and the slot that the loader writes.
    assert with_flipped(0x3100 + 1952) != mrenclave
    assert with_flipped(0x3020) == mrenclave
