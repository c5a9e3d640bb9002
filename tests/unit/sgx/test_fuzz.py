"""Hostile enclave files: whatever is done to a file of each format, it is read or refused, in bounded time and memory.

Each test is bounded by the profile's number of examples; ``pytest tests/unit/sgx/test_fuzz.py --hypothesis-profile fuzz`` runs many more.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kubenclave.errors import KubenclaveError, Refused
from kubenclave.sgx import compare, describe, draw_picture, lay_out, parse_sigstruct, read_enclave, write_sgxs
from kubenclave.sgx.enclave import Enclave
from kubenclave.sgx.intel_sdk import MAX_THREADS
from kubenclave.sgx.sigstruct import verify_signature

# A limit on one file, whatever it claims; generous, since others may use this machine.
SECONDS_FOR_ONE_FILE = 5
MEASURED_PAGES_WORTH_HASHING = 20_000

EXTREMES = [0, 1, 2, 7, 16, 0xFF, 0x1000, 0x1009, 0x7FFF, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 36, 1 << 47]
EXTREMES += [1 << 62, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1]

fuzz = settings(deadline=SECONDS_FOR_ONE_FILE * 1000, suppress_health_check=list(HealthCheck))


def ways(kind, values):
    """One kind of change: whether at a place that matters, which, and with what."""
    return st.tuples(st.just(kind), st.booleans(), st.integers(0, 100_000), values)


NUMBERS = st.tuples(st.sampled_from(["<H", "<I", "<Q"]), st.one_of(st.sampled_from(EXTREMES), st.integers(0, (1 << 64) - 1)))
DAMAGE = st.one_of(
    ways("number", NUMBERS),
    ways("number", NUMBERS),
    ways("byte", st.integers(0, 255)),
    ways("cut", st.just(0)),
    ways("copy", st.integers(0, 4096)),
    ways("wipe", st.integers(0, 4096)),
)
CHANGES = st.lists(DAMAGE, min_size=1, max_size=5)


def damaged(data, places, changes):
    """Change a file: a number of any width at a place that matters or anywhere, a cut, a stretch copied or wiped."""
    result = bytearray(data)
    for kind, matters, where, value in changes:
        at = min(places[where % len(places)] if matters else where % len(data), len(result))
        if kind == "number":
            form, number = value
            packed = struct.pack(form, number & (1 << 8 * struct.calcsize(form)) - 1)
            result[at : at + len(packed)] = packed[: len(result) - at]
        elif kind == "byte":
            result[at : at + 1] = bytes([value])[: len(result) - at]
        elif kind == "cut":
            del result[at:]
        elif kind == "copy":
            result[at : at + value] = result[value : 2 * value]
        else:
            result[at : at + value] = bytes(min(value, len(result) - at))
    return bytes(result)


def outcome(read, *arguments):
    """What reading gives; anything but the project's own errors gets through, and fails the test."""
    try:
        return read(*arguments)
    except KubenclaveError as error:
        return error


def check(data, whole):
    """Read a file and everything that commands do with it; the file before it was damaged serves to compare with."""
    result = outcome(read_enclave, data)
    if isinstance(result, KubenclaveError):
        assert isinstance(result, Refused)
        assert result.what
        assert result.hint
        return
    assert isinstance(result, Enclave)
    for block in (result, *result.other_blocks):
        if block.known_layout is None:
            assert block.layout_gap
            continue
        layout = block.layout
        # What is repeated is held once, but a TCS is a page of its own for each thread.
        held = {id(run.content): len(run.content) for run in layout.runs if not run.is_tcs}
        assert sum(held.values()) <= 4 * len(data) + (1 << 20)
        assert layout.thread_count <= MAX_THREADS
        assert all(0 <= run.offset < run.end <= layout.elrange_bytes for run in layout.runs)
    measured = sum(run.page_count for run in result.known_layout.runs if run.measured_chunks) if result.known_layout else 0
    pages = result.known_layout.page_count if result.known_layout else 0
    if measured <= MEASURED_PAGES_WORTH_HASHING and pages <= 50 * MEASURED_PAGES_WORTH_HASHING:
        report = describe(result, epc_limit_bytes=1 << 20)
        if result.known_layout is not None:
            draw_picture(result, report, name="damaged")
        outcome(compare, whole, result)


class Base:
    """A file to damage, the places that matter in it, and what it was; not shown when an example fails."""

    def __init__(self, file, places):
        self.file, self.places, self.whole = file, places, read_enclave(file)

    def check(self, changes):
        check(damaged(self.file, self.places, changes), self.whole)


def places_of_elf(*others):
    """The ELF header, the program headers, and what the format adds."""
    return [*range(16, 64, 2), *range(64, 64 + 4 * 56, 4), *others]


@pytest.fixture(scope="session")
def oe_base(open_enclave, signed):
    data = signed(open_enclave(tdata=100, tbss=40, relocations=((0x3000, 8, 5), (0x3010, 2 << 32 | 18, 0)), plt=((0x3018, 8, 9),)))
    sections = struct.unpack_from("<Q", data, 40)[0]
    places = [*range(0x3100, 0x3100 + 160, 2), *range(0x400, 0x500, 4), *range(0xA00, 0xA40, 8), *range(sections, len(data), 4)]
    return Base(data, places_of_elf(*places))


@pytest.fixture(scope="session")
def sdk_base(sdk, signed):
    growing = (*sdk.thread_layout, sdk.entry(3, 8, 50, 0x80000, 0, 0, 0x203), sdk.entry(8, 7, 4, 0x90000, 0, 0, 0x203))
    blocks = (sdk.block(growing, patches=[(0x3004, b"patched")]), sdk.block(sdk.thread_layout, version=(1, 3)))
    dynamic = ((7, 0xA00), (8, 24), (22, 0))
    data = signed(sdk.file(*blocks, dynamic=dynamic))
    starts, at = [], data.find(0x86A80294635D0E4C.to_bytes(8, "little"))
    while at >= 0:
        starts.append(at)
        at = data.find(0x86A80294635D0E4C.to_bytes(8, "little"), at + 1)
    places = [start + offset for start in starts for offset in (*range(0, 64, 4), *range(1872, 2300, 2))]
    sections = struct.unpack_from("<Q", data, 40)[0]
    places += [*range(0xA00, 0xA20, 8), *range(0x3B00, 0x3B40, 8), *range(sections, len(data), 4)]
    return Base(data, places_of_elf(*places))


@pytest.fixture(scope="session")
def sgxs_base(plain_elf):
    data = b"".join(write_sgxs(lay_out(plain_elf, heap_pages=3, stack_pages=1, threads=2)))
    return Base(data, [*range(0, 64, 4), *range(64, len(data), 5184 // 4)])


@fuzz
@given(changes=CHANGES)
def test_open_enclave_files(oe_base, changes):
    oe_base.check(changes)


@fuzz
@given(changes=CHANGES)
def test_intel_sdk_files(sdk_base, changes):
    sdk_base.check(changes)


@fuzz
@given(changes=CHANGES)
def test_sgxs_streams(sgxs_base, changes):
    sgxs_base.check(changes)


@fuzz
@given(changes=CHANGES)
def test_sigstructs(signature_of, plain_layout, changes):
    file = signature_of(plain_layout)
    changed = damaged(file, range(0, 1808, 4), changes)
    result = outcome(parse_sigstruct, changed)
    if not isinstance(result, KubenclaveError):
        assert result.to_bytes() == changed
        assert outcome(verify_signature, result) is None or changed != file
    check(changed, read_enclave(file))


@fuzz
@given(changes=CHANGES)
def test_plain_elf_files_to_be_packed(plain_elf, changes):
    changed = damaged(plain_elf, [*range(16, 64, 2), *range(64, 64 + 3 * 56, 4)], changes)
    result = outcome(lambda: lay_out(changed, heap_pages=1, stack_pages=1, threads=1))
    assert isinstance(result, KubenclaveError) or result.page_count > 0


@fuzz
@given(st.one_of(st.binary(max_size=3000), st.binary(max_size=3000).map(lambda tail: b"\x7fELF\2\1\1" + tail)))
@example(b"")
@example(b"\x7fELF")
@example(b"ECREATE\0")
def test_bytes_that_are_no_enclave(data):
    assert isinstance(outcome(read_enclave, data), Refused)
