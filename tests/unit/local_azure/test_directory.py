from __future__ import annotations

import pytest

from kubenclave.local.azure.authorization import ROLES
from kubenclave.local.azure.values import CLIENT, SUBSCRIPTION, TENANT

S = f"/subscriptions/{SUBSCRIPTION}"
GROUP = f"{S}/resourceGroups/g"
NAME = "77777777-7777-4777-8777-777777777777"
CONTRIBUTOR = ROLES[1].id


def principal_of(azure):
    application = azure.ask("POST", "/v1.0/applications", {"displayName": "rbac"}).body
    secret = azure.ask("POST", f"/v1.0/applications/{application['id']}/addPassword", {}).body["secretText"]
    made = azure.ask("POST", "/v1.0/servicePrincipals", {"appId": application["appId"]}).body
    return application, secret, made


def assign(azure, principal, name=NAME, scope=GROUP):
    role = f"{S}/providers/Microsoft.Authorization/roleDefinitions/{CONTRIBUTOR}"
    return azure.ask(
        "PUT",
        f"{scope}/providers/Microsoft.Authorization/roleAssignments/{name}",
        {"properties": {"roleDefinitionId": role, "principalId": principal["id"]}},
    )


def test_a_role_is_given_once_its_principal_is_replicated(azure):
    _, _, principal = principal_of(azure.ready())

    assert assign(azure, principal).body["error"]["code"] == "PrincipalNotFound"
    azure.now += 5
    assert assign(azure, principal).status == 201
    assert assign(azure, principal).status == 200
    assert assign(azure, principal, name=NAME.replace("7", "8")).body["error"]["code"] == "RoleAssignmentExists"


def test_a_new_secret_is_accepted_once_it_is_replicated(azure):
    application, secret, _ = principal_of(azure)

    assert azure.token_reply(application["appId"], secret).status == 400
    azure.now += 5
    assert azure.token_reply(application["appId"], secret).status == 200
    wrong = azure.token_reply(application["appId"], "wrong")
    assert (wrong.status, wrong.body["error"]) == (401, "invalid_client")
    assert secret.encode() not in azure.saved

    second = azure.ask("POST", f"/v1.0/applications/{application['id']}/addPassword", {}).body["secretText"]
    assert azure.token_reply(application["appId"], second).status == 401
    azure.now += 5
    assert azure.token_reply(application["appId"], second).status == 200


def test_a_contributor_of_one_group_may_work_there_and_nowhere_else(azure):
    application, secret, principal = principal_of(azure.ready())
    azure.now += 5
    assign(azure, principal)
    token = azure.login(application["appId"], secret)

    assert azure.ask("PUT", GROUP, {"location": "uksouth"}, token=token).status == 200
    assert (
        azure.ask("PUT", f"{S}/resourcegroups/other", {"location": "uksouth"}, token=token).body["error"]["code"] == "AuthorizationFailed"
    )
    denied = azure.ask("DELETE", f"{GROUP}/providers/Microsoft.Authorization/roleAssignments/{NAME}", token=token)
    assert (denied.status, denied.body["error"]["code"]) == (403, "AuthorizationFailed")


def test_an_application_that_goes_takes_its_principal_and_its_roles_along(azure):
    application, _, principal = principal_of(azure.ready())
    azure.now += 5
    assign(azure, principal)
    assert azure.ask("DELETE", f"/v1.0/applications/{application['id']}").status == 204

    assert azure.ask("GET", f"/v1.0/servicePrincipals/{principal['id']}").status == 404
    found = azure.ask("GET", f"{GROUP}/providers/Microsoft.Authorization/roleAssignments?$filter=principalId eq '{principal['id']}'")
    assert found.body["value"] == []


def test_applications_are_found_by_the_filters_that_clients_send(azure):
    application, _, principal = principal_of(azure)

    def names(query):
        return [each["displayName"] for each in azure.ask("GET", query).body["value"]]

    assert names("/v1.0/applications?$filter=startswith(displayName,'RB')") == ["rbac"]
    assert names(f"/v1.0/servicePrincipals?$filter=appId eq '{application['appId']}'") == ["rbac"]
    assert names(f"/v1.0/servicePrincipals?$filter=servicePrincipalNames/any(c:c eq '{principal['appId']}')") == ["rbac"]
    assert names("/v1.0/applications?$filter=displayName eq 'it''s'") == []


def test_only_a_clients_secret_logs_in(azure):
    reply = azure.token_reply(CLIENT, "x", grant="password")

    assert (reply.status, reply.body["error"]) == (400, "unsupported_grant_type")
    assert "simulated" in reply.body["error_description"]


@pytest.mark.parametrize("token", ["", "made-up"])
def test_without_a_known_token_nothing_is_answered(azure, token):
    azure.token = token
    assert azure.ask("GET", "/subscriptions").status == 401


def test_a_token_ends_in_its_time_and_by_a_fault(azure):
    assert azure.ask("GET", "/subscriptions").status == 200
    azure.fault(what="claims-challenge", path="/subscriptions")
    challenged = azure.ask("GET", "/subscriptions")
    assert "insufficient_claims" in challenged.headers["www-authenticate"]
    assert azure.ask("GET", "/subscriptions").status == 401

    azure.token = azure.login(CLIENT, "owner-secret")
    azure.now += 3600
    assert azure.ask("GET", "/subscriptions").body["error"]["code"] == "ExpiredAuthenticationToken"


def test_openid_metadata_leads_to_the_same_origin(azure):
    body = azure.ask("GET", f"/{TENANT}/v2.0/.well-known/openid-configuration").body
    assert body["token_endpoint"] == f"https://localhost/{TENANT}/oauth2/v2.0/token"
    assert azure.ask("GET", "/nobody/v2.0/.well-known/openid-configuration").status == 400
    assert azure.ask("GET", "/metadata/endpoints", version="2022-09-01").body["resourceManager"] == "https://localhost"


def test_an_applications_name_and_tags_can_be_changed(azure):
    application, _, _ = principal_of(azure.ready())

    changed = azure.ask("PATCH", f"/v1.0/applications/{application['id']}", {"displayName": "other", "tags": ["a:b"]})

    assert changed.status == 204
    after = azure.ask("GET", f"/v1.0/applications/{application['id']}").body
    assert (after["displayName"], after["tags"], after["appId"]) == ("other", ["a:b"], application["appId"])
    assert azure.ask("PATCH", "/v1.0/applications/none", {"displayName": "x"}).status == 404


def test_applications_and_principals_are_found_by_their_tags(azure):
    marked = azure.ask("POST", "/v1.0/applications", {"displayName": "a", "tags": ["mark:g/o'c", "x"]}).body
    azure.ask("POST", "/v1.0/applications", {"displayName": "b", "tags": ["mark:g/other"]})
    principal = azure.ask("POST", "/v1.0/servicePrincipals", {"appId": marked["appId"], "tags": ["mark:g/o'c"]}).body

    query = "?$filter=tags/any(t:t eq 'mark:g/o''c')"
    assert [each["id"] for each in azure.ask("GET", f"/v1.0/applications{query}").body["value"]] == [marked["id"]]
    assert [each["id"] for each in azure.ask("GET", f"/v1.0/servicePrincipals{query}").body["value"]] == [principal["id"]]


def test_secrets_are_listed_by_their_names_and_keys_and_taken_out_by_their_keys(azure):
    application, secret, _ = principal_of(azure)
    path = f"/v1.0/applications/{application['id']}"
    made = azure.ask("POST", f"{path}/addPassword", {"passwordCredential": {"displayName": "kubenclave"}}).body
    azure.now += 5
    listed = azure.ask("GET", path).body["passwordCredentials"]

    assert [(each["displayName"], each["secretText"]) for each in listed] == [(None, None), ("kubenclave", None)]
    assert (listed[1]["keyId"], listed[1]["endDateTime"]) == (made["keyId"], made["endDateTime"])
    assert azure.ask("POST", f"{path}/removePassword", {"keyId": listed[0]["keyId"]}).status == 204
    assert azure.ask("POST", f"{path}/removePassword", {"keyId": listed[0]["keyId"]}).status == 400
    assert azure.token_reply(application["appId"], secret).status == 401
    assert azure.token_reply(application["appId"], made["secretText"]).status == 200
