from __future__ import annotations

import datetime as dt

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from kubenclave.errors import Refused, UsageError
from kubenclave.sgx.signing import complete, draft_sigstruct, load_signing_key, sign, signing_key_pem
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
