"""Who is signed in is read from a token that may be anything; and waiting for the directory is told, bounded and interruptible."""

from __future__ import annotations

import base64
import json
import threading
import time

import pytest

pytest.importorskip("azure.core", reason="the Azure extra is not installed")

from hypothesis import given
from hypothesis import strategies as st

from kubenclave.cluster.azure import work
from kubenclave.cluster.azure.owners import object_id
from kubenclave.cluster.azure.work import Lag
from kubenclave.cluster.steps.carrying import Clock, Stopped, Watcher


def token(claims):
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.signature"


def test_the_object_id_is_read_from_a_tokens_claims():
    assert object_id(token({"oid": "33333333-3333-4333-8333-333333333333", "tid": "t"})) == "33333333-3333-4333-8333-333333333333"


@pytest.mark.parametrize("raw", ["", "opaque", "a.b.c", token([]), token({"oid": 7}), token({}), f"{token({'oid': 'x'})}.more"])
def test_a_token_that_tells_nobody_gives_nobody(raw):
    assert object_id(raw) == ""


def test_a_token_of_a_size_that_none_has_is_not_read():
    assert object_id(token({"oid": "x", "more": "y" * 100_000})) == ""


@given(st.one_of(st.text(), st.binary().map(lambda raw: f"e30.{base64.urlsafe_b64encode(raw).decode()}.s")))
def test_no_token_makes_reading_fail(raw):
    assert isinstance(object_id(raw), str)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(work, "_REPLICATION_PAUSE_SECONDS", 0.01)
    return Clock(seconds=60, ends=time.monotonic() + 60)


def test_waiting_is_told_at_once_and_then_at_intervals_with_how_long_it_has_lasted(clock, monkeypatch):
    monkeypatch.setattr(work, "_TELL_SECONDS", 0.05)
    said = []
    lag = Lag(clock, Watcher(news=said.append, done=said.append), "making it")
    while len(said) < 3:
        lag.pause()
    assert said[0] == "making it: waiting until the directory knows it everywhere; 300 s at most"
    assert said[1] == "making it: waiting for 0 s until the directory knows it everywhere; 300 s at most"


def test_waiting_ends_after_the_time_that_replication_takes_at_worst(clock, monkeypatch):
    monkeypatch.setattr(work, "REPLICATION_SECONDS", 0.05)
    lag = Lag(clock, Watcher(news=lambda _: None, done=lambda _: None), "making it")
    assert not lag.is_over
    while not lag.is_over:
        lag.pause()


def test_waiting_ends_at_once_when_the_work_is_to_stop(clock, monkeypatch):
    monkeypatch.setattr(work, "_REPLICATION_PAUSE_SECONDS", 30)
    lag = Lag(clock, Watcher(news=lambda _: None, done=lambda _: None), "making it")
    threading.Timer(0.05, clock.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        lag.pause()
    assert time.monotonic() - started < 5
