"""From a cluster or pool as Azure has it to the body that changes it: whatever the cluster file does not speak of stays as it is. Pure.

AKS takes no partial changes: a whole resource is put, so that it is read first, changed here, and put back under its ETag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.body import ADDON, addon_profile, pool_properties
from kubenclave.cluster.spec import Mode, Sgx
from kubenclave.cluster.steps.ownership import is_of_aks, taint_written
from kubenclave.cluster.steps.tags import merged, outdated
from kubenclave.cluster.versions import is_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubenclave.cluster.body import Body, Json
    from kubenclave.cluster.spec import ClusterSpec, Pool


def changed_cluster(have: Body, spec: ClusterSpec, *, pools: bool) -> Body:
    """Return a managed cluster's body with the tags, add-on and version of the file; with ``pools``, the pools that are there, too.

    The service principal is left out, and so stays: AKS answers it without its secret, and takes it only with one.
    """
    properties = {name: value for name, value in _section(have, "properties").items() if name != "servicePrincipalProfile"}
    addons = {name: value for name, value in _section(properties, "addonProfiles").items() if name.lower() != ADDON.lower()}
    was_there = len(addons) < len(_section(properties, "addonProfiles"))
    if spec.sgx.by is Sgx.ADDON:
        addons[ADDON] = addon_profile(quote_helper=spec.sgx.quote_helper)
    elif was_there:
        addons[ADDON] = {"enabled": False}
    profiles = _pools(properties)
    if pools:
        wanted = {pool.name: pool for pool in spec.pools}
        profiles = _with_a_system_pool(
            profiles,
            [changed_pool(each, spec, wanted[str(each.get("name"))]) if each.get("name") in wanted else each for each in profiles],
        )
    changed: Body = {**properties, "addonProfiles": addons}
    if spec.kubernetes_version is not None and not is_version(spec.kubernetes_version, str(properties.get("kubernetesVersion", ""))):
        changed["kubernetesVersion"] = spec.kubernetes_version
        profiles = [{**each, "orchestratorVersion": spec.kubernetes_version} for each in profiles]
    changed["agentPoolProfiles"] = [*profiles]
    return {**have, "tags": merged(_section(have, "tags"), spec.marked_tags), "properties": changed}


def changed_pool(have: Body, spec: ClusterSpec, pool: Pool) -> Body:
    """Return a pool's properties with what the file says.

    The count of a pool that goes on scaling itself stays, and so do the labels and taints that AKS has put there.
    """
    wanted = pool_properties(spec, pool)
    tags = _section(wanted, "tags")
    left = {name: value for name, value in _section(have, "tags").items() if name not in outdated(_section(have, "tags"), tags)}
    changed: Body = {name: value for name, value in have.items() if name not in {"minCount", "maxCount"}}
    changed |= {name: wanted[name] for name in ("mode", "enableAutoScaling", "minCount", "maxCount") if name in wanted}
    changed |= {
        "nodeLabels": {**{key: value for key, value in _section(have, "nodeLabels").items() if is_of_aks(key)}, **pool.labels},
        "nodeTaints": _taints(have, pool),
        "tags": merged(left, tags),
        "count": _count(have, pool),
    }
    if spec.kubernetes_version is not None and not is_version(spec.kubernetes_version, str(have.get("orchestratorVersion", ""))):
        changed["orchestratorVersion"] = spec.kubernetes_version
    return changed


def _taints(have: Body, pool: Pool) -> list[Json]:
    wanted = [taint.text() for taint in pool.taints]
    found = have.get("nodeTaints")
    there = [each for each in found if isinstance(each, str) and is_of_aks(each)] if isinstance(found, list) else []
    written = {taint_written(each) for each in wanted}
    return [*wanted, *(each for each in there if taint_written(each) not in written)]


def _with_a_system_pool(before: list[Body], after: list[Body]) -> list[Body]:
    """Return pools as they are to be, but that System pools stay so where no other would be one yet: AKS takes no cluster without."""
    system = Mode.SYSTEM.value
    if any(each.get("mode") == system for each in after):
        return after
    return [{**new, "mode": system} if old.get("mode") == system else new for old, new in zip(before, after, strict=True)]


def _count(have: Body, pool: Pool) -> Json:
    if pool.autoscale is None:
        return pool.count
    count = have.get("count")
    if not isinstance(count, int):
        return pool.count
    return min(max(count, pool.autoscale.min), pool.autoscale.max)


def _pools(properties: Body) -> list[Body]:
    found = properties.get("agentPoolProfiles")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _section(body: Mapping[str, Json], name: str) -> Body:
    found = body.get(name)
    return found if isinstance(found, dict) else {}
