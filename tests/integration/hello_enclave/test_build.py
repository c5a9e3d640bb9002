from __future__ import annotations

import datetime as dt
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from kubenclave.errors import HostUnfit, NotFound, Refused, UsageError
from kubenclave.sgx import load_signing_key, measure, read_sgxs

pytestmark = pytest.mark.integration

RESULTS = ("hello", "hello.sgxs", "hello.sig")


def test_the_script_builds_a_verified_enclave_and_says_what_it_weighs(example, tmp_path):
    done = subprocess.run(
        [sys.executable, example.__file__, tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )

    measured = measure(read_sgxs((tmp_path / "out" / "hello.sgxs").read_bytes())).hex()
    assert f"MRENCLAVE {measured}" in done.stdout
    assert "so ask for 5 MiB" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*RESULTS, "signing-key.pem"])


def test_the_output_directory_may_be_relative(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example.build(Path("out/here"))
    assert sorted(path.name for path in (tmp_path / "out/here").iterdir()) == ["hello", "hello.sgxs", "hello.sig", "signing-key.pem"]


def test_two_builds_in_two_places_with_one_key_are_equal_to_the_byte(example, built, tmp_path):
    again = example.build(tmp_path / "another" / "deeper place", key_file=built.key_file)

    for name in RESULTS:
        assert (again.host.parent / name).read_bytes() == (built.host.parent / name).read_bytes(), name


def test_another_date_changes_the_signature_and_nothing_else(example, built, tmp_path):
    again = example.build(tmp_path, key_file=built.key_file, date=dt.date(2027, 1, 1))

    assert again.enclave.sigstruct.date == dt.date(2027, 1, 1)
    assert again.enclave_file.read_bytes() == built.enclave_file.read_bytes()
    assert again.signature_file.read_bytes() != built.signature_file.read_bytes()


def test_a_second_build_in_the_same_place_keeps_the_key(example, tmp_path):
    first, second = example.build(tmp_path), example.build(tmp_path)

    assert first.enclave.verified_identity() == second.enclave.verified_identity()


def test_a_new_key_can_be_read_by_its_owner_only(built):
    assert stat.S_IMODE(built.key_file.stat().st_mode) == 0o600
    assert load_signing_key(built.key_file.read_bytes()).key_size == 3072


def test_the_host_program_is_static_stripped_and_small(built):
    with built.host.open("rb") as file:
        elf = ELFFile(file)
        kinds = {segment["p_type"] for segment in elf.iter_segments()}
        assert not kinds & {"PT_INTERP", "PT_DYNAMIC"}
        assert elf.get_section_by_name(".symtab") is None
    assert sum(path.stat().st_size for path in (built.host, built.enclave_file, built.signature_file)) < 1_000_000


def test_no_page_of_the_enclave_is_writable_and_executable_and_debug_is_ruled_out(built):
    assert all(run.secinfo & 6 != 6 for run in built.enclave.layout.runs)
    assert not built.enclave.verified_identity().debug_allowed


def test_without_gcc_the_build_says_what_to_install(example, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(HostUnfit, match="gcc is not installed") as caught:
        example.build(tmp_path / "out")
    assert "apt-get install gcc" in caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failing_compiler_is_reported_with_its_first_error_and_leaves_nothing_behind(example, tmp_path, monkeypatch):
    compiler = tmp_path / "bin" / "gcc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho 'main.c:1:1: error: no such thing' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}:/usr/bin:/bin")

    with pytest.raises(HostUnfit, match="error: no such thing"):
        example.build(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_key_that_is_missing_or_unfit_is_refused(example, tmp_path):
    unfit = tmp_path / "unfit.pem"
    unfit.write_bytes(b"no key")

    with pytest.raises(NotFound, match=r"missing\.pem"):
        example.build(tmp_path, key_file=tmp_path / "missing.pem")
    with pytest.raises(Refused, match="PEM"):
        example.build(tmp_path, key_file=unfit)


def test_an_output_that_cannot_be_a_directory_is_reported(example, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(HostUnfit, match="could not be built"):
        example.build(tmp_path / "file")


def test_the_date_comes_from_the_option_then_from_source_date_epoch_then_is_fixed(example):
    environment = {"SOURCE_DATE_EPOCH": "86400"}

    assert example.signing_date("2026-03-04", environment) == dt.date(2026, 3, 4)
    assert example.signing_date(None, environment) == dt.date(1970, 1, 2)
    assert example.signing_date(None, {}) == example.DEFAULT_DATE


@pytest.mark.parametrize(
    ("option", "environment"),
    [("31.1.2026", {}), ("2026-02-30", {}), (None, {"SOURCE_DATE_EPOCH": "soon"}), (None, {"SOURCE_DATE_EPOCH": "9" * 30})],
)
def test_a_bad_date_is_a_usage_error(example, option, environment):
    with pytest.raises(UsageError) as caught:
        example.signing_date(option, environment)
    assert caught.value.hint
