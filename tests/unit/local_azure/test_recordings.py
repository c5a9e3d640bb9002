"""The recorded requests of real Azure, sent to the simulated one: what it answers differently is listed here and in the docs."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from kubenclave.local.azure import schema
from kubenclave.local.azure.values import SUBSCRIPTION

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "azure"
RECORDED = "00000000-0000-0000-0000-000000000000"
LRO = ("azure-asyncoperation", "location")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the recordings are not at {DATA}")

# Keys that recorded replies have and the simulated ones have not: docs/explanation/azure-stand-in.md names them.
MISSING = {
    "properties.identityProfile",
    "properties.networkProfile.dockerBridgeCidr",
    "properties.networkProfile.podCidrs",
    "properties.networkProfile.loadBalancerProfile.effectiveOutboundIPs",
    "properties.storageProfile.diskCSIDriver.version",
}


def interactions(name):
    return yaml.safe_load((DATA / name).read_text(encoding="utf-8"))["interactions"]


def send(azure, request):
    parts = urlsplit(request["uri"])
    # The recorded version has long been withdrawn; today's default stands in its place.
    body = json.loads(request["body"].replace('"1.23.12"', '"1.35.3"')) if request["body"] else None
    return azure.ask(request["method"], f"{parts.path}?{parts.query}".replace(RECORDED, SUBSCRIPTION), body)


def keys(node, place=""):
    found = set()
    if isinstance(node, dict):
        for key, value in node.items():
            found |= {f"{place}{key}"} | keys(value, f"{place}{key}.")
    elif isinstance(node, list) and node:
        found |= keys(node[0], place)
    return found


@pytest.mark.parametrize("name", ["test_aks_create_with_confcom_addon.yaml", "test_aks_enable_addons_confcom_addon.yaml"])
def test_recorded_requests_of_aks_get_the_recorded_status_headers_and_keys(azure, name):
    azure.ready().set(quota={"standardDSv2Family": 100})
    azure.ask("PUT", f"/subscriptions/{SUBSCRIPTION}/resourcegroups/clitest000001", {"location": "westus2"})
    compared = 0
    for interaction in interactions(name):
        if "/operations/" in interaction["request"]["uri"]:
            azure.now += 10
            continue
        ours, theirs = send(azure, interaction["request"]), interaction["response"]
        recorded = {header.lower() for header in theirs["headers"]}
        assert ours.status == theirs["status"]["code"], ours.body
        assert set(ours.headers) & set(LRO) == recorded & set(LRO)
        if "/managedClusters/" in interaction["request"]["uri"]:
            missing = keys(json.loads(theirs["body"]["string"])) - keys(ours.body)
            assert {key for key in missing if not any(key == known or key.startswith(f"{known}.") for known in MISSING)} == set()
            compared += 1
    assert compared >= 2


def test_recorded_requests_on_groups_get_the_recorded_status_and_location(azure):
    compared = 0
    for interaction in interactions("test_mgmt_resource.test_resource_groups.yaml"):
        request, theirs = interaction["request"], interaction["response"]
        if "exportTemplate" in request["uri"] or "/operationresults/" in request["uri"]:
            continue
        ours = send(azure, request)
        assert ours.status == theirs["status"]["code"], request["uri"]
        assert ("location" in ours.headers) == ("location" in {header.lower() for header in theirs["headers"]})
        if request["method"] in {"PUT", "GET"} and request["uri"].partition("?")[0].endswith("457f1050"):
            assert keys(ours.body) == keys(json.loads(theirs["body"]["string"]))
        compared += 1
    assert compared == 8


@pytest.fixture
def checked(make_azure):
    return make_azure(schema=schema.load(DATA / "schema_2026-05-01_Microsoft.ContainerService.Aks.json"))


@pytest.mark.parametrize(
    "change",
    [
        {"addonProfiles": {"ACCSGXDevicePlugin": {"enabled": 5}}},
        {"addonProfiles": {"ACCSGXDevicePlugin": {"config": {}}}},
        {"addonProfiles": {"ACCSGXDevicePlugin": {"enabled": True, "config": {"ACCSGXQuoteHelperEnabled": True}}}},
        {"networkProfile": {"networkPlugin": "carrier-pigeon"}},
    ],
)
def test_a_body_against_the_published_schema_is_refused_with_the_place(checked, change):
    checked.ready()
    where = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c"
    pools = [{"name": "a", "count": 1, "mode": "System", "vmSize": "Standard_DC1s_v3"}]
    reply = checked.ask("PUT", where, {"location": "uksouth", "properties": {"agentPoolProfiles": pools, **change}})

    assert reply.status == 400
    assert "against the schema 2026-05-01, properties" in reply.body["error"]["message"]


def test_what_the_stand_in_answers_can_be_put_back(checked):
    checked.ready()
    where = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c"
    pools = [{"name": "a", "count": 1, "mode": "System", "vmSize": "Standard_DC1s_v3"}]
    made = checked.ask("PUT", where, {"location": "uksouth", "properties": {"agentPoolProfiles": pools}})
    checked.now += 10
    again = {key: made.body[key] for key in ("location", "properties", "sku")}

    assert checked.ask("PUT", where, again).status == 200
