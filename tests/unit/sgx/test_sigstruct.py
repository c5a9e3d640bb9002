from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import Refused
from kubenclave.sgx.signing import draft_sigstruct, sign
from kubenclave.sgx.sigstruct import FIELD_OFFSETS, SIGSTRUCT_BYTES, Sigstruct, parse_sigstruct, verify_signature

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def octets(size):
    return st.binary(min_size=size, max_size=size)


sigstructs = st.builds(
    Sigstruct,
    type=st.sampled_from([0, 1 << 31]),
    vendor=st.sampled_from([0, 0x8086]),
    date_bcd=U32,
    swdefined=U32,
    modulus=octets(384),
    exponent=st.just(3),
    signature=octets(384),
    miscselect=U32,
    miscmask=U32,
    cet_attributes=st.integers(0, 255),
    cet_attributes_mask=st.integers(0, 255),
    isv_family_id=octets(16),
    flags=U64,
    xfrm=U64,
    flags_mask=U64,
    xfrm_mask=U64,
    mrenclave=octets(32),
    isv_ext_prod_id=octets(16),
    isv_prod_id=st.integers(0, 0xFFFF),
    isv_svn=st.integers(0, 0xFFFF),
    q1=octets(384),
    q2=octets(384),
)


@pytest.fixture(scope="module")
def signed(signing_key):
    draft = draft_sigstruct(mrenclave=bytes(range(32)), date=dt.date(2026, 1, 31), isv_prod_id=7, isv_svn=3)
    return sign(draft, signing_key)


@given(sigstructs)
def test_parsing_is_the_inverse_of_serialising(sigstruct):
    raw = sigstruct.to_bytes()

    assert len(raw) == SIGSTRUCT_BYTES
    assert parse_sigstruct(raw) == sigstruct


def test_fields_lie_at_the_offsets_of_the_manual():
    expected = {
        "header": 0,
        "type": 12,
        "vendor": 16,
        "date_bcd": 20,
        "header2": 24,
        "swdefined": 40,
        "modulus": 128,
        "exponent": 512,
        "signature": 516,
        "miscselect": 900,
        "miscmask": 904,
        "isv_family_id": 912,
        "flags": 928,
        "flags_mask": 944,
        "mrenclave": 960,
        "isv_ext_prod_id": 1008,
        "isv_prod_id": 1024,
        "isv_svn": 1026,
        "q1": 1040,
        "q2": 1424,
    }

    assert {name: FIELD_OFFSETS[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("header", 0),
        ("header", 11),
        ("type", 12),
        ("vendor", 16),
        ("header2", 24),
        ("header2", 39),
        ("reserved1", 44),
        ("reserved1", 127),
        ("exponent", 512),
        ("reserved2", 911),
        ("reserved3", 992),
        ("reserved4", 1028),
        ("reserved4", 1039),
    ],
)
def test_a_wrong_constant_or_reserved_byte_is_refused_with_its_field_and_offset(signed, name, at):
    raw = bytearray(signed.to_bytes())
    raw[at] ^= 0x40

    with pytest.raises(Refused, match=rf"field {name} at offset {FIELD_OFFSETS[name]} "):
        parse_sigstruct(bytes(raw))


@pytest.mark.parametrize("length", [0, 1, 1807, 1809, 4096])
def test_another_length_is_refused(length):
    with pytest.raises(Refused, match=f"{length} bytes long, not 1808"):
        parse_sigstruct(bytes(length))


def test_a_good_signature_verifies_and_names_the_enclave(signed, signing_key):
    modulus = signing_key.public_key().public_numbers().n.to_bytes(384, "little")

    verify_signature(signed)

    identity = signed.identity
    assert identity.mrenclave == bytes(range(32))
    assert identity.mrsigner == hashlib.sha256(modulus).digest()
    assert (identity.isv_prod_id, identity.isv_svn, identity.debug_allowed) == (7, 3, False)


def test_flipping_any_byte_that_matters_is_detected(signed):
    raw = signed.to_bytes()

    # Every 7th byte, and each field's first and last; all 1808 take seconds and say no more.
    starts = sorted(FIELD_OFFSETS.values())
    places = {*range(0, SIGSTRUCT_BYTES, 7), *starts, *(start - 1 for start in starts[1:]), SIGSTRUCT_BYTES - 1}
    for at in sorted(places):
        changed = bytearray(raw)
        changed[at] ^= 0x01
        with pytest.raises(Refused):
            verify_signature(parse_sigstruct(bytes(changed)))


@pytest.mark.parametrize("name", ["q1", "q2"])
def test_a_wrong_quotient_is_refused_although_the_signature_is_good(signed, name):
    with pytest.raises(Refused, match=f"field {name} at offset {FIELD_OFFSETS[name]} "):
        verify_signature(dataclasses.replace(signed, **{name: bytes(384)}))


@pytest.mark.parametrize("modulus", [bytes(384), b"\xff" * 383 + b"\x7f", b"\xfe" + b"\xff" * 383])
def test_a_modulus_that_is_no_rsa_3072_modulus_is_refused(signed, modulus):
    with pytest.raises(Refused, match="modulus at offset 128"):
        verify_signature(dataclasses.replace(signed, modulus=modulus))


@given(sigstructs)
def test_verifying_anything_ends_in_a_refusal(sigstruct):
    with pytest.raises(Refused, match="at offset"):
        verify_signature(sigstruct)


@pytest.mark.parametrize(
    ("flags", "mask", "allowed"),
    [
        (0x4, 0xFFFF_FFFF_FFFF_FFFF, False),
        (0x4, 0xFFFF_FFFF_FFFF_FFFD, True),
        (0x6, 0xFFFF_FFFF_FFFF_FF79, True),
        (0x6, 0xFFFF_FFFF_FFFF_FFFF, True),
        (0x14, 0xFFFF_FFFF_FFFF_FFFF, False),
        (0x4, 0x0, True),
    ],
)
def test_debug_is_possible_where_the_flag_is_set_or_the_mask_leaves_it_open(signed, flags, mask, allowed):
    assert dataclasses.replace(signed, flags=flags, flags_mask=mask).debug_allowed is allowed


@pytest.mark.parametrize(
    ("date_bcd", "date"),
    [(0x20260131, dt.date(2026, 1, 31)), (0, None), (0x20261301, None), (0x20260230, None), (0xFFFFFFFF, None), (0x2026013A, None)],
)
def test_a_date_field_that_holds_no_date_reads_as_none(signed, date_bcd, date):
    assert dataclasses.replace(signed, date_bcd=date_bcd).date == date
