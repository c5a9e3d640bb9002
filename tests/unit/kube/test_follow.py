from __future__ import annotations

from itertools import islice

import pytest

from kubenclave.errors import KubenclaveError, Unreachable
from kubenclave.kube.follow import awaited, follow, follow_log
from kubenclave.kube.streams import Gone, LogLine


def script(*answers):
    """Return a callable that gives one answer after the other; an exception is raised."""
    left = list(answers)

    def call(*words):
        del words
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call


def changing(*parts):
    def changes(*words):
        del words
        for part in parts:
            if isinstance(part, Exception):
                raise part
            yield part

    return changes


def first(states, count):
    return list(islice(states, count))


def test_each_change_gives_the_whole_state():
    changes = changing(("ADDED", "2", "b"), ("MODIFIED", "1", "A"), ("DELETED", "2", "b"), ("DELETED", "9", "x"))

    states = first(follow(lambda: ({"1": "a"}, "7"), changes, 60), 5)

    assert states == [("a",), ("a", "b"), ("A", "b"), ("A",), ("A",)]


def test_a_watch_starts_from_the_version_that_was_listed():
    seen = []

    def changes(version, seconds):
        seen.append((version, seconds))
        yield "ADDED", "1", "a"

    first(follow(lambda: ({}, "7"), changes, 30), 2)

    assert seen == [("7", 29)]


@pytest.mark.parametrize("broken", [Gone(), Unreachable("away")])
def test_a_watch_that_breaks_starts_again_with_a_list(broken):
    states = first(follow(script(({}, "1"), ({"1": "a"}, "2")), changing(broken), 60), 2)

    assert states == [(), ("a",)]


def test_a_list_that_fails_once_is_tried_again():
    assert first(follow(script(Unreachable("away"), ({"1": "a"}, "2")), changing(), 60), 1) == [("a",)]


def test_what_is_not_an_absence_is_not_tried_again():
    with pytest.raises(KubenclaveError, match="no"):
        first(follow(script(KubenclaveError("no")), changing(), 60), 1)


def test_awaiting_tells_each_difference_once_and_ends_at_the_wish():
    told = []

    assert awaited(iter([(1,), (1,), (2,), (3,), (4,)]), lambda state: state == (3,), told.append, "late") == (3,)
    assert told == [(1,), (2,), (3,)]


def test_awaiting_in_vain_is_an_error():
    with pytest.raises(KubenclaveError, match="late"):
        awaited(iter([(1,)]), lambda _: False, None, "late")


def log(*goes):
    """Return a reader that gives the lines of one go after the other; what is no line is raised."""
    left = list(goes)

    def read(*words):
        del words
        for line in left.pop(0):
            if isinstance(line, Exception):
                raise line
            yield LogLine(time=line[0], text=line[1], size_bytes=len(line[1]))

    return read


A, B, C = ("T1", "a\n"), ("T2", "b\n"), ("T2", "c\n")


def test_a_log_is_at_its_end_only_when_its_writer_had_ended_and_nothing_new_comes():
    lines = []

    assert follow_log(script(False, True, True), log([A], [A, B], [B]), lines.append, 100, 60)
    assert lines == ["a\n", "b\n"]


def test_a_log_that_breaks_off_is_read_on():
    lines = []
    goes = [[A, B, Unreachable("away")], [B, C], [B, C]]

    assert follow_log(lambda: True, log(*goes), lines.append, 100, 60)
    assert lines == ["a\n", "b\n", "c\n"]


def test_a_line_within_which_an_answer_ended_is_passed_on_once_and_whole():
    lines = []
    goes = [[A, ("T2", "hel")], [A, ("T2", "hello\n"), ("T3", "en")], [("T2", "hello\n"), ("T3", "end")]]

    assert follow_log(lambda: True, log(*goes), lines.append, 100, 60)
    assert lines == ["a\n", "hello\n", "end"]


def test_a_log_is_cut_at_its_limit_and_that_is_told():
    lines = []

    assert not follow_log(lambda: False, log([A, B, C]), lines.append, 4, 60)
    assert lines == ["a\n", "b\n"]


def test_what_the_reader_of_a_log_raises_is_its_own():
    def on_line(line):
        raise BrokenPipeError(line)

    with pytest.raises(BrokenPipeError):
        follow_log(lambda: True, log([A]), on_line, 100, 60)
