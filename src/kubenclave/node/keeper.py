"""Keep an object of the API server as it should be: look, correct, watch, and after every failure look again.

A correction that is undone is made again, but each time later: where two agents with different settings meet, neither can know which of
them is to stay, and they must not wear out the API server meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from contextlib import aclosing, contextmanager, suppress
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, Refused, Unreachable
from kubenclave.node.problems import Problems

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

    from kubenclave.kube import Document
    from kubenclave.kube.in_cluster import InCluster

# An API server that is away is tried again after this time: it is the first to be back after its own restart.
RETRY_SECONDS = 1.0
# A refusal is as a rule still one a second later: the pause is doubled up to this time, and cut short by waking.
MAX_RETRY_SECONDS = 30.0
# Longer than two agents that undo each other's corrections wait together, so that neither takes the other's pause for peace.
QUIET_SECONDS = 4 * MAX_RETRY_SECONDS


class Corrections:
    """How long to leave alone what somebody else changes as well: a pause after each correction, doubled while they come again. Pure.

    Times are in seconds of any clock that only goes forward.
    """

    def __init__(self) -> None:
        self._pause_seconds = 0.0
        self._last_seconds = -math.inf

    def note(self, now_seconds: float) -> bool:
        """Note a correction, and tell whether one before it, not long ago, was undone."""
        again = now_seconds - self._last_seconds < QUIET_SECONDS
        self._pause_seconds = min(2 * self._pause_seconds, MAX_RETRY_SECONDS) if again else RETRY_SECONDS
        self._last_seconds = now_seconds
        return again

    def pause_seconds(self, now_seconds: float) -> float:
        """Return how long to wait after a change before the object is looked at; 0 where there is peace."""
        return self._pause_seconds if now_seconds - self._last_seconds < QUIET_SECONDS else 0.0


class ObservedApi:
    """The connection to the API server, with what the keeper has to know of the calls. Raises what the connection raises.

    Attributes:
        writes: How many calls changed or deleted what was there. Making anew what is gone is no quarrel: a starting kubelet deletes the
            slices of its node, however often it starts, and they must be back at once.
        refusal: The error with which the last call ended: it says nothing of the object, and rights can be gone for a moment.
    """

    def __init__(self, api: InCluster) -> None:
        self._api = api
        self.writes = 0
        self.refusal: KubenclaveError | None = None

    async def get(self, path: str, selector: Mapping[str, str] | None = None) -> Document:
        """Return an object or a list."""
        with self._heard():
            return await self._api.get(path, selector)

    async def create(self, path: str, document: Document) -> Document:
        """Create an object."""
        with self._heard():
            return await self._api.create(path, document)

    async def replace(self, path: str, document: Document) -> Document:
        """Replace an object."""
        with self._heard():
            stored = await self._api.replace(path, document)
        self.writes += 1
        return stored

    async def merge(self, path: str, patch: Document) -> Document:
        """Patch an object."""
        with self._heard():
            stored = await self._api.merge(path, patch)
        self.writes += 1
        return stored

    async def delete(self, path: str) -> None:
        """Delete an object."""
        with self._heard():
            await self._api.delete(path)
        self.writes += 1

    def watch(self, path: str, selector: Mapping[str, str], resource_version: str) -> AsyncGenerator[tuple[str, Document]]:
        """Yield each change."""
        return self._api.watch(path, selector, resource_version)

    @contextmanager
    def _heard(self) -> Iterator[None]:
        self.refusal = None
        try:
            yield
        except KubenclaveError as exc:
            self.refusal = exc
            raise


class Keeper(ABC):
    """Keeps what ``_settle`` makes of some objects; ``wake`` says that what should be has changed.

    Args:
        api: Where the objects are.
        event: How problems are called in the log.
        on_settled: Called when everything is as it should be and was not before.
        on_refused: Called once for each problem but that of an API server that is away, or says no to what it had taken before:
            what was settled then still stands.

    Attributes:
        settled: Everything is as it should be, as far as was seen last.
    """

    def __init__(
        self, api: InCluster, event: str, *, on_settled: Callable[[], None], on_refused: Callable[[KubenclaveError], None]
    ) -> None:
        self._api = ObservedApi(api)
        self._on_settled = on_settled
        self._on_refused = on_refused
        self._problems = Problems(event)
        self._watch_problems = Problems("watch.failed")
        self._undone = Problems("correction.undone")
        self._corrections = Corrections()
        self._stands = False
        self._told = ""
        self._woken = asyncio.Event()
        self.settled = False

    def wake(self) -> None:
        """Have everything looked at now."""
        self._woken.set()

    @abstractmethod
    async def _settle(self) -> str:
        """Look, correct what is not as it should be, and return the version from which to watch for changes."""

    @abstractmethod
    def _watched(self) -> tuple[str, Mapping[str, str]]:
        """Return the path and the field selector of what to watch."""

    async def run(self) -> None:
        """Keep it, until cancelled."""
        pause_seconds = RETRY_SECONDS
        now_seconds = asyncio.get_running_loop().time
        while True:
            self._woken.clear()
            was_settled, written = self.settled, self._api.writes
            try:
                version = await self._settle()
            except KubenclaveError as exc:
                self._fail(exc)
                pause_seconds = RETRY_SECONDS if isinstance(exc, Unreachable) else min(2 * pause_seconds, MAX_RETRY_SECONDS)
                await self._pause(pause_seconds)
                continue
            pause_seconds = RETRY_SECONDS
            self._problems.clear()
            self._told = ""
            if was_settled and self._api.writes > written:
                self._note_correction(now_seconds())
            if not self.settled:
                self.settled = self._stands = True
                self._on_settled()
            await self._until_changed(version)
            await self._pause(self._corrections.pause_seconds(now_seconds()))

    def _note_correction(self, now_seconds: float) -> None:
        if not self._corrections.note(now_seconds):
            self._undone.clear()
            return
        path, selector = self._watched()
        which = ", ".join(f"{field}={value}" for field, value in selector.items())
        self._undone.report(
            Refused(
                f"what this agent keeps in {path} ({which}) is changed by somebody else again and again",
                hint="see whether two agents with different settings run on this node; corrections are made, but less and less often",
            )
        )

    def _fail(self, exc: KubenclaveError) -> None:
        self.settled = False
        self._problems.report(exc)
        passing = isinstance(exc, Unreachable) or (self._stands and exc is self._api.refusal)
        if exc.what != self._told and not passing:
            self._told = exc.what
            self._stands = False
            self._on_refused(exc)

    async def _until_changed(self, version: str) -> None:
        """Return at the first change, when woken, or when the watch has ended."""
        watching = asyncio.create_task(self._first_change(version))
        waking = asyncio.create_task(self._woken.wait())
        try:
            await asyncio.wait({watching, waking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watching, waking):
                task.cancel()
            await asyncio.gather(watching, waking, return_exceptions=True)

    async def _first_change(self, version: str) -> None:
        path, selector = self._watched()
        try:
            async with aclosing(self._api.watch(path, selector, version)) as changes:
                async for _ in changes:
                    self._watch_problems.clear()
                    return
        except KubenclaveError as exc:
            self._watch_problems.report(exc)
            await asyncio.sleep(RETRY_SECONDS)

    async def _pause(self, seconds: float) -> None:
        if not seconds:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
