"""Fortanix's sgxs-tools read what is written here and the other way round."""

from __future__ import annotations

import hashlib
import re
import struct

import pytest

from kubenclave.errors import Refused
from kubenclave.sgx import describe, read_enclave, write_sgxs

pytestmark = pytest.mark.integration


@pytest.fixture
def packed(tmp_path, plain_program, run):
    stream, key = tmp_path / "enclave.sgxs", tmp_path / "key.pem"
    assert run("enclave", "pack", plain_program, "-o", stream, "--heap", "64Ki", "--stack", "8Ki", "--threads", 3)[0] == 0
    assert run("enclave", "keygen", "-o", key, "--public-key", tmp_path / "public.pem")[0] == 0
    return stream, key


@pytest.fixture(scope="session")
def plain_program(tmp_path_factory):
    import shutil  # noqa: PLC0415 - here alone
    import subprocess  # noqa: PLC0415

    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder = tmp_path_factory.mktemp("program")
    source = folder / "program.c"
    source.write_text("static int table[3000] = {1}; int bss[3000]; int entry(int at) { return table[at] + bss[at]; }\n")
    flags = [
        "-O1",
        "-ffreestanding",
        "-fPIE",
        "-static-pie",
        "-nostdlib",
        "-Wl,-e,entry",
        "-Wl,-z,separate-code",
        "-Wl,--no-dynamic-linker",
    ]
    subprocess.run(["gcc", *flags, "-fno-stack-protector", "-o", folder / "program", source], check=True, timeout=60)
    return folder / "program"


def test_they_sign_what_we_pack_with_the_measurement_that_we_compute(sgxs_tools, packed, tmp_path):
    stream, key = packed
    signature = tmp_path / "theirs.sig"
    done = sgxs_tools("sgxs-sign", "--key", key, "--date", "20260131", "-p", 7, "-v", 3, "-a", "0x4/0", stream, signature)
    assert done.returncode == 0, done.stderr

    identity = read_enclave(stream.read_bytes(), signature.read_bytes()).verified_identity()

    assert identity.mrenclave == hashlib.sha256(stream.read_bytes()).digest()
    assert (identity.isv_prod_id, identity.isv_svn, identity.debug_allowed) == (7, 3, False)


def test_their_signature_with_the_same_key_and_fields_is_ours_to_the_byte(sgxs_tools, packed, tmp_path, run):
    stream, key = packed
    done = sgxs_tools(
        "sgxs-sign", "--key", key, "--date", "20260131", "-p", 7, "-v", 3, "-a", "0x4/0", "-x", "0x3/0", stream, tmp_path / "theirs.sig"
    )
    assert done.returncode == 0, done.stderr

    assert run("enclave", "sign", stream, "--key", key, "--prod-id", 7, "--svn", 3, "--date", "2026-01-31")[0] == 0

    assert stream.with_suffix(".sig").read_bytes() == (tmp_path / "theirs.sig").read_bytes()


def test_they_accept_our_signature_of_our_stream(sgxs_tools, packed, tmp_path, run):
    stream, key = packed
    public_key = key.with_name("public.pem")
    assert run("enclave", "sign", stream, "--key", key, "--date", "2026-01-31", "--allow-debug")[0] == 0
    written = stream.with_suffix(".sig").read_bytes()

    # Verifies the file that is there against its own measurement of the stream, and signs anew where that holds.
    options = ["--key", key, "--date", "20260131", "--resign-verify", public_key]
    theirs = tmp_path / "again.sig"
    theirs.write_bytes(written)
    done = sgxs_tools("sgxs-sign", *options, stream, theirs)
    assert done.returncode == 0, done.stderr

    broken = bytearray(written)
    broken[600] ^= 1
    theirs.write_bytes(broken)
    assert sgxs_tools("sgxs-sign", *options, stream, theirs).returncode != 0


def test_their_default_attributes_leave_debug_open_and_we_say_so(sgxs_tools, packed, tmp_path):
    stream, key = packed
    assert sgxs_tools("sgxs-sign", "--key", key, "--date", "20260131", stream, tmp_path / "theirs.sig").returncode == 0

    report = describe(read_enclave(stream.read_bytes(), (tmp_path / "theirs.sig").read_bytes()))

    assert (report.signature.flag_names, report.signature.debug_launch_possible) == (("MODE64BIT",), True)


def test_they_see_the_pages_that_we_packed(sgxs_tools, packed):
    stream, _ = packed
    layout = read_enclave(stream.read_bytes()).layout

    listed = sgxs_tools("sgxs-info", "list-pages", stream).stdout.splitlines()

    # EADD offset=0x    1000 pagetype=2    flags=R | X     data= (data) measured=all
    form = re.compile(r"EADD offset=0x *([0-9a-f]+) pagetype=(\d) +flags=(?:\(empty\)|([RWX| ]*?)) +data= ?\(?(\w+)\)? +measured=(\w+)")
    theirs = [tuple(text or "" for text in form.match(line).groups()) for line in listed if line.startswith("EADD")]
    ours = [
        (
            f"{page.offset + index * 4096:x}",
            "1" if page.is_tcs else "2",
            " | ".join(page.permissions.replace("-", "").upper()),
            "empty" if not any(page.page(index)) else "data",
            "all" if page.measured_chunks else "none",
        )
        for page in layout.runs
        for index in range(page.page_count)
    ]
    assert theirs == ours


def test_we_read_what_they_build(sgxs_tools, tmp_path):
    code = tmp_path / "code.bin"
    code.write_bytes(b"\x90" * 5000)
    built = sgxs_tools("sgxs-build", "ssaframesize=2", f"rx={code}", f"rw={code}", "tcs=nssa:2", binary=True)
    assert built.returncode == 0

    enclave = read_enclave(built.stdout)

    assert enclave.mrenclave == hashlib.sha256(built.stdout).digest()
    assert [(run.permissions, run.page_count) for run in enclave.layout.runs] == [("r-x", 2), ("rw-", 2), ("---", 1), ("rw-", 4)]
    assert b"".join(write_sgxs(enclave.layout)) == built.stdout


def test_we_measure_what_they_append_unmeasured_as_they_do(sgxs_tools, packed, tmp_path):
    _, key = packed
    first, more = tmp_path / "first.bin", tmp_path / "more.bin"
    first.write_bytes(b"\x90" * 5000)
    more.write_bytes(bytes(range(1, 251)) * 20)
    stream = tmp_path / "built.sgxs"
    built = sgxs_tools("sgxs-build", f"rx={first}", binary=True).stdout
    # They append only where the size is left open, and write it where the field says: into the second page.
    stream.write_bytes(b"UNSIZED\0" + built[8:12] + struct.pack("<Q", 0x1000) + built[20:])
    with pytest.raises(Refused, match="UNSIZED"):
        read_enclave(stream.read_bytes())
    done = sgxs_tools("sgxs-append", "-i", stream, "-mrw", more, "-rw", more)
    assert done.returncode == 0, done.stdout
    signed = sgxs_tools("sgxs-sign", "--key", key, "--date", "20260131", stream, tmp_path / "theirs.sig")
    assert signed.returncode == 0, signed.stderr

    enclave = read_enclave(stream.read_bytes(), (tmp_path / "theirs.sig").read_bytes())

    assert b"UNMEASRD" in stream.read_bytes()
    assert enclave.verified_identity().mrenclave == enclave.mrenclave
    assert b"".join(write_sgxs(enclave.layout)) == stream.read_bytes()
