"""What a form has no words for is refused, and not left out in silence."""

from __future__ import annotations

import json

import msgspec
import pytest
import yaml

from kubenclave.cluster.export import Form, export
from kubenclave.cluster.spec import ClusterSpec
from kubenclave.errors import UsageError

POOL = {"name": "system", "vmSize": "Standard_D4s_v5", "mode": "System"}
SMALL = {"name": "small", "group": "g", "location": "uksouth", "kubernetesVersion": "1.35.3", "pools": [POOL]}
SCRIPTS = [Form.BASH, Form.POWERSHELL]


def exported(form, **more):
    return export(msgspec.convert(SMALL | more, ClusterSpec), form)


@pytest.mark.parametrize("form", SCRIPTS)
@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"group": "-g"}, "group"),
        ({"tags": {"-a": "b"}}, "'-a=b'"),
        ({"tags": {"a=b": "c"}}, "'a=b'"),
        ({"tags": {"a": "b\nc"}}, "control character"),
        ({"tags": {"a": "b\0c"}}, "control character"),
        ({"headers": {"x": "a,b"}}, "'a,b'"),
        ({"headers": {"x": "a=b"}}, "'a=b'"),
        ({"headers": {"x": " a"}}, "' a'"),
        ({"headers": {"x": ""}}, "x with the value ''"),
        ({"headers": {"-x": "a"}}, "headers"),
        ({"pools": [POOL | {"taints": [{"key": "sgx"}]}]}, r"pools\[system\].taints"),
        ({"pools": [POOL | {"mode": "User"}]}, "no pool to begin with"),
        ({"pools": [POOL | {"spot": True}]}, "no pool to begin with"),
    ],
)
def test_what_az_cannot_be_told_is_refused_by_its_name(form, more, named):
    with pytest.raises(UsageError, match=named):
        exported(form, **more)


@pytest.mark.parametrize(
    "pool", [POOL | {"mode": "User"}, POOL | {"spot": True}, POOL | {"taints": [{"key": "a", "value": "b"}]}], ids=["user", "spot", "taint"]
)
def test_terraform_is_refused_a_cluster_without_a_default_node_pool(pool):
    with pytest.raises(UsageError, match="default node pool"):
        exported(Form.TERRAFORM, pools=[pool])


def test_a_pool_kept_for_the_clusters_own_pods_is_terraforms_default_pool():
    tainted = POOL | {"name": "kept", "taints": [{"key": "CriticalAddonsOnly", "value": "true"}]}
    text = exported(Form.TERRAFORM, pools=[POOL | {"name": "spot", "taints": [{"key": "a", "value": "b"}]}, tainted])
    assert "only_critical_addons_enabled = true" in text
    assert 'node_taints           = ["a=b:NoSchedule"]' in text


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"kubernetesVersion": None}, "kubernetesVersion"),
        ({"kubernetesVersion": "1.35"}, "not 1.35"),
        ({"name": "Capital"}, "name: Capital"),
        ({"name": "under_score"}, "name: under_score"),
        ({"identity": "service-principal"}, "identity"),
    ],
)
def test_cluster_api_is_refused_what_its_types_cannot_hold(more, named):
    with pytest.raises(UsageError, match=named):
        exported(Form.CAPZ, **more)


HEADERS_AND_FEATURES = {"headers": {"usegen2vm": "true"}, "features": ["Microsoft.ContainerService/Some"]}


@pytest.mark.parametrize("form", [Form.ARM, Form.BICEP, Form.TERRAFORM, Form.CAPZ])
def test_a_template_says_which_headers_and_features_it_does_not_carry(form):
    text = exported(form, **HEADERS_AND_FEATURES)
    assert "Not carried: the request header usegen2vm" in text
    assert "Register the feature Microsoft.ContainerService/Some first" in text
    assert "Not carried" not in exported(form)


@pytest.mark.parametrize("form", SCRIPTS)
def test_a_script_registers_the_features_and_sends_the_headers(form):
    text = exported(form, **HEADERS_AND_FEATURES)
    assert text.index("feature register") < text.index("feature show") < text.index("provider register") < text.index("aks create")
    assert "usegen2vm=true" in text


@pytest.mark.parametrize("form", [*Form])
def test_no_form_holds_a_secret_and_scripts_give_it_to_az_by_its_input(form):
    if form is Form.CAPZ:
        return
    text = exported(form, identity="service-principal")
    lines = [line.strip() for line in text.splitlines()]
    if form is Form.BASH:
        assert [line for line in lines if "client_secret" in line] == [
            '{ read -r client_id; read -r client_secret; } <<<"$principal"',
            '--only-show-errors <<<"$client_secret"',
        ]
        assert "--client-secret @- \\" in lines
    elif form is Form.POWERSHELL:
        assert "$client_secret | az aks create `" in lines
        assert "--client-secret '@-' `" in lines
    elif form is Form.TERRAFORM:
        assert 'variable "service_principal_secret" {' in lines
        assert "sensitive   = true" in lines


@pytest.mark.parametrize("form", SCRIPTS)
def test_a_value_that_az_would_take_for_a_file_reaches_it_in_a_file(form):
    text = exported(form, tags={"a": "@/etc/hostname", "b": "c@d"})
    by_file, plain = ("@<(printf %s a=@/etc/hostname)", "b=c@d") if form is Form.BASH else ("(Use-File 'a=@/etc/hostname')", "'b=c@d'")
    assert text.count(by_file) == 2
    assert f" {plain} " in text


def test_powershell_gives_a_batch_file_no_character_that_means_something_to_it():
    text = exported(Form.POWERSHELL, tags={name: f"a{name}b" for name in '"^|()!;'} | {"per": "a%PATH%b", "plain": "a b"}, group="g(1)")
    # The group stands behind each --resource-group, in two commands of its own, and in the mark that three things bear.
    assert text.count("(Use-File ") == text.count("--resource-group") + 2 + 3 + 2 * 8
    assert "'plain=a b'" in text


def test_powershell_doubles_everything_that_it_takes_for_a_single_quote():
    assert "'a=it''s \u2019\u2019 \u201b\u201b'" in exported(Form.POWERSHELL, tags={"a": "it's \u2019 \u201b"})


def test_text_in_brackets_is_no_expression_of_arm():
    text = exported(Form.ARM, tags={"[x]": "[resourceGroup().id]", "open": "[only", "[[": "]"})
    tags = json.loads(text)["resources"][0]["tags"]
    assert (tags["[[x]"], tags["open"], tags["[["]) == ("[[resourceGroup().id]", "[only", "]")


def test_a_cluster_file_leaves_out_what_is_the_default():
    document = yaml.safe_load(exported(Form.FILE))
    assert document == SMALL
