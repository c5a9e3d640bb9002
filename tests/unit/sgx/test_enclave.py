from __future__ import annotations

import datetime as dt
import subprocess
import sys

import pytest

import kubenclave.sgx
from kubenclave.errors import Refused
from kubenclave.sgx import EnclaveFormat, draft_sigstruct, lay_out, measure, read_enclave, sign, write_sgxs


@pytest.fixture(scope="module")
def built(plain_elf, signing_key):
    layout = lay_out(plain_elf, heap_pages=4, stack_pages=1, threads=1)
    sigstruct = sign(draft_sigstruct(mrenclave=measure(layout), date=dt.date(2026, 1, 1), isv_svn=2), signing_key)
    return b"".join(write_sgxs(layout)), sigstruct.to_bytes()


def test_a_file_and_its_signature_give_the_identity_and_the_epc_need(built):
    enclave = read_enclave(*built)

    identity = enclave.verified_identity()

    assert identity.mrenclave == enclave.mrenclave
    assert identity.isv_svn == 2
    # Image 1 + 2 + 4, stack 1, TCS 1, state save areas 2, thread page 1, heap 4; SECS; one version array page.
    assert (enclave.epc_need.added_pages, enclave.epc_need.pages) == (16, 18)


def test_an_enclave_can_be_read_without_its_signature_but_has_no_identity_then(built):
    enclave = read_enclave(built[0])

    assert enclave.epc_need.epc_mib == 1
    with pytest.raises(Refused, match="no signature"):
        enclave.verified_identity()


def test_a_changed_page_is_refused_by_the_signature(built):
    stream = bytearray(built[0])
    stream[64 + 64 + 64] ^= 1

    with pytest.raises(Refused, match=r"measures [0-9a-f]{64}, but its signature is over [0-9a-f]{64}"):
        read_enclave(bytes(stream), built[1]).verified_identity()


def test_a_changed_signature_is_refused(built):
    signature = bytearray(built[1])
    signature[600] ^= 1

    with pytest.raises(Refused, match="signature at offset 516"):
        read_enclave(built[0], bytes(signature)).verified_identity()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", bytes(64)], ids=["empty", "zip", "zeros"])
def test_a_file_of_another_format_is_refused_with_what_it_begins_with(data):
    begins = data[:8].hex() or "nothing"
    with pytest.raises(Refused, match=rf"neither an ELF file nor an SGXS stream nor a SIGSTRUCT: at offset 0 it has {begins}"):
        read_enclave(data)


def test_formats_are_told_by_their_content(built, open_enclave, sdk):
    files = {
        EnclaveFormat.OPEN_ENCLAVE: open_enclave(),
        EnclaveFormat.INTEL_SDK: sdk.file(sdk.block([])),
        EnclaveFormat.SGXS: built[0],
        EnclaveFormat.SIGSTRUCT: built[1],
    }

    assert {form: read_enclave(data).format for form, data in files.items()} == {form: form for form in files}


def test_a_bare_sigstruct_has_an_identity_and_no_pages(built):
    enclave = read_enclave(built[1])

    assert enclave.sigstruct.isv_svn == 2
    with pytest.raises(Refused, match="pages of this enclave are not known: a SIGSTRUCT holds"):
        _ = enclave.epc_need


def test_a_signature_beside_an_elf_file_is_refused(open_enclave, built):
    with pytest.raises(Refused, match="not an SGXS stream"):
        read_enclave(open_enclave(), built[1])


def test_every_public_name_is_there():
    for name in kubenclave.sgx.__all__:
        assert getattr(kubenclave.sgx, name).__name__ == name
    assert set(dir(kubenclave.sgx)) == set(kubenclave.sgx.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = kubenclave.sgx.nothing


def test_reading_and_weighing_an_enclave_loads_neither_crypto_nor_elf_libraries():
    code = (
        "import sys; from kubenclave.sgx import read_enclave, parse_sigstruct, epc_need\n"
        "print(sorted({'cryptography', 'elftools'} & {name.split('.')[0] for name in sys.modules}))"
    )

    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout

    assert output == "[]\n"
