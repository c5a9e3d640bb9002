"""Bring a cluster to what its file says, or remove it: read, plan, carry out, and again until nothing is left to do.

Reading anew after each round is what makes an interrupted run, a change by someone else and a lost answer all the same case: what is
there counts, and nothing that was remembered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from kubenclave.cluster.azure.asking import Asking
from kubenclave.cluster.azure.deeds import do
from kubenclave.cluster.azure.reading import read_found, read_offer
from kubenclave.cluster.azure.work import Directory, Lag, Work
from kubenclave.cluster.secrets import holds
from kubenclave.cluster.steps.carrying import Clock, carry_out
from kubenclave.cluster.steps.inventory import inventory
from kubenclave.cluster.steps.plan import plan
from kubenclave.cluster.steps.removal import does_something, removal
from kubenclave.errors import KubenclaveError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubenclave.cluster.azure.session import Session
    from kubenclave.cluster.facts import Found, FoundPrincipal, Offer
    from kubenclave.cluster.secrets import Store
    from kubenclave.cluster.spec import ClusterSpec
    from kubenclave.cluster.steps.carrying import Watcher
    from kubenclave.cluster.steps.step import Step

TIMEOUT_SECONDS = 3600.0
# One round does it all, and then nothing is left to do. What was all done, and is to be done again, would be so for ever.
_SAME_ROUNDS = 2
# Between looks at what others do at the same time: first and longest.
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 2.0, 30.0
# ARM's lists, such as that of role assignments, show within this what was done.
_SETTLE_SECONDS = 60.0


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
    now = datetime.now(tz=UTC)
    return read_found(job.session, job.spec, secret_kept=lambda app_id: holds(job.store, app_id, now))


def look_around(job: Job) -> tuple[Offer, Found]:
    """Return what Azure offers in the region, and what is there; both are asked for at once.

    Raises:
        KubenclaveError: Azure did not answer, or refused to.
    """
    offer = Asking().begin(read_offer, job.session, job.spec)
    found = look(job)
    return offer.result(), found


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
    before: list[tuple[Step, ...]] = []
    again = 0

    def left(now: Found) -> tuple[Step, ...]:
        return tuple(step for step in planned(now) if step.key not in given_up)

    try:
        while steps := left(found):
            if before.count(steps) == _SAME_ROUNDS:
                raise _unattainable(job, steps)
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
            if carry_out(steps, partial(do, work), clock, job.watcher):
                before.append(steps)
                found = _settled(job, clock, directory, partial(_differs, left, steps))
                continue
            if again:
                clock.pause(min(_PAUSE_SECONDS * 2 ** (again - 1), _LONGEST_PAUSE_SECONDS), "what others do to the cluster")
            again += 1
            found = _seen(job, clock, directory)
    except KubenclaveError:
        _tell_what_exists(job)
        raise
    return found


def _differs(left: Callable[[Found], tuple[Step, ...]], done: tuple[Step, ...], now: Found) -> bool:
    return left(now) != done


def _unattainable(job: Job, steps: tuple[Step, ...]) -> Refused:
    left = "; ".join(f"{step.key} ({', '.join(step.changes) or step.reason})" for step in steps)
    return Refused(
        f"{job.spec.owner} does not become what it should: there is still to do: {left}.",
        "Someone or something else may be changing it, such as a policy. Run the same command again once that has ended.",
    )


def _settled(job: Job, clock: Clock, directory: Directory, shows: Callable[[Found], bool]) -> Found:
    """Return what is there, once it shows what was done; what does not after some time is taken as it looks."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    told = False
    while True:
        found = _seen(job, clock, directory)
        if shows(found) or time.monotonic() >= deadline:
            return found
        if not told:
            job.watcher.news(f"what was done does not show yet: looking again, for {_SETTLE_SECONDS:.0f} s at most")
            told = True
        clock.pause(_PAUSE_SECONDS, "what was done to show")


def _seen(job: Job, clock: Clock, directory: Directory) -> Found:
    """Return what is there, once the directory's lists show what was made in it, and no longer what was removed."""
    lag = Lag(clock, job.watcher, "the directory's list of applications")
    while True:
        found = look(job)
        if _shows(found.principal, directory) or lag.is_over:
            return found
        lag.pause()


def _shows(principal: FoundPrincipal | None, directory: Directory) -> bool:
    if principal is None:
        return not directory.app_id
    if principal.app_id in directory.removed:
        return False
    return principal.app_id != directory.app_id or bool(principal.principal_id) or not directory.principal_id


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
