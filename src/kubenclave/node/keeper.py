"""Keep an object of the API server as it should be: look, correct, watch, and after every failure look again."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, Unreachable
from kubenclave.node.problems import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kubenclave.kube.in_cluster import InCluster

# An API server that is away is tried again after this time: it is the first to be back after its own restart.
RETRY_SECONDS = 1.0
# A refusal is as a rule still one a second later: the pause is doubled up to this time, and cut short by waking.
MAX_RETRY_SECONDS = 30.0


class Keeper(ABC):
    """Keeps what ``_settle`` makes of some objects; ``wake`` says that what should be has changed.

    Args:
        api: Where the objects are.
        event: How problems are called in the log.
        on_settled: Called when everything is as it should be and was not before.
        on_refused: Called once for each problem but that of an API server that is away.

    Attributes:
        settled: Everything is as it should be, as far as was seen last.
    """

    def __init__(
        self, api: InCluster, event: str, *, on_settled: Callable[[], None], on_refused: Callable[[KubenclaveError], None]
    ) -> None:
        self._api = api
        self._on_settled = on_settled
        self._on_refused = on_refused
        self._problems = Problems(event)
        self._watch_problems = Problems("watch.failed")
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
        while True:
            self._woken.clear()
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
            if not self.settled:
                self.settled = True
                self._on_settled()
            await self._until_changed(version)

    def _fail(self, exc: KubenclaveError) -> None:
        self.settled = False
        self._problems.report(exc)
        if exc.what != self._told and not isinstance(exc, Unreachable):
            self._told = exc.what
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
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
