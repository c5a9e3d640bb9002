from __future__ import annotations

from contextlib import nullcontext

import pytest

pytest.importorskip("azure.core", reason="the Azure extra is not installed")

from azure.core.credentials import AccessToken
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.rest import HttpRequest

from kubenclave.cluster.azure import transport
from kubenclave.cluster.azure.marks import directory_filter, directory_tag
from kubenclave.cluster.azure.patience import Patience
from kubenclave.cluster.azure.session import _is_base, choose
from kubenclave.cluster.facts import Subscription
from kubenclave.errors import NotFound, Unreachable, UsageError


def subscription(digit, state="Enabled"):
    return Subscription(id=f"{digit * 8}-0000-4000-8000-00000000000a", name=f"sub {digit}", tenant="t", state=state)


def test_the_subscription_that_is_named_is_taken_whatever_its_state():
    assert choose(subscription("2").id.upper(), (subscription("1"), subscription("2", "Disabled"))) == subscription("2", "Disabled")


def test_the_only_enabled_subscription_is_taken():
    assert choose(None, (subscription("1", "Disabled"), subscription("2"))) == subscription("2")


def test_of_several_enabled_subscriptions_none_is_guessed_and_all_are_listed():
    with pytest.raises(UsageError, match="2 subscriptions") as found:
        choose(None, (subscription("1"), subscription("2")))
    assert "sub 1" in found.value.hint
    assert subscription("2").id in found.value.hint


@pytest.mark.parametrize("found", [(), (subscription("1", "Disabled"),)])
def test_no_enabled_subscription_is_not_found(found):
    with pytest.raises(NotFound):
        choose(None, found)


def test_a_named_subscription_of_another_account_is_not_found():
    with pytest.raises(NotFound, match="33333333"):
        choose(subscription("3").id, (subscription("1"),))


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        ("https://localhost:8443", True),
        ("https://management.example.org/base", True),
        ("http://localhost:8443", False),
        ("https://", False),
        ("https://user:secret@example.org", False),
        ("https://example.org?x=1", False),
        ("https://example.org:notaport", False),
        ("https://[broken", False),
        ("", False),
    ],
)
def test_a_service_is_named_by_an_https_url_without_anything_else(url, usable):
    assert _is_base(url) is usable


def test_a_patience_of_nothing_tries_once():
    assert [*Patience(0).tries()] == [True]


def test_an_ended_patience_does_not_wait():
    patience = Patience(1000)
    patience.end()
    patience.pause(1000)
    assert [*patience.tries()] == [True]


def test_pauses_grow_to_a_bound_and_end_with_the_patience(monkeypatch):
    now, pauses = [0.0], []
    monkeypatch.setattr(transport.time, "monotonic", lambda: now[0])
    patience = Patience(30)
    monkeypatch.setattr(Patience, "pause", lambda _self, seconds: (pauses.append(seconds), now.__setitem__(0, now[0] + seconds)))
    tries = [*patience.tries()]

    assert pauses == [0.5, 1, 2, 4, 5, 5, 5, 5]
    assert tries == [False] * 8 + [True]


def test_a_quote_in_a_mark_cannot_leave_the_filter():
    assert directory_filter("s", "g'or/c") == "tags/any(tag:tag eq 'kubenclave-cluster:s/g''or/c')"


def test_the_same_cluster_of_another_subscription_has_another_mark_in_the_directory():
    one, other = subscription("A").id, subscription("b").id

    assert directory_tag(one, "g/c") == f"kubenclave-cluster:{one.lower()}/g/c"
    assert directory_tag(one.lower(), "g/c") == directory_tag(one, "g/c") != directory_tag(other, "g/c")


@pytest.mark.parametrize(
    ("base", "url", "goes"),
    [
        ("https://arm.example", "https://arm.example:443/next", True),
        ("https://arm.example:443", "https://arm.example/next", True),
        ("https://arm.example", "https://eu.arm.example:443/next", True),
        ("https://arm.example", "https://arm.example:444/next", False),
        ("https://arm.example:8443", "https://arm.example/next", False),
        ("https://arm.example", "http://arm.example:443/next", False),
    ],
)
def test_the_port_of_https_is_the_same_written_and_left_out(base, url, goes):
    signed = []

    class Given:
        def get_token(self, *scopes, **_options):
            signed.extend(scopes)
            return AccessToken("token", 2**40)

    bearer = transport._Bearer(Given(), "scope", base)
    request = PipelineRequest(HttpRequest("GET", url), PipelineContext(None))

    with nullcontext() if goes else pytest.raises(Unreachable, match=r"which is not arm\.example"):
        bearer.on_request(request)
    assert bool(signed) is goes
