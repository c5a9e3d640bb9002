"""The official SDKs, unmodified, against the simulated Azure."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.integration
identity = pytest.importorskip("azure.identity", reason="the Azure extra is not installed")
containerservice = pytest.importorskip("azure.mgmt.containerservice", reason="the Azure extra is not installed")
resource = pytest.importorskip("azure.mgmt.resource.resources", reason="the Azure extra is not installed")


@pytest.fixture
def credential(running):
    with identity.ClientSecretCredential(
        running.tenant,
        running.client_id,
        running.client_secret,
        authority=running.url,
        disable_instance_discovery=True,
        connection_verify=str(running.ca),
    ) as found:
        yield found


@pytest.fixture
def options(running):
    return {
        "base_url": running.url,
        "credential_scopes": [f"{running.url}/.default"],
        "connection_verify": str(running.ca),
        "polling_interval": 0,
    }


def register(resources):
    resources.providers.register("Microsoft.ContainerService")
    deadline = time.monotonic() + 20
    while resources.providers.get("Microsoft.ContainerService").registration_state != "Registered":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_cluster_is_created_and_removed(running, credential, options):
    pool = {"name": "nodepool1", "count": 1, "vmSize": "Standard_DC1s_v3", "mode": "System"}
    body = {"location": "uksouth", "identity": {"type": "SystemAssigned"}, "properties": {"agentPoolProfiles": [pool]}}
    with resource.ResourceManagementClient(credential, running.subscription, **options) as resources:
        register(resources)
        assert resources.resource_groups.create_or_update("g", {"location": "uksouth"}).name == "g"
        assert resources.resource_groups.check_existence("g") is True
        with containerservice.ContainerServiceClient(credential, running.subscription, **options) as aks:
            made = aks.managed_clusters.begin_create_or_update("g", "c", body).result()
            assert made["properties"]["provisioningState"] == "Succeeded"
            aks.managed_clusters.begin_delete("g", "c").result()
            assert [*aks.managed_clusters.list()] == []
        resources.resource_groups.begin_delete("g").result()
        assert [*resources.resource_groups.list()] == []


def test_an_operation_is_resumed_from_its_continuation_token(running, credential, options):
    body = {
        "location": "uksouth",
        "properties": {"agentPoolProfiles": [{"name": "a", "count": 1, "vmSize": "Standard_D2s_v5", "mode": "System"}]},
    }
    with (
        resource.ResourceManagementClient(credential, running.subscription, **options) as resources,
        containerservice.ContainerServiceClient(credential, running.subscription, **options) as aks,
    ):
        register(resources)
        resources.resource_groups.create_or_update("g", {"location": "uksouth"})
        token = aks.managed_clusters.begin_create_or_update("g", "c", body).continuation_token()
        resumed = aks.managed_clusters.begin_create_or_update("g", "c", body, continuation_token=token)
        assert resumed.result()["properties"]["provisioningState"] == "Succeeded"
