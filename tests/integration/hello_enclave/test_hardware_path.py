"""The path through Linux's SGX driver, against a played kernel: no SGX hardware is involved."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

PROT_OF = {0x201: 1, 0x203: 3, 0x205: 5, 0x100: 3}


@pytest.fixture(scope="module")
def played(example, built, tmp_path_factory):
    """Compile the host's hardware path with a driver and a vDSO that follow the kernel's rules."""
    program = tmp_path_factory.mktemp("played") / "played"
    sources = [
        Path(__file__).with_name("played_kernel.c"),
        *(example.SOURCES / "host" / f"{name}.c" for name in ("image", "signature", "sha256", "fail")),
    ]
    subprocess.run(["gcc", "-std=gnu11", "-Wall", "-Werror", f"-I{example.SOURCES}", "-o", program, *sources], check=True, timeout=120)

    def run(kind):
        command = [program, kind, built.enclave_file, built.signature_file]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    return run


@pytest.mark.parametrize("hash_kind", ["sysv", "gnu"])
def test_the_driver_is_given_the_signed_pages_and_the_vdso_the_tcs(played, built, hash_kind):
    done = played(hash_kind)

    layout = built.enclave.layout
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"MRENCLAVE {built.enclave.mrenclave.hex()}"
    tcs = next(run.offset for run in layout.runs if run.is_tcs)
    assert lines[-2:] == ["answer 42", f"tcs {tcs:x}"]
    mapped = {}
    for line in lines[1:-2]:
        _, offset, pages, protection = line.split()
        mapped |= {int(offset, 16) + 4096 * index: int(protection) for index in range(int(pages))}
    assert mapped == {run.offset + 4096 * index: PROT_OF[run.secinfo] for run in layout.runs for index in range(run.page_count)}


def test_pages_that_the_processor_measures_otherwise_end_in_a_clear_failure(played):
    done = played("tampered")

    assert done.returncode == 1
    assert "the processor did not accept the enclave (SGX_IOC_ENCLAVE_INIT)" in done.stderr
