"""The command line: one file per command group.

A command reads its options, calls the rooms in the story's order and shows what they return. It decides nothing. Results go to
stdout; progress, logs and errors go to stderr. Command modules are imported when their command runs, so that ``--help`` answers
at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code (the kinds are in ``kubenclave.errors``).

    Args:
        arguments: The words after the program's name; those of this process when None.
    """
    try:
        from kubenclave.cli.app import build, run  # noqa: PLC0415 - the package may be installed without what its command line needs
    except ModuleNotFoundError as exc:
        if exc.name is not None and exc.name.partition(".")[0] == "kubenclave":
            raise
        print(f"error: the command line needs the Python package {exc.name}, which is not installed", file=sys.stderr)  # noqa: T201
        print("hint: install kubenclave with its extra named cli", file=sys.stderr)  # noqa: T201
        return 6
    return run(build(), sys.argv[1:] if arguments is None else list(arguments))
