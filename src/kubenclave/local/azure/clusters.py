"""Managed clusters and agent pools: checked as AKS checks them, made and removed by long-running operations."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from kubenclave.local.azure import compute, graph, operations, registration, resources
from kubenclave.local.azure.backing import local_name
from kubenclave.local.azure.bodies import CLUSTER_NAME, Naming, cluster_body, pool_body, pool_resource, require_system_pool
from kubenclave.local.azure.catalogue import catalogue, location_name
from kubenclave.local.azure.context import cluster_id, cluster_key, new_id
from kubenclave.local.azure.state import Cluster, Group, Principal
from kubenclave.local.azure.values import Body, Rejected, Reply, section, text

if TYPE_CHECKING:
    from kubenclave.local.azure.context import Context

MAX_CLUSTERS = 50  # far below Azure's 5000 for a subscription: each may bring up a Kubernetes on this machine
_AKS = "Microsoft.ContainerService/managedClusters"


def list_versions(_context: Context, where: dict[str, str]) -> Reply:
    """Answer the Kubernetes versions of a location."""
    location_name(where["location"])
    patches = [patch for entry in catalogue().versions.values() for patch in entry.patches]
    rows = [
        {
            "version": minor,
            "capabilities": {"supportPlan": ["KubernetesOfficial", *(["AKSLongTermSupport"] if entry.long_term else [])]},
            "isDefault": entry.default,
            "isPreview": entry.preview,
            "patchVersions": {patch: {"upgrades": patches[patches.index(patch) + 1 :]} for patch in entry.patches},
        }
        for minor, entry in catalogue().versions.items()
    ]
    return Reply(status=200, body={"values": rows})


def list_clusters(context: Context, where: dict[str, str]) -> Reply:
    """Answer the clusters of the subscription, or of the group that the path names."""
    group = where.get("group")
    if group is not None:
        context.group(group)
    found = [each.body for each in context.state.clusters.values() if group is None or each.group.lower() == group.lower()]
    return Reply(status=200, body={"value": found})


def get_cluster(context: Context, where: dict[str, str]) -> Reply:
    """Answer one cluster."""
    return Reply(status=200, body=context.cluster(where["group"], where["name"]).body)


def put_cluster(context: Context, where: dict[str, str]) -> Reply:
    """Make a cluster or change one: 201 or 200 with Azure-AsyncOperation, as recorded."""
    group = context.group(where["group"])
    if group.deleting:
        raise resources.being_deleted(group)
    registration.require_provider(context)
    asked, name = context.request.json(), where["name"]
    if not CLUSTER_NAME.fullmatch(name):
        raise Rejected(400, "InvalidParameter", f"The value of parameter resourceName is invalid: {name!r}.")
    _check_schema(context, "managedClusters", name, asked)
    key = cluster_key(group.name, name)
    existing = context.state.clusters.get(key)
    _require_etag(context, existing.body if existing else None)
    _require_idle(context, key, existing)
    place = location_name(text(asked, "location") or (existing.body["location"] if existing else group.location))
    before = existing.body if existing else None
    body = cluster_body(asked, before, Naming(group=group.name, name=name, location=place, new_id=new_id))
    _check_principal(context, asked, changing=existing is not None)
    _check_pools(context, body["properties"]["agentPoolProfiles"], before, place)
    if existing is None and len(context.state.clusters) >= MAX_CLUSTERS:
        raise Rejected(400, "QuotaExceeded", f"simulated: at most {MAX_CLUSTERS} managed clusters are kept here.")
    state = "Updating" if existing else "Creating"
    body["properties"]["provisioningState"] = state
    body["eTag"] = new_id()
    for pool in body["properties"]["agentPoolProfiles"]:
        pool["provisioningState"] = state
        pool["eTag"] = new_id()
    kept = existing or Cluster(group=group.name, name=name, body=body)
    kept.body = body
    kept.doomed = (existing is None or existing.doomed) and any(fault.what.startswith("operation-") for fault in context.faults)
    context.state.clusters[key] = kept
    _bring_along(context, kept)
    _forget_failed(context, key)
    headers = operations.start(context, "put-cluster", target=key, location=place, style="async")
    return Reply(status=200 if existing else 201, body=body, headers=headers)


def delete_cluster(context: Context, where: dict[str, str]) -> Reply:
    """Begin to delete a cluster: 202 with both headers; 204 where there is none."""
    context.group(where["group"])
    key = cluster_key(where["group"], where["name"])
    cluster = context.state.clusters.get(key)
    if cluster is None:
        return Reply(status=204)
    now_running = operations.running(context.state, key)
    if cluster.deleting and now_running is not None:
        return Reply(status=202, headers=operations.headers(context, now_running))
    operations.abandon(context, key)
    cluster.deleting = True
    cluster.body["properties"]["provisioningState"] = "Deleting"
    headers = operations.start(context, "delete-cluster", target=key, location=cluster.body["location"], style="both")
    return Reply(status=202, headers=headers)


def list_pools(context: Context, where: dict[str, str]) -> Reply:
    """Answer the pools of a cluster."""
    body = context.cluster(where["group"], where["name"]).body
    return Reply(status=200, body={"value": [pool_resource(body, pool) for pool in body["properties"]["agentPoolProfiles"]]})


def get_pool(context: Context, where: dict[str, str]) -> Reply:
    """Answer one pool."""
    body = context.cluster(where["group"], where["name"]).body
    found = _pool(body, where["pool"])
    if found is None:
        raise _no_pool(where)
    return Reply(status=200, body=pool_resource(body, found))


def put_pool(context: Context, where: dict[str, str]) -> Reply:
    """Make a pool or change one."""
    cluster = context.cluster(where["group"], where["name"])
    key = cluster_key(where["group"], where["name"])
    _require_idle(context, key, cluster)
    asked = context.request.json()
    _check_schema(context, "managedClusters_agentPools", where["pool"], asked)
    properties = cluster.body["properties"]
    existing = _pool(cluster.body, where["pool"])
    _require_etag(context, existing)
    made = pool_body({**section(asked, "properties"), "name": where["pool"]}, existing, properties["kubernetesVersion"])
    others = [pool for pool in properties["agentPoolProfiles"] if pool["name"] != made["name"]]
    require_system_pool([*others, made])
    _check_pools(context, [*others, made], cluster.body, cluster.body["location"])
    made["provisioningState"] = "Updating" if existing else "Creating"
    made["eTag"] = cluster.body["eTag"] = new_id()
    properties["agentPoolProfiles"] = [*others, made]
    _forget_failed(context, key)
    headers = operations.start(context, "put-pool", target=key, pool=made["name"], location=cluster.body["location"], style="async")
    return Reply(status=200 if existing else 201, body=pool_resource(cluster.body, made), headers=headers)


def delete_pool(context: Context, where: dict[str, str]) -> Reply:
    """Begin to delete a pool: 202 with both headers; 204 where there is none."""
    cluster = context.cluster(where["group"], where["name"])
    key = cluster_key(where["group"], where["name"])
    pool = _pool(cluster.body, where["pool"])
    if pool is None:
        return Reply(status=204)
    _require_idle(context, key, cluster)
    require_system_pool([each for each in cluster.body["properties"]["agentPoolProfiles"] if each is not pool])
    pool["provisioningState"] = "Deleting"
    headers = operations.start(context, "delete-pool", target=key, pool=pool["name"], location=cluster.body["location"], style="both")
    return Reply(status=202, headers=headers)


def user_credentials(context: Context, where: dict[str, str]) -> Reply:
    """Hand out the kubeconfig for users."""
    return _credentials(context, where, "User")


def admin_credentials(context: Context, where: dict[str, str]) -> Reply:
    """Hand out the kubeconfig for administrators; behind the stand-in it has the same rights."""
    return _credentials(context, where, "Admin")


def _credentials(context: Context, where: dict[str, str], kind: str) -> Reply:
    """Hand out the kubeconfig of the local Kubernetes behind a cluster, with AKS's names.

    Raises:
        Rejected: There is none, as the stand-in runs without; no file that cannot work is handed out.
    """
    cluster = context.cluster(where["group"], where["name"])
    if not context.state.settings.kubernetes:
        raise Rejected(
            409,
            "SimulatedClusterWithoutKubernetes",
            f"simulated: no Kubernetes stands behind the managed cluster '{cluster.name}': the stand-in runs without root or was told to.",
        )
    have = context.state.kubernetes.get(local_name(cluster_key(cluster.group, cluster.name)))
    if have is None or have.phase != "ready":
        raise Rejected(409, "OperationNotAllowed", f"The managed cluster '{cluster.name}' is not ready yet.")
    user = f"cluster{kind}_{cluster.group}_{cluster.name}"
    written = context.kubeconfig(local_name(cluster_key(cluster.group, cluster.name)))
    named = rename(written, cluster=cluster.name, user=user, context=f"{cluster.name}-admin" if kind == "Admin" else cluster.name)
    return Reply(status=200, body={"kubeconfigs": [{"name": f"cluster{kind}", "value": base64.b64encode(named.encode()).decode()}]})


def rename(kubeconfig: str, *, cluster: str, user: str, context: str) -> str:
    """Give a local cluster's kubeconfig with the names that AKS uses, as clients merge by name."""
    document = json.loads(kubeconfig)
    document["clusters"][0]["name"] = cluster
    document["users"][0]["name"] = user
    document["contexts"][0]["name"] = document["current-context"] = context
    document["contexts"][0]["context"] |= {"cluster": cluster, "user": user}
    return json.dumps(document, indent=1)


def _check_schema(context: Context, definition: str, name: str, body: Body) -> None:
    if context.schema is not None:
        context.schema.check(definition, name, body)


def _require_idle(context: Context, key: str, cluster: Cluster | None) -> None:
    current = operations.running(context.state, key)
    if cluster is not None and cluster.deleting:
        raise Rejected(409, "OperationNotAllowed", f"The managed cluster '{cluster.name}' is being deleted.")
    if current is not None:
        raise Rejected(
            409,
            "OperationNotAllowed",
            f"Operation is not allowed because there's an in progress {current.kind} operation on the managed cluster started at "
            f"{context.stamp(current.started)}.",
        )


def _require_etag(context: Context, have: Body | None) -> None:
    """Heed If-Match and If-None-Match of a change (RFC 9110, section 13.1)."""
    tag = text(have, "eTag") if have is not None else ""
    wanted, unwanted = context.request.headers.get("if-match", ""), context.request.headers.get("if-none-match", "")
    if (wanted and (not tag or wanted.strip('"') not in {"*", tag})) or (unwanted and tag and unwanted.strip('"') in {"*", tag}):
        raise Rejected(412, "PreconditionFailed", f"The condition on the ETag is not met; the resource's ETag is '{tag}'.")


def _check_principal(context: Context, asked: Body, *, changing: bool) -> None:
    profile = section(section(asked, "properties"), "servicePrincipalProfile")
    client = text(profile, "clientId")
    if not client or client == "msi":
        return
    # The secret is never answered, so that a body which is read and put back lacks it; the Azure CLI leaves the whole profile out.
    if changing and not text(profile, "secret"):
        raise Rejected(
            400, "InvalidParameter", "The value of parameter servicePrincipalProfile.secret is invalid: a client ID needs its secret."
        )
    graph.require_principal(context, client)


def _check_pools(context: Context, pools: list[Body], before: Body | None, place: str) -> None:
    old = {pool["name"]: pool for pool in (before or {"properties": {"agentPoolProfiles": []}})["properties"]["agentPoolProfiles"]}
    more = []
    for pool in pools:
        size = compute.require_size(context.state, pool["vmSize"], place)
        held = int(old[pool["name"]]["count"]) if pool["name"] in old else 0
        if int(pool["count"]) > held:
            more.append((size, int(pool["count"]) - held))
    compute.require_quota(context.state, more, place)


def _bring_along(context: Context, cluster: Cluster) -> None:
    """Make what AKS makes beside a cluster: its node resource group and its identity."""
    properties = cluster.body["properties"]
    nodes = properties["nodeResourceGroup"]
    identifier = cluster_id(cluster.group, cluster.name)
    context.state.groups.setdefault(nodes.lower(), Group(name=nodes, location=cluster.body["location"], managed_by=identifier))
    principal = cluster.body.get("identity", {}).get("principalId")
    if principal:
        made = Principal(id=principal, app_id="", name=f"{_AKS}/{cluster.name}", created=context.now)
        context.state.principals.setdefault(principal, made)


def _forget_failed(context: Context, key: str) -> None:
    """Let a Kubernetes that did not come up be tried again, now that a client asks again."""
    name = local_name(key)
    if name in context.state.kubernetes and context.state.kubernetes[name].phase == "failed":
        context.state.kubernetes[name].phase = "working"
        context.state.kubernetes[name].error = ""


def _pool(cluster: Body, name: str) -> Body | None:
    return next((pool for pool in cluster["properties"]["agentPoolProfiles"] if pool["name"] == name.lower()), None)


def _no_pool(where: dict[str, str]) -> Rejected:
    return Rejected(404, "NotFound", f"Could not find the agent pool '{where['pool']}' of the managed cluster '{where['name']}'.")
