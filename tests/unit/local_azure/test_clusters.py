from __future__ import annotations

import json

import pytest

from kubenclave.local.azure.bodies import Naming, cluster_body
from kubenclave.local.azure.clusters import rename
from kubenclave.local.azure.kubernetes import next_step, record
from kubenclave.local.azure.values import SUBSCRIPTION, Rejected

S = f"/subscriptions/{SUBSCRIPTION}"
CLUSTER = f"{S}/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c"


def body(count=1, size="Standard_DC2s_v3", **properties):
    pool = {"name": "nodepool1", "count": count, "vmSize": size, "mode": "System"}
    return {"location": "uksouth", "identity": {"type": "SystemAssigned"}, "properties": {"agentPoolProfiles": [pool], **properties}}


def test_a_cluster_is_created_by_an_operation_that_ends_in_its_time(azure):
    azure.ready()
    made = azure.ask("PUT", CLUSTER, body())

    assert made.status == 201
    assert made.body["properties"]["provisioningState"] == "Creating"
    assert azure.poll(made).body["status"] == "InProgress"
    azure.now += 10
    assert azure.poll(made).body["status"] == "Succeeded"
    found = azure.ask("GET", CLUSTER).body
    assert found["properties"]["provisioningState"] == "Succeeded"
    assert found["properties"]["agentPoolProfiles"][0]["provisioningState"] == "Succeeded"


def test_a_stand_in_that_was_killed_in_the_middle_goes_on_and_ends_the_same(azure):
    azure.ready()
    made = azure.ask("PUT", CLUSTER, body())
    azure.now += 4
    azure.killed_and_started_again()

    assert azure.poll(made).body["status"] == "InProgress"
    azure.now += 6
    assert azure.poll(made).body["status"] == "Succeeded"
    assert azure.ask("GET", CLUSTER).body["properties"]["provisioningState"] == "Succeeded"


def test_a_second_put_while_the_first_is_under_way_is_a_conflict(azure):
    azure.ready().ask("PUT", CLUSTER, body())

    reply = azure.ask("PUT", CLUSTER, body())
    assert (reply.status, reply.body["error"]["code"]) == (409, "OperationNotAllowed")


def test_a_deletion_carries_both_headers_and_ends_with_nothing_left(azure):
    azure.ready().ask("PUT", CLUSTER, body())
    azure.now += 10
    deleted = azure.ask("DELETE", CLUSTER)

    assert deleted.status == 202
    assert {"azure-asyncoperation", "location"} <= set(deleted.headers)
    azure.now += 10
    assert azure.ask("GET", CLUSTER).status == 404
    assert azure.ask("DELETE", CLUSTER).status == 204
    assert [group["name"] for group in azure.ask("GET", f"{S}/resourcegroups").body["value"]] == ["g"]


@pytest.mark.parametrize(
    ("style", "headers"),
    [
        ("async", {"azure-asyncoperation"}),
        ("location", {"location"}),
        ("both", {"azure-asyncoperation", "location"}),
        ("none", set()),
    ],
)
def test_each_style_of_headers_can_be_asked_for(azure, style, headers):
    azure.ready().fault(what="style", style=style, path="/managedClusters/")
    made = azure.ask("PUT", CLUSTER, body())

    assert set(made.headers) & {"azure-asyncoperation", "location"} == headers
    if "location" in headers:
        where = made.headers["location"].removeprefix("https://localhost")
        assert azure.ask("GET", where, version="").status == 202
        azure.now += 10
        assert azure.ask("GET", where, version="").status == 200


def test_an_operation_fails_or_never_ends_where_that_was_asked_for(azure):
    azure.ready().fault(what="operation-fails", path="/managedClusters/", code="QuotaExceeded", message="no cores")
    made = azure.ask("PUT", CLUSTER, body())
    azure.now += 10
    assert azure.poll(made).body["error"] == {"code": "QuotaExceeded", "message": "no cores"}
    assert azure.ask("GET", CLUSTER).body["properties"]["provisioningState"] == "Failed"

    azure.fault(what="operation-never-ends", path="/managedClusters/")
    again = azure.ask("PUT", CLUSTER, body())
    azure.now += 1_000
    assert (again.status, azure.poll(again).body["status"]) == (200, "InProgress")


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        (body(count=5), 400, "ErrCode_InsufficientVCPUQuota"),
        (body(size="Standard_DC1s_v2"), 400, "BadRequest"),
        (body(size="Standard_ZZ9"), 400, "BadRequest"),
        (body(kubernetesVersion="1.15.10"), 400, "K8sVersionNotSupported"),
        (body(servicePrincipalProfile={"clientId": "nobody"}), 400, "ServicePrincipalNotFound"),
        (body(agentPoolProfiles=[{"name": "a", "count": 1, "vmSize": "Standard_DC2s_v3", "mode": "User"}]), 400, "InvalidParameter"),
        (body(agentPoolProfiles=[{"name": "UPPER", "count": 1, "mode": "System"}]), 400, "InvalidParameter"),
        (body(agentPoolProfiles=[{"name": "a", "count": "1", "mode": "System"}]), 400, "InvalidParameter"),
        (body(agentPoolProfiles="none"), 400, "InvalidParameter"),
        ({"location": "uksouth", "properties": []}, 400, "InvalidRequestContent"),
        ({"location": "atlantis"}, 400, "LocationNotAvailableForResourceGroup"),
    ],
)
def test_what_aks_refuses_is_refused_and_leaves_nothing(azure, given, status, code):
    azure.ready()
    reply = azure.ask("PUT", CLUSTER, given)

    assert (reply.status, reply.body["error"]["code"]) == (status, code)
    assert azure.ask("GET", CLUSTER).status == 404


def test_quota_and_restrictions_are_those_that_were_set(azure):
    azure.ready().set(quota={"standardDCSv3Family": 0}, restricted={"Standard_DC4ds_v3": "NotAvailableForSubscription"})

    assert azure.ask("PUT", CLUSTER, body()).body["error"]["code"] == "ErrCode_InsufficientVCPUQuota"
    usages = azure.ask("GET", f"{S}/providers/Microsoft.Compute/locations/uksouth/usages").body["value"]
    assert next(row["limit"] for row in usages if row["name"]["value"] == "standardDCSv3Family") == 0
    skus = azure.ask("GET", f"{S}/providers/Microsoft.Compute/skus?$filter=location eq 'uksouth'").body["value"]
    assert {sku["name"] for sku in skus if sku["restrictions"]} >= {"Standard_DC4ds_v3", "Standard_DC1s_v2"}


def test_used_cores_are_counted_and_given_back(azure):
    azure.ready().ask("PUT", CLUSTER, body(count=4))
    azure.now += 10
    pool = f"{CLUSTER}/agentPools/more"
    more = {"properties": {"count": 1, "vmSize": "Standard_DC1s_v3"}}

    assert azure.ask("PUT", pool, more).body["error"]["code"] == "ErrCode_InsufficientVCPUQuota"
    azure.ask("PUT", CLUSTER, body(count=2))
    azure.now += 10
    assert azure.ask("PUT", pool, more).status == 201


def test_a_pool_comes_and_goes_but_never_the_last_system_pool(azure):
    azure.ready().ask("PUT", CLUSTER, body())
    azure.now += 10
    made = azure.ask("PUT", f"{CLUSTER}/agentPools/sgx", {"properties": {"count": 1, "vmSize": "Standard_DC1s_v3"}})
    azure.now += 10
    assert azure.poll(made).body["status"] == "Succeeded"
    assert azure.ask("DELETE", f"{CLUSTER}/agentPools/nodepool1").status == 400
    azure.ask("DELETE", f"{CLUSTER}/agentPools/sgx")
    azure.now += 10
    assert [pool["name"] for pool in azure.ask("GET", f"{CLUSTER}/agentPools").body["value"]] == ["nodepool1"]


def test_a_secret_is_neither_answered_nor_kept():
    asked = body(servicePrincipalProfile={"clientId": "x", "secret": "hidden"}, windowsProfile={"adminPassword": "hidden"})
    made = cluster_body(asked, None, Naming(group="g", name="c", location="uksouth", new_id=lambda: "id"))

    assert "hidden" not in json.dumps(made)


def test_a_group_takes_its_clusters_along_and_the_deletion_is_polled_at_location(azure):
    azure.ready().ask("PUT", CLUSTER, body())
    azure.now += 10
    deleted = azure.ask("DELETE", f"{S}/resourcegroups/G")
    where = deleted.headers["location"].removeprefix("https://localhost")

    assert (deleted.status, azure.ask("GET", where, version="").status) == (202, 202)
    assert azure.ask("PUT", CLUSTER, body()).body["error"]["code"] == "ResourceGroupBeingDeleted"
    azure.now += 10
    assert azure.ask("GET", where, version="").status == 200
    assert azure.ask("GET", f"{S}/resourcegroups").body == {"value": []}


def test_without_kubernetes_no_kubeconfig_is_handed_out_and_it_says_simulated(azure):
    azure.ready().ask("PUT", CLUSTER, body())
    azure.now += 10
    reply = azure.ask("POST", f"{CLUSTER}/listClusterUserCredential")

    assert reply.status == 409
    assert reply.body["error"]["message"].startswith("simulated: no Kubernetes stands behind")


def test_with_kubernetes_the_operation_waits_for_it_and_a_failure_is_told(azure):
    azure.ready().set(kubernetes=True)
    made = azure.ask("PUT", CLUSTER, body())
    azure.now += 100
    assert azure.poll(made).body["status"] == "InProgress"

    with azure.stand_in.changing() as state:
        name, goal = next_step(state)
        assert (goal.sgx_nodes, goal.plain_nodes, goal.epc_bytes) == (1, 0, 8 << 30)
    azure.killed_and_started_again()
    with azure.stand_in.changing() as state:
        assert next_step(state) == (name, goal)
        record(state, name, goal, "no disk space")
    assert "no disk space" in azure.poll(made).body["error"]["message"]

    again = azure.ask("PUT", CLUSTER, body())
    with azure.stand_in.changing() as state:
        assert next_step(state) == (name, goal)
        record(state, name, goal, "")
    azure.now += 10
    assert azure.poll(again).body["status"] == "Succeeded"


def test_a_kubeconfig_gets_the_names_that_clients_merge_by():
    plain = {"clusters": [{"name": "a"}], "users": [{"name": "b"}], "contexts": [{"name": "c", "context": {}}], "current-context": "c"}
    named = json.loads(rename(json.dumps(plain), cluster="aks", user="clusterUser_g_aks", context="aks"))

    assert named["contexts"] == [{"name": "aks", "context": {"cluster": "aks", "user": "clusterUser_g_aks"}}]
    assert (named["clusters"][0]["name"], named["users"][0]["name"], named["current-context"]) == ("aks", "clusterUser_g_aks", "aks")


def test_a_body_that_is_no_json_is_refused():
    with pytest.raises(Rejected):
        cluster_body({"properties": 5}, None, Naming(group="g", name="c", location="uksouth", new_id=str))


def test_a_new_spot_pool_gets_the_label_and_the_taint_of_aks_and_keeps_what_a_change_says(azure):
    azure.ready().ask("PUT", CLUSTER, body())
    azure.now += 10
    pool = f"{CLUSTER}/agentPools/spare"
    wanted = {"count": 1, "vmSize": "Standard_DC1s_v3", "scaleSetPriority": "Spot", "nodeLabels": {"tee": "sgx"}}
    made = azure.ask("PUT", pool, {"properties": wanted}).body["properties"]
    azure.now += 10

    assert made["nodeLabels"] == {"tee": "sgx", "kubernetes.azure.com/scalesetpriority": "spot"}
    assert made["nodeTaints"] == ["kubernetes.azure.com/scalesetpriority=spot:NoSchedule"]
    changed = azure.ask("PUT", pool, {"properties": {**made, "nodeLabels": {}}}).body["properties"]
    assert (changed["nodeLabels"], changed["nodeTaints"]) == ({}, made["nodeTaints"])


def test_labels_and_tags_that_a_change_leaves_out_are_gone(azure):
    azure.ready().ask("PUT", CLUSTER, body())
    azure.now += 10
    pool = f"{CLUSTER}/agentPools/more"
    wanted = {"count": 1, "vmSize": "Standard_DC1s_v3", "nodeLabels": {"a": "1", "b": "2"}, "tags": {"a": "1", "b": "2"}}
    azure.ask("PUT", pool, {"properties": wanted})
    azure.now += 10
    changed = azure.ask("PUT", pool, {"properties": {**wanted, "nodeLabels": {"b": "2"}, "tags": {"a": "1"}}}).body["properties"]

    assert (changed["nodeLabels"], changed["tags"]) == ({"b": "2"}, {"a": "1"})


def test_a_change_names_the_service_principal_with_its_secret_or_not_at_all(azure):
    azure.ready()
    application = azure.ask("POST", "/v1.0/applications", {"displayName": "x"}).body
    azure.ask("POST", "/v1.0/servicePrincipals", {"appId": application["appId"]})
    azure.now += 10
    whole = body(servicePrincipalProfile={"clientId": application["appId"], "secret": "s"})
    assert azure.ask("PUT", CLUSTER, whole).status == 201
    azure.now += 10
    read = azure.ask("GET", CLUSTER).body
    refused = azure.ask("PUT", CLUSTER, read)

    assert (refused.status, "servicePrincipalProfile.secret" in refused.body["error"]["message"]) == (400, True)
    left_out = {**read, "properties": {name: value for name, value in read["properties"].items() if name != "servicePrincipalProfile"}}
    changed = azure.ask("PUT", CLUSTER, left_out)
    assert (changed.status, changed.body["properties"]["servicePrincipalProfile"]["clientId"]) == (200, application["appId"])
    azure.now += 10
    assert azure.ask("PUT", CLUSTER, whole).status == 200
