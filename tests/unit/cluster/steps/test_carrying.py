"""Steps are carried out after those they need, others at the same time; the first failure ends it, and nothing new begins."""

from __future__ import annotations

import threading
import time

import pytest

from kubenclave.cluster.steps.carrying import Again, Clock, Stopped, Watcher, carry_out
from kubenclave.cluster.steps.step import Kind, Step, Verb
from kubenclave.errors import KubenclaveError, Unreachable

DEADLOCK_SECONDS = 10


def step(name, *after, verb=Verb.CREATE):
    return Step(kind=Kind.POOL, verb=verb, name=name, reason="", after=tuple(f"create pool {each}" for each in after))


def clock(seconds=60.0):
    return Clock(seconds=seconds, ends=time.monotonic() + seconds)


def carried(steps, do, within=None):
    said = []
    whole = carry_out(steps, do, within or clock(), Watcher(news=said.append, done=said.append))
    return whole, said


def test_a_step_begins_when_all_that_it_needs_is_done():
    done = []
    whole, said = carried([step("c", "a", "b"), step("a"), step("b", "a")], lambda each: done.append(each.name))
    assert (whole, done) == (True, ["a", "b", "c"])
    assert said[0] == "create pool a"
    assert said[-1].startswith("create pool c ... done")


def test_steps_that_do_not_need_each_other_run_at_once():
    both = threading.Barrier(2, timeout=DEADLOCK_SECONDS)
    whole, _ = carried([step("a"), step("b")], lambda _: both.wait())
    assert whole


def test_a_failure_begins_nothing_new_and_lets_what_is_under_way_end():
    ended = []
    begun = threading.Event()

    def do(each):
        if each.name == "bad":
            begun.wait(DEADLOCK_SECONDS)
            raise KubenclaveError("bad", "")
        begun.set()
        time.sleep(0.1)
        ended.append(each.name)

    with pytest.raises(KubenclaveError, match="bad"):
        carried([step("bad"), step("slow"), step("later", "slow"), step("never", "bad")], do)
    assert ended == ["slow"]


def test_a_failure_stops_what_only_waits():
    within = clock()
    stopped = []

    def do(each):
        if each.name == "bad":
            raise KubenclaveError("bad", "")
        try:
            within.pause(DEADLOCK_SECONDS, "waiting")
        except Stopped:
            stopped.append(each.name)
            raise

    with pytest.raises(KubenclaveError, match="bad"):
        carried([step("waits"), step("bad")], do, within)
    assert stopped == ["waits"]


@pytest.mark.parametrize("verb", [Verb.WAIT, Verb.CREATE])
def test_what_comes_after_a_wait_or_a_turn_is_left_for_the_next_plan(verb):
    done = []

    def do(each):
        done.append(each.name)
        if each.name == "turn" and verb is Verb.CREATE:
            raise Again

    first = step("turn", verb=verb)
    then = Step(kind=Kind.POOL, verb=Verb.CREATE, name="then", reason="", after=(first.key,))
    whole, _ = carried([first, then, step("beside")], do)
    assert (whole, sorted(done)) == (False, ["beside", "turn"])


def test_what_is_kept_is_not_done_and_needs_not_be_waited_for():
    keep = Step(kind=Kind.GROUP, verb=Verb.KEEP, name="g", reason="")
    done = []
    assert carried(
        [keep, Step(kind=Kind.POOL, verb=Verb.DELETE, name="a", reason="", after=(keep.key,))], lambda each: done.append(each.name)
    )[0]
    assert done == ["a"]


def test_a_time_that_is_over_is_told_with_what_to_do():
    with pytest.raises(Unreachable, match="Making x has not ended within the 0 s") as over:
        clock(0).pause(5, "making x")
    assert "same command again" in over.value.hint
    assert over.value.exit_code == 4
