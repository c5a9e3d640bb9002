from __future__ import annotations

import itertools

from kubenclave.node.keeper import MAX_RETRY_SECONDS, QUIET_SECONDS, RETRY_SECONDS, Corrections


def test_the_first_correction_is_made_at_once_and_not_taken_for_a_quarrel():
    corrections = Corrections()

    assert corrections.pause_seconds(1000.0) == 0
    assert corrections.note(1000.0) is False
    assert corrections.pause_seconds(1000.5) == RETRY_SECONDS


def test_each_correction_of_what_was_undone_waits_twice_as_long_up_to_half_a_minute():
    corrections = Corrections()
    now, pauses = 0.0, []
    for _ in range(8):
        corrections.note(now)
        pauses.append(corrections.pause_seconds(now))
        now += pauses[-1]

    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_after_a_quiet_time_a_correction_is_made_at_once_again():
    corrections = Corrections()
    for now in range(5):
        corrections.note(float(now))

    assert corrections.pause_seconds(4.0 + QUIET_SECONDS) == 0
    assert corrections.note(4.0 + QUIET_SECONDS) is False
    assert corrections.pause_seconds(4.0 + QUIET_SECONDS) == RETRY_SECONDS


def test_two_that_undo_each_other_never_take_the_others_pause_for_quiet():
    sides = Corrections(), Corrections()
    now, times = 0.0, []
    for side in itertools.islice(itertools.cycle(sides), 40):
        now += side.pause_seconds(now)
        side.note(now)
        times.append(now)

    assert times[-1] - times[-2] == MAX_RETRY_SECONDS
