"""What holds for every admission rule, whatever it says: whom it can meet, and that it knows the dialects."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from kubenclave.install.dra import CAPACITY, DRIVER
from kubenclave.install.limits import CLAIMS, POLICY, VARIABLE, largest_in
from kubenclave.install.objects import LABELS, NODE_LABEL
from kubenclave.workload import dialects

DEPLOY = Path(__file__).parents[3] / "deploy"
DOCUMENTS = [
    document
    for name in ("admission.yaml", "admission-mutating.yaml", "admission-claims.yaml")
    for document in yaml.safe_load_all((DEPLOY / name).read_text())
    if document is not None
]
POLICIES = [document for document in DOCUMENTS if document["kind"].endswith("Policy")]
BINDINGS = [document for document in DOCUMENTS if document["kind"].endswith("Binding")]
# "".-quoted words of CEL that name an extended resource.
QUOTED_RESOURCE = re.compile(r'"([a-z.]+/[A-Za-z_]+)"')
EPC = {dialect.resource for dialect in dialects()}
COMPANIONS = {name for dialect in dialects() for name in dialect.companions}

# That of claims never meets a pod.
(OF_CLAIMS,) = [policy for policy in POLICIES if policy["metadata"]["name"] == "kubenclave-epc-claims"]
OF_PODS = [policy for policy in POLICIES if policy is not OF_CLAIMS]

every_policy = pytest.mark.parametrize("policy", OF_PODS, ids=[policy["metadata"]["name"] for policy in OF_PODS])


def expressions(policy):
    spec = policy["spec"]
    for entry in [*spec.get("matchConditions", []), *spec.get("variables", []), *spec.get("validations", [])]:
        yield entry["expression"]
    for mutation in spec.get("mutations", []):
        yield (mutation.get("jsonPatch") or mutation["applyConfiguration"])["expression"]


@every_policy
def test_a_rule_meets_only_pods_that_are_being_made_and_first_asks_whether_they_matter(policy):
    rules = policy["spec"]["matchConstraints"]["resourceRules"]

    assert policy["spec"]["failurePolicy"] == "Fail"
    assert len(policy["spec"]["matchConditions"]) == 1
    assert {(operation, resource) for rule in rules for operation in rule["operations"] for resource in rule["resources"]} <= {
        ("CREATE", "pods"),
        ("UPDATE", "pods/ephemeralcontainers"),
        # That of ways to the device, where the spec changes.
        *([("UPDATE", "pods")] if policy["metadata"]["name"] == "kubenclave-raw-sgx" else []),
    }


@every_policy
def test_a_match_condition_reads_nothing_that_may_be_missing_and_cannot_fail(policy):
    """An error there would refuse pods that the rule is not about: quantities and parameters stay behind it."""
    (condition,) = policy["spec"]["matchConditions"]
    expression = condition["expression"]
    # What every pod has: spec.containers; of a node selector's expression, its key. The rest is reached through optionals.
    expression = expression.replace("object.spec != oldObject.spec", "")
    plain = re.sub(r"object\.spec\.containers|(?<![.\w])e\.key|\bobject\.spec(?=\.\?)", "", expression)

    assert not re.search(r"quantity\(|params|\[\d|int\(", expression)
    assert not re.search(r"(?<![.\w])(?:object|[a-z])\.(?!\?)(?:spec|resources|limits|key|hostPath|tolerations|volumes|values)\b", plain)


@every_policy
def test_a_rule_knows_the_resources_of_all_dialects_or_of_intels_alone(policy):
    named = {name for expression in expressions(policy) for name in QUOTED_RESOURCE.findall(expression)}

    assert named <= EPC | COMPANIONS
    assert named >= EPC or named == {"sgx.intel.com/epc", "sgx.intel.com/enclave"}


def test_the_rule_of_claims_meets_only_new_claims_and_first_asks_whether_they_are_of_our_classes():
    (rule,) = OF_CLAIMS["spec"]["matchConstraints"]["resourceRules"]
    (condition,) = OF_CLAIMS["spec"]["matchConditions"]
    documents = yaml.safe_load_all((DEPLOY / "node-agent-dra.yaml").read_text())
    classes = {document["metadata"]["name"] for document in documents if document["kind"] == "DeviceClass"}
    plain = re.sub(r"dyn\(object\)\.spec(?=\.\?|\))", "", condition["expression"])

    assert OF_CLAIMS["spec"]["failurePolicy"] == "Fail"
    assert (rule["apiGroups"], rule["operations"]) == (["resource.k8s.io"], ["CREATE"])
    assert rule["resources"] == ["resourceclaims", "resourceclaimtemplates"]
    assert set(re.findall(r'"([a-z.]+\.dev)"', condition["expression"])) == classes
    assert not re.search(r"quantity\(|params|\[\d|int\(", plain)
    assert not re.search(r"(?<![?\w])\.(?:spec|devices|requests|exactly|deviceClassName|firstAvailable)\b", plain)


def test_the_rule_of_claims_counts_what_the_driver_counts():
    variables = {variable["name"]: variable["expression"] for variable in OF_CLAIMS["spec"]["variables"]}

    assert f'.?deviceClassName.orValue("") == "{DRIVER}"' in variables["epc"]
    assert f'"{CAPACITY}" in w.?capacity.?requests.orValue({{}})' in variables["withoutAmount"]
    assert f'"{CLAIMS}" in variables.largest' in variables["tooLarge"]
    assert variables[VARIABLE] == "{}"


def test_the_names_of_the_limits_are_those_of_the_dialects():
    (policy,) = [policy for policy in POLICIES if policy["metadata"]["name"] == POLICY]
    (resources,) = [variable["expression"] for variable in policy["spec"]["variables"] if variable["name"] == "resources"]

    assert dict(re.findall(r'"([a-z]+)": "([^"]+)"', resources)) == {dialect.name: dialect.resource for dialect in dialects()}


def test_rules_for_mib_name_the_dialects_that_count_mib():
    (policy,) = [policy for policy in POLICIES if policy["metadata"]["name"] == "kubenclave-epc"]
    variables = {variable["name"]: variable["expression"] for variable in policy["spec"]["variables"]}

    assert set(QUOTED_RESOURCE.findall(variables["bytesForMiB"])) == {each.resource for each in dialects() if each.unit_bytes == 1 << 20}
    assert set(QUOTED_RESOURCE.findall(variables["mibForBytes"])) == {each.resource for each in dialects() if each.unit_bytes == 1}


def test_a_taints_key_is_its_resources_name_in_every_dialect():
    """The mutating rule relies on it."""
    assert all(dialect.taint_key == dialect.resource for dialect in dialects())


def test_the_label_of_sgx_nodes_is_the_agents():
    (policy,) = [policy for policy in POLICIES if policy["metadata"]["name"] == "kubenclave-raw-sgx"]

    assert f'nodeSelector.?{NODE_LABEL[0]}.orValue("") == "{NODE_LABEL[1]}"' in policy["spec"]["matchConditions"][0]["expression"]


def test_every_policy_has_a_binding_of_its_name_which_denies():
    assert [binding["spec"]["policyName"] for binding in BINDINGS] == [policy["metadata"]["name"] for policy in POLICIES]
    for binding in BINDINGS:
        assert binding["metadata"]["name"] == binding["spec"]["policyName"]
        if binding["kind"] == "ValidatingAdmissionPolicyBinding":
            assert binding["spec"]["validationActions"] == ["Deny"]


def test_as_it_stands_the_rule_knows_no_limits():
    (policy,) = [policy for policy in POLICIES if policy["metadata"]["name"] == POLICY]

    assert largest_in([policy]) == {}
    assert [variable["expression"] for variable in policy["spec"]["variables"] if variable["name"] == VARIABLE] == ["{}"]


def test_no_rule_has_parameters():
    """See kubenclave.install.limits: they can be frozen in the API server."""
    assert not any("paramKind" in policy["spec"] for policy in POLICIES)


def test_every_object_carries_the_labels_by_which_uninstall_finds_it():
    assert all(document["metadata"]["labels"] == LABELS for document in DOCUMENTS)
