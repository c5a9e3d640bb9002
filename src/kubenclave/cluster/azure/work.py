"""What every step is given to work with, and how a long-running operation is waited for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from azure.core.exceptions import AzureError, HttpResponseError

from kubenclave.cluster.azure.failures import error_code, telling
from kubenclave.cluster.carrying import Again

if TYPE_CHECKING:
    from collections.abc import Callable

    from azure.core.polling import LROPoller

    from kubenclave.cluster.azure.session import Session
    from kubenclave.cluster.carrying import Clock, Watcher
    from kubenclave.cluster.facts import Found
    from kubenclave.cluster.secrets import Store
    from kubenclave.cluster.spec import ClusterSpec

T = TypeVar("T")

# Where Azure does not say by Retry-After when to ask again. The SDKs' own 30 s would be a tenth of what a small pool takes.
POLL_SECONDS = 5.0
# How often a poller's thread is looked at for an interrupt or the end of the time; its end is seen at once.
_LOOK_SECONDS = 0.5
# A directory object is known everywhere within seconds, and documented to take some minutes at worst.
REPLICATION_SECONDS = 300.0
_REPLICATION_PAUSE_SECONDS = 2.0
_REPLICATING_CODES = frozenset({"principalnotfound", "serviceprincipalnotfound", "serviceprincipalvalidationclienterror"})
_REPLICATING = re.compile(
    r"not found in Active Directory tenant|does not exist in the directory|does not reference a valid application object", re.IGNORECASE
)
_PRECONDITION_FAILED, _CONFLICT, _NOT_FOUND = 412, 409, 404
_UNDER_WAY = re.compile(r"in[- ]progress|being (created|updated|upgraded|deleted|scaled)|preempted", re.IGNORECASE)


@dataclass(slots=True, kw_only=True)
class Directory:
    """Hold what is known of the service principal by now: what was found, or made since, as the directory's lists lag behind."""

    app_id: str = ""
    application_object_id: str = ""
    principal_id: str = ""


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
        Again: Another operation got there first, or the resource is not as it was read.
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
            if not is_conflict(exc):
                raise
            work.watcher.news(f"{doing}: something else is being done to it, or it has changed; looking again")
            raise Again from exc


def until_replicated(work: Work, ask: Callable[[], T], doing: str) -> T:
    """Ask again while Azure does not know yet what was just made in the directory.

    Raises:
        KubenclaveError: What Azure said, also after the time that replication takes at worst.
    """
    waited = 0.0
    while True:
        try:
            return ask()
        except HttpResponseError as exc:
            if not is_replicating(exc) or waited >= REPLICATION_SECONDS:
                raise
        if not waited:
            work.watcher.news(f"{doing}: waiting until the service principal is known everywhere")
        work.clock.pause(_REPLICATION_PAUSE_SECONDS, doing)
        waited += _REPLICATION_PAUSE_SECONDS


def is_replicating(exc: HttpResponseError) -> bool:
    """Say whether a failure is that of a directory object which is not known everywhere yet."""
    return error_code(exc).lower() in _REPLICATING_CODES or bool(_REPLICATING.search(exc.message or ""))


def is_conflict(exc: HttpResponseError) -> bool:
    """Say whether a request lost to another one. Azure uses 409 for much else, such as a quota."""
    if exc.status_code == _PRECONDITION_FAILED:
        return True
    return exc.status_code == _CONFLICT and bool(_UNDER_WAY.search(exc.message or ""))


def is_absent(exc: AzureError) -> bool:
    """Say whether a failure is that of something that is not there."""
    return isinstance(exc, HttpResponseError) and exc.status_code == _NOT_FOUND
