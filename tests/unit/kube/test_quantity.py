from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import Refused
from kubenclave.kube import LARGEST_QUANTITY, parse_quantity

BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("40", 40),
        ("10Mi", 10 << 20),
        ("1.5Gi", 3 << 29),
        (".5Ki", 512),
        ("5.", 5),
        ("1930m", Fraction(193, 100)),
        ("+1k", 1000),
        ("-1", -1),
        ("1E", 10**18),
        ("1E3", 1000),
        ("1e-3", Fraction(1, 1000)),
        ("1.5e1", 15),
        ("32880636Ki", 32880636 << 10),
        ("9223372036854775807", LARGEST_QUANTITY),
        (".00000000000000000000000000000001e32", 1),
    ],
)
def test_quantities_are_read_exactly(text, value):
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "-",
        "Mi",
        "1 Mi",
        "1mi",
        "1KI",
        "1ki",
        "0x10",
        "1e",
        "1e1.5",
        "1_000",
        "\u0661",
        "1Mi\n",
        "--1",
        "1Zi",
        "nan",
        "inf",
        "1e9999",
    ],
)
def test_what_is_no_quantity_is_refused(text):
    with pytest.raises(Refused, match="is not a Kubernetes quantity"):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["9223372036854775808", "8Ei", "10E", "1e19", "1e999", "-8Ei"])
def test_what_kubernetes_cannot_hold_is_refused(text):
    with pytest.raises(Refused, match="above 2\\^63-1"):
        parse_quantity(text)


@given(st.integers(min_value=0, max_value=7), st.sampled_from(sorted(BINARY)))
def test_a_binary_suffix_shifts(count, suffix):
    assert parse_quantity(f"{count}{suffix}") == count << BINARY[suffix]


@given(st.integers(min_value=-9, max_value=9), st.integers(min_value=0, max_value=10**6 - 1), st.sampled_from(sorted(DECIMAL)))
def test_a_decimal_suffix_scales_by_a_power_of_ten_without_rounding(whole, millionths, suffix):
    text = f"{whole}.{millionths:06}{suffix}"
    sign = -1 if text.startswith("-") else 1
    expected = sign * (abs(whole) + Fraction(millionths, 10**6)) * Fraction(10) ** DECIMAL[suffix]

    if abs(expected) <= LARGEST_QUANTITY:
        assert parse_quantity(text) == expected
    else:
        with pytest.raises(Refused):
            parse_quantity(text)


@given(st.integers(min_value=0, max_value=LARGEST_QUANTITY))
def test_every_whole_number_that_fits_comes_back(count):
    assert parse_quantity(str(count)) == count


@given(st.one_of(st.text(), st.text(alphabet="0123456789.eE+-KMGinum", max_size=60)))
def test_any_text_gives_a_bounded_number_or_this_projects_refusal(text):
    try:
        value = parse_quantity(text)
    except Refused:
        return
    assert abs(value) <= LARGEST_QUANTITY
