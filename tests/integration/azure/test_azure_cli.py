"""The guide's commands in today's form, by the unmodified Azure CLI."""

from __future__ import annotations

import pytest

from kubenclave.local.azure.values import SUBSCRIPTION

pytestmark = pytest.mark.integration
AKS = "Microsoft.ContainerService"


def test_the_guides_commands_create_change_and_remove_a_cluster(az, web):
    assert az("feature", "register", "--name", "Gen2VMPreview", "--namespace", AKS)["properties"]["state"] == "Registering"
    az("provider", "register", "--namespace", AKS, "--wait")
    assert az("feature", "show", "--name", "Gen2VMPreview", "--namespace", AKS)["properties"]["state"] == "Registered"
    assert az("group", "create", "--name", "sconaksg", "--location", "uksouth")["properties"]["provisioningState"] == "Succeeded"
    scope = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/sconaksg"
    principal = az("ad", "sp", "create-for-rbac", "--role", "Contributor", "--scopes", scope)
    made = az(
        *("aks", "create", "-l", "uksouth", "-g", "sconaksg", "-n", "brandNewCluster", "--generate-ssh-keys"),
        *("--service-principal", principal["appId"], "--client-secret", principal["password"]),
        *("--vm-set-type", "VirtualMachineScaleSets", "--node-count", "2", "--kubernetes-version", "1.35"),
        *("--network-plugin", "azure", "--node-vm-size", "Standard_DC2s_v3", "--aks-custom-headers", "usegen2vm=true"),
        *("--enable-addons", "confcom"),
    )
    assert made["provisioningState"] == "Succeeded"
    assert made["addonProfiles"]["ACCSGXDevicePlugin"]["enabled"] is True
    assert made["servicePrincipalProfile"] == {"clientId": principal["appId"], "secret": None}

    az("aks", "nodepool", "add", "-g", "sconaksg", "--cluster-name", "brandNewCluster", "-n", "more", "--node-vm-size", "Standard_DC1s_v3")
    scaled = az("aks", "scale", "-g", "sconaksg", "-n", "brandNewCluster", "--nodepool-name", "nodepool1", "--node-count", "1")
    assert {pool["name"]: pool["count"] for pool in scaled["agentPoolProfiles"]} == {"nodepool1": 1, "more": 3}
    az("aks", "delete", "-y", "-g", "sconaksg", "-n", "brandNewCluster")
    az("group", "delete", "-y", "-n", "sconaksg")
    assert az("group", "list") == []
    assert web("GET", "/simulated")[2]["clusters"] == {}


def test_refusals_reach_the_user_as_azures_own_words(az):
    az("provider", "register", "--namespace", AKS, "--wait")
    az("group", "create", "--name", "g", "--location", "uksouth")
    create = ("aks", "create", "-g", "g", "-n", "c", "--generate-ssh-keys", "--node-vm-size")

    assert "(ErrCode_InsufficientVCPUQuota)" in az.run(*create, "Standard_DC2s_v3", "--node-count", "9").stderr
    assert "is not allowed in your subscription" in az.run(*create, "Standard_DC1s_v2", "--node-count", "1").stderr
    missing = az.run("group", "show", "-n", "nobody")
    assert (missing.returncode, "ResourceGroupNotFound" in missing.stderr) == (3, True)


def test_throttling_and_passing_failures_are_waited_out_by_az_and_a_failed_operation_is_told(az, web):
    az("provider", "register", "--namespace", AKS, "--wait")
    web("POST", "/simulated/faults", [{"what": "reply", "path": "/resourcegroups/g", "status": 429, "retryAfter": 1, "times": 2}])
    web("POST", "/simulated/faults", [{"what": "reply", "path": "/resourcegroups/g", "status": 503}])
    az("group", "create", "--name", "g", "--location", "uksouth")
    asked = [row["status"] for row in web("GET", "/simulated/requests")[2] if row["path"].lower().endswith("/resourcegroups/g")]
    assert asked == [429, 429, 503, 201]

    web(
        "POST",
        "/simulated/faults",
        {"what": "operation-fails", "path": "/managedClusters/", "code": "QuotaExceeded", "message": "no cores"},
    )
    failed = az.run("aks", "create", "-g", "g", "-n", "c", "--generate-ssh-keys", "--node-vm-size", "Standard_D2s_v5", "--node-count", "1")
    assert failed.returncode == 1
    assert "(QuotaExceeded) no cores" in failed.stderr


@pytest.mark.parametrize("style", ["async", "location", "both"])
def test_each_style_of_headers_leads_az_to_the_end(az, web, style):
    az("provider", "register", "--namespace", AKS, "--wait")
    az("group", "create", "--name", "g", "--location", "uksouth")
    web("POST", "/simulated/faults", {"what": "style", "style": style, "path": "/managedClusters/", "times": None})
    create = ("aks", "create", "-g", "g", "-n", "c", "--generate-ssh-keys", "--node-vm-size", "Standard_D2s_v5", "--node-count", "1")

    assert az(*create)["provisioningState"] == "Succeeded"


def test_a_wrong_secret_is_told(az_without_login, running):
    ended = az_without_login.run("login", "--service-principal", "-u", running.client_id, "-p", "wrong", "--tenant", running.tenant)
    assert ended.returncode == 1
    assert "AADSTS7000215" in ended.stderr
