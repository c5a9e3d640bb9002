"""Follow what changes on a cluster, and a log, across broken connections and an API server that restarts.

What is asked of the API server comes in as callables; this file decides when to ask again and when to give up.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

from kubenclave.errors import KubenclaveError, Unreachable
from kubenclave.kube.streams import WATCH_SECONDS, Gone, LogCursor

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from kubenclave.kube.streams import LogLine

# How long an API server may be away, as when it restarts, before something that follows it gives up.
_AWAY_SECONDS = 30
_RETRY_SECONDS = 0.5
_POLL_SECONDS = 0.2

T = TypeVar("T")


def follow(
    read: Callable[[], tuple[Mapping[str, T], str]],
    changes: Callable[[str, int], Generator[tuple[str, str, T]]],
    timeout_seconds: float,
) -> Iterator[tuple[T, ...]]:
    """Yield all objects at once and again after each change, until the time is over.

    Args:
        read: Returns all objects by their UID, and the version of this state.
        changes: Yields what changed after a version as the type of change, the UID and the object, for a number of seconds.
        timeout_seconds: When to end.

    Raises:
        Unreachable: The API server was away for longer than a restart takes.
    """
    deadline = time.monotonic() + timeout_seconds
    away = _Away()
    while True:
        try:
            listed, version = read()
            away.back()
            state = dict(listed)
            yield tuple(state.values())
            seconds = int(min(WATCH_SECONDS, deadline - time.monotonic()))
            if seconds < 1:
                time.sleep(max(0.0, deadline - time.monotonic()))
                return
            with closing(changes(version, seconds)) as changed:
                for change, uid, item in changed:
                    _change(state, change, uid, item)
                    yield tuple(state.values())
        except Gone:
            time.sleep(_RETRY_SECONDS)
        except Unreachable as exc:
            away.wait_or_raise(exc)
        if time.monotonic() >= deadline:
            return


def awaited(
    states: Iterator[tuple[T, ...]],
    wished: Callable[[tuple[T, ...]], bool],
    on_change: Callable[[tuple[T, ...]], None] | None,
    too_late: str,
) -> tuple[T, ...]:
    """Return the first state that is as wished; ``on_change`` receives each that differs from the one before.

    Raises:
        KubenclaveError: The states came to an end; ``too_late`` says so.
    """
    before: tuple[T, ...] | None = None
    for state in states:
        if on_change and state != before:
            on_change(state)
        if wished(state):
            return state
        before = state
    raise KubenclaveError(too_late, "see them with kubectl get and kubectl describe")


def follow_log(
    has_finished: Callable[[], bool],
    read: Callable[[str, float], Generator[LogLine]],
    on_line: Callable[[str], None],
    limit_bytes: int,
    timeout_seconds: float,
) -> bool:
    """Pass a log on to its end, each line once; return whether all of it was passed on.

    Args:
        has_finished: Says whether what writes the log has ended.
        read: Yields the lines from a time on, until there are none or nothing comes for a number of seconds.
        on_line: Receives each line.
        limit_bytes: Where to stop.
        timeout_seconds: When to stop.

    Raises:
        Unreachable: The API server was away for longer than a restart takes.
    """
    cursor = LogCursor(limit_bytes)
    deadline = time.monotonic() + timeout_seconds
    away = _Away()
    while (left_seconds := deadline - time.monotonic()) > 0:
        try:
            finished = has_finished()
            away.back()
            cursor.resume()
            news, rest = False, None
            with closing(read(cursor.since, left_seconds)) as lines:
                for line in lines:
                    if line.is_open:
                        rest = line
                    elif cursor.passes(line):
                        news = True
                        on_line(line.text)
                    if cursor.full() or time.monotonic() > deadline:
                        return False
        except Unreachable as exc:
            away.wait_or_raise(exc)
            continue
        # The API server ends its answer in good order even when the kubelet's broke off: the log is at its end only when its writer had
        # ended before it was read, and nothing new came.
        if finished and not news:
            if rest and cursor.passes(rest):
                on_line(rest.text)
            return True
        if not finished:
            time.sleep(_POLL_SECONDS)
    return False


def _change(state: dict[str, T], change: str, uid: str, item: T) -> None:
    if change == "DELETED":
        state.pop(uid, None)
    else:
        state[uid] = item


class _Away:
    """How long the API server has been away."""

    def __init__(self) -> None:
        self._since: float | None = None

    def back(self) -> None:
        """Note that it has answered."""
        self._since = None

    def wait_or_raise(self, exc: Unreachable) -> None:
        """Wait a moment before the next try, or raise if it has been away for too long."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > _AWAY_SECONDS:
            raise exc
        time.sleep(_RETRY_SECONDS)
