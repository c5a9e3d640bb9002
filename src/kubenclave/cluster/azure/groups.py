"""Make, tag, wait for and remove the resource group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from azure.core.exceptions import ResourceNotFoundError

from kubenclave.cluster.azure.failures import telling
from kubenclave.cluster.azure.reply import entries, text
from kubenclave.cluster.azure.work import POLL_SECONDS, finish
from kubenclave.cluster.steps.carrying import Again
from kubenclave.cluster.steps.ownership import DELETING, is_ours
from kubenclave.cluster.steps.tags import merged

if TYPE_CHECKING:
    from kubenclave.cluster.azure.work import Work

_MOST_RESOURCES = 10_000


def create_group(work: Work) -> None:
    """Make the group, with the mark. ARM has no condition for this request, so that it is looked for once more right before.

    Raises:
        Again: Someone else has made it meanwhile.
        KubenclaveError: What Azure said.
    """
    spec, groups = work.spec, work.session.resources.resource_groups
    with telling(f"making the group {spec.group}"):
        if groups.check_existence(spec.group):
            raise Again
        groups.create_or_update(spec.group, cast("Any", {"location": spec.location, "tags": spec.marked_tags}))


def update_group(work: Work) -> None:
    """Set the tags of the file; others stay.

    Raises:
        KubenclaveError: What Azure said.
    """
    spec = work.spec
    have = {} if work.found.group is None else dict(work.found.group.tags)
    with telling(f"setting the tags of the group {spec.group}"):
        work.session.resources.resource_groups.update(spec.group, cast("Any", {"tags": merged(have, spec.tags)}))


def wait_for_group(work: Work) -> None:
    """Wait until the group is gone, or its deletion has failed.

    Raises:
        Unreachable: The time is over.
    """
    name = work.spec.group
    while True:
        with telling(f"reading the group {name}"):
            try:
                found = work.session.resources.resource_groups.get(name)
            except ResourceNotFoundError:
                return
        if text(found, "properties", "provisioningState") != DELETING:
            return
        work.clock.pause(POLL_SECONDS, f"the deletion of the group {name}")


def delete_group(work: Work) -> None:
    """Remove the group, unless something has come into it, or it is no longer ours.

    Raises:
        Again: Something has.
        KubenclaveError: What Azure said.
    """
    name, resources = work.spec.group, work.session.resources
    doing = f"removing the group {name}"
    with telling(doing):
        try:
            inside = entries(resources.resources.list_by_resource_group(name), most=_MOST_RESOURCES)
            tags = resources.resource_groups.get(name).tags or {}
        except ResourceNotFoundError:
            return
    # ARM's list may show for minutes what is gone.
    own = f"/providers/microsoft.containerservice/managedclusters/{work.spec.name}".lower()
    gone = any(_is(each, own) for each in inside) and _cluster_is_gone(work)
    if any(not (gone and _is(each, own)) for each in inside) or not is_ours(tags, work.spec.owner):
        work.watcher.news(f"{doing}: something has come into it, or its mark is gone; looking again")
        raise Again
    finish(work, lambda: resources.resource_groups.begin_delete(name, polling_interval=POLL_SECONDS), doing)


def _is(resource: object, end: str) -> bool:
    return str(getattr(resource, "id", "")).lower().endswith(end)


def _cluster_is_gone(work: Work) -> bool:
    spec = work.spec
    with telling(f"reading the cluster {spec.owner}"):
        try:
            work.session.containers.managed_clusters.get(spec.group, spec.name)
        except ResourceNotFoundError:
            return True
    return False
