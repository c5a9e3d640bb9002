"""Exports in the hands of the programs that read them: bash and, where it is installed, Terraform."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import unicodedata

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubenclave.cluster.export import Form, commands, export
from kubenclave.cluster.export.commands import Given, Variable
from kubenclave.cluster.export.hcl import Block, Expression, written
from kubenclave.cluster.spec import ClusterSpec

pytestmark = pytest.mark.integration
SECONDS = 60
# Stands in for az: writes its words to a file, each with its length before it; answers as an empty subscription would.
AZ = """\
az() {
  local word
  for word in "$@"; do
    if [[ $word == @/dev/fd/* ]]; then word=$(<"${word#@}"); fi
    if [[ $word == @- ]]; then word=$(</dev/stdin); fi
    printf '%s\\0' "$word" >>"$WORDS"
  done
  printf '\\n\\0' >>"$WORDS"
  case "$*" in
    "account show"*) echo current ;;
    "feature show"*) echo Registered ;;
    "group exists"*) echo false ;;
    "group show"*) echo /the/scope ;;
    "ad sp"*) printf 'the-client\\nthe secret\\n' ;;
  esac
}
"""
HOSTILE = st.text(alphabet="aB1 '\"$`{}%\\@=;|&()[]#!*?<>~^,:-é\u2019\u4e2d", max_size=16)


def spec_with(tags, comment):
    pools = [
        {"name": "system", "vmSize": "Standard_D4s_v5", "mode": "System"},
        {"name": "sgx", "vmSize": "Standard_DC2s_v3", "count": 0, "autoscale": {"min": 0, "max": 2}, "spot": True},
    ]
    value = {"name": "c", "group": "g(1)", "location": "uksouth", "identity": "service-principal", "pools": pools, "tags": tags}
    value |= {"features": ["Microsoft.ContainerService/A"], "headers": {"a'b`$": "x ${y} %{z}"}}
    return msgspec.convert(value | {"sshKey": f"ssh-rsa {'A' * 40} {comment}"}, ClusterSpec)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(HOSTILE.filter(lambda name: name and not set(name) & set("<>%&\\?/=") and name[0] != "-"), HOSTILE, max_size=4), HOSTILE
)
def test_bash_gives_az_each_word_as_it_is_meant(tmp_path, tags, comment):
    spec = spec_with(tags, "".join(char for char in comment if char.isascii()))
    words = tmp_path / "words"
    words.unlink(missing_ok=True)
    script = AZ + export(spec, Form.BASH)
    environment = {"PATH": os.environ["PATH"], "WORDS": str(words), "HOME": "/nowhere"}
    subprocess.run(["bash", "-c", script], env=environment, check=True, timeout=SECONDS, capture_output=True)
    values = {"subscription": "current", "scope": "/the/scope", "client_id": "the-client"}
    meant = [
        commands.current_subscription(),
        commands.register_feature("Microsoft.ContainerService/A"),
        commands.feature_state("Microsoft.ContainerService/A"),
        commands.register_provider(),
        commands.group_exists(spec),
        commands.create_group(spec),
        commands.cluster_names(spec),
        commands.group_id(spec),
        commands.create_principal(spec),
        commands.create_cluster(spec),
        commands.pool_names(spec),
        commands.add_pool(spec, spec.pools[1]),
        commands.credentials(spec),
    ]
    plain = [[plain_word(word, values) for word in each] for each in meant]
    given_to_az = words.read_text(encoding="utf-8").split("\n\0")[:-1]
    assert [each.split("\0")[:-1] for each in given_to_az] == plain


def plain_word(word, values):
    if isinstance(word, Variable):
        return values[word.name]
    if isinstance(word, Given):
        return word.text
    return "the secret" if word == commands.FROM_STDIN else word


@pytest.mark.parametrize("there", ["none", "group", "all"])
def test_a_script_that_is_run_again_makes_what_is_missing_and_no_more(tmp_path, there):
    spec = spec_with({}, "me")
    answers = {
        "none": "",
        "group": '  case "$*" in "group exists"*) echo true; return ;; esac\n',
        "all": '  case "$*" in "group exists"*) echo true; return ;; "aks list"*) echo C; return ;; '
        '"aks nodepool list"*) printf "system\\nSGX\\n"; return ;; esac\n',
    }[there]
    script = AZ.replace('  case "$*"', answers + '  case "$*"', 1) + export(spec, Form.BASH)
    environment = {"PATH": os.environ["PATH"], "WORDS": str(tmp_path / "words")}
    subprocess.run(["bash", "-c", script], env=environment, check=True, timeout=SECONDS, capture_output=True)
    run = [each.split("\0")[:3] for each in (tmp_path / "words").read_text(encoding="utf-8").split("\n\0")[:-1]]
    made = [" ".join(words) for words in run if {"create", "add", "create-for-rbac"} & set(words)]
    principal = ["ad sp create-for-rbac", "aks create --resource-group", "aks nodepool add"]
    assert made == {"none": ["group create --name", *principal], "group": principal, "all": []}[there]


def test_a_script_stops_at_the_first_az_that_fails(tmp_path):
    script = 'az() { echo "$*" >>"$WORDS"; [[ $1 != group ]]; }\n' + export(spec_with({}, "me"), Form.BASH).replace("Registered)", "*)")
    environment = {"PATH": os.environ["PATH"], "WORDS": str(tmp_path / "words")}
    ended = subprocess.run(["bash", "-c", script], env=environment, check=False, timeout=SECONDS, capture_output=True)
    assert ended.returncode == 1
    assert (tmp_path / "words").read_text(encoding="utf-8").splitlines()[-1].startswith("group exists")


@pytest.fixture
def terraform(tmp_path):
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("terraform is not installed")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CHECKPOINT_DISABLE": "1"}

    def run(*arguments, text):
        return subprocess.run(
            [program, *arguments],
            input=text,
            cwd=tmp_path,
            env=environment,
            check=False,
            timeout=SECONDS,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )

    return run


@pytest.mark.parametrize("identity", ["managed", "service-principal"])
def test_terraform_would_format_a_configuration_just_so(terraform, identity):
    spec = msgspec.structs.replace(spec_with({"it's \"${a}": "%{b} \\", "é": "\n\t\u0001"}, "me ${x}"), identity=identity)
    text = export(spec, Form.TERRAFORM)
    ended = terraform("fmt", "-", text=text)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", text)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(HOSTILE | st.text(alphabet="${}%", max_size=8) | st.text(max_size=16), max_size=40))
def test_terraform_reads_every_text_as_it_is_meant(terraform, texts):
    quoted = [written(Block(kind="x", arguments={"y": text})).splitlines()[1].strip().removeprefix("y = ") for text in texts]
    ended = terraform("console", text=f"base64encode(jsonencode([{', '.join(quoted)}]))\n")
    assert ended.returncode == 0, ended.stderr
    # Terraform joins a letter and an accent that follows it, in every text that it reads.
    assert json.loads(base64.b64decode(json.loads(ended.stdout))) == [unicodedata.normalize("NFC", text) for text in texts]


def test_an_expression_is_no_text():
    assert written(Block(kind="x", arguments={"y": Expression("var.z")})) == "x {\n  y = var.z\n}"
