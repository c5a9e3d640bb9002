"""Long-running operations of ARM: begun with one of four styles of headers, polled, ended; and what their end does to the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.local.azure import backing
from kubenclave.local.azure.context import S, new_id
from kubenclave.local.azure.state import Operation
from kubenclave.local.azure.values import Body, Rejected, Reply

if TYPE_CHECKING:
    from kubenclave.local.azure.context import Context
    from kubenclave.local.azure.state import OperationKind, State, Style

# Real ARM forgets an operation after some time, too; a client polls within minutes.
_KEEP_SECONDS = 3600.0
_API_VERSION = "2016-03-30"  # of the operations' addresses, as recorded


def start(context: Context, kind: OperationKind, *, target: str, location: str, style: Style, pool: str = "") -> dict[str, str]:
    """Begin an operation, with the fault that was asked for, and give the headers by which it is polled."""
    settings = context.state.settings
    ends: float | None = context.now + settings.operation_seconds
    failure = None
    for fault in context.faults:
        if fault.what == "operation-fails":
            failure = {"code": fault.code, "message": fault.message}
        elif fault.what == "operation-never-ends":
            ends = None
        elif fault.what == "style":
            style = fault.style
    made = Operation(
        id=new_id(), kind=kind, target=target, pool=pool, location=location, style=style, started=context.now, ends=ends, failure=failure
    )
    context.state.operations[made.id] = made
    return headers(context, made)


def headers(context: Context, operation: Operation) -> dict[str, str]:
    """Give the headers of a reply that tells where an operation is polled."""
    base = f"{context.request.origin}{S}"
    if operation.kind != "delete-group":
        base += f"/providers/Microsoft.ContainerService/locations/{operation.location}"
    found = {}
    if operation.style in {"async", "both"}:
        found["azure-asyncoperation"] = f"{base}/operations/{operation.id}?api-version={_API_VERSION}"
    if operation.style in {"location", "both"}:
        found["location"] = f"{base}/operationresults/{operation.id}?api-version={_API_VERSION}"
    return found | _retry_after(context)


def running(state: State, target: str) -> Operation | None:
    """Give the operation that works on a cluster or group now."""
    return next((each for each in state.operations.values() if each.target == target and each.ended is None), None)


def abandon(context: Context, target: str) -> None:
    """End what works on a resource, because its deletion was asked for."""
    for each in context.state.operations.values():
        if each.ended is None and (each.target == target or each.target.startswith(f"{target}/")):
            each.failure = {"code": "OperationPreempted", "message": "The operation was preempted by a deletion."}
            each.ended = context.now


def get_operation(context: Context, where: dict[str, str]) -> Reply:
    """Answer a poll of Azure-AsyncOperation: always 200, the outcome is in the body."""
    operation = _find(context, where["id"])
    body: Body = {"name": operation.id, "status": _status(operation), "startTime": context.stamp(operation.started)}
    if operation.ended is None:
        return Reply(status=200, body=body, headers=_retry_after(context))
    body["endTime"] = context.stamp(operation.ended)
    if operation.failure is not None:
        body["error"] = operation.failure
    return Reply(status=200, body=body)


def get_result(context: Context, where: dict[str, str]) -> Reply:
    """Answer a poll of Location: 202 while it runs, then the resource, or nothing where it is gone."""
    operation = _find(context, where["id"])
    if operation.ended is None:
        return Reply(status=202, headers=headers(context, operation))
    if operation.failure is not None:
        return Reply(status=409, body={"error": operation.failure})
    cluster = context.state.clusters.get(operation.target)
    if operation.kind == "put-cluster" and cluster is not None:
        return Reply(status=200, body=cluster.body)
    return Reply(status=200)


def settle(state: State, now: float) -> bool:
    """Let happen what has become due; tell whether anything did."""
    changed = False
    for operation in state.operations.values():
        if operation.ended is None and operation.ends is not None and operation.ends <= now and not backing.waits(state, operation):
            error = backing.failure(state, operation)
            if error and operation.failure is None:
                operation.failure = {
                    "code": "SimulatedKubernetesFailed",
                    "message": f"simulated: the local Kubernetes did not come up: {error}",
                }
            _finish(state, operation)
            operation.ended = now
            changed = True
    old = [each.id for each in state.operations.values() if each.ended is not None and each.ended + _KEEP_SECONDS < now]
    for identifier in old:
        del state.operations[identifier]
    return changed or bool(old)


def _finish(state: State, operation: Operation) -> None:
    outcome = "Failed" if operation.failure is not None else "Succeeded"
    if operation.kind == "delete-group":
        _finish_group(state, operation, outcome)
        return
    cluster = state.clusters.get(operation.target)
    if cluster is None:
        return
    if operation.kind == "delete-cluster" and outcome == "Succeeded":
        remove_cluster(state, operation.target)
        return
    properties = cluster.body["properties"]
    if operation.kind == "delete-pool" and outcome == "Succeeded":
        properties["agentPoolProfiles"] = [pool for pool in properties["agentPoolProfiles"] if pool["name"] != operation.pool]
    cluster.deleting = False
    properties["provisioningState"] = "Succeeded" if operation.pool else outcome
    for pool in properties["agentPoolProfiles"]:
        if operation.pool in {"", pool["name"]}:
            pool["provisioningState"] = outcome


def _finish_group(state: State, operation: Operation, outcome: str) -> None:
    group = state.groups[operation.target]
    inside = [key for key in state.clusters if key.startswith(f"{operation.target}/")]
    if outcome == "Failed":
        group.deleting = False
        for key in inside:
            state.clusters[key].deleting = False
        return
    for key in inside:
        remove_cluster(state, key)
    del state.groups[operation.target]
    gone = f"/resourcegroups/{operation.target}"
    for key in [key for key, each in state.assignments.items() if f"{each.scope}/".find(f"{gone}/") >= 0]:
        del state.assignments[key]


def remove_cluster(state: State, key: str) -> None:
    """Remove a cluster, its node resource group and its identity."""
    cluster = state.clusters.pop(key)
    state.groups.pop(cluster.body["properties"]["nodeResourceGroup"].lower(), None)
    principal = cluster.body.get("identity", {}).get("principalId", "")
    state.principals.pop(principal, None)
    for name in [name for name, each in state.assignments.items() if each.principal == principal]:
        del state.assignments[name]


def _status(operation: Operation) -> str:
    if operation.ended is None:
        return "InProgress"
    return "Succeeded" if operation.failure is None else "Failed"


def _find(context: Context, identifier: str) -> Operation:
    found = context.state.operations.get(identifier.lower())
    if found is None:
        raise Rejected(404, "NotFound", f"The entity was not found: operation {identifier}.")
    return found


def _retry_after(context: Context) -> dict[str, str]:
    seconds = context.state.settings.retry_after_seconds
    return {"retry-after": str(seconds)} if seconds else {}
