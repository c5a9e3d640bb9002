"""Figures of the room ``sgx``, each beside its baseline in the same run. Nothing timed is asserted: run with -s and read."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kubenclave.sgx import EnclaveLayout, PageRun, lay_out, measure, write_sgxs
from kubenclave.sgx.measurement import MEASURED_PAGE_BYTES
from kubenclave.sgx.pages import PAGE_BYTES

MIB = 1 << 20
LARGE_BYTES = 256 * MIB
REPEATS = 5
PROGRAM = "import sys; from kubenclave.cli import main; sys.exit(main())"

# Runs a program and prints its wall time and the most memory it held.
WATCH = """
import os, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"{time.perf_counter() - start:.3f} {usage.ru_maxrss * 1024} {code}")
"""


def watched(*words):
    found = [
        subprocess.run([sys.executable, "-c", WATCH, *words], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(REPEATS)
    ]
    assert {code for _, _, code in found} == {"0"}
    return min(float(seconds) for seconds, _, _ in found), max(int(memory) for _, memory, _ in found)


@pytest.fixture(scope="module")
def content():
    return os.urandom(MIB) * (LARGE_BYTES // MIB)


def tell(line):
    print(f"\n  {line} (load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors)")  # noqa: T201 - figures are what this file is for


def test_measuring_beside_plain_sha256(content):
    pages = LARGE_BYTES // PAGE_BYTES
    run = PageRun(offset=0, page_count=pages, secinfo=0x205, content=content)
    layout = EnclaveLayout(elrange_bytes=2 * LARGE_BYTES, ssa_frame_pages=1, runs=(run,))
    stream_bytes = pages * MEASURED_PAGE_BYTES
    plain = memoryview(bytes(stream_bytes))

    # Taken in turns, so that a busy moment of the machine is one of both.
    ours, baseline = [], []
    for _ in range(REPEATS):
        baseline.append(seconds_of(lambda: hashlib.sha256(plain).digest()))
        ours.append(seconds_of(lambda: measure(layout)))

    ratio = min(baseline) / min(ours)
    figures = f"{stream_bytes / min(ours) / 1e9:.2f} GB/s, hashlib.sha256 {stream_bytes / min(baseline) / 1e9:.2f} GB/s"
    tell(f"measure 256 MiB: {figures} over as many bytes: {ratio:.2f} of it")


def seconds_of(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def elf_file(content):
    """A freestanding ELF program of one large segment: what `enclave pack` takes."""
    size = len(content)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0x1000, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    header += struct.pack("<IIQQQQQQ", 1, 5, 0x1000, 0x1000, 0x1000, size, size, 0x1000)
    return header.ljust(0x1000, b"\0") + content


def test_memory_of_measuring_a_large_file(content, tmp_path):
    layout = lay_out(elf_file(content), heap_pages=0, stack_pages=1, threads=1)
    file = tmp_path / "large.sgxs"
    with file.open("wb") as stream:
        for piece in write_sgxs(layout):
            stream.write(piece)
    open_enclave = tmp_path / "large.so"
    open_enclave.write_bytes(large_open_enclave(content))
    for name, path in (("SGXS", file), ("Open Enclave ELF", open_enclave)):
        seconds, memory = watched(sys.executable, "-c", PROGRAM, "enclave", "measure", str(path))
        bound = 2 * path.stat().st_size + 64 * MIB
        taken = f"{seconds:.2f} s, {memory / MIB:.0f} of {bound / MIB:.0f} MiB"
        tell(f"enclave measure of a {name} file of {path.stat().st_size / MIB:.0f} MiB: {taken}")


def large_open_enclave(content):
    """The Open Enclave file that the unit tests write, with a large segment of code behind it."""
    path = Path(__file__).parents[1] / "unit/sgx/conftest.py"
    spec = importlib.util.spec_from_file_location("sgx_conftest", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["sgx_conftest"] = module
    spec.loader.exec_module(module)
    data = module.open_enclave_file()
    start = -(-len(data) // PAGE_BYTES) * PAGE_BYTES
    data = bytearray(data.ljust(start, b"\0") + content)
    # The dynamic segment's header, the fourth, becomes one of a further PT_LOAD.
    struct.pack_into("<IIQQQQQQ", data, 64 + 3 * 56, 1, 5, start, 0x10000, 0x10000, len(content), len(content), PAGE_BYTES)
    return bytes(data)


def test_inspecting_a_4_mib_enclave_as_a_whole_process(tmp_path):
    file = tmp_path / "enclave.so"
    file.write_bytes(large_open_enclave(os.urandom(4 * MIB)))
    for output in ("table", "json"):
        seconds, memory = watched(sys.executable, "-c", PROGRAM, "enclave", "inspect", str(file), "--output", output)
        tell(f"enclave inspect --output {output} of {file.stat().st_size / MIB:.1f} MiB: {seconds:.3f} s, {memory / MIB:.0f} MiB")
    start, _ = watched(sys.executable, "-c", "pass")
    tell(f"an empty Python program: {start:.3f} s")
