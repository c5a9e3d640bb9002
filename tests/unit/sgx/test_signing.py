from __future__ import annotations

import datetime as dt

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kubenclave.errors import Refused, UsageError
from kubenclave.sgx import read_enclave, with_choices, with_signatures
from kubenclave.sgx.signing import (
    complete,
    digest_to_sign,
    draft_sigstruct,
    load_public_modulus,
    load_signing_key,
    public_key_pem,
    redraft,
    sign,
    signing_key_pem,
)
from kubenclave.sgx.sigstruct import verify_signature

DATE = dt.date(2026, 1, 31)


def draft(**changes):
    return draft_sigstruct(**{"mrenclave": b"\x01" * 32, "date": DATE, **changes})


def test_the_same_key_and_date_give_the_same_bytes(signing_key):
    again = load_signing_key(signing_key_pem(signing_key))

    assert sign(draft(), signing_key).to_bytes() == sign(draft(), again).to_bytes()


def test_another_date_gives_another_signature(signing_key):
    assert sign(draft(), signing_key).signature != sign(draft(date=dt.date(2026, 2, 1)), signing_key).signature


def test_a_signature_made_elsewhere_completes_the_draft(signing_key):
    unsigned = draft()
    numbers = signing_key.public_key().public_numbers()
    elsewhere = signing_key.sign(unsigned.signed_bytes, PKCS1v15(), hashes.SHA256())

    completed = complete(unsigned, modulus=numbers.n, signature=int.from_bytes(elsewhere, "big"))

    assert completed == sign(unsigned, signing_key)
    verify_signature(completed)


def test_a_signature_over_another_draft_is_refused(signing_key):
    numbers = signing_key.public_key().public_numbers()
    other = int.from_bytes(signing_key.sign(draft(isv_svn=9).signed_bytes, PKCS1v15(), hashes.SHA256()), "big")

    with pytest.raises(Refused, match="does not fit"):
        complete(draft(), modulus=numbers.n, signature=other)
    with pytest.raises(Refused, match="RSA-3072"):
        complete(draft(), modulus=numbers.n, signature=numbers.n)
    with pytest.raises(Refused, match="RSA-3072"):
        complete(draft(), modulus=3, signature=1)


def test_debug_is_ruled_out_unless_asked_for():
    assert not draft().debug_allowed
    assert draft(unsafe_debug=True).debug_allowed


@pytest.mark.parametrize("changes", [{"isv_prod_id": 65536}, {"isv_svn": -1}, {"isv_svn": 1 << 40}, {"date": dt.date(999, 1, 1)}])
def test_values_that_do_not_fit_their_field_are_refused(changes):
    with pytest.raises(UsageError) as caught:
        draft(**changes)
    assert caught.value.hint


def pem(key, password=None):
    cipher = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cipher)


def test_keys_that_sgx_does_not_accept_are_refused_in_words(signing_key):
    cases = [
        (b"", "PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "PEM"),
        (b"x" * 100_000, "100000 bytes"),
        (pem(signing_key, b"secret"), "unencrypted"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "not an RSA key"),
        (pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "RSA-2048 with exponent 65537"),
        (pem(rsa.generate_private_key(public_exponent=3, key_size=2048)), "RSA-2048 with exponent 3"),
    ]
    for data, what in cases:
        with pytest.raises(Refused, match=what) as caught:
            load_signing_key(data)
        assert caught.value.hint


def test_signing_an_open_enclave_file_writes_what_is_asked_into_its_properties_too(open_enclave, signing_key):
    data, enclave = with_choices(open_enclave(attributes=6), isv_prod_id=40, isv_svn=5, allow_debug=False)
    draft = redraft(enclave, date=DATE, isv_prod_id=40, isv_svn=5, allow_debug=False)
    signed = read_enclave(with_signatures(data, {enclave.sigstruct_at: sign(draft, signing_key)}))

    identity = signed.verified_identity()
    assert (identity.isv_prod_id, identity.isv_svn, identity.debug_allowed) == (40, 5, False)
    assert (signed.properties.isv_prod_id, signed.properties.isv_svn, signed.properties.attributes) == (40, 5, 4)
    assert signed.mrenclave != read_enclave(open_enclave(attributes=6)).mrenclave
    assert (identity.isv_family_id, identity.isv_ext_prod_id) == (b"f" * 16, b"e" * 16)


def test_what_is_not_asked_stays_as_it_was_signed_before(sdk, signed):
    once = signed(sdk.file(sdk.block(sdk.thread_layout)), isv_prod_id=4, isv_svn=6, allow_debug=True)
    twice = read_enclave(signed(once, isv_svn=7))

    assert (twice.sigstruct.isv_prod_id, twice.sigstruct.isv_svn, twice.sigstruct.debug_allowed) == (4, 7, True)
    twice.verified_identity()


@pytest.mark.parametrize(("allow", "flags", "mask"), [(True, 6, 0xFFFF_FFFF_FFFF_FFFD), (False, 4, 0xFFFF_FFFF_FFFF_FFFF)])
def test_debugging_is_a_matter_of_attributes_and_mask(sdk, allow, flags, mask):
    draft = redraft(read_enclave(sdk.file(sdk.block([]))), date=DATE, allow_debug=allow)

    assert (draft.flags, draft.flags_mask) == (flags, mask)


def test_page_fault_reporting_is_asked_for_and_not_enforced(open_enclave):
    draft = redraft(read_enclave(open_enclave(flags=1)), date=DATE)

    assert (draft.miscselect, draft.miscmask, draft.xfrm_mask) == (1, 0xFFFF_FFFE, 0)


def test_the_same_key_and_date_give_the_same_file(open_enclave, sdk, signed):
    for data in (open_enclave(), sdk.file(sdk.block(sdk.thread_layout), sdk.block([], version=(1, 4)))):
        assert signed(data) == signed(data)
        assert signed(signed(data)) == signed(data)


def test_intel_as_vendor_is_not_kept_in_a_new_signature(sdk, signed):
    data = bytearray(signed(sdk.file(sdk.block([]))))
    at = read_enclave(bytes(data)).sigstruct_at
    data[at + 16 : at + 20] = (0x8086).to_bytes(4, "little")

    assert read_enclave(bytes(data)).sigstruct.vendor == 0x8086
    assert read_enclave(signed(bytes(data))).sigstruct.vendor == 0


def test_the_digest_is_what_a_key_elsewhere_signs(sdk, signing_key):
    draft = redraft(read_enclave(sdk.file(sdk.block([]))), date=DATE)
    signature = signing_key.sign(digest_to_sign(draft), PKCS1v15(), Prehashed(SHA256()))
    modulus = load_public_modulus(public_key_pem(signing_key))

    assert complete(draft, modulus=modulus, signature=int.from_bytes(signature, "big")) == sign(draft, signing_key)


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", b"x" * 70000])
def test_what_is_no_public_key_is_refused(pem):
    with pytest.raises(Refused, match="public key"):
        load_public_modulus(pem)


def test_a_public_key_of_another_kind_is_refused():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    with pytest.raises(Refused, match="RSA-2048 with exponent 65537"):
        load_public_modulus(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    elliptic = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(Refused, match="not an RSA key"):
        load_public_modulus(elliptic.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def test_an_enclave_whose_pages_are_not_known_cannot_be_signed(open_enclave):
    with pytest.raises(Refused, match="pages of this enclave are not known"):
        redraft(read_enclave(open_enclave(size=1952)), date=DATE)
