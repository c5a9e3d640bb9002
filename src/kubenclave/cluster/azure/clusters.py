"""Make, change, wait for and remove a managed cluster and its pools, at AKS."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from azure.core import MatchConditions
from azure.core.exceptions import ResourceNotFoundError

from kubenclave.cluster.azure.failures import scrub, telling
from kubenclave.cluster.azure.identities import remove_other_secrets
from kubenclave.cluster.azure.parsing import cluster as parsed
from kubenclave.cluster.azure.reply import text
from kubenclave.cluster.azure.work import POLL_SECONDS, finish, until_replicated
from kubenclave.cluster.body import cluster_body, pool_properties
from kubenclave.cluster.spec import Identity
from kubenclave.cluster.steps.carrying import Again
from kubenclave.cluster.steps.changing import changed_cluster, changed_pool
from kubenclave.cluster.steps.ownership import ENDED_BADLY, SUCCEEDED, is_working
from kubenclave.errors import KubenclaveError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubenclave.cluster.azure.work import Work
    from kubenclave.cluster.body import Body
    from kubenclave.cluster.spec import Pool

_CREATING = "Creating"


def create_cluster(work: Work) -> None:
    """Make the cluster with all its pools by one request, unless something of its name has come into being since it was looked for.

    Raises:
        Again: It has.
        KubenclaveError: What Azure said.
    """
    spec = work.spec
    body = cluster_body(spec)
    doing = f"making the cluster {spec.owner}"
    secret = _put_principal(work, body, making=True)

    def make() -> Any:  # noqa: ANN401 - the SDK's poller of a model
        poller = work.session.containers.managed_clusters.begin_create_or_update(
            spec.group,
            spec.name,
            cast("Any", body),
            headers=dict(spec.headers),
            match_condition=MatchConditions.IfMissing,
            etag="*",
            polling_interval=POLL_SECONDS,
        )
        _note_sent(work)
        return poller

    _secretly(lambda: finish(work, lambda: until_replicated(work, make, doing), doing), secret)
    _after_success(work)


def update_cluster(work: Work) -> None:
    """Put the cluster again as Azure has it, with what the file says; that also takes up what has failed.

    Raises:
        Again: It was changed meanwhile.
        KubenclaveError: What Azure said.
    """
    spec = work.spec
    doing = f"changing the cluster {spec.owner}"
    clusters = work.session.containers.managed_clusters
    with telling(doing):
        have = clusters.get(spec.group, spec.name)
    failed = text(have, "properties", "provisioningState") in ENDED_BADLY
    body = changed_cluster(cast("Body", have.as_dict(exclude_readonly=True)), spec, pools=failed)
    secret = _put_principal(work, body, making=False) if failed else ""

    def put() -> Any:  # noqa: ANN401 - as above
        return clusters.begin_create_or_update(
            spec.group, spec.name, cast("Any", body), polling_interval=POLL_SECONDS, **_unchanged(text(have, "eTag"))
        )

    _secretly(lambda: finish(work, put, doing), secret)
    if failed:
        _after_success(work)


def delete_cluster(work: Work) -> None:
    """Remove the cluster with its pools.

    Raises:
        Again: Azure is at something else with it, which has been waited for.
        KubenclaveError: What Azure said.
    """
    spec, clusters = work.spec, work.session.containers.managed_clusters
    doing = f"removing the cluster {spec.owner}"
    try:
        finish(work, lambda: clusters.begin_delete(spec.group, spec.name, polling_interval=POLL_SECONDS), doing)
    except Again:
        wait_for_cluster(work)
        raise


def wait_for_cluster(work: Work) -> None:
    """Wait until Azure has ended whatever it is doing to the cluster or its pools, or the cluster is gone.

    Raises:
        Unreachable: The time is over.
    """
    spec = work.spec
    doing = f"what Azure is doing to the cluster {spec.owner}"
    shown = ""
    while True:
        with telling(f"reading the cluster {spec.owner}"):
            try:
                raw = work.session.containers.managed_clusters.get(spec.group, spec.name)
            except ResourceNotFoundError:
                return
        found = parsed(raw)
        states = ", ".join([found.state, *(f"pool {pool.name} {pool.state}" for pool in found.pools if is_working(pool.state))])
        if not is_working(found.state) and not any(is_working(pool.state) for pool in found.pools):
            if found.state in ENDED_BADLY:
                said = text(raw, "properties", "status", "provisioningError", "message")
                work.watcher.news(f"cluster {spec.name} ended as {found.state}{': ' if said else ''}{scrub(said)}")
            if found.state == SUCCEEDED and work.found.cluster is not None and work.found.cluster.state == _CREATING:
                _after_success(work)
            return
        if states != shown:
            work.watcher.news(f"cluster {spec.name}: {states}")
            shown = states
        work.clock.pause(POLL_SECONDS, doing)


def create_pool(work: Work, pool: Pool) -> None:
    """Make a pool, unless one of its name has come into being since it was looked for.

    Raises:
        Again: It has, or something else is being done to the cluster.
        KubenclaveError: What Azure said.
    """
    spec = work.spec
    body = {"properties": pool_properties(spec, pool)}
    pools = work.session.containers.agent_pools
    finish(
        work,
        lambda: pools.begin_create_or_update(
            spec.group,
            spec.name,
            pool.name,
            cast("Any", body),
            match_condition=MatchConditions.IfMissing,
            etag="*",
            polling_interval=POLL_SECONDS,
        ),
        f"making the pool {pool.name}",
    )


def update_pool(work: Work, pool: Pool) -> None:
    """Put a pool again as Azure has it, with what the file says.

    Raises:
        Again: It was changed meanwhile, or something else is being done to the cluster.
        KubenclaveError: What Azure said.
    """
    spec, pools = work.spec, work.session.containers.agent_pools
    doing = f"changing the pool {pool.name}"
    with telling(doing):
        have = pools.get(spec.group, spec.name, pool.name)
    properties = cast("Body", have.as_dict(exclude_readonly=True).get("properties", {}))
    body = {"properties": changed_pool(properties, spec, pool)}
    tag = text(have, "properties", "eTag")
    finish(
        work,
        lambda: pools.begin_create_or_update(
            spec.group, spec.name, pool.name, cast("Any", body), polling_interval=POLL_SECONDS, **_unchanged(tag)
        ),
        doing,
    )


def delete_pool(work: Work, name: str) -> None:
    """Remove a pool.

    Raises:
        Again: Something else is being done to the cluster.
        KubenclaveError: What Azure said.
    """
    spec, pools = work.spec, work.session.containers.agent_pools
    finish(work, lambda: pools.begin_delete(spec.group, spec.name, name, polling_interval=POLL_SECONDS), f"removing the pool {name}")


def _put_principal(work: Work, body: Body, *, making: bool) -> str:
    """Put the service principal into a body, with its secret, and return the secret.

    A cluster that is there takes no other secret than the one it was made with, and needs none: only this machine's own is sent again.

    Raises:
        Refused: The secret is needed and not kept on this machine any more.
    """
    if work.spec.identity is not Identity.SERVICE_PRINCIPAL:
        return ""
    kept = work.store.find(work.directory.app_id)
    if kept is None and making:
        raise Refused(
            "The service principal's secret is not kept on this machine any more.", "Run the same command again: it makes another."
        )
    properties = body["properties"]
    if not isinstance(properties, dict):
        return ""
    if kept is None or not (making or kept.sent):
        return ""
    properties["servicePrincipalProfile"] = {"clientId": work.directory.app_id, "secret": kept.value}
    return kept.value


def _note_sent(work: Work) -> None:
    """Remember that AKS took this machine's secret."""
    if work.spec.identity is not Identity.SERVICE_PRINCIPAL:
        return
    kept = work.store.find(work.directory.app_id)
    if kept is not None:
        work.store.keep(work.directory.app_id, replace(kept, sent=True))


def _after_success(work: Work) -> None:
    if work.spec.identity is Identity.SERVICE_PRINCIPAL and work.directory.app_id:
        remove_other_secrets(work)


def _secretly(do: Callable[[], object], secret: str) -> None:
    """Do something with a secret in it, and let no failure quote it: neither its sentence nor what a traceback shows of its causes."""
    try:
        do()
    except KubenclaveError as exc:
        if not secret or not _quotes(exc, secret):
            raise
        raise type(exc)(exc.what.replace(secret, "***"), exc.hint.replace(secret, "***")) from None


def _quotes(exc: BaseException, secret: str) -> bool:
    at: BaseException | None = exc
    while at is not None:
        if secret in str(at) or secret in repr(at) or secret in getattr(at, "hint", ""):
            return True
        at = at.__cause__ or at.__context__
    return False


def _unchanged(etag: str) -> dict[str, Any]:
    """Return what makes a request fail if the resource is not as it was read any more; nothing where Azure gave no ETag."""
    return {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}
