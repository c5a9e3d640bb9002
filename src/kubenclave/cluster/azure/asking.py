"""Ask several questions at once, in threads that nobody has to wait for.

The threads are daemons and belong to no executor: the interpreter joins an executor's at its end, so that an interrupt would last as long
as the slowest answer.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

# A cold start pays a TLS handshake for each; more of them at once only wait for the processor.
AT_ONCE = 8


class Asking:
    """Hold how many questions are asked at the same time; the others wait their turn."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._turns = threading.Semaphore(at_once)

    def begin(self, ask: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin to ask, and return where the answer or the failure will be. An interrupt ends the wait for it."""
        answer: Future[T] = Future()

        def run() -> None:
            with self._turns:
                try:
                    found = ask(*args, **kwargs)
                except BaseException as exc:  # noqa: BLE001 - raised again in the thread that waits
                    answer.set_exception(exc)
                else:
                    answer.set_result(found)

        threading.Thread(target=run, daemon=True, name="asking Azure").start()
        return answer
