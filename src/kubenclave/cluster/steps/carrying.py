"""Carry out steps in their order, those that do not depend on each other at once. Knows nothing of what a step does."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from kubenclave.cluster.steps.step import Verb
from kubenclave.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kubenclave.cluster.steps.step import Step

# How soon an interrupt is heeded while steps are under way.
_LOOK_SECONDS = 0.5
# A request that is under way when another step fails is let end, so that what it did is known; Azure answers within this.
_LAST_SECONDS = 30.0


class Again(Exception):  # noqa: N818 - no error: a turn of the road
    """Say that things are not as they were planned for: read and plan anew."""


class Stopped(Exception):  # noqa: N818 - as above
    """End a step because another one failed or the user interrupted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Hold when all of the work has to be done, and whether it is to stop before.

    Attributes:
        seconds: How long the work may take, as it was asked for.
        ends: In seconds of ``time.monotonic``.
    """

    seconds: float
    ends: float
    stop: threading.Event = field(default_factory=threading.Event)

    def check(self, doing: str) -> None:
        """Go on only while there is time.

        Raises:
            Stopped: The work is to stop.
            Unreachable: The time is over.
        """
        if self.stop.is_set():
            raise Stopped
        if time.monotonic() >= self.ends:
            raise Unreachable(
                f"{doing[:1].upper()}{doing[1:]} has not ended within the {self.seconds:.0f} s that were given; Azure goes on with it.",
                "Run the same command again: it takes up what is under way. --timeout-seconds gives it more time.",
            )

    def pause(self, seconds: float, doing: str) -> None:
        """Wait, at most until the time is over.

        Raises:
            Stopped: The work is to stop.
            Unreachable: The time is over.
        """
        self.check(doing)
        self.stop.wait(max(0.0, min(seconds, self.ends - time.monotonic())))
        self.check(doing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Hold who is told: ``news`` of what is going on, ``done`` of what has ended."""

    news: Callable[[str], None]
    done: Callable[[str], None]


def carry_out(steps: Sequence[Step], do: Callable[[Step], None], clock: Clock, watcher: Watcher) -> bool:
    """Carry out steps, and return whether all of them are done: what comes after a WAIT, or after a step that ended in Again, is not.

    The first failure lets the steps that are under way end, begins no other, and is raised.
    """
    left = {step.key: step for step in steps if not step.is_remark}
    planned, done, running, failure = frozenset(left), set[str](), set[str](), None
    ended: SimpleQueue[tuple[Step, BaseException | None]] = SimpleQueue()
    try:
        while failure is None:
            for step in [each for each in left.values() if all(key in done or key not in planned for key in each.after)]:
                del left[step.key]
                running.add(step.key)
                watcher.news(step.key)
                threading.Thread(target=_one, args=(step, do, ended, watcher), daemon=True, name=step.key).start()
            if not running:
                return not left and done == planned
            failure = _take(ended, running, done)
    except BaseException:
        clock.stop.set()
        raise
    clock.stop.set()
    _drain(ended, running, done)
    raise failure


def _one(step: Step, do: Callable[[Step], None], ended: SimpleQueue[tuple[Step, BaseException | None]], watcher: Watcher) -> None:
    started = time.monotonic()
    try:
        do(step)
    except BaseException as exc:  # noqa: BLE001 - raised again in the thread that waits
        ended.put((step, exc))
        return
    watcher.done(f"{step.key} ... done ({time.monotonic() - started:.1f} s)")
    ended.put((step, None))


def _take(ended: SimpleQueue[tuple[Step, BaseException | None]], running: set[str], done: set[str]) -> BaseException | None:
    try:
        step, exc = ended.get(timeout=_LOOK_SECONDS)
    except Empty:
        return None
    running.remove(step.key)
    if exc is None and step.verb is not Verb.WAIT:
        done.add(step.key)
    return None if isinstance(exc, Again) else exc


def _drain(ended: SimpleQueue[tuple[Step, BaseException | None]], running: set[str], done: set[str]) -> None:
    deadline = time.monotonic() + _LAST_SECONDS
    while running and time.monotonic() < deadline:
        _take(ended, running, done)
