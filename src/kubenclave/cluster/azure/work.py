"""What every step is given to work with, and how a long-running operation is waited for."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from azure.core.exceptions import AzureError, HttpResponseError

from kubenclave.cluster.azure.failures import error_code, telling
from kubenclave.cluster.steps.carrying import Again
from kubenclave.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from azure.core.polling import LROPoller

    from kubenclave.cluster.azure.session import Session
    from kubenclave.cluster.facts import Found
    from kubenclave.cluster.secrets import Store
    from kubenclave.cluster.spec import ClusterSpec
    from kubenclave.cluster.steps.carrying import Clock, Watcher

T = TypeVar("T")

# Where Azure does not say by Retry-After when to ask again. The SDKs' own 30 s would be a tenth of what a small pool takes.
POLL_SECONDS = 5.0
# How often a poller's thread is looked at for an interrupt or the end of the time; its end is seen at once.
_LOOK_SECONDS = 0.5
# A directory object is known everywhere within seconds, and documented to take some minutes at worst.
REPLICATION_SECONDS = 300.0
_REPLICATION_PAUSE_SECONDS = 2.0
_TELL_SECONDS = 30.0  # how often it is told again what is waited for
_REPLICATING_CODES = frozenset({"principalnotfound", "serviceprincipalnotfound", "serviceprincipalvalidationclienterror"})
_REPLICATING = re.compile(
    r"not found in Active Directory tenant|does not exist in the directory|does not reference a valid application object"
    r"|AADSTS7000215|AADSTS700016",
    re.IGNORECASE,
)
# Entra ID's codes for a client's secret that is not one, or has ended. A new one is not known everywhere at once either.
_INVALID_SECRET, _EXPIRED_SECRET = "AADSTS7000215", "AADSTS7000222"
# The status of a failed operation is that of the poll which told of it.
_ENDED = 200
_PRECONDITION_FAILED, _CONFLICT, _NOT_FOUND = 412, 409, 404
_CONFLICTS = frozenset({"operationpreempted", "etagmismatch", "originaletagnotexpect", "anotheroperationinprogress"})
_UNDER_WAY = re.compile(r"in[- ]progress|being (created|updated|upgraded|deleted|scaled)|preempted", re.IGNORECASE)


@dataclass(slots=True, kw_only=True)
class Directory:
    """Hold what is known of the service principal by now: found, made since, or removed, as the directory's lists lag behind.

    Attributes:
        removed: Client IDs of applications.
        made: Object IDs of the applications that this run made.
        judged: Object IDs of those whose owners have been looked at; ``judging`` is held meanwhile.
        unknown_since: When AKS first did not know the service principal or its secret, in seconds of ``time.monotonic``.
    """

    app_id: str = ""
    application_object_id: str = ""
    principal_id: str = ""
    removed: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    judged: set[str] = field(default_factory=set)
    judging: threading.Lock = field(default_factory=threading.Lock)
    unknown_since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Hold what every step is given.

    Attributes:
        found: What was there when the steps were planned.
        directory: Shared by the steps of a run.
        given_up: Keys of steps that were waited for long enough, and without which the work goes on.
    """

    session: Session
    spec: ClusterSpec
    found: Found
    store: Store
    clock: Clock
    watcher: Watcher
    directory: Directory
    given_up: set[str] = field(default_factory=set)

    @property
    def group_scope(self) -> str:
        """Return the resource ID of the group."""
        return f"/subscriptions/{self.session.subscription_id}/resourceGroups/{self.spec.group}"


def finish(work: Work, begin: Callable[[], LROPoller[T]], doing: str) -> T:
    """Begin a long-running operation and wait until it ends, as its Retry-After says.

    Raises:
        Again: Another operation got there first, the resource is not as it was read, or it failed for what passes by itself.
        Unreachable: The time is over; the operation goes on at Azure.
        KubenclaveError: What Azure said of its failure.
    """
    with telling(doing):
        try:
            poller = begin()
            while not poller.done():
                poller.wait(_LOOK_SECONDS)
                if not poller.done():
                    work.clock.check(doing)
            return poller.result()
        except HttpResponseError as exc:
            if is_conflict(exc):
                work.watcher.news(f"{doing}: something else is being done to it, or it has changed; looking again")
            elif not _secret_forgotten(work, exc, doing):
                _wait_for_directory(work, exc, doing)
            raise Again from exc


class Lag:
    """Wait for the directory, which knows what was just made after seconds, and at worst minutes: told at once and every half minute."""

    def __init__(self, clock: Clock, watcher: Watcher, what: str) -> None:
        self._clock, self._watcher, self._what = clock, watcher, what
        self._began = self._told = time.monotonic()
        self._silent = True

    @property
    def is_over(self) -> bool:
        """Say whether it has lasted as long as it may at worst."""
        return time.monotonic() - self._began >= REPLICATION_SECONDS

    def pause(self) -> None:
        """Wait a little.

        Raises:
            Stopped: The work is to stop.
            Unreachable: The time is over.
        """
        now = time.monotonic()
        if self._silent or now - self._told >= _TELL_SECONDS:
            waited = f" for {now - self._began:.0f} s" if not self._silent else ""
            self._watcher.news(
                f"{self._what}: waiting{waited} until the directory knows it everywhere; {REPLICATION_SECONDS:.0f} s at most"
            )
            self._silent, self._told = False, now
        self._clock.pause(_REPLICATION_PAUSE_SECONDS, self._what)


def until_replicated(work: Work, ask: Callable[[], T], doing: str) -> T:
    """Ask again while Azure does not know yet what was just made in the directory.

    Raises:
        KubenclaveError: What Azure said, also after the time that replication takes at worst.
    """
    lag = Lag(work.clock, work.watcher, doing)
    while True:
        try:
            return ask()
        except HttpResponseError as exc:
            if not is_replicating(exc) or lag.is_over:
                raise
        lag.pause()


def _secret_forgotten(work: Work, exc: HttpResponseError, doing: str) -> bool:
    """Forget the kept secret if a failure says that it is of no use, so that another one is made; say whether it was.

    Raises:
        Refused: None is kept: AKS has one that is of no use, and takes no other for a cluster that is there.
    """
    words = exc.message or ""
    if not work.directory.app_id:
        return False
    if _EXPIRED_SECRET not in words and (_INVALID_SECRET not in words or not _is_waited_for(work, exc)):
        return False
    if work.store.find(work.directory.app_id) is None:
        raise Refused(
            f"{doing[:1].upper()}{doing[1:]} did not work: the service principal's secret that AKS has is of no use any more.",
            "az aks update-credentials gives it another; or make the cluster anew: kubenclave cluster down, then up.",
        ) from exc
    work.store.forget(work.directory.app_id)
    work.watcher.news(f"{doing}: the secret that was kept is of no use any more; making another")
    return True


def _wait_for_directory(work: Work, exc: HttpResponseError, doing: str) -> None:
    """Wait a little after an operation that failed because the directory lags behind; any other failure is raised."""
    if not is_replicating(exc) or _is_waited_for(work, exc):
        raise exc
    work.watcher.news(f"{doing}: the service principal is not known everywhere yet; asking again, for {REPLICATION_SECONDS:.0f} s at most")
    work.clock.pause(_REPLICATION_PAUSE_SECONDS, doing)


def _is_waited_for(work: Work, exc: HttpResponseError) -> bool:
    """Say whether the time has passed that replication takes. A request was repeated for as long; an operation is by the rounds."""
    if exc.status_code != _ENDED:
        return True
    since = work.directory.unknown_since
    work.directory.unknown_since = since = time.monotonic() if since is None else since
    return time.monotonic() - since >= REPLICATION_SECONDS


def is_replicating(exc: HttpResponseError) -> bool:
    """Say whether a failure is that of a directory object which is not known everywhere yet."""
    return error_code(exc).lower() in _REPLICATING_CODES or bool(_REPLICATING.search(exc.message or ""))


def is_conflict(exc: HttpResponseError) -> bool:
    """Say whether a request lost to another one. Azure uses 409 for much else, such as a quota."""
    if exc.status_code == _PRECONDITION_FAILED or error_code(exc).lower() in _CONFLICTS:
        return True
    return exc.status_code == _CONFLICT and bool(_UNDER_WAY.search(exc.message or ""))


def is_absent(exc: AzureError) -> bool:
    """Say whether a failure is that of something that is not there."""
    return isinstance(exc, HttpResponseError) and exc.status_code == _NOT_FOUND
