"""For how long what is outside is waited for, and how all waiting is ended at once."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# A server that cannot be connected to in this time is not there; ARM itself gives up on a request after 60 s and says so.
CONNECT_SECONDS = 10.0
REPLY_SECONDS = 100.0
# A wrong address is to be told soon; a network that goes away amid an operation of ten minutes is waited for.
OPENING_SECONDS = 10.0
WORKING_SECONDS = 90.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 5.0


class Patience:
    """Hold for how long a session goes on trying to connect, in seconds; and end all its waiting at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._over = threading.Event()

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than the session lasts."""
        self._over.wait(seconds)

    def end(self) -> None:
        """Wake whoever waits, and let nobody wait again: after an interrupt no thread may hold the program up."""
        self._over.set()

    @property
    def over(self) -> bool:
        """Say whether the session has ended."""
        return self._over.is_set()

    def tries(self) -> Iterator[bool]:
        """Yield once before each try, at first at once, then after a pause that grows; say whether it is the last."""
        begun, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
        while not self._over.is_set() and time.monotonic() - begun + pause <= self.seconds:
            yield False
            self.pause(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        yield True
