"""Bring a cluster to what its file says, or remove it: read, plan, carry out, and again until nothing is left to do.

Reading anew after each round is what makes an interrupted run, a change by someone else and a lost answer all the same case: what is
there counts, and nothing that was remembered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kubenclave.cluster.azure.deeds import do
from kubenclave.cluster.azure.reading import read_found
from kubenclave.cluster.azure.work import REPLICATION_SECONDS, Directory, Work
from kubenclave.cluster.carrying import Clock, carry_out
from kubenclave.cluster.inventory import inventory
from kubenclave.cluster.plan import plan
from kubenclave.cluster.removal import does_something, removal
from kubenclave.errors import KubenclaveError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubenclave.cluster.azure.session import Session
    from kubenclave.cluster.carrying import Watcher
    from kubenclave.cluster.facts import Found
    from kubenclave.cluster.secrets import Store
    from kubenclave.cluster.spec import ClusterSpec
    from kubenclave.cluster.steps import Step

TIMEOUT_SECONDS = 3600.0
# One round does it all; a second one finds nothing to do. More are for what others do at the same time, and end where that does not.
_ROUNDS = 8
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Hold what is to be worked on, with what, and how long it may take."""

    session: Session
    spec: ClusterSpec
    store: Store
    watcher: Watcher
    timeout_seconds: float = TIMEOUT_SECONDS


def look(job: Job) -> Found:
    """Return what is there.

    Raises:
        KubenclaveError: Azure did not answer, or refused to.
    """
    return read_found(job.session, job.spec, secret_kept=lambda app_id: job.store.find(app_id) is not None)


def up(job: Job, found: Found) -> Found:
    """Bring the cluster to what its file says, and return what is there then.

    Args:
        job: What is to be worked on.
        found: What was there a moment ago, and has been shown to the user.

    Raises:
        Refused: It cannot be changed in place, or is not ours; or it does not become what it should.
        Unreachable: The time is over; what is under way goes on at Azure.
        KubenclaveError: What Azure said.
    """
    return _rounds(job, found, lambda now: plan(job.spec, now))


def down(job: Job, found: Found) -> Found:
    """Remove what bears the cluster's mark, and return what is there then. Args and errors as ``up``."""

    def what_is_left(now: Found) -> tuple[Step, ...]:
        steps = removal(now, job.spec.owner)
        return steps if does_something(steps) else ()

    return _rounds(job, found, what_is_left)


def _rounds(job: Job, found: Found, planned: Callable[[Found], tuple[Step, ...]]) -> Found:
    clock = Clock(seconds=job.timeout_seconds, ends=time.monotonic() + job.timeout_seconds)
    directory, given_up = Directory(), set[str]()
    try:
        for number in range(_ROUNDS):
            steps = tuple(step for step in planned(found) if step.key not in given_up)
            if not steps:
                return found
            _remember(directory, found)
            work = Work(
                session=job.session,
                spec=job.spec,
                found=found,
                store=job.store,
                clock=clock,
                watcher=job.watcher,
                directory=directory,
                given_up=given_up,
            )
            if not carry_out(steps, partial(do, work), clock, job.watcher) and number:
                clock.pause(_PAUSE_SECONDS, "what others do to the cluster")
            found = _seen(job, clock, directory)
    except KubenclaveError:
        _tell_what_exists(job)
        raise
    raise Refused(
        f"{job.spec.owner} does not become what it should: after {_ROUNDS} rounds there is still to do: {'; '.join(map(_told, steps))}.",
        "Someone or something else may be changing it, such as a policy. Run the same command again once that has ended.",
    )


def _seen(job: Job, clock: Clock, directory: Directory) -> Found:
    """Return what is there, once the directory's lists show what was made in it."""
    deadline = time.monotonic() + REPLICATION_SECONDS
    while True:
        found = look(job)
        lacks_application = bool(directory.app_id) and found.principal is None
        lacks_principal = bool(directory.principal_id) and found.principal is not None and not found.principal.principal_id
        if not (lacks_application or lacks_principal) or time.monotonic() > deadline:
            return found
        clock.pause(_PAUSE_SECONDS, "the replication of the directory")


def _remember(directory: Directory, found: Found) -> None:
    if found.principal is not None:
        directory.app_id = found.principal.app_id
        directory.application_object_id = found.principal.application_object_id
        directory.principal_id = found.principal.principal_id or directory.principal_id


def _tell_what_exists(job: Job) -> None:
    try:
        there = inventory(look(job), job.spec.owner)
    except KubenclaveError:
        job.watcher.news("what is there now cannot be read; kubenclave cluster status tells it later")
        return
    listed = "; ".join(f"{item.kind} {item.name} ({item.state}{'' if item.ours else ', not of this making'})" for item in there)
    job.watcher.news(f"what is there now: {listed or 'nothing'}")


def _told(step: Step) -> str:
    return f"{step.key} ({', '.join(step.changes) or step.reason})"
