"""What is read of a simulated Azure, and how fast."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import date

import msgspec
import pytest
from azure.core.rest import HttpRequest

from kubenclave.cluster.azure.directory import APPLICATION_ROLES, _reaches
from kubenclave.cluster.azure.marks import CONTRIBUTOR_ID, directory_tag
from kubenclave.cluster.azure.reading import read_found, read_offer
from kubenclave.cluster.azure.session import CloudSettings, open_session
from kubenclave.cluster.body import cluster_body
from kubenclave.cluster.checks.preflight import preflight
from kubenclave.cluster.spec import OWNER_TAG, Identity
from kubenclave.errors import NotFound, UsageError

pytestmark = pytest.mark.integration
TODAY = date(2026, 11, 24)
BELOW = "/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c"
FEATURE = "Microsoft.ContainerService/Gen2VMPreview"


def graph(session, method, path, body=None):
    answer = session.graph.send_request(HttpRequest(method, session.graph.format_url(path), json=body))
    answer.raise_for_status()
    return answer.json()


def assign(session, scope, principal):
    role = f"/subscriptions/{session.subscription_id}/providers/Microsoft.Authorization/roleDefinitions/{CONTRIBUTOR_ID}"
    wanted = {"properties": {"roleDefinitionId": role, "principalId": principal, "principalType": "ServicePrincipal"}}
    session.authorization.role_assignments.create(scope, "77777777-7777-4777-8777-777777777777", json.dumps(wanted).encode())


def registered(session):
    session.resources.providers.register("Microsoft.ContainerService")
    deadline = time.monotonic() + 10
    while session.resources.providers.get("Microsoft.ContainerService").registration_state != "Registered":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_azure_offers_is_read(session, spec):
    offer = read_offer(session, spec)

    assert (offer.subscription.state, offer.subscription.tenant) == ("Enabled", session.tenant_id)
    assert "uksouth" in offer.locations
    assert (offer.sizes["standard_dc2s_v3"].family, offer.sizes["standard_dc2s_v3"].vcpus) == ("standardDCSv3Family", 2)
    assert offer.sizes["standard_dc2s_v2"].restriction == "NotAvailableForSubscription"
    assert offer.quotas["standarddcsv3family"].limit == 8
    assert [version.minor for version in offer.versions if version.default] == ["1.35"]
    assert offer.sizes["standard_dc2s_v3"].spot is True
    assert offer.permissions[0].actions == ("*",)
    assert offer.subscription_permissions == offer.permissions
    assert offer.may_make_applications is None


def test_nothing_is_found_where_nothing_is(session, spec):
    found = read_found(session, msgspec.structs.replace(spec, features=(FEATURE, "Microsoft.ContainerService/NoSuchThing")))

    assert (found.group, found.cluster, found.principal, found.others_in_group) == (None, None, None, ())
    assert found.providers["Microsoft.ContainerService"] == "NotRegistered"
    assert found.features == {FEATURE: "NotRegistered", "Microsoft.ContainerService/NoSuchThing": "NotFound"}


def test_a_group_and_a_cluster_and_its_marks_are_found(session, spec):
    registered(session)
    session.resources.resource_groups.create_or_update(spec.group, {"location": "uksouth", "tags": {OWNER_TAG: spec.owner}})
    clusters = session.containers.managed_clusters
    clusters.begin_create_or_update(spec.group, spec.name, cluster_body(spec), polling_interval=0).result()
    clusters.begin_create_or_update(spec.group, "another", cluster_body(spec), polling_interval=0).result()
    found = read_found(session, spec)

    assert found.group is not None
    assert found.group.tags == {OWNER_TAG: spec.owner}
    assert found.cluster is not None
    assert (found.cluster.state, found.cluster.location, found.cluster.client_id) == ("Succeeded", "uksouth", "")
    assert found.cluster.tags == {OWNER_TAG: spec.owner}
    assert found.cluster.power == "Running"
    assert [pool.version for pool in found.cluster.pools] == ["1.35.3", "1.35.3"]
    assert [(pool.name, pool.vm_size, pool.count) for pool in found.cluster.pools] == [
        ("system", "Standard_D2s_v5", 1),
        ("sgx", "Standard_DC2s_v3", 1),
    ]
    assert [each.rpartition("/")[2] for each in found.others_in_group] == ["another"]


def test_a_service_principal_is_found_by_its_mark_at_every_stage_of_its_making(session, spec):
    session.resources.resource_groups.create_or_update(spec.group, {"location": "uksouth"})
    graph(
        session,
        "POST",
        "/v1.0/applications",
        {"displayName": "someone else's", "tags": [directory_tag(session.subscription_id, "g/other")]},
    )
    elsewhere = directory_tag("99999999-9999-4999-8999-999999999999", spec.owner)
    graph(session, "POST", "/v1.0/applications", {"displayName": "of another subscription", "tags": [elsewhere]})
    assert read_found(session, spec).principal is None
    tags = [directory_tag(session.subscription_id, spec.owner)]
    made = graph(session, "POST", "/v1.0/applications", {"displayName": "x", "tags": tags})
    alone = read_found(session, spec).principal
    principal = graph(session, "POST", "/v1.0/servicePrincipals", {"appId": made["appId"], "tags": tags})
    named = read_found(session, spec).principal
    assign(session, f"/subscriptions/{session.subscription_id}/resourceGroups/{spec.group}", principal["id"])
    whole = read_found(session, spec, secret_kept=lambda app_id: app_id == made["appId"]).principal

    assert alone is not None
    assert (alone.app_id, alone.application_object_id, alone.principal_id, alone.has_role) == (made["appId"], made["id"], "", False)
    assert named is not None
    assert (named.principal_id, named.has_role, named.has_secret) == (principal["id"], False, False)
    assert whole is not None
    assert (whole.has_role, whole.role_on_group, whole.has_secret) == (True, True, True)


@pytest.mark.parametrize(("scope", "has"), [("", (True, False)), ("/resourceGroups/g", (True, True)), (BELOW, (False, False))])
def test_a_role_counts_on_the_group_and_above_it_and_not_below(session, spec, scope, has):
    session.resources.resource_groups.create_or_update(spec.group, {"location": "uksouth"})
    tags = [directory_tag(session.subscription_id, spec.owner)]
    made = graph(session, "POST", "/v1.0/applications", {"displayName": "x", "tags": tags})
    principal = graph(session, "POST", "/v1.0/servicePrincipals", {"appId": made["appId"], "tags": tags})
    assign(session, f"/subscriptions/{session.subscription_id}{scope}", principal["id"])
    found = read_found(session, spec).principal

    assert (found.has_role, found.role_on_group) == has


def test_a_management_groups_role_counts():
    assert _reaches("/providers/microsoft.management/managementgroups/all", "/subscriptions/s/resourcegroups/g")
    assert not _reaches("/subscriptions/s/resourcegroups/g2", "/subscriptions/s/resourcegroups/g")
    assert not _reaches("/subscriptions/s/resourcegroups/g", "/subscriptions/s/resourcegroups/g2")


def test_a_region_that_is_none_is_a_finding_and_no_failure(session, spec):
    spec = msgspec.structs.replace(spec, location="atlantis")
    offer = read_offer(session, spec)

    assert (offer.sizes, offer.quotas) == ({}, {})
    assert [each.about for each in preflight(spec, offer, read_found(session, spec), today=TODAY) if each.blocks] == ["location"]


@pytest.fixture
def contributor(session, spec, monkeypatch):
    """Sign in as an application that is Contributor of the group and nothing else."""
    session.resources.resource_groups.create_or_update(spec.group, {"location": "uksouth"})
    made = graph(session, "POST", "/v1.0/applications", {"displayName": "x"})
    secret = graph(session, "POST", f"/v1.0/applications/{made['id']}/addPassword", {})["secretText"]
    principal = graph(session, "POST", "/v1.0/servicePrincipals", {"appId": made["appId"]})
    assign(session, f"/subscriptions/{session.subscription_id}/resourceGroups/{spec.group}", principal["id"])
    monkeypatch.setenv("AZURE_CLIENT_ID", made["appId"])
    monkeypatch.setenv("AZURE_CLIENT_SECRET", secret)


def test_what_the_account_may_not_do_is_found_before_anything_is_made(contributor, spec, signed_in):
    spec = msgspec.structs.replace(spec, identity=Identity.SERVICE_PRINCIPAL, kubernetes_version="1.35")
    with open_session(signed_in) as limited:
        offer, found = read_offer(limited, spec), read_found(limited, spec)
    findings = preflight(spec, offer, found, today=TODAY)

    assert {each.about for each in findings if each.blocks} == {"permission Microsoft.Authorization/roleAssignments/write"}
    # An account of one group may not ask what the subscription is offered: that is not known, and no failure.
    assert (offer.locations, offer.sizes, offer.quotas, offer.versions, found.providers) == ((), {}, {}, (), {})
    assert {"pools", "kubernetesVersion", "identity"} <= {each.about for each in findings}


@pytest.mark.parametrize(
    ("settings", "about"),
    [
        ({"quota": {"standardDCSv3Family": 1}}, "quota standarddcsv3family"),
        ({"quota": {"cores": 3}}, "quota cores"),
        ({"restricted": {"Standard_DC2s_v3": "QuotaId"}}, "pools[sgx].vmSize"),
    ],
)
def test_what_azure_would_refuse_is_a_blocking_finding(session, spec, control, settings, about):
    control("PATCH", "/settings", **settings)
    findings = preflight(spec, read_offer(session, spec), read_found(session, spec), today=TODAY)

    assert [finding.about for finding in findings if finding.blocks] == [about]


def test_everything_is_read_within_two_seconds_from_a_cold_start(signed_in, spec):
    program = f"""
import time
begun = time.monotonic()
from pathlib import Path
from kubenclave.cluster.azure.reading import read_found, read_offer
from kubenclave.cluster.azure.session import CloudSettings, open_session
from kubenclave.cluster.spec import ClusterSpec, Mode, Pool
spec = ClusterSpec(name="c", group="g", location="uksouth", pools=(Pool(name="a", vm_size="Standard_DC2s_v3", mode=Mode.SYSTEM),))
with open_session(CloudSettings(arm_endpoint={signed_in.arm_endpoint!r}, ca_file=Path({str(signed_in.ca_file)!r}))) as session:
    read_offer(session, spec)
    read_found(session, spec)
print(time.monotonic() - begun)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)

    assert float(ended.stdout) < 2


def test_the_subscription_that_is_named_is_taken(signed_in, running, monkeypatch):
    with open_session(CloudSettings(arm_endpoint=running.url, ca_file=running.ca, subscription=running.subscription)) as found:
        assert found.subscription_id == running.subscription
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "99999999-9999-4999-8999-999999999999")
    with pytest.raises(NotFound, match="99999999"), open_session(signed_in):
        pass
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "../../metadata")
    with pytest.raises(UsageError, match="no subscription's ID"), open_session(signed_in):
        pass


def directory(policy, roles):
    """Play the directory of a person who signed in."""

    def answer(_method, path, _query, _body):
        found = {
            "/v1.0/me": {"id": "1"},
            "/v1.0/policies/authorizationPolicy": policy,
            "/v1.0/me/transitiveMemberOf/microsoft.graph.directoryRole": {"value": [{"roleTemplateId": each} for each in roles]},
        }.get(path, {"value": []})
        return (403, {}, b"{}") if found is None else (200, {}, json.dumps(found).encode())

    return answer


@pytest.mark.parametrize(
    ("policy", "roles", "may"),
    [
        ({"defaultUserRolePermissions": {"allowedToCreateApps": True}}, [], True),
        ({"defaultUserRolePermissions": {"allowedToCreateApps": False}}, [], False),
        ({"defaultUserRolePermissions": {"allowedToCreateApps": False}}, [min(APPLICATION_ROLES).upper()], True),
        ({"defaultUserRolePermissions": {"allowedToCreateApps": "yes"}}, [], None),
        ({}, [], None),
        (None, [], None),
    ],
)
def test_whether_a_person_may_make_applications_is_asked_of_the_directory(play, spec, policy, roles, may):
    with play(directory(policy, roles)) as (session, _):
        assert read_offer(session, msgspec.structs.replace(spec, identity=Identity.SERVICE_PRINCIPAL)).may_make_applications is may
