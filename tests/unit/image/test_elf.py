import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import Refused
from kubenclave.image.elf import MAX_SEGMENTS, NotElf, OtherMachine, mapped_part, read_elf


def read(data):
    return read_elf(io.BytesIO(data), "a file")


def test_a_program_tells_its_loader_its_libraries_and_its_search_path(make_elf):
    facts = read(make_elf(needed=["liba.so.1", "libc.so.6"], interpreter="/lib64/ld.so", runpath="$ORIGIN/lib:/opt/lib"))

    assert facts.interpreter == "/lib64/ld.so"
    assert facts.needed == ("liba.so.1", "libc.so.6")
    assert facts.runpath == ("$ORIGIN/lib", "/opt/lib")
    assert facts.soname is None


def test_a_runpath_makes_the_rpath_void(make_elf):
    assert read(make_elf(rpath="/old", runpath="/new")).rpath == ()
    assert read(make_elf(rpath="/old")).rpath == ("/old",)


def test_a_file_for_another_machine_is_told_from_a_damaged_one(make_elf):
    with pytest.raises(OtherMachine):
        read(make_elf(machine=183))
    with pytest.raises(NotElf):
        read(b"#!/bin/sh\n")
    with pytest.raises(NotElf):
        read(b"")


def test_a_file_that_ends_in_its_header_is_refused(make_elf):
    with pytest.raises(Refused, match="a file is a damaged ELF file"):
        read(make_elf()[:40])


def test_more_program_headers_than_linux_loads_are_refused_unread(make_elf):
    data = bytearray(make_elf())
    data[56:58] = (MAX_SEGMENTS + 1).to_bytes(2, "little")

    with pytest.raises(Refused, match=f"claims {MAX_SEGMENTS + 1} program headers"):
        read(bytes(data))


def test_a_name_without_an_end_is_refused(make_elf):
    data = make_elf(needed=["liba.so"], tail=b"x" * 20)
    moved = data.replace(struct.pack("<QQ", 1, 1), struct.pack("<QQ", 1, len(data) - 10 - data.index(b"\0liba.so")))

    with pytest.raises(Refused, match="has no end"):
        read(moved)


def test_only_what_is_loaded_is_kept_and_reads_the_same(make_elf):
    whole = make_elf(needed=["libc.so.6"], soname="libx.so.1", tail=b"debug information" * 100)

    part = mapped_part(io.BytesIO(whole), "a file")

    cut = part.head + whole[len(part.head) : part.size_bytes]
    assert len(cut) == len(whole) - 1700
    assert cut[40:48] == bytes(8)
    assert read(cut) == read(whole)


def test_a_segment_behind_the_end_of_the_file_is_refused_when_cutting(make_elf):
    with pytest.raises(Refused, match="behind the end of the file"):
        mapped_part(io.BytesIO(make_elf(needed=["libc.so.6"])[:-8]), "a file")


@given(data=st.data())
def test_a_damaged_file_ends_in_facts_or_in_a_refusal(make_elf, data):
    raw = bytearray(make_elf(needed=["liba.so", "libb.so"], interpreter="/lib64/ld.so", runpath="$ORIGIN"))
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=8)):
        raw[place] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    for act in (read, lambda file: mapped_part(io.BytesIO(file), "a file")):
        with contextlib.suppress(Refused, NotElf, OtherMachine):
            act(bytes(raw))
