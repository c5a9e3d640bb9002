"""The host reads files that an attacker may have written; here with the compiler's memory checks switched on."""

from __future__ import annotations

import random
import subprocess

import pytest

pytestmark = pytest.mark.integration

RUNS = 300


@pytest.fixture(scope="module")
def checked_host(example, tmp_path_factory):
    program = tmp_path_factory.mktemp("checked") / "hello"
    sources = sorted(str(path) for path in (example.SOURCES / "host").iterdir() if path.suffix in {".c", ".S"})
    flags = ["-std=gnu11", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    done = subprocess.run(["gcc", *flags, "-o", program, *sources], capture_output=True, text=True, timeout=120, check=False)
    if "cannot find" in done.stderr:
        pytest.skip("the compiler's sanitizer libraries are not installed")
    assert done.returncode == 0, done.stderr
    return program


def damaged(content, dice):
    """Flip bytes, mostly in record headers, and sometimes cut the end off."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.choice([dice.randrange(len(changed)), 64 + 320 * dice.randrange(180) + dice.randrange(64), dice.randrange(128)])
        if at < len(changed):
            changed[at] = dice.choice([0, 1, 0x80, 0xFF, dice.randrange(256)])
    return changed[: dice.randrange(len(changed))] if dice.random() < 0.4 else changed


def test_damaged_files_are_refused_without_touching_memory_that_is_not_theirs(checked_host, built, tmp_path):
    stream, signature = built.enclave_file.read_bytes(), built.signature_file.read_bytes()
    dice = random.Random(20260131)  # noqa: S311 - repeatable, not secret
    enclave, sigstruct = tmp_path / "damaged.sgxs", tmp_path / "damaged.sig"

    for number in range(RUNS):
        enclave.write_bytes(damaged(stream, dice) if number % 4 else stream)
        sigstruct.write_bytes(signature if number % 4 else damaged(signature, dice))
        # The device is missing, so that nothing is entered even where the damage hit nothing that counts.
        command = [checked_host, "--device", tmp_path / "missing", enclave, sigstruct]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode in {3, 6}, done.stderr
        assert "Sanitizer" not in done.stderr
        assert "runtime error" not in done.stderr


def test_a_stream_cut_anywhere_in_its_first_records_is_refused_cleanly(checked_host, built, tmp_path):
    stream = built.enclave_file.read_bytes()
    enclave = tmp_path / "short.sgxs"

    for length in [*range(0, 520, 7), *range(5230, 5400, 7)]:
        enclave.write_bytes(stream[:length])
        command = [checked_host, "--device", tmp_path / "missing", enclave, built.signature_file]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 3, done.stderr
        assert "Sanitizer" not in done.stderr
