from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from kubenclave.sgx import read_enclave
from kubenclave.sgx.signing import load_signing_key, public_key_pem

pytestmark = pytest.mark.integration

DATE = "2026-01-31"


@pytest.fixture
def signer(tmp_path, run):
    key, public = tmp_path / "key.pem", tmp_path / "public.pem"
    assert run("enclave", "keygen", "-o", key, "--public-key", public) == (0, "", "")
    return key, public


@pytest.fixture
def oe(tmp_path, oe_file):
    file = tmp_path / "enclave.so"
    file.write_bytes(oe_file.read_bytes())
    file.chmod(0o750)
    return file


@pytest.fixture
def signed(oe, signer, run):
    assert run("enclave", "sign", oe, "--key", signer[0], "--date", DATE, "--no-debug")[0] == 0
    return oe


@pytest.fixture
def sdk(tmp_path, sdk_files, with_metadata):
    from struct import pack  # noqa: PLC0415 - here alone

    file = tmp_path / "sdk.so"
    layout = [pack("<HHIQIIQ", 1, 1, 7, 0x200000, 0, 0, 0x203)]
    file.write_bytes(with_metadata(sdk_files[0].read_bytes(), ((2, 4), layout, []), ((1, 4), layout, []))[0])
    return file


def test_keygen_makes_a_key_that_only_its_owner_can_read_and_replaces_none(signer, run):
    key, public = signer

    assert key.stat().st_mode & 0o777 == 0o600
    assert public_key_pem(load_signing_key(key.read_bytes())) == public.read_bytes()
    assert run("enclave", "keygen", "-o", key)[0] == 2


def test_sign_writes_into_an_elf_file_in_place_and_keeps_its_mode(oe, oe_file, signer, run):
    code, out, _ = run(
        "enclave", "sign", oe, "--key", signer[0], "--prod-id", 9, "--svn", 4, "--no-debug", "--date", DATE, "--output", "json"
    )
    identity = read_enclave(oe.read_bytes()).verified_identity()

    assert code == 0
    assert json.loads(out)["mrenclave"] == identity.mrenclave.hex()
    assert (identity.isv_prod_id, identity.isv_svn, identity.debug_allowed) == (9, 4, False)
    assert oe.stat().st_mode & 0o777 == 0o750
    assert len(oe.read_bytes()) == len(oe_file.read_bytes())
    assert [path.name for path in oe.parent.iterdir() if path.name.startswith(".")] == []


def test_sign_signs_every_block_of_an_sdk_file(sdk, signer, run):
    result = sdk.with_name("signed.so")
    before = sdk.read_bytes()

    assert run("enclave", "sign", sdk, "--key", signer[0], "--date", DATE, "-o", result)[0] == 0

    enclave = read_enclave(result.read_bytes())
    assert sdk.read_bytes() == before
    for block in (enclave, *enclave.other_blocks):
        block.verified_identity()


def test_signing_in_two_steps_gives_what_signing_in_one_gives(oe, sdk, signer, run, tmp_path):
    key, public = signer
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415 - here alone
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    for file in (oe, sdk):
        digest, signature, one, two = (tmp_path / f"{file.name}.{name}" for name in ("digest", "signature", "one", "two"))
        common = ("--date", DATE, "--svn", 3)
        assert run("enclave", "sign", file, "--key", key, *common, "-o", one)[0] == 0
        assert run("enclave", "sign", file, "--dump-digest", digest, *common) == (0, "", "")
        signature.write_bytes(load_signing_key(key.read_bytes()).sign(digest.read_bytes(), PKCS1v15(), Prehashed(SHA256())))
        assert run("enclave", "sign", file, "--signature", signature, "--public-key", public, *common, "-o", two)[0] == 0
        assert one.read_bytes() == two.read_bytes()


def test_a_signature_of_another_day_is_refused(oe, signer, run, tmp_path):
    digest = tmp_path / "digest"
    assert run("enclave", "sign", oe, "--dump-digest", digest, "--date", DATE)[0] == 0
    (tmp_path / "signature").write_bytes(b"\1" * 384)

    code, _, err = run("enclave", "sign", oe, "--signature", tmp_path / "signature", "--public-key", signer[1], "--date", "2026-02-01")

    assert (code, "does not fit the signed fields" in err) == (3, True)


KEY_COMMAND = textwrap.dedent("""
    import sys
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.hashes import SHA256
    from kubenclave.sgx import load_signing_key
    digest = sys.stdin.buffer.read()
    sys.stdout.buffer.write(load_signing_key(open(sys.argv[1], "rb").read()).sign(digest, PKCS1v15(), Prehashed(SHA256())))
""")


def test_a_command_that_holds_the_key_signs_alike(oe, signer, run, tmp_path):
    script = tmp_path / "token's program.py"
    script.write_text(KEY_COMMAND)
    key, public = signer
    one, two = tmp_path / "one", tmp_path / "two"
    command = f'{sys.executable} "{script}" {key}'

    assert run("enclave", "sign", oe, "--key", key, "--date", DATE, "-o", one)[0] == 0
    assert run("enclave", "sign", oe, "--key-command", command, "--public-key", public, "--date", DATE, "-o", two)[0] == 0

    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ((), 2, "nothing says how to sign"),
        (("--key", "k", "--key-command", "c"), 2, "--key and --key-command are given together"),
        (("--key-command", "true"), 2, "public key is not given"),
        (("--dump-digest", "d"), 2, "two steps needs --date"),
        (("--key", "missing.pem"), 5, "missing.pem cannot be read"),
        (("--key", "{key}", "--allow-debug", "--no-debug"), 2, "--allow-debug and --no-debug"),
        (("--key", "{key}", "--date", "2026-02-30"), 2, "the date '2026-02-30' is none"),
        (("--key", "{key}", "--svn", "65536"), 2, "isv_svn is 65536"),
        (("--key", "{public}"), 3, "not an unencrypted private key"),
        (("--key-command", "/nowhere/hsm", "--public-key", "{public}"), 5, "/nowhere/hsm cannot be run"),
        (("--key-command", "sh -c 'echo no token >&2; exit 1'", "--public-key", "{public}"), 4, "failed: no token"),
        (("--key-command", "'", "--public-key", "{public}"), 2, "key command cannot be read"),
        (("--key-command", "true", "--public-key", "{public}"), 3, "does not fit the signed fields"),
        (("--key-command", "head -c 100000 /dev/zero", "--public-key", "{public}"), 3, "signature"),
    ],
)
def test_what_cannot_be_signed_is_told_and_leaves_the_file_alone(oe, signer, run, options, code, says):  # noqa: PLR0917 - a table
    before = oe.read_bytes()
    words = [word.format(key=signer[0], public=signer[1]) for word in options]

    result, out, err = run("enclave", "sign", oe, *words)

    assert (result, out) == (code, "")
    assert says in err
    assert "Traceback" not in err
    assert oe.read_bytes() == before


def test_measure_says_whether_the_pages_are_what_is_signed(signed, run):
    code, out, _ = run("enclave", "measure", signed, "--output", "json")
    assert (code, json.loads(out)["is_what_is_signed"]) == (0, True)

    data = bytearray(signed.read_bytes())
    data[0x1004] ^= 1
    signed.write_bytes(data)
    code, out, err = run("enclave", "measure", signed, "--output", "json")

    result = json.loads(out)
    assert (code, result["is_what_is_signed"]) == (3, False)
    assert f"the pages measure {result['mrenclave']}, but the SIGSTRUCT signs {result['signed_mrenclave']}" in err


def test_measure_of_an_unsigned_enclave_compares_with_nothing(oe, run):
    code, out, _ = run("enclave", "measure", oe, "--output", "json")

    assert code == 0
    assert json.loads(out)["is_what_is_signed"] is None


def test_inspect_shows_identity_pages_epc_and_findings(signed, run):
    code, out, _ = run("enclave", "inspect", signed, "--vm-size", "Standard_DC1s_v2")

    assert code == 0
    for text in ("Open Enclave ELF 0.18-0.19", "debug launch     impossible", "epc once built", "relocations", "signature        fits"):
        assert text in out
    assert "epc-above-limit" not in out
    assert "epc-above-limit" in run("enclave", "inspect", signed, "--epc-limit", "8Ki")[1]


def test_inspect_writes_a_picture(signed, run, tmp_path):
    assert run("enclave", "inspect", signed, "--html", tmp_path / "picture.html")[0] == 0

    assert (tmp_path / "picture.html").read_text().startswith("<!doctype html>")


def test_inspect_asks_for_one_limit_only(signed, run):
    assert run("enclave", "inspect", signed, "--vm-size", "Standard_DC1s_v2", "--epc-limit", "1Gi")[0] == 2
    assert run("enclave", "inspect", signed, "--vm-size", "Standard_D2s_v3")[0] == 5
    assert run("enclave", "inspect", signed, "--epc-limit", "much")[0] == 2


def test_diff_exits_by_whether_the_files_are_the_same(signed, run, tmp_path):
    other = tmp_path / "other.so"
    other.write_bytes(signed.read_bytes())
    assert run("enclave", "diff", signed, other) == (0, "the same\n", "")

    data = bytearray(signed.read_bytes())
    place = data.index(b"\xf3\x0f\x1e\xfa") if b"\xf3\x0f\x1e\xfa" in data else 0x1004
    data[place] ^= 1
    other.write_bytes(data)
    code, out, err = run("enclave", "diff", signed, other)

    assert (code, err) == (3, "")
    for text in ("measured MRENCLAVE", ".text", "oe_entry"):
        assert text in out
    found = json.loads(run("enclave", "diff", signed, other, "--output", "json")[1])["first_page"]
    assert (found["address"], found["symbol"].partition("+")[0], found["what"]) == (place, "oe_entry", "content")


def test_a_file_that_is_no_enclave_is_told_with_its_name(run, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("no enclave")
    for words, code in (
        ((file,), 3),
        ((tmp_path,), 3),
        ((tmp_path / "missing",), 5),
    ):
        result, out, err = run("enclave", "inspect", *words)
        assert (result, out) == (code, "")
        assert str(words[0]) in err


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(run, tmp_path):
    os.mkfifo(tmp_path / "pipe")

    assert run("enclave", "inspect", tmp_path / "pipe")[0] == 3


def test_the_whole_program_inspects_a_file(signed):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from kubenclave.cli import main; sys.exit(main())",
            "enclave",
            "inspect",
            signed,
            "--output",
            "json",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["signature"]["is_valid"] is True
