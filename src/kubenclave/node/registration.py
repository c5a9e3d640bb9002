"""Decide when the agent must listen afresh, and when it must register with the kubelet again. Pure: the clock is a value here.

A starting kubelet deletes every socket in its device plugin folder and then makes its own anew (``CleanupPluginDirectory`` in its
device manager). It also forgets a plugin whose ListAndWatch stream has ended. So the agent is registered only as long as its own
socket is there, the kubelet's socket is the one it registered with, and a stream is open.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

# Doubled with each attempt: quick where a starting kubelet is not listening yet, slow where it keeps refusing.
# A new kubelet.sock is tried at once, whatever the pause was.
FIRST_RETRY_SECONDS = 0.2
MAX_RETRY_SECONDS = 30.0

# The kubelet opens the stream right after it has answered Register; measured in milliseconds.
STREAM_GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """Tell one socket file from the next at the same path; the time of change, because inode numbers are used again."""

    device: int
    inode: int
    changed_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is seen at one moment: both socket files (None: absent), open streams, a monotonic clock."""

    kubelet: FileIdentity | None
    own: FileIdentity | None
    streams: int
    now_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the agent has done so far.

    Attributes:
        bound: Its socket file as it was made; None while it does not listen.
        tried: The kubelet socket it last tried to register with.
        attempts: Attempts since a stream was last open.
        retry_at_seconds: Not before this time is ``tried`` tried again.
    """

    bound: FileIdentity | None = None
    tried: FileIdentity | None = None
    attempts: int = 0
    retry_at_seconds: float = 0.0


class Step(Enum):
    """What is to be done next."""

    WAIT = "wait"
    LISTEN = "listen"
    REGISTER = "register"


def next_step(standing: Standing, situation: Situation) -> Step:
    """Decide the next step."""
    if standing.bound is None or situation.own != standing.bound:
        return Step.LISTEN
    if situation.kubelet is None:
        return Step.WAIT
    if situation.kubelet != standing.tried:
        return Step.REGISTER
    if situation.streams or situation.now_seconds < standing.retry_at_seconds:
        return Step.WAIT
    return Step.REGISTER


def listening(standing: Standing, own: FileIdentity) -> Standing:
    """Note that the agent listens on a new socket, of which no kubelet knows yet."""
    return replace(standing, bound=own, tried=None)


def watched(standing: Standing) -> Standing:
    """Note that a stream is open: the next loss is answered quickly again."""
    return replace(standing, attempts=0)


def attempted(standing: Standing, kubelet: FileIdentity | None, now_seconds: float, *, accepted: bool) -> Standing:
    """Note an attempt to register with that kubelet socket, finished now, and when the next is due if no stream opens."""
    pause_seconds = min(FIRST_RETRY_SECONDS * 2 ** min(standing.attempts, 16), MAX_RETRY_SECONDS)
    if accepted:
        pause_seconds = max(pause_seconds, STREAM_GRACE_SECONDS)
    return replace(standing, tried=kubelet, attempts=standing.attempts + 1, retry_at_seconds=now_seconds + pause_seconds)
