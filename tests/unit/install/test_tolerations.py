from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import UsageError
from kubenclave.install.tolerations import Toleration, parse_toleration, tolerations_in, untolerated
from kubenclave.kube import Taint

SKU = Taint(key="sku", value="sgx", effect="NoSchedule")


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("sku=sgx:NoSchedule", {"key": "sku", "operator": "Equal", "value": "sgx", "effect": "NoSchedule"}),
        ("sku:NoExecute", {"key": "sku", "operator": "Exists", "effect": "NoExecute"}),
        ("a.example/b_C.d=1:PreferNoSchedule", {"key": "a.example/b_C.d", "operator": "Equal", "value": "1", "effect": "PreferNoSchedule"}),
    ],
)
def test_a_toleration_is_written_as_kubectl_writes_taints(text, document):
    toleration = parse_toleration(text)

    assert toleration.document == document
    assert str(toleration) == text
    assert tolerations_in([document]) == (toleration,)


NONE = (
    *("", "sku", "sku=sgx", "sku=:NoSchedule", ":NoSchedule", "sku:noschedule", "a=b=c:NoSchedule", "a:NoSchedule ", "a:NoSchedule\n"),
    *("/a:NoSchedule", "a/b/c:NoSchedule", "A.b/c:NoSchedule", "a'b:NoSchedule", f"{'a' * 64}:NoSchedule", f"a={'b' * 64}:NoSchedule"),
)


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_toleration_is_refused(text):
    with pytest.raises(UsageError, match="is not written key"):
        parse_toleration(text)


@given(st.text(max_size=80))
def test_whatever_is_taken_can_stand_between_single_quotes(text):
    """So it stands in the rules."""
    try:
        toleration = parse_toleration(f"{text}:NoSchedule")
    except UsageError:
        return
    assert not set("'\\\n") & set(str(toleration))


@pytest.mark.parametrize(
    ("toleration", "tolerates"),
    [
        (Toleration(key="sku", value="sgx", effect="NoSchedule"), True),
        (Toleration(key="sku", value=None, effect="NoSchedule"), True),
        (Toleration(key="", value=None, effect=""), True),
        (Toleration(key="sku", value="other", effect="NoSchedule"), False),
        (Toleration(key="sku", value="sgx", effect="NoExecute"), False),
        (Toleration(key="other", value=None, effect=""), False),
    ],
)
def test_a_taint_is_tolerated_by_key_value_and_effect(toleration, tolerates):
    assert untolerated([SKU], [toleration]) == ([] if tolerates else [SKU])


@pytest.mark.parametrize("odd", [None, 7, "x", {}, [7, "x", None]])
def test_what_is_no_list_of_tolerations_holds_none(odd):
    assert tolerations_in(odd) == ()
