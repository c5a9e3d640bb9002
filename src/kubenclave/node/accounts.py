"""Keep the accounts: what containers were given and what they map, looked at when somebody asks, and not oftener than is of use."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from kubenclave.errors import HostUnfit, KubenclaveError
from kubenclave.node.mapped import containers_by_id, usages
from kubenclave.node.pod_resources import list_pods
from kubenclave.node.problems import Problems
from kubenclave.node.processes import read_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kubenclave.node._generated.podresources_pb2 import ListPodResourcesResponse
    from kubenclave.node.holdings import Container, Holding
    from kubenclave.node.mapped import Usage
    from kubenclave.node.processes import ProcessReading

# The kubelet's list of a full node of 256 GiB takes some 0.3 s of this process to read.
FRESH_SECONDS = 2.0
# With the 5 seconds that the kubelet is given, less than the 10 that Prometheus gives a scrape by default.
PROCESSES_SECONDS = 3.0

PODS, PROCESSES = "pod-resources", "processes"

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """What was seen last; None where it could not be seen, or is not looked at."""

    holdings: tuple[Holding, ...] | None = None
    usages: tuple[Usage, ...] | None = None
    unread: int = 0


class Accountant:
    """Asks the kubelet what containers hold and, if that is wanted, the host's processes what they map.

    Args:
        pod_resources: The kubelet's socket.
        read: Finds the holdings in the kubelet's answer.
        mapped: Where the host's files are seen, and the path of the enclave device, or None while there is none; without it no
            process is looked at.
    """

    def __init__(
        self,
        pod_resources: Path,
        read: Callable[[ListPodResourcesResponse], tuple[Holding, ...]],
        mapped: tuple[Path, Callable[[], Path | None]] | None,
    ) -> None:
        self._pod_resources = pod_resources
        self._read = read
        self._mapped = mapped
        self._failures: Counter[str] = Counter({PODS: 0} if mapped is None else {PODS: 0, PROCESSES: 0})
        self._problems = {source: Problems("accounts.incomplete") for source in self._failures}
        self._last = Accounts()
        self._looked_at = -FRESH_SECONDS
        self._observing: asyncio.Task[None] | None = None
        self._reading: Future[ProcessReading] | None = None
        self._over: frozenset[Container] = frozenset()

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each of the two could not be asked."""
        return self._failures

    async def look(self) -> Accounts:
        """Return what is seen now, or was a moment ago, within 8 seconds: what is not known by then is None."""
        if self._observing is None and time.monotonic() - self._looked_at >= FRESH_SECONDS:
            self._observing = asyncio.create_task(self._renew())
        if self._observing is not None:
            # Whoever came first and is gone takes nothing from those who wait for the same.
            await asyncio.shield(self._observing)
        return self._last

    async def _renew(self) -> None:
        try:
            self._last = await self._observe()
            self._looked_at = time.monotonic()
            self._tell(self._last)
        finally:
            self._observing = None

    async def _observe(self) -> Accounts:
        holdings = None
        try:
            holdings = self._read(await list_pods(self._pod_resources))
            self._problems[PODS].clear()
        except KubenclaveError as exc:
            self._fail(PODS, exc)
        if self._mapped is None:
            return Accounts(holdings=holdings)
        root, current_device = self._mapped
        device = current_device()
        if holdings is None or device is None:
            return Accounts(holdings=holdings)
        try:
            seen = await self._read_processes(root, device)
            self._problems[PROCESSES].clear()
        except KubenclaveError as exc:
            self._fail(PROCESSES, exc)
            return Accounts(holdings=holdings)
        found = usages(seen.processes, containers_by_id(seen.log_names), holdings)
        return Accounts(holdings=holdings, usages=found, unread=sum(process.mapped_bytes is None for process in seen.processes))

    async def _read_processes(self, root: Path, device: Path) -> ProcessReading:
        """Read in a thread, and start no second one beside one that hangs.

        Raises:
            HostUnfit: The processes cannot be read, or not in time.
        """
        hangs = HostUnfit(
            f"the mappings of the host's processes cannot be read within {PROCESSES_SECONDS:g} s",
            hint="a process may map a file of a mount that does not answer (NFS, FUSE); they are read again when that read has come back",
        )
        if self._reading is not None and not self._reading.done():
            raise hangs
        self._reading = _started(lambda: read_processes(root, device))
        try:
            async with asyncio.timeout(PROCESSES_SECONDS):
                return await asyncio.wrap_future(self._reading)
        except TimeoutError as exc:
            raise hangs from exc

    def _fail(self, source: str, error: KubenclaveError) -> None:
        self._failures[source] += 1
        self._problems[source].report(error)

    def _tell(self, accounts: Accounts) -> None:
        over = {usage.container: usage for usage in accounts.usages or () if usage.over}
        for container in over.keys() - self._over:
            usage = over[container]
            log.warning(
                "epc.over_mapped",
                what=f"container {container.name} of pod {container.namespace}/{container.pod} maps {usage.mapped_bytes} bytes"
                f" of the enclave device and was given {usage.held_bytes} bytes of EPC",
                hint="have it ask for what its enclaves need: EPC is counted and not enforced",
            )
        self._over = frozenset(over)


def _started(read: Callable[[], ProcessReading]) -> Future[ProcessReading]:
    """Start a thread that nobody waits for: the loop's own ones are joined when the agent ends, and one that hangs would keep it."""
    future: Future[ProcessReading] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(read())
        except BaseException as exc:  # noqa: BLE001 - raised again where the result is awaited
            future.set_exception(exc)

    threading.Thread(target=run, name="read-processes", daemon=True).start()
    return future
