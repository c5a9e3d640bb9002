"""What the simulation lets an enclave do, tried with enclaves that are wrong in one way each."""

from __future__ import annotations

import datetime as dt
import subprocess

import pytest

from kubenclave.sgx import draft_sigstruct, generate_signing_key, lay_out, measure, sign, write_sgxs

pytestmark = pytest.mark.integration

LEAVE = """
    mov $0, %edi
    mov %rcx, %rbx
    mov $4, %eax
    enclu
"""


@pytest.fixture(scope="module")
def key():
    return generate_signing_key()


@pytest.fixture
def run_enclave(example, built, key, tmp_path):
    """Assemble an enclave whose entry holds the given code, sign it and run it in simulation."""

    def run(code, data=""):
        source = tmp_path / "enclave.S"
        source.write_text(
            f'.text\n.globl enclave_entry\nenclave_entry:\n{code}\n{data}\n.section .note.GNU-stack, "", @progbits\n', encoding="utf-8"
        )
        elf = tmp_path / "enclave.elf"
        subprocess.run(["gcc", *example._ENCLAVE_FLAGS, "-o", elf, source], check=True, timeout=60, cwd=tmp_path)
        layout = lay_out(elf.read_bytes(), heap_pages=2, stack_pages=1, threads=1)
        sigstruct = sign(draft_sigstruct(mrenclave=measure(layout), date=dt.date(2026, 1, 1)), key)
        stream, signature = tmp_path / "enclave.sgxs", tmp_path / "enclave.sig"
        stream.write_bytes(b"".join(write_sgxs(layout)))
        signature.write_bytes(sigstruct.to_bytes())
        command = [built.host, "--simulate", stream, signature]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)

    return run


def test_registers_and_segments_at_entry_are_as_eenter_sets_them(run_enclave):
    # Each check that fails leaves with its number; the thread page follows TCS, two SSA pages and a guard.
    checks = """
        mov %rcx, %r12
        mov $1, %edi
        test %rax, %rax
        jnz 9f
        mov $2, %edi
        lea enclave_entry(%rip), %rax
        and $-4096, %rax
        sub $0x1000, %rax           /* base: code is the second page */
        mov %rbx, %rdx
        sub %gs:8, %rdx             /* TCS address - TCS offset */
        cmp %rax, %rdx
        jne 9f
        mov $3, %edi
        rdgsbase %rdx
        sub %rbx, %rdx
        cmp $0x4000, %rdx
        jne 9f
        mov $4, %edi
        rdfsbase %rdx
        sub %rbx, %rdx
        cmp $0x4000, %rdx
        jne 9f
        mov $5, %edi                /* URSP in the SSA frame is the stack pointer at entry */
        cmp %rsp, 0x2000-184+144(%rbx)
        jne 9f
        mov $0, %edi
    9:  mov %r12, %rbx
        mov $4, %eax
        enclu
    """

    done = run_enclave(checks)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "code", "signal_name"),
    [
        ("writes its code", "movb $0, enclave_entry(%rip)", "Segmentation fault"),
        ("reads its TCS", "mov (%rbx), %rax", "Segmentation fault"),
        ("runs its stack", "lea -4096-8(%rbx), %rax; jmp *%rax", "Segmentation fault"),
        ("touches the guard below its stack", "mov -4096-4096-8(%rbx), %rax", "Segmentation fault"),
        ("reads address 0", "xor %eax, %eax; mov (%rax), %rax", "Segmentation fault"),
        ("runs an undefined instruction", "ud2", "Illegal instruction"),
        ("divides by zero", "xor %ecx, %ecx; xor %edx, %edx; mov $1, %eax; div %ecx", "Floating point exception"),
        ("traps", "int3", "Trace/breakpoint trap"),
    ],
)
def test_a_fault_inside_is_reported_with_its_offset_in_the_enclave(run_enclave, name, code, signal_name):
    done = run_enclave(code + LEAVE)

    assert done.returncode == 1, name
    assert done.stdout == ""
    assert "the enclave faulted at offset 0x" in done.stderr
    assert signal_name in done.stderr


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("EGETKEY", "mov $1, %eax; enclu", "only EEXIT and EREPORT"),
        ("EENTER from inside", "mov $2, %eax; enclu", "only EEXIT and EREPORT"),
        ("leaf 99", "mov $99, %eax; enclu", "only EEXIT and EREPORT"),
        ("EEXIT to itself", "lea enclave_entry(%rip), %rbx; mov $4, %eax; enclu", "EEXIT leads elsewhere"),
        ("unaligned operands", "lea buffer+8(%rip), %rbx; mov %rbx, %rcx; mov %rbx, %rdx; xor %eax, %eax; enclu", "not aligned"),
        (
            "a report into the code",
            "lea buffer(%rip), %rbx; mov %rbx, %rcx; lea 3f(%rip), %rdx; xor %eax, %eax; enclu",
            "lacks permissions",
        ),
        ("a report outside", "lea buffer(%rip), %rbx; mov %rbx, %rcx; xor %edx, %edx; xor %eax, %eax; enclu", "outside the enclave"),
    ],
)
def test_an_enclu_that_the_processor_would_not_carry_out_is_refused(run_enclave, name, code, reason):
    done = run_enclave(code + LEAVE + "\n.balign 512\n3: .skip 512", ".bss\n.balign 512\nbuffer: .skip 1024")

    assert done.returncode == 1, name
    assert reason in done.stderr
    assert "at offset 0x" in done.stderr


def test_an_enclave_that_does_not_leave_is_ended(run_enclave):
    done = run_enclave("1: jmp 1b")

    assert done.returncode == 1
    assert "did not leave within 5 seconds" in done.stderr


def test_an_enclave_that_answers_otherwise_is_reported(run_enclave):
    done = run_enclave("mov $7, %edi; mov %rcx, %rbx; mov $4, %eax; enclu")

    assert done.returncode == 1
    assert "the enclave answered 7" in done.stderr
