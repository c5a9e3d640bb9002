"""From a cluster or pool as Azure has it to the body that changes it: whatever the cluster file does not speak of stays as it is. Pure.

AKS takes no partial changes: a whole resource is put, so that it is read first, changed here, and put back under its ETag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.body import ADDON, addon_profile, pool_properties
from kubenclave.cluster.spec import OWNER_TAG, Sgx
from kubenclave.cluster.versions import is_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubenclave.cluster.body import Body, Json
    from kubenclave.cluster.spec import ClusterSpec, Pool


def changed_cluster(have: Body, spec: ClusterSpec, *, pools: bool) -> Body:
    """Return a managed cluster's body with the tags, add-on and version of the file; with ``pools``, the pools that are there, too."""
    properties = _section(have, "properties")
    addons = {name: value for name, value in _section(properties, "addonProfiles").items() if name.lower() != ADDON.lower()}
    was_there = len(addons) < len(_section(properties, "addonProfiles"))
    if spec.sgx.by is Sgx.ADDON:
        addons[ADDON] = addon_profile(quote_helper=spec.sgx.quote_helper)
    elif was_there:
        addons[ADDON] = {"enabled": False}
    profiles = _pools(properties)
    if pools:
        wanted = {pool.name: pool for pool in spec.pools}
        profiles = [changed_pool(each, spec, wanted[str(each.get("name"))]) if each.get("name") in wanted else each for each in profiles]
    changed: Body = {**properties, "addonProfiles": addons}
    if spec.kubernetes_version is not None and not is_version(spec.kubernetes_version, str(properties.get("kubernetesVersion", ""))):
        changed["kubernetesVersion"] = spec.kubernetes_version
        profiles = [{**each, "orchestratorVersion": spec.kubernetes_version} for each in profiles]
    changed["agentPoolProfiles"] = [*profiles]
    return {**have, "tags": {**_section(have, "tags"), **spec.tags, OWNER_TAG: spec.owner}, "properties": changed}


def changed_pool(have: Body, spec: ClusterSpec, pool: Pool) -> Body:
    """Return a pool's properties with what the file says; the count of a pool that goes on scaling itself stays."""
    wanted = pool_properties(spec, pool)
    changed: Body = {name: value for name, value in have.items() if name not in {"minCount", "maxCount"}}
    changed |= {name: wanted[name] for name in ("mode", "enableAutoScaling", "minCount", "maxCount") if name in wanted}
    changed |= {
        "nodeLabels": {**pool.labels},
        "nodeTaints": [taint.text() for taint in pool.taints],
        "tags": {**_section(have, "tags"), **_section(wanted, "tags")},
        "count": _count(have, pool),
    }
    return changed


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
