from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kubenclave.kube.streams import LogCursor, LogLine, split_lines


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0, max_value=200), max_size=8), st.integers(min_value=1, max_value=40))
def test_lines_do_not_depend_on_how_the_bytes_arrive_and_lose_none(text, cuts, limit):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    chunks = [text[start:end] for start, end in pairwise(edges)]
    lines = list(split_lines(chunks, limit))

    assert b"".join(lines) == text
    assert all(len(line) <= limit for line in lines)
    assert all(b"\n" not in line[:-1] for line in lines)
    assert all(line.endswith(b"\n") or len(line) == limit for line in lines[:-1])


def passed(cursor, *lines):
    return [text for time, text in lines if cursor.passes(LogLine(time=time, text=text, size_bytes=len(text)))]


def test_a_log_read_again_passes_each_line_once():
    cursor = LogCursor(1000)
    assert passed(cursor, ("T1", "a"), ("T2", "b"), ("T2", "c")) == ["a", "b", "c"]

    cursor.resume()

    assert cursor.since == "T2"
    assert passed(cursor, ("T1", "a"), ("T2", "b"), ("T2", "c"), ("T2", "d"), ("T3", "e")) == ["d", "e"]


def test_lines_that_share_a_time_all_pass_without_a_break():
    assert passed(LogCursor(1000), ("T1", "a"), ("T1", "a"), ("T1", "a")) == ["a", "a", "a"]


def test_the_pieces_of_a_long_line_share_its_time_and_pass_once():
    cursor = LogCursor(1000)
    assert passed(cursor, ("T1", "aa"), ("T1", "bb"), ("T1", "c\n")) == ["aa", "bb", "c\n"]

    cursor.resume()

    assert passed(cursor, ("T1", "aa"), ("T1", "bb"), ("T1", "c\n"), ("T2", "d\n")) == ["d\n"]


def test_a_log_ends_at_its_limit():
    cursor = LogCursor(3)

    assert passed(cursor, ("T1", "ab"), ("T2", "cd"), ("T3", "ef")) == ["ab", "cd"]
    assert cursor.full()
