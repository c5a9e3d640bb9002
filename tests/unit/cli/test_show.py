from __future__ import annotations

import errno
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubenclave.cli.show import as_json, as_table, show, size, write_untrusted
from kubenclave.errors import KubenclaveError


class FullDisk(io.BytesIO):
    def flush(self):
        if not self.closed and self.getvalue():
            self.truncate(0)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    epc_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    epc_bytes: int
    run_seconds: float | None = None
    mrenclave: bytes = b"\x00\xff"
    file: Path = Path("/tmp/x")  # noqa: S108 - never opened
    ready: bool = True
    inner: tuple[Inner, ...] = ()


def test_json_carries_plain_numbers_hexadecimal_bytes_and_paths_as_text():
    shown = json.loads(as_json(Row(name="a", epc_bytes=10 << 20, inner=(Inner(epc_bytes=1),))))

    assert shown == {
        "name": "a",
        "epc_bytes": 10485760,
        "run_seconds": None,
        "mrenclave": "00ff",
        "file": "/tmp/x",  # noqa: S108
        "ready": True,
        "inner": [{"epc_bytes": 1}],
    }


def test_rows_become_a_json_array_and_one_table_line_each():
    rows = [Row(name="first", epc_bytes=10 << 20), Row(name="second", epc_bytes=1)]

    assert [row["name"] for row in json.loads(as_json(rows))] == ["first", "second"]
    heading, first, second = as_table(rows).splitlines()
    assert heading.split()[:2] == ["name", "epc"]
    assert "10 MiB" in first
    assert "1 bytes" in second


def test_a_value_becomes_name_and_value_with_units_in_words():
    table = as_table(Row(name="a", epc_bytes=5, run_seconds=1.26, inner=(Inner(epc_bytes=1 << 30),)))

    assert [line.split(maxsplit=1) for line in table.splitlines() if not line.startswith(("mrenclave", "file"))] == [
        ["name", "a"],
        ["epc", "5 bytes"],
        ["run", "1.3 s"],
        ["ready", "yes"],
        ["inner", "epc 1 GiB"],
    ]


def test_what_is_empty_is_shown_as_such():
    lines = as_table(Row(name="", epc_bytes=0)).splitlines()

    assert [line.split()[1] for line in lines if line.startswith(("name", "run", "inner"))] == ["-", "-", "-"]


def test_a_long_value_is_not_cut_where_stdout_is_no_terminal():
    digest = "sha256:" + "0123456789abcdef" * 4

    assert digest in as_table(Row(name=digest, epc_bytes=0))


def test_an_empty_sequence_is_shown_as_nothing_and_as_an_empty_array():
    assert as_table([]).strip() == ""
    assert json.loads(as_json([])) == []


def test_a_value_cannot_drive_the_terminal():
    assert "\x1b" not in as_table(Row(name="\x1b[2J", epc_bytes=0))


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (10 << 20, "10 MiB"),
        (3 << 30, "3 GiB"),
        ((1 << 20) + 1, "1.0 MiB (1048577 bytes)"),
    ],
)
def test_sizes_are_exact(count, words):
    assert size(count) == words


def test_a_log_line_passes_unchanged_into_a_file(capsys):
    write_untrusted("\x1b[1mhello\n")

    assert capsys.readouterr().out == "\x1b[1mhello\n"


def test_a_full_disk_under_stdout_is_said_in_one_sentence(monkeypatch):
    with io.TextIOWrapper(FullDisk()) as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(KubenclaveError, match="cannot be written to stdout: No space left on device"):
            show(Row(name="a", epc_bytes=0), output="json")
