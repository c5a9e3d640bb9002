"""Azure's failures in words. What is raised is made as the SDKs make it: from a reply with a body."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("azure.core", reason="the Azure extra is not installed")

from azure.core.exceptions import (
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.mgmt.core.exceptions import ARMErrorFormat

from kubenclave.cluster.azure.failures import error_code, is_network, scrub, telling, told
from kubenclave.cluster.azure.meanings import CODES
from kubenclave.errors import KubenclaveError, NotFound, Refused, Unreachable, UsageError


class Reply:
    """As much of a reply as an exception is made from."""

    def __init__(self, status, body, headers=None):
        self.status_code, self.reason, self.headers, self.content_type = status, "", headers or {}, "application/json"
        self._body = body if isinstance(body, str) else json.dumps(body)
        self.request = None

    def text(self, **_options):
        return self._body

    def body(self):
        return self._body.encode()

    def json(self):
        return json.loads(self._body)


def failed(status, body, kind=HttpResponseError, headers=None):
    return kind(response=Reply(status, body, headers), error_format=ARMErrorFormat)


def error(code, message, **more):
    return {"error": {"code": code, "message": message, **more}}


@pytest.mark.parametrize(
    ("reply", "kind", "words", "hint"),
    [
        ((400, "QuotaExceeded", "limit 10"), Refused, "quota", "Ask for more"),
        ((409, "OperationNotAllowed", "It would exceed the approved standardDCSv3Family Cores quota."), Refused, "quota", "Quotas"),
        ((400, "ErrCode_InsufficientVCPUQuota", "Insufficient vcpu quota requested 8, remaining 0"), Refused, "quota", "Quotas"),
        ((409, "SkuNotAvailable", "The requested size is not available"), Refused, "not to be had", "region"),
        (
            (400, "BadRequest", "The VM size of Standard_DC2s_v2 is not allowed in your subscription in location 'uksouth'."),
            Refused,
            "not to be had",
            "region",
        ),
        (
            (400, "PrincipalNotFound", "Principal 1 does not exist in the directory 2."),
            Refused,
            "does not know the service principal yet",
            "again",
        ),
        (
            (400, "BadRequest", "Service principal clientID: 1 not found in Active Directory tenant 2"),
            Refused,
            "does not know the service",
            "again",
        ),
        ((403, "AuthorizationFailed", "The client '1' does not have authorization"), Refused, "may not do this", "Contributor"),
        ((403, "Authorization_RequestDenied", "Insufficient privileges"), Refused, "make applications", "managed"),
        ((409, "MissingSubscriptionRegistration", "The subscription is not registered"), Refused, "not registered", "az provider register"),
        ((409, "Conflict", "Another operation is in progress"), Refused, "another operation", "Wait"),
        (
            (409, "OperationNotAllowed", "Operation is not allowed: Another agentpool operation is in progress"),
            Refused,
            "another operation",
            "Wait",
        ),
        ((409, "ResourceGroupBeingDeleted", "in deprovisioning state"), Refused, "being deleted", "gone"),
        ((400, "InvalidTemplate", "Deployment template validation failed"), UsageError, "not as Azure wants it", "cluster file"),
        ((400, "InvalidParameter", "The value of parameter x is invalid"), UsageError, "not as Azure wants it", "cluster file"),
        ((403, "RequestDisallowedByPolicy", "Resource 'c' was disallowed by policy."), Refused, "policy", "owner"),
        ((400, "ReservedResourceName", "The resource name 'login' is reserved"), UsageError, "reserved", "another name"),
        ((400, "K8sVersionNotSupported", "Version 1.20 is not supported"), UsageError, "version", "az aks get-versions"),
        ((400, "BadRequest", "Managed cluster version 1.20 is not supported in this region"), UsageError, "version", "az aks get-versions"),
        ((429, "TooManyRequests", "wait"), Unreachable, "no more requests", "Wait"),
        ((429, "", ""), Unreachable, "no more requests", "Wait"),
        ((404, "ResourceGroupNotFound", "Resource group 'g' could not be found."), NotFound, "not there", ""),
        ((401, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier"), Refused, "token", "clock"),
        ((503, "ServerBusy", "later"), Unreachable, "its own end", "again"),
        ((200, "QuotaExceeded", "of a failed operation"), Refused, "quota", "Ask for more"),
    ],
)
def test_a_code_is_told_in_words_with_its_kind_and_what_to_do(reply, kind, words, hint):
    status, code, message = reply
    found = told(failed(status, error(code, message)), "creating the cluster g/c")

    assert type(found) is kind
    assert found.what.startswith("Creating the cluster g/c did not work: ")
    assert words in found.what
    assert hint in found.hint
    assert message[:40] in found.what


def test_an_error_without_an_envelope_is_read_too():
    found = told(failed(400, {"code": "PrincipalNotFound", "message": "Principal 1 does not exist"}), "assigning a role")

    assert "service principal" in found.what
    assert error_code(failed(400, {"code": "PrincipalNotFound", "message": "x"})) == "PrincipalNotFound"


def test_of_errors_within_errors_the_innermost_that_says_something_is_told():
    inner = {"code": "SkuNotAvailable", "message": "not in uksouth"}
    body = error("DeploymentFailed", "see details", details=[{"code": "Conflict", "message": "x", "details": [inner]}])

    found = told(failed(409, body), "creating")
    assert "not to be had" in found.what
    assert "not in uksouth (SkuNotAvailable)" in found.what


def test_a_failed_operation_is_told_by_its_code_although_its_status_is_200():
    exc = failed(200, {"name": "1", "status": "Failed", "error": {"code": "AllocationFailed", "message": "no capacity"}})

    assert "no machines of this size free" in told(exc, "creating").what


def test_an_unknown_code_is_told_in_azures_words_with_the_request_id():
    found = told(failed(418, error("Teapot", "short and stout"), headers={"x-ms-request-id": "r-1"}), "creating")

    assert type(found) is KubenclaveError
    assert "short and stout (Teapot)" in found.what
    assert "r-1" in found.hint


@pytest.mark.parametrize("body", ["", "<html>", "[]", "5", '{"error": 7}', '{"error": {"code": 5, "message": []}}', "[" * 100_000])
def test_a_body_of_any_shape_is_told_by_its_status(body):
    assert "its own end" in told(failed(502, body), "creating").what
    assert type(told(failed(418, body), "creating")) is KubenclaveError


def test_nobody_signed_in_is_told_in_one_sentence():
    long = "DefaultAzureCredential failed to retrieve a token.\nAttempted credentials:\n\tEnvironmentCredential: "
    found = told(ClientAuthenticationError(message=long + "authentication unavailable. " * 40), "listing the subscriptions")

    assert found.what == "Listing the subscriptions did not work: nobody is signed in to Azure."
    assert "az login" in found.hint


def test_a_refused_sign_in_is_told_with_entras_sentence():
    message = "Attempted:\n\tEnvironmentCredential: Authentication failed: AADSTS7000215: Invalid client secret provided.\n\tAzureCli: no"
    found = told(ClientAuthenticationError(message=message), "listing the subscriptions")

    assert "the sign-in was refused" in found.what
    assert "AADSTS7000215: Invalid client secret provided." in found.what
    assert "AzureCli" not in found.what


@pytest.mark.parametrize(
    ("words", "told_as", "hint"),
    [
        ("Failed to resolve 'x' ([Errno -3] Temporary failure in name resolution)", "cannot be resolved", "network"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed'))", "not trusted", "--ca-file"),
        ("[Errno 111] Connection refused", "cannot be reached", "network"),
    ],
)
def test_the_way_to_azure_is_told_apart_from_azure(words, told_as, hint):
    for exc in (ServiceRequestError(words), ClientAuthenticationError(message=f"Authentication failed: {words}")):
        found = told(exc, "reading")
        assert type(found) is Unreachable
        assert told_as in found.what
        assert hint in found.hint


def test_waiting_helps_against_a_network_that_is_away_and_against_nothing_else():
    assert is_network(ServiceRequestError("Failed to resolve 'x'"))
    assert is_network(ServiceResponseError("Connection aborted."))
    assert not is_network(ServiceRequestError("CERTIFICATE_VERIFY_FAILED"))
    assert not is_network(ClientAuthenticationError(message="AADSTS7000215"))
    hidden = ClientAuthenticationError(message="Authentication failed")
    hidden.__cause__ = ServiceRequestError("[Errno 111] Connection refused")
    assert is_network(hidden)


def test_a_broken_answer_is_told_as_no_answer_of_azure():
    assert "not as Azure's" in told(DecodeError("JSON is invalid: x"), "reading").what


@pytest.mark.parametrize("raised", [TypeError("'int' object is not iterable"), KeyError("value"), RecursionError(), ValueError("x")])
def test_what_an_sdk_raises_over_a_strange_answer_is_told(raised):
    def asked():
        raise raised

    with pytest.raises(Unreachable, match="not as Azure's") as found, telling("reading"):
        asked()
    assert found.value.__cause__ is raised


def test_our_own_errors_pass_through():
    with pytest.raises(NotFound, match="mine"), telling("reading"):
        raise NotFound("mine")


def test_a_missing_resource_is_told_as_not_found():
    assert type(told(failed(404, error("Anything", "x"), ResourceNotFoundError), "reading")) is NotFound


SECRET = "abc8Q~abcdefghijklmnopqrstuvwxyz01234567"  # noqa: S105 - made up


@pytest.mark.parametrize(
    "words",
    [
        f"the secret {SECRET} is wrong",
        "token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl was refused",
        "Authorization: Bearer c2VjcmV0LXRva2Vu",
        '{"secretText": "hunter2-hunter2"}',
        "client_secret=hunter2-hunter2&grant_type=x",
        '"servicePrincipalProfile":{"clientId":"1","secret":"hunter2-hunter2"}',
        "password: hunter2-hunter2",
        '"access_token":"c2VjcmV0LXRva2Vu"',
    ],
)
def test_no_secret_is_told(words):
    found = told(failed(400, error("BadRequest", words)), "creating")

    for secret in (SECRET, "eyJ", "c2VjcmV0", "hunter2", "c2lnbmF0"):
        assert secret not in found.what
    assert "***" in found.what


def test_the_environments_client_secret_is_not_told_whatever_it_looks_like(monkeypatch):
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "plain words")

    assert "plain words" not in scrub("the value plain words is wrong")


def test_azures_words_come_on_one_line_bounded_and_without_control_characters():
    found = scrub("a\nb\x1b[31m" + "c" * 10_000)

    assert found.startswith("a b")
    assert "\x1b" not in found
    assert len(found) < 600


KEYS = st.sampled_from(["error", "code", "message", "details", "x"])
BODIES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(KEYS, each))


@given(BODIES, st.integers(100, 599))
def test_whatever_json_comes_some_error_of_ours_comes_out(body, status):
    found = told(failed(status, body), "creating")

    assert isinstance(found, KubenclaveError)
    assert "\n" not in found.what


def test_every_code_of_the_table_is_in_small_letters_and_says_what_it_is():
    assert all(code == code.lower() and failure.words for code, failure in CODES.items())
