from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import UsageError
from kubenclave.workload import dialects, parse_epc


@pytest.mark.parametrize(("text", "epc_bytes"), [("10Mi", 10 << 20), ("1.5Gi", 3 << 29), ("4096", 4096), ("1Ki", 1024), ("0.5Ki", 512)])
def test_epc_is_read_in_bytes_and_binary_units(text, epc_bytes):
    assert parse_epc(text) == epc_bytes


@pytest.mark.parametrize(
    "text",
    ["", "0", "0Mi", "-1Mi", "10M", "10MB", "10 Mi", "10mi", "ten", "1e6", "0.1", "0.0001Ki", "9" * 19, "9" * 500, "\u0661Mi", "10Mi\n"],
)
def test_what_is_no_amount_of_epc_is_a_usage_error(text):
    with pytest.raises(UsageError) as raised:
        parse_epc(text)

    assert "10Mi" in raised.value.hint


@given(st.integers(min_value=1, max_value=2**63 - 1))
def test_every_number_of_bytes_comes_back_and_fits_in_its_units_with_less_than_one_to_spare(epc_bytes):
    assert parse_epc(str(epc_bytes)) == epc_bytes
    for dialect in dialects():
        granted = dialect.units(epc_bytes) * dialect.unit_bytes
        assert epc_bytes <= granted < epc_bytes + dialect.unit_bytes


@given(st.text())
def test_any_text_gives_bytes_or_a_usage_error(text):
    try:
        epc_bytes = parse_epc(text)
    except UsageError:
        return
    assert 1 <= epc_bytes < 2**63
