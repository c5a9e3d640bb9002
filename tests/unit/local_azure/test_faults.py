from __future__ import annotations

import pytest

from kubenclave.errors import Refused
from kubenclave.local.azure import Request
from kubenclave.local.azure.state import decode
from kubenclave.local.azure.values import SUBSCRIPTION

S = f"/subscriptions/{SUBSCRIPTION}"
FEATURE = f"{S}/providers/Microsoft.Features/providers/Microsoft.ContainerService/features/Gen2VMPreview"
PROVIDER = f"{S}/providers/Microsoft.ContainerService"


def test_throttling_comes_as_often_as_asked_and_does_nothing(azure):
    azure.fault(what="reply", method="PUT", path="/resourcegroups/", status=429, retryAfter=7, code="TooManyRequests", times=2)
    replies = [azure.ask("PUT", f"{S}/resourcegroups/g", {"location": "uksouth"}) for _ in range(3)]

    assert [reply.status for reply in replies] == [429, 429, 201]
    assert replies[0].headers["retry-after"] == "7"


def test_a_lost_reply_was_carried_out_and_a_dropped_request_was_not(azure):
    azure.fault(what="lost-reply", path="/resourcegroups/kept")
    azure.fault(what="dropped", path="/resourcegroups/never")

    assert azure.ask("PUT", f"{S}/resourcegroups/kept", {"location": "uksouth"}).lost
    assert azure.ask("PUT", f"{S}/resourcegroups/never", {"location": "uksouth"}).lost
    assert azure.ask("HEAD", f"{S}/resourcegroups/kept").status == 204
    assert azure.ask("HEAD", f"{S}/resourcegroups/never").status == 404


def test_a_fault_for_operations_is_not_used_up_by_a_read(azure):
    azure.fault(what="operation-never-ends", path="/resourcegroups/g")
    azure.ask("GET", f"{S}/resourcegroups/g")
    state = azure.stand_in.answer(Request(method="GET", path="/simulated")).body

    assert len(state["faults"]) == 1


def test_faults_outlive_a_kill_and_can_be_taken_back(azure):
    azure.fault(what="delay", seconds=3, path="/subscriptions", times=None)
    azure.killed_and_started_again()
    assert azure.ask("GET", "/subscriptions").delay_seconds == 3
    azure.stand_in.answer(Request(method="DELETE", path="/simulated/faults"))
    assert azure.ask("GET", "/subscriptions").delay_seconds == 0


@pytest.mark.parametrize("raw", [b"{", b"[" * 100_000, b'{"what":"flood"}', b'{"what":"delay","times":"many"}'])
def test_a_fault_that_is_not_understood_is_refused(azure, raw):
    assert azure.stand_in.answer(Request(method="POST", path="/simulated/faults", body=raw)).status == 400


def test_settings_of_the_wrong_kind_are_refused(azure):
    assert azure.stand_in.answer(Request(method="PATCH", path="/simulated/settings", body=b'{"operation_seconds":"x"}')).status == 400


def test_a_feature_is_registering_then_registered_or_pending_for_ever(azure):
    assert azure.ask("GET", FEATURE).body["properties"]["state"] == "NotRegistered"
    assert azure.ask("POST", f"{FEATURE}/register").body["properties"]["state"] == "Registering"
    azure.now += 5
    assert azure.ask("GET", FEATURE).body["properties"]["state"] == "Registered"
    azure.set(feature_never=["Gen2VMPreview"])
    assert azure.ask("GET", FEATURE).body["properties"]["state"] == "Pending"
    assert azure.ask("GET", FEATURE.replace("Gen2VM", "Gen9VM")).body["error"]["code"] == "FeatureNotFound"


def test_a_cluster_needs_the_provider_registered(azure):
    azure.ask("PUT", f"{S}/resourcegroups/g", {"location": "uksouth"})
    cluster = f"{S}/resourceGroups/g{PROVIDER.removeprefix(S)}/managedClusters/c"

    assert azure.ask("PUT", cluster, {}).body["error"]["code"] == "MissingSubscriptionRegistration"
    assert azure.ask("POST", f"{PROVIDER}/register").body["registrationState"] == "Registering"
    azure.now += 5
    assert azure.ask("GET", PROVIDER).body["registrationState"] == "Registered"


def test_what_is_not_played_says_so(azure):
    reply = azure.ask("GET", f"{S}/providers/Microsoft.Quantum/workspaces")
    assert reply.status == 404
    assert "simulated: GET" in reply.body["error"]["message"]


@pytest.mark.parametrize(
    ("path", "version", "code"),
    [
        ("/subscriptions", "", "MissingApiVersionParameter"),
        ("/subscriptions", "latest", "InvalidApiVersionParameter"),
        ("/subscriptions/other/resourcegroups", "2026-08-01", "SubscriptionNotFound"),
    ],
)
def test_requests_that_arm_itself_refuses(azure, path, version, code):
    assert azure.ask("GET", path, version=version).body["error"]["code"] == code


def test_paths_are_matched_without_regard_to_case(azure):
    azure.ask("PUT", f"{S}/ResourceGroups/G", {"location": "UK South"})
    assert azure.ask("GET", f"{S.upper()}/resourceGROUPS/g").body["location"] == "uksouth"


def test_a_damaged_state_is_refused():
    with pytest.raises(Refused, match="cannot be read"):
        decode(b'{"settings":{}')
