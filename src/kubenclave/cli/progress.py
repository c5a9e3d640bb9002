"""Show on stderr what is being done: a spinner on a terminal, plain lines elsewhere.

Rooms report through a plain callable that takes one sentence (``Report``), and so never import rich.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kubenclave.cli.printable import printable

Report = Callable[[str], None]


def say(text: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


@contextmanager
def step(what: str) -> Iterator[Report]:
    """Show that something is being done until the block ends, then how long it took; steps do not nest.

    Args:
        what: What is being done, in the words of ``building the node image``.

    Yields:
        A callable for news on the way: shown beside the spinner, or as an indented line of its own.
    """
    started = time.monotonic()
    outcome = "failed"
    try:
        with _shown(what) as report:
            yield report
        outcome = "done"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        say(f"{what} ... {outcome} ({time.monotonic() - started:.1f} s)")


@contextmanager
def _shown(what: str) -> Iterator[Report]:
    if not sys.stderr.isatty():
        say(f"{what} ...")
        yield lambda news: say(f"  {news}")
        return
    from rich.console import Console  # noqa: PLC0415 - costs time that only a terminal is worth
    from rich.text import Text  # noqa: PLC0415

    with Console(stderr=True).status(Text(printable(what))) as status:
        yield lambda news: status.update(Text(printable(f"{what}: {news}")))
