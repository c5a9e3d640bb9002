"""The rule of claims with ResourceClaims and templates that it must refuse, in words, and others that it must leave alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[3] / "deploy"
EXAMPLES = Path(__file__).parents[3] / "examples" / "dra"
EPC, PROVISION = "epc.kubenclave.dev", "provision.epc.kubenclave.dev"

every_kind = pytest.mark.parametrize("kind", ["ResourceClaim", "ResourceClaimTemplate"])


def asking(epc=None, *, device_class=EPC, capacity="epc", **fields):
    """One way to meet a request."""
    return {"deviceClassName": device_class, **({"capacity": {"requests": {capacity: str(epc)}}} if epc is not None else {}), **fields}


def exactly(way, name="epc"):
    return {"name": name, "exactly": way}


def claim(kind, *requests, namespace="default"):
    devices = {"devices": {"requests": list(requests)}}
    spec = {"spec": devices} if kind == "ResourceClaimTemplate" else devices
    return {"apiVersion": "resource.k8s.io/v1", "kind": kind, "metadata": {"name": "c", "namespace": namespace}, "spec": spec}


def policies():
    return [each for each in yaml.safe_load_all((DEPLOY / "admission-claims.yaml").read_text()) if each is not None]


@pytest.fixture(scope="module")
def api(bring):
    api = bring("admission-claims", policies())
    api.refuses_soon(claim("ResourceClaim", exactly(asking(10))))
    return api


def knowing(expression):
    policy, _ = copy.deepcopy(policies())
    (largest,) = [variable for variable in policy["spec"]["variables"] if variable["name"] == "largest"]
    largest["expression"] = expression
    return policy


@pytest.fixture
def limits(api):
    """The largest device of the cluster has 40 MiB."""
    api.apply(knowing('{"claims": 41943040}'))
    api.until(lambda: api.said(claim("ResourceClaim", exactly(asking("41Mi")))), "the limit")
    yield api
    api.apply(knowing("{}"))
    api.until(lambda: not api.said(claim("ResourceClaim", exactly(asking("41Mi")))), "no limit")


@every_kind
@pytest.mark.parametrize("amount", ["10Mi", "4Ki", "4096", "16Ti"])
def test_whole_pages_are_admitted(api, kind, amount):
    assert api.said(claim(kind, exactly(asking(amount)))) == ""


@every_kind
@pytest.mark.parametrize("amount", ["10", "0", "4095", "10M", "5000000", "0.5"])
def test_what_is_not_whole_pages_is_refused_with_how_to_write_it(api, kind, amount):
    assert (
        "request epc asks for EPC that is not whole pages of 4096 bytes: the capacity counts bytes, write 10Mi and neither 10 nor 10M"
        in api.said(claim(kind, exactly(asking(amount))))
    )


@every_kind
@pytest.mark.parametrize("way", [asking(), asking("10Mi", capacity=f"{EPC}/epc"), asking("10Mi", capacity="memory")])
def test_a_request_that_does_not_say_how_much_is_refused(api, kind, way):
    assert "request epc does not say how much EPC: add capacity: {requests: {epc: 10Mi}}" in api.said(claim(kind, exactly(way)))


@every_kind
def test_every_request_and_every_way_to_meet_one_is_looked_at(api, kind):
    several = [exactly(asking("10Mi"), "good"), {"name": "either", "firstAvailable": [asking("10Mi", name="a"), asking("10", name="b")]}]

    assert "request either asks for EPC that is not whole pages" in api.said(claim(kind, *several))
    assert "request one, two does not say how much" in api.said(claim(kind, exactly(asking(), "one"), exactly(asking(), "two")))


@every_kind
def test_more_than_the_largest_device_has_is_refused_with_how_much_that_is(limits, kind):
    refusal = limits.said(claim(kind, exactly(asking("41Mi"))))

    assert "request epc asks for more EPC than any node has in one piece: ask for at most 41943040 bytes in one request" in refusal
    assert "if a larger node has joined, kubenclave node status says how to renew this limit" in refusal
    assert "in one piece" in limits.said(claim(kind, exactly(asking("1Ei"))))
    assert limits.said(claim(kind, exactly(asking("40Mi")))) == ""
    # Two requests draw on two devices, which may be there.
    assert limits.said(claim(kind, exactly(asking("40Mi"), "a"), exactly(asking("40Mi"), "b"))) == ""


@every_kind
def test_a_request_that_can_be_met_in_another_way_is_not_too_large(limits, kind):
    large = asking("41Mi", name="large")

    for other in (asking("40Mi", name="small"), asking(device_class="gpu.example.com", name="gpu")):
        assert limits.said(claim(kind, {"name": "r", "firstAvailable": [large, other]})) == ""
    assert "in one piece" in limits.said(claim(kind, {"name": "r", "firstAvailable": [large, asking("1Gi", name="larger")]}))


@every_kind
@pytest.mark.parametrize("device_class", [EPC, PROVISION])
def test_admin_access_which_takes_the_device_and_counts_nothing_is_refused(api, kind, device_class):
    """Kubernetes itself allows it only in namespaces with a label."""
    labelled = {"name": "admins", "labels": {"resource.kubernetes.io/admin-access": "true"}}
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": labelled})

    refusal = api.said(claim(kind, exactly(asking("10Mi", device_class=device_class, adminAccess=True)), namespace="admins"))

    assert "request epc has adminAccess and so reaches the SGX device past the counting of EPC: remove adminAccess" in refusal


@every_kind
def test_the_provisioning_device_has_no_amount(api, kind):
    assert api.said(claim(kind, exactly(asking(device_class=PROVISION)))) == ""


def test_the_examples_are_admitted(api):
    (template,) = [each for each in yaml.safe_load_all((EXAMPLES / "enclave.yaml").read_text()) if each["kind"] == "ResourceClaimTemplate"]

    assert api.said(template) == ""


OTHERS = {
    "another class": [exactly(asking(device_class="gpu.example.com"))],
    "another class with a capacity of that name": [exactly(asking("10", device_class="gpu.example.com"))],
    "one of several ways": [{"name": "r", "firstAvailable": [asking(device_class="gpu.example.com", name="a")]}],
    "many requests": [exactly(asking(device_class="gpu.example.com"), f"r{number}") for number in range(32)],
    "nothing": [],
}


@every_kind
@pytest.mark.parametrize("requests", OTHERS.values(), ids=OTHERS.keys())
def test_claims_of_other_classes_pass(api, kind, requests):
    assert api.said(claim(kind, *requests)) == ""


def test_the_api_server_finds_no_fault_in_the_rule(api):
    status = api.cluster.get("validatingadmissionpolicy", "kubenclave-epc-claims")["status"]

    assert status["typeChecking"] == {}


def test_a_broken_rule_stops_claims_of_epc_and_nobody_else(api):
    broken, _ = copy.deepcopy(policies())
    for validation in broken["spec"]["validations"]:
        validation["expression"] = '[object.metadata.name][1] == ""'
        validation.pop("messageExpression", None)
    api.apply(broken)
    try:
        api.until(lambda: "index out of bounds" in api.said(claim("ResourceClaim", exactly(asking("10Mi")))), "the broken rule")
        passed = [api.said(claim(kind, *requests)) for requests in OTHERS.values() for kind in ("ResourceClaim", "ResourceClaimTemplate")]
    finally:
        api.apply(policies()[0])
        api.until(lambda: not api.said(claim("ResourceClaim", exactly(asking("10Mi")))), "the rule as it is")

    assert set(passed) == {""}


def test_a_claim_of_an_older_template_is_refused_where_its_pod_shows_it(api):
    """A template that was there before the rule: Kubernetes makes the claim of it, which is a new one."""
    _, binding = policies()
    api.cluster.kubectl("delete", "validatingadmissionpolicybinding", binding["metadata"]["name"])
    old = claim("ResourceClaimTemplate", exactly(asking("10M"))) | {"metadata": {"name": "old", "namespace": "default"}}
    api.until(lambda: not api.said(old), "no rule")
    api.apply(old)
    api.apply(binding)
    api.until(lambda: api.said(old | {"metadata": {"name": "new", "namespace": "default"}}), "the rule")
    container = {"name": "main", "image": "none.example/none", "resources": {"claims": [{"name": "epc"}]}}
    spec = {"containers": [container], "resourceClaims": [{"name": "epc", "resourceClaimTemplateName": "old"}]}
    api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": spec})

    def messages():
        return [event["message"] for event in api.cluster.get("events")["items"] if event["involvedObject"]["name"] == "p"]

    try:
        api.until(lambda: any("write 10Mi and neither 10 nor 10M" in message for message in messages()), "the sentence in the pod's events")
    finally:
        api.cluster.kubectl("delete", "pod", "p", "--force", "--grace-period=0")
