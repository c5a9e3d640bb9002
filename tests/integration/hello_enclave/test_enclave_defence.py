"""The enclave does not trust its host: what it does with a buffer that it must not write to."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

DONE, INSIDE, UNFIT = "0", "1", "2"
REPLY_BYTES = 48 + 432
ELRANGE_BYTES = 0x80_0000


@pytest.fixture(scope="module")
def enter_with(example, built, tmp_path_factory):
    program = tmp_path_factory.mktemp("probe") / "probe"
    host = [path for path in sorted((example.SOURCES / "host").iterdir()) if path.suffix in {".c", ".S"} and path.name != "main.c"]
    command = ["gcc", "-std=gnu11", "-fno-stack-protector", "-static", "-Wl,--wrap=reserve_elrange", f"-I{example.SOURCES}", "-o", program]
    subprocess.run([*command, Path(__file__).with_name("probe_buffer.c"), *host], check=True, timeout=120)

    def enter(place, offset, length):
        command = [program, built.enclave_file, built.signature_file, place, hex(offset), str(length)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    return enter


def test_the_address_range_is_the_one_that_these_tests_aim_at(built):
    assert built.enclave.layout.elrange_bytes == ELRANGE_BYTES


@pytest.mark.parametrize(
    ("place", "offset", "length", "answer"),
    [
        ("outside", 0, REPLY_BYTES, DONE),
        ("outside", 8, REPLY_BYTES, DONE),
        ("outside", 0, REPLY_BYTES - 1, UNFIT),
        ("outside", 0, 0, UNFIT),
        ("outside", 4, REPLY_BYTES, UNFIT),
        ("inside", 0x3000, REPLY_BYTES, INSIDE),
        ("inside", 0, REPLY_BYTES, INSIDE),
        ("inside", -8 % 2**64, REPLY_BYTES, INSIDE),
        ("inside", -REPLY_BYTES % 2**64, REPLY_BYTES + 1, INSIDE),
        ("inside", ELRANGE_BYTES - 8, REPLY_BYTES, INSIDE),
        ("outside", 0, 2**64 - 1, INSIDE),
        ("inside", -4096 % 2**64, 2**47, INSIDE),
    ],
)
def test_a_buffer_that_touches_the_enclave_or_is_unfit_is_not_written_to(enter_with, place, offset, length, answer):
    assert enter_with(place, offset, length) == answer
