from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubenclave.cli import main
from kubenclave.cli.app import build, run
from kubenclave.errors import HostUnfit, KubenclaveError, NotFound, Refused, Unreachable, UsageError

MAIN = "import sys; from kubenclave.cli import main; sys.exit(main())"

RESULT = """
import sys
from kubenclave.cli.app import build, run
from kubenclave.cli.show import write
app = build()
app.command(lambda: write("a result"), name="write")
sys.exit(run(app, sys.argv[1:]))
"""


def app_that_raises(error):
    app = build()

    @app.command
    def fail(*words: str):
        del words
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KubenclaveError("it did not work", "do this"), 1),
        (UsageError("it did not work", "do this"), 2),
        (Refused("it did not work", "do this"), 3),
        (Unreachable("it did not work", "do this"), 4),
        (NotFound("it did not work", "do this"), 5),
        (HostUnfit("it did not work", "do this"), 6),
    ],
)
def test_each_kind_of_failure_has_its_exit_code_and_two_sentences(error, code, capsys):
    assert run(app_that_raises(error), ["fail"]) == code

    captured = capsys.readouterr()
    assert captured.err == "error: it did not work\nhint: do this\n"
    assert captured.out == ""


def test_a_failure_without_a_hint_prints_none(capsys):
    run(app_that_raises(KubenclaveError("it did not work")), ["fail"])

    assert capsys.readouterr().err == "error: it did not work\n"


def test_an_unforeseen_failure_is_one_sentence_without_a_traceback(capsys):
    assert run(app_that_raises(ZeroDivisionError("seven")), ["fail"]) == 1

    error = capsys.readouterr().err
    assert error.startswith("error: internal: ZeroDivisionError: seven\nhint: run again with --debug")
    assert "Traceback" not in error


@pytest.mark.parametrize("error", [ZeroDivisionError("seven"), Refused("it did not work")])
def test_debug_adds_the_traceback(error, capsys):
    run(app_that_raises(error), ["fail", "--debug"])

    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_debug_after_two_hyphens_belongs_to_the_deployed_program(capsys):
    run(app_that_raises(Refused("it did not work")), ["fail", "--", "--debug"])

    assert "Traceback" not in capsys.readouterr().err


def test_an_interrupt_says_that_running_again_is_safe(capsys):
    assert run(app_that_raises(KeyboardInterrupt()), ["fail"]) == 130

    assert "running the same command again is safe" in capsys.readouterr().err


def test_a_reader_that_has_gone_is_not_worth_a_word():
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([sys.executable, "-c", RESULT, "write"], stdout=writing, stderr=subprocess.PIPE, check=False)
    text = subprocess.run([sys.executable, "-c", RESULT, "--help"], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)

    assert (result.returncode, result.stderr) == (141, b"")
    assert text.stderr == b""


def test_a_full_disk_under_stdout_is_one_sentence_and_not_a_success():
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run([sys.executable, "-c", MAIN, "--version"], stdout=full, stderr=subprocess.PIPE, check=False)

    assert ended.returncode == 1
    assert ended.stderr.startswith(b"error: ")
    assert b"No space left on device" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_what_an_error_quotes_cannot_drive_the_terminal(capsys):
    run(app_that_raises(Refused("image \x1b[2J\u202e is not there")), ["fail"])

    assert capsys.readouterr().err == "error: image \\x1b[2J\\u202e is not there\n"


@pytest.mark.parametrize(
    "words", [["deplay"], ["local", "upp"], ["deploy"], ["deploy", "image", "--epc"], ["deploy", "image", "--epd", "1Mi"]]
)
def test_a_command_line_that_cannot_be_read_is_a_usage_error(words, capsys):
    assert main(words) == 2

    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "hint: see kubenclave " in error
    assert "Traceback" not in error


def test_a_bad_value_is_refused_before_any_cluster_is_looked_for(capsys):
    assert main(["deploy", "image", "--epc", "ten"]) == 2

    assert "'ten' is not an amount of EPC" in capsys.readouterr().err


def test_help_and_version_are_results_and_load_no_command(capsys):
    assert main(["--help"]) == 0
    assert main(["local", "--help"]) == 0
    assert main(["--version"]) == 0

    captured = capsys.readouterr()
    assert "Run an enclave image on a cluster as a Job and show its log." in captured.out
    assert "Start the cluster, or finish starting it." in captured.out
    assert captured.out.splitlines()[-1].startswith("kubenclave 0.")
    assert captured.err == ""


def test_every_command_is_named_with_a_sentence():
    names = {name for name in build() if not name.startswith("-")}

    assert names == {"cluster", "demo", "deploy", "enclave", "local", "image", "node"}
