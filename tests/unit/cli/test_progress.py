from __future__ import annotations

import re

import pytest

from kubenclave.cli.progress import say, step


def test_a_step_says_what_it_does_its_news_and_that_it_is_done_on_stderr(capsys):
    with step("building the image") as report:
        report("libc.so.6 found")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.sub(r"\d+\.\d", "N", captured.err) == "building the image ...\n  libc.so.6 found\nbuilding the image ... done (N s)\n"


@pytest.mark.parametrize(("error", "word"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_step_that_ends_badly_says_so(error, word, capsys):
    with pytest.raises(error), step("building the image"):
        raise error

    assert f"building the image ... {word} (" in capsys.readouterr().err


def test_what_is_said_cannot_drive_the_terminal(capsys):
    say("\x1b]0;owned\x07")

    assert "\x1b" not in capsys.readouterr().err
