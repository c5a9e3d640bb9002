from __future__ import annotations

import dataclasses
import datetime as dt
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from kubenclave.sgx import draft_sigstruct, load_signing_key, sign

pytestmark = pytest.mark.integration

ENCLU = b"\x0f\x01\xd7"


def test_the_simulated_enclave_says_hello_and_reports_the_measurement_that_python_computes(run_hello, built):
    done = run_hello("--simulate")

    identity = built.enclave.verified_identity()
    assert done.stdout.splitlines() == [
        "Hello world from the enclave",
        f"MRENCLAVE {identity.mrenclave.hex()}",
        f"MRSIGNER {identity.mrsigner.hex()}",
        "mode: simulated (no SGX hardware was involved)",
    ]
    assert (done.returncode, done.stderr) == (0, "")


def damaged(path, at, target):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    target.write_bytes(content)
    return target


def refused(done):
    assert done.returncode == 3
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["error", "hint"]
    return lines[0]


def test_one_flipped_byte_anywhere_in_the_stream_is_refused_before_entering(run_hello, built, tmp_path):
    size = built.enclave_file.stat().st_size
    places = [0, 8, 12, 40, 64, 72, 80, 100, 128, 136, 200, 192, 5248, 20_000, 60_000, size - 64, size - 56, size - 1]

    for at in places:
        enclave = damaged(built.enclave_file, at, tmp_path / "damaged.sgxs")
        refused(run_hello("--simulate", enclave=enclave))


def test_an_enclave_whose_code_was_changed_is_refused_for_its_measurement(run_hello, built, tmp_path):
    at = built.enclave_file.read_bytes().index(ENCLU)
    enclave = damaged(built.enclave_file, at, tmp_path / "damaged.sgxs")

    assert "measurement is not the one" in refused(run_hello("--simulate", enclave=enclave))


def test_a_signature_with_any_field_flipped_is_refused_before_entering(run_hello, built, tmp_path):
    # header, type, vendor, date, header2, swdefined, reserved, modulus, exponent, signature, misc, attributes, hash, ids, q1, q2
    for at in (
        0,
        15,
        16,
        20,
        24,
        40,
        44,
        128,
        511,
        512,
        516,
        899,
        900,
        908,
        910,
        928,
        944,
        960,
        991,
        992,
        1024,
        1028,
        1040,
        1423,
        1424,
        1807,
    ):
        signature = damaged(built.signature_file, at, tmp_path / "damaged.sig")
        refused(run_hello("--simulate", signature=signature))


def test_quotients_that_give_the_right_result_without_being_the_right_ones_are_refused(run_hello, built, tmp_path):
    key = load_signing_key(built.key_file.read_bytes())
    modulus = key.public_key().public_numbers().n
    for day in range(1, 366):
        draft = draft_sigstruct(mrenclave=built.enclave.mrenclave, date=dt.date.fromordinal(day + 730_000))
        good = sign(draft, key)
        signature, q1, q2 = (int.from_bytes(part, "little") for part in (good.signature, good.q1, good.q2))
        # One too few in q1, made up for in q2: the remainders stay right modulo n, the first is not reduced.
        unreduced = signature * signature - (q1 - 1) * modulus
        if max(unreduced, q2 + signature) >> 3072 == 0:
            break
    wrong = dataclasses.replace(good, q1=(q1 - 1).to_bytes(384, "little"), q2=(q2 + signature).to_bytes(384, "little"))
    (tmp_path / "good.sig").write_bytes(good.to_bytes())
    (tmp_path / "wrong.sig").write_bytes(wrong.to_bytes())

    assert run_hello("--simulate", signature=tmp_path / "good.sig").returncode == 0
    refused(run_hello("--simulate", signature=tmp_path / "wrong.sig"))


def test_another_signers_signature_is_accepted_and_shown_as_theirs(run_hello, example, built, tmp_path):
    other = example.build(tmp_path)

    done = run_hello("--simulate", signature=other.signature_file)
    assert other.enclave.verified_identity().mrsigner.hex() in done.stdout
    assert other.enclave.verified_identity().mrsigner != built.enclave.verified_identity().mrsigner


@pytest.mark.parametrize("length", [0, 63, 64, 127, 400, 100_000])
def test_a_truncated_stream_is_refused(run_hello, built, tmp_path, length):
    short = tmp_path / "short.sgxs"
    short.write_bytes(built.enclave_file.read_bytes()[:length])

    refused(run_hello("--simulate", enclave=short))


def test_files_of_the_wrong_kind_or_size_are_refused_at_once(run_hello, built, tmp_path):
    sparse, pipe = tmp_path / "sparse", tmp_path / "pipe"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(pipe)

    assert "1099511627776 bytes long" in refused(run_hello("--simulate", enclave=sparse))
    assert "not a regular file" in refused(run_hello("--simulate", enclave=pipe))
    assert "not a regular file" in refused(run_hello("--simulate", enclave=tmp_path))
    assert "1808" in refused(run_hello("--simulate", signature=built.enclave_file))
    assert run_hello("--simulate", enclave=tmp_path / "missing").returncode == 5


@pytest.mark.parametrize(
    "options", [("--seconds", "x"), ("--seconds", "-1"), ("--seconds", "1e9"), ("--seconds",), ("--unknown",), ("one-more-file",)]
)
def test_bad_options_are_a_usage_error(run_hello, options):
    done = run_hello(*options)

    assert done.returncode == 2
    assert done.stderr.splitlines()[1].startswith("hint: Run: hello")


def test_without_a_device_the_program_asks_for_epc(run_hello, tmp_path):
    done = run_hello("--device", str(tmp_path / "sgx_enclave"))

    assert done.returncode == 6
    assert done.stdout == ""
    assert "no SGX device was handed to this container" in done.stderr
    assert "Ask for EPC" in done.stderr


@pytest.mark.skipif(Path("/dev/sgx_enclave").exists() or Path("/dev/sgx/enclave").exists(), reason="this machine has an SGX device")
def test_the_usual_device_paths_are_tried_without_options(run_hello):
    done = run_hello()

    assert done.returncode == 6
    assert "/dev/sgx/enclave does not exist" in done.stderr


@pytest.fixture
def character_device(tmp_path):
    """A node for misc device 229, which is no SGX driver where it is a device at all."""
    if os.geteuid() != 0:
        pytest.skip("making a device node needs root")
    node = tmp_path / "sgx_enclave"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(10, 229))
    node.chmod(0o666)
    try:
        os.close(os.open(node, os.O_RDWR))
    except PermissionError:
        pytest.skip("this file system or container does not let device nodes be opened")
    except OSError:
        pass
    return node


def test_a_device_that_is_no_sgx_driver_leads_to_simulation_which_is_said(run_hello, built, character_device):
    done = run_hello("--device", character_device)

    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "Hello world from the enclave"
    assert built.enclave.mrenclave.hex() in done.stdout
    assert done.stdout.splitlines()[-1] == "mode: simulated (no SGX hardware was involved)"


def as_nobody():
    if os.geteuid() != 0:
        pytest.skip("changing the user needs root")
    return {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}


@pytest.fixture
def open_to_all(built):
    """The built files where every user can reach them; pytest's own folders are private."""
    with tempfile.TemporaryDirectory(prefix="hello-enclave-") as name:
        place = Path(name)
        place.chmod(0o755)
        for path in (built.host, built.enclave_file, built.signature_file):
            shutil.copy2(path, place)
        yield place


def test_it_runs_as_an_ordinary_user_and_in_an_empty_environment(open_to_all):
    command = [open_to_all / "hello", "--simulate", open_to_all / "hello.sgxs", open_to_all / "hello.sig"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env={}, **as_nobody())

    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "Hello world from the enclave")


def test_a_device_that_the_user_may_not_open_is_reported(open_to_all, character_device):
    locked = open_to_all / "sgx_enclave"
    os.mknod(locked, stat.S_IFCHR | 0o600, character_device.stat().st_rdev)
    command = [open_to_all / "hello", "--device", locked, open_to_all / "hello.sgxs", open_to_all / "hello.sig"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, **as_nobody())

    assert done.returncode == 6
    assert "may not use the SGX device" in done.stderr


def test_the_enclave_stays_mapped_for_the_seconds_asked_for_and_ends_on_sigterm(built):
    command = [built.host, "--simulate", "--seconds", "60", built.enclave_file, built.signature_file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(4)]
        mapped = mappings(process.pid)
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=10)

    assert lines[0] == "Hello world from the enclave\n"
    assert code == 128 + signal.SIGTERM
    assert time.monotonic() - started < 5
    enclave = built.enclave.layout
    base = next(start for start in mapped if start % enclave.elrange_bytes == 0 and mapped[start] == "r--p")
    # Offsets and permissions as the SECINFO of each run says; the TCS and the guards cannot be touched.
    expected = {run.offset: {0x201: "r--p", 0x203: "rw-p", 0x205: "r-xp", 0x100: "---p"}[run.secinfo] for run in enclave.runs}
    for offset, permissions in expected.items():
        start = max(at for at in mapped if at <= base + offset)
        assert mapped[start] == permissions, hex(offset)
    assert "rwxp" not in mapped.values()


def mappings(pid):
    found = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, permissions = line.split()[:2]
        found[int(span.split("-")[0], 16)] = permissions
    return found
