"""``kubenclave cluster plan``, ``up`` and ``down``: an AKS cluster as its file says. Reads the options, calls the room, shows."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kubenclave.cli.cluster_access import checked_cluster, tell_check
from kubenclave.cli.cluster_cloud import CloudOptions, opened, secret_store
from kubenclave.cli.cluster_target import ClusterName, ClusterTarget, named, spec_of
from kubenclave.cli.printable import printable
from kubenclave.cli.progress import say, step
from kubenclave.cli.show import OutputOption, show, write
from kubenclave.errors import Refused, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kubenclave.cluster.azure.applying import Job
    from kubenclave.cluster.azure.session import Session
    from kubenclave.cluster.check import Checked
    from kubenclave.cluster.facts import Found
    from kubenclave.cluster.findings import Finding
    from kubenclave.cluster.spec import ClusterSpec
    from kubenclave.cluster.steps.inventory import Item
    from kubenclave.cluster.steps.step import Step

_HERE = CloudOptions()
_NO_TARGET, _NO_NAME = ClusterTarget(), ClusterName()
_MARKS = {"create": "+", "register": "+", "update": "~", "delete": "-", "wait": ".", "adopt": "=", "keep": "="}

TimeoutOption = Annotated[
    float, Parameter(name="--timeout-seconds", help="How long the work may take. What is under way at Azure then goes on there.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    verb: str
    kind: str
    name: str
    reason: str
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    cluster: str
    findings: tuple[Finding, ...]
    steps: tuple[_Step, ...]
    refused: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    cluster: str
    changed: bool
    there: tuple[Item, ...]
    check: Checked | None = None


def plan(
    target: ClusterTarget = _NO_TARGET,
    *,
    cloud: CloudOptions = _HERE,
    output: OutputOption = "table",
) -> None:
    """Show what stands in the way of the cluster, and what up would do. Changes nothing; ends with 3 where something stands in the way."""
    from kubenclave.cluster.steps.plan import plan as planned  # noqa: PLC0415 - --help does not need it

    spec = spec_of(target)
    with opened(cloud, spec.subscription) as session:
        job = _job(session, spec)
        found, findings = _looked(job)
    steps: tuple[Step, ...] = ()
    refusal: Refused | None = None
    try:
        steps = planned(spec, found)
    except Refused as exc:
        refusal = exc
    if output == "json":
        show(
            _Plan(cluster=spec.owner, findings=findings, steps=_plain(steps), refused=refusal.what if refusal is not None else ""),
            output=output,
        )
    else:
        write("".join(map(_paragraph, findings)))
        if refusal is None:
            write(_diff(steps) or f"{spec.owner} is as the file says: nothing to do\n")
    # All that was found is shown before it becomes a failure, so that a program can both read it and stop at it.
    if refusal is not None:
        raise refusal
    _refuse_blocked(findings, "up would make nothing")


def up(
    target: ClusterTarget = _NO_TARGET,
    *,
    timeout_seconds: TimeoutOption = 3600,
    cloud: CloudOptions = _HERE,
    output: OutputOption = "table",
) -> None:
    """Make the cluster what the file says: create it, resume it, or change it. What is as it should be stays untouched."""
    from kubenclave.cluster.azure import applying  # noqa: PLC0415 - brings the SDKs
    from kubenclave.cluster.steps.inventory import inventory  # noqa: PLC0415
    from kubenclave.cluster.steps.plan import plan as planned  # noqa: PLC0415

    spec = spec_of(target)
    _refuse_unmakeable(spec)
    with opened(cloud, spec.subscription) as session:
        job = _job(session, spec, timeout_seconds=timeout_seconds)
        found, findings = _looked(job)
        _say_findings(findings)
        _refuse_blocked(findings, "Nothing was made")
        steps = planned(spec, found)
        if steps:
            say(_diff(steps).rstrip())
            with step(f"cluster {spec.owner}") as report:
                found = applying.up(_watched(job, report), found)
        checked, why_not = checked_cluster(session, spec, found)
    if output == "table":
        tell_check(checked, why_not)
        say(f"Use it with: kubenclave cluster credentials --name {spec.name} --group {spec.group}")
        show(inventory(found, spec.owner), output=output)
        return
    show(_Done(cluster=spec.owner, changed=bool(steps), there=inventory(found, spec.owner), check=checked), output=output)


def down(
    target: ClusterName = _NO_NAME,
    *,
    yes: Annotated[bool, Parameter(help="Do not ask. Needed where stdin is no terminal.")] = False,
    timeout_seconds: TimeoutOption = 3600,
    cloud: CloudOptions = _HERE,
    output: OutputOption = "table",
) -> None:
    """Remove what was made for the cluster, and nothing else, after showing it."""
    from kubenclave.cluster.azure import applying  # noqa: PLC0415 - brings the SDKs
    from kubenclave.cluster.steps.inventory import inventory  # noqa: PLC0415
    from kubenclave.cluster.steps.removal import does_something, removal  # noqa: PLC0415

    spec = named(target)
    with opened(cloud, spec.subscription) as session:
        job = _job(session, spec, timeout_seconds=timeout_seconds)
        with step(f"looking for what was made for {spec.owner}"):
            found = applying.look(job)
        steps = removal(found, spec.owner)
        say(_diff(steps).rstrip() or f"nothing bears the mark of {spec.owner}")
        changes = does_something(steps)
        if changes:
            _confirm(spec, yes=yes)
            with step(f"removing {spec.owner}") as report:
                found = applying.down(_watched(job, report), found)
    there = inventory(found, spec.owner)
    if output == "json" or there:
        show(there if output == "table" else _Done(cluster=spec.owner, changed=changes, there=there), output=output)


def _job(session: Session, spec: ClusterSpec, *, timeout_seconds: float = 3600) -> Job:
    from kubenclave.cluster.azure.applying import Job  # noqa: PLC0415
    from kubenclave.cluster.steps.carrying import Watcher  # noqa: PLC0415

    if not 0 < timeout_seconds < float("inf"):
        raise UsageError(f"--timeout-seconds {timeout_seconds:g} leaves no time", "give seconds; 3600 without it")
    return Job(session=session, spec=spec, store=secret_store(), watcher=Watcher(news=say, done=say), timeout_seconds=timeout_seconds)


def _looked(job: Job) -> tuple[Found, tuple[Finding, ...]]:
    from kubenclave.cluster.azure.applying import look_around  # noqa: PLC0415
    from kubenclave.cluster.checks.preflight import preflight  # noqa: PLC0415
    from kubenclave.cluster.checks.rules import check  # noqa: PLC0415
    from kubenclave.cluster.checks.secret import secret_findings  # noqa: PLC0415

    with step(f"asking Azure about {job.spec.owner}"):
        offer, found = look_around(job)
    now = datetime.now(tz=UTC)
    secret = job.store.find(found.principal.app_id) if found.principal is not None else None
    findings = (
        *check(job.spec),
        *preflight(job.spec, offer, found, today=now.date()),
        *secret_findings(job.spec, found, secret, now),
    )
    return found, tuple(sorted(findings, key=lambda finding: not finding.blocks))


def _refuse_unmakeable(spec: ClusterSpec) -> None:
    """Refuse what the file says against itself, which takes no Azure to know.

    Raises:
        Refused: It does.
    """
    from kubenclave.cluster.checks.rules import check  # noqa: PLC0415 - --help does not need it

    blocking = [each for each in check(spec) if each.blocks]
    _say_findings(blocking)
    _refuse_blocked(blocking, "Nothing was made")


def _watched(job: Job, report: Callable[[str], None]) -> Job:
    from kubenclave.cluster.steps.carrying import Watcher  # noqa: PLC0415

    return replace(job, watcher=Watcher(news=report, done=lambda text: say(f"  {text}")))


def _confirm(spec: ClusterSpec, *, yes: bool) -> None:
    """Let the user say that it is to be removed.

    Raises:
        UsageError: There is nobody to ask, or the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nothing was removed: stdin is no terminal, so nobody can be asked", "add --yes")
    sys.stderr.write(f"Remove this? Write the cluster's name, {spec.name}, to go on: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != spec.name:
        raise UsageError("nothing was removed: the answer was not the cluster's name", "")


def _refuse_blocked(findings: Sequence[Finding], so: str) -> None:
    blocking = [each for each in findings if each.blocks]
    if blocking:
        more = f" (and {len(blocking) - 1} more)" if len(blocking) > 1 else ""
        raise Refused(f"{so}: {blocking[0].about}: {blocking[0].what}{more}", blocking[0].fix)


def _say_findings(findings: Sequence[Finding]) -> None:
    for each in findings:
        say(_paragraph(each).rstrip())


def _paragraph(finding: Finding) -> str:
    """Return a finding as people read it: what is the matter, how that is known, and what to do."""
    mark = "!" if finding.blocks else "i"
    lines = (f"{mark} {finding.about}: {finding.what}", f"    seen: {finding.evidence}", f"    {finding.fix}")
    return "".join(f"{printable(line)}\n" for line in lines)


def _plain(steps: Sequence[Step]) -> tuple[_Step, ...]:
    return tuple(_Step(verb=each.verb, kind=each.kind, name=each.name, reason=each.reason, changes=each.changes) for each in steps)


def _diff(steps: Sequence[Step]) -> str:
    """Return steps as people read a difference: one line each, what changes below it."""
    width = max((len(each.key) for each in steps), default=0)
    lines = []
    for each in steps:
        lines.append(f"{_MARKS[each.verb]} {each.key:<{width}}  {each.reason}")
        lines += [f"    {change}" for change in each.changes]
    return "".join(f"{printable(line)}\n" for line in lines)
