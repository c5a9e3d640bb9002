"""Show a result on stdout: a table for people, JSON for programs.

A result is a frozen dataclass (shown as name and value) or a sequence of them (one row each). Units come from the field names:
``_bytes`` and ``_seconds`` are shown to people with their unit; JSON always has the plain numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from kubenclave.cli.printable import printable
from kubenclave.errors import KubenclaveError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Output = Literal["table", "json"]
OutputOption = Annotated[Output, Parameter(name="--output", help="How the result is shown: a table for people, JSON for programs.")]

# Columns where stdout is no terminal: wide enough that a digest or a scheduler's sentence is not cut.
_PIPE_COLUMNS = 240
_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def show(result: DataclassInstance | Sequence[DataclassInstance], *, output: Output) -> None:
    """Write the result to stdout.

    Raises:
        KubenclaveError: stdout cannot be written to, for example because its disk is full.
    """
    write(as_json(result) if output == "json" else as_table(result))


def write(text: str) -> None:
    """Write text that is part of the result to stdout at once.

    Raises:
        KubenclaveError: stdout cannot be written to.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise KubenclaveError(f"the result cannot be written to stdout: {exc.strerror}", "free space there or write it elsewhere") from exc


def write_untrusted(text: str) -> None:
    """Write text from outside, such as a line of a program's log: as it is to a file, harmless to a terminal.

    Raises:
        KubenclaveError: stdout cannot be written to.
    """
    write(printable(text) if sys.stdout.isatty() else text)


def as_json(result: DataclassInstance | Sequence[DataclassInstance]) -> str:
    """Return the result as indented JSON; bytes become hexadecimal digits, paths become text."""
    import msgspec  # noqa: PLC0415 - only a result needs it

    plain = msgspec.to_builtins(result, builtin_types=(bytes,), enc_hook=_plain)
    encoded = msgspec.json.encode(_hexed(plain))
    return msgspec.json.format(encoded, indent=2).decode() + "\n"


def as_table(result: DataclassInstance | Sequence[DataclassInstance]) -> str:
    """Return the result as a table for people."""
    from rich.console import Console  # noqa: PLC0415 - only a table needs it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if isinstance(result, Sequence):
        names = [field.name for field in fields(result[0])] if result else []
        table = Table(*[_heading(name) for name in names], box=None, pad_edge=False, header_style="bold")
        rows = [[_cell(name, getattr(row, name)) for name in names] for row in result]
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        rows = [[_heading(field.name), _cell(field.name, getattr(result, field.name))] for field in fields(result)]
    for row in rows:
        table.add_row(*[Text(cell, overflow="fold") for cell in row])
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    with console.capture() as captured:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def size(count_bytes: int) -> str:
    """Return a number of bytes in the largest binary unit that divides it, or rounded to one decimal with its exact value."""
    for unit, unit_bytes in _UNITS:
        if abs(count_bytes) >= unit_bytes:
            if count_bytes % unit_bytes == 0:
                return f"{count_bytes // unit_bytes} {unit}"
            return f"{count_bytes / unit_bytes:.1f} {unit} ({count_bytes} bytes)"
    return f"{count_bytes} bytes"


def _heading(name: str) -> str:
    return name.removesuffix("_bytes").removesuffix("_seconds").replace("_", " ")


def _cell(name: str, value: object) -> str:
    if value is None or value in ("", (), [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_bytes"):
        return size(value)
    if isinstance(value, int | float) and name.endswith("_seconds"):
        return f"{value:.1f} s"
    return printable(_words(value))


def _words(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if is_dataclass(value) and not isinstance(value, type):
        return ", ".join(f"{_heading(field.name)} {_cell(field.name, getattr(value, field.name))}" for field in fields(value))
    if isinstance(value, dict):
        return ", ".join(f"{_words(key)}={_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "\n".join(_words(item) for item in value)
    return str(value)


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a result cannot hold {type(value).__name__}")


def _hexed(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _hexed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hexed(item) for item in value]
    return value
