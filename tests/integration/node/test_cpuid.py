from __future__ import annotations

import ctypes
import gc
import platform
import re
import struct
import threading
from pathlib import Path

import pytest

from kubenclave.node.cpuid import Cpuid, read_processor

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="CPUID is an instruction of x86-64"),
]


@pytest.fixture(scope="module")
def cpuinfo():
    text = Path("/proc/cpuinfo").read_text().split("\n\n", maxsplit=1)[0]
    return dict(re.findall(r"^(.*?)\s*: (.*)$", text, flags=re.MULTILINE))


def test_the_vendor_is_the_one_the_kernel_names(cpuinfo):
    first = Cpuid()(0, 0)

    assert struct.pack("<III", first.ebx, first.edx, first.ecx).decode() == cpuinfo["vendor_id"]


def test_family_model_and_stepping_are_the_kernels(cpuinfo):
    signature = Cpuid()(1, 0).eax
    family, model = signature >> 8 & 0xF, signature >> 4 & 0xF
    if family in {6, 15}:
        model |= (signature >> 16 & 0xF) << 4
    if family == 15:
        family += signature >> 20 & 0xFF

    assert (family, model, signature & 0xF) == (int(cpuinfo["cpu family"]), int(cpuinfo["model"]), int(cpuinfo["stepping"]))


@pytest.mark.parametrize(("flag", "subleaf_register", "bit"), [("fsgsbase", "ebx", 0), ("bmi1", "ebx", 3), ("avx2", "ebx", 5)])
def test_features_of_leaf_7_are_those_the_kernel_lists(cpuinfo, flag, subleaf_register, bit):
    assert bool(getattr(Cpuid()(7, 0), subleaf_register) >> bit & 1) == (flag in cpuinfo["flags"].split())


def test_the_sub_leaf_reaches_the_processor():
    assert Cpuid()(4, 0) != Cpuid()(4, 1) or Cpuid()(0xB, 0) != Cpuid()(0xB, 1)


def test_the_processor_here_has_sgx_exactly_where_the_kernel_says_so(cpuinfo):
    assert read_processor().features.sgx1 == ("sgx" in cpuinfo["flags"].split())


def test_it_answers_the_same_to_every_thread_and_after_a_collection():
    cpuid = Cpuid()
    gc.collect()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(cpuid(0, 0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [cpuid(0, 0)] * 8


def test_the_code_is_mapped_executable_and_not_writable():
    cpuid = Cpuid()

    assert permissions_of(ctypes.addressof(ctypes.c_char.from_buffer(cpuid._memory))) == "r-xp"


def permissions_of(address):
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line.split()[1]
    raise AssertionError(hex(address))
