"""Which cluster a command is about: a file, or flags."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cyclopts import App, Parameter

from kubenclave.cli.cluster_target import ClusterName, ClusterTarget, named, spec_of
from kubenclave.cluster.checks.rules import check
from kubenclave.cluster.file.cluster_file import parse_cluster
from kubenclave.cluster.spec import Identity, Mode, Network, Sgx
from kubenclave.errors import NotFound, UsageError

FILE = """\
name: brandNewCluster
group: sconaksg
location: uksouth
pools:
  - {name: system, vmSize: Standard_D4s_v5, mode: System}
  - {name: sgx, vmSize: Standard_DC2s_v3, count: 2, labels: {tee: sgx}}
"""
NAMES = ["--name", "brandNewCluster", "--group", "sconaksg"]
FLAGS = [*NAMES, "--location", "uksouth"]
SUBSCRIPTION = "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sgx.yaml"
    path.write_text(FILE)
    return path


def parsed(words, kind=ClusterTarget):
    app = App(default_parameter=Parameter(negative=()))
    seen = []

    def command(target=kind()):  # noqa: B008 - as commands have it
        seen.append(target)

    command.__annotations__ = {"target": kind}
    app.default(command)
    app([str(word) for word in words], exit_on_error=False, print_error=False, result_action="return_value")
    return seen[0]


def test_the_guides_one_line_is_the_first_file_of_the_documentation():
    assert spec_of(parsed(FLAGS)) == parse_cluster(FILE, "it")


def test_the_guides_one_line_has_nothing_that_blocks():
    assert not [finding for finding in check(spec_of(parsed(FLAGS))) if finding.blocks]


def test_a_file_is_named_by_its_place(file):
    assert spec_of(parsed([file])) == parse_cluster(FILE, "it")


def test_every_flag_goes_where_it_belongs(tmp_path):
    key = tmp_path / "key.pub"
    key.write_text("ssh-ed25519 " + "A" * 68 + " me@here\n")
    more = ["--vm-size", "Standard_DC4ds_v3", "--count", "0", "--kubernetes-version", "1.30", "--identity", "service-principal"]
    more += [
        "--network",
        "azure-overlay",
        "--sgx",
        "addon",
        "--quote-helper",
        "--feature",
        "Microsoft.ContainerService/A",
        "--feature",
        "B/C",
    ]
    more += ["--header", "usegen2vm=true", "--header", "a=b=c", "--ssh-key", key, "--subscription", SUBSCRIPTION]
    spec = spec_of(parsed([*FLAGS, *more]))
    assert [(pool.vm_size, pool.count, pool.mode) for pool in spec.pools] == [
        ("Standard_D4s_v5", 1, Mode.SYSTEM),
        ("Standard_DC4ds_v3", 0, Mode.USER),
    ]
    assert (spec.kubernetes_version, spec.identity, spec.network) == ("1.30", Identity.SERVICE_PRINCIPAL, Network.AZURE_OVERLAY)
    assert (spec.sgx.by, spec.sgx.quote_helper) == (Sgx.ADDON, True)
    assert spec.features == ("Microsoft.ContainerService/A", "B/C")
    assert spec.headers == {"usegen2vm": "true", "a": "b=c"}
    assert spec.ssh_key == "ssh-ed25519 " + "A" * 68 + " me@here"
    assert spec.subscription == SUBSCRIPTION


@pytest.mark.parametrize("more", [["--name", "x"], ["--count", "0"], ["--quote-helper"], ["--header", "a=b"], ["--vm-size", "x"]])
def test_a_flag_beside_a_file_is_refused(file, more):
    with pytest.raises(UsageError, match=more[0]):
        spec_of(parsed([file, *more]))


def test_a_subscription_beside_a_file_goes_before_the_files(file):
    file.write_text(FILE + "subscription: 11111111-1111-4111-8111-111111111111\n")
    assert spec_of(parsed([file, "--subscription", SUBSCRIPTION])).subscription == SUBSCRIPTION
    assert named(parsed([file, "--subscription", SUBSCRIPTION])).subscription == SUBSCRIPTION
    assert named(parsed([file])).subscription == "11111111-1111-4111-8111-111111111111"
    assert named(parsed(NAMES)).subscription is None


@pytest.mark.parametrize("words", [[], ["--name", "a"], ["--name", "a", "--group", "b"]])
def test_what_is_missing_of_a_description_is_named(words):
    with pytest.raises(UsageError, match="--location missing"):
        spec_of(parsed(words))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--location", "UK South"], "--location: 'UK South' does not fit"),
        (["--count", "-1"], "--count: -1 is not between 0 and 1000"),
        (["--vm-size", "a b"], "--vm-size: 'a b' does not fit"),
        (["--kubernetes-version", "latest"], "--kubernetes-version: 'latest' does not fit"),
        (["--network", "cilium"], "--network: 'cilium' is none of azure, azure-overlay, kubenet"),
        (["--identity", "none"], "--identity: 'none' is none of managed, service-principal"),
        (["--sgx", "plugin"], "--sgx: 'plugin' is none of addon, node-agent, none"),
        (["--feature", "x"], "--feature: 'x' does not fit"),
        (["--header", "x"], "--header 'x' has no ="),
        (["--header", "x=1", "--header", "x=2"], "--header 'x=2' is given twice"),
        (["--header", "x y=1"], "--header: the name 'x y' does not fit"),
        (["--subscription", "mine"], "--subscription: 'mine' does not fit"),
        (["--group", "ends."], "--group: 'ends.' does not fit"),
    ],
)
def test_a_mistake_is_told_by_its_flag(more, message):
    # What stands later on the line wins.
    with pytest.raises(UsageError) as caught:
        spec_of(parsed([*(word for word in FLAGS), *more] if more[0] not in FLAGS else [*_without(FLAGS, more[0]), *more]))
    assert caught.value.what.startswith(message)


def _without(words, flag):
    place = words.index(flag)
    return words[:place] + words[place + 2 :]


def test_a_private_key_is_refused_and_not_shown(tmp_path):
    key = tmp_path / "id_ed25519"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nsecretsecret\n")
    with pytest.raises(UsageError) as caught:
        spec_of(parsed([*FLAGS, "--ssh-key", key]))
    assert "private key" in caught.value.what
    assert "secret" not in caught.value.what + caught.value.hint


def test_a_key_that_is_not_there_or_is_none_is_told(tmp_path):
    with pytest.raises(NotFound, match="no file"):
        spec_of(parsed([*FLAGS, "--ssh-key", tmp_path / "gone"]))
    with pytest.raises(UsageError, match="too large"):
        spec_of(parsed([*FLAGS, "--ssh-key", "/dev/zero"]))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UsageError, match="--ssh-key: 'hello' does not fit"):
        spec_of(parsed([*FLAGS, "--ssh-key", tmp_path / "text"]))


def test_names_come_from_the_file_or_from_two_flags(file):
    assert (named(parsed([file], ClusterName)).group, named(parsed([file], ClusterName)).name) == ("sconaksg", "brandNewCluster")
    assert (named(parsed(NAMES, ClusterName)).group, named(parsed(NAMES, ClusterName)).name) == ("sconaksg", "brandNewCluster")
    assert (named(parsed(FLAGS)).group, named(parsed(FLAGS)).name) == ("sconaksg", "brandNewCluster")


@pytest.mark.parametrize(
    "words", [[], ["--name", "a"], ["--group", "a"], ["--name", "a/b", "--group", "c"], ["--name", "a", "--group", "../x"]]
)
def test_names_that_are_missing_or_would_lead_elsewhere_are_refused(words):
    with pytest.raises(UsageError):
        named(parsed(words, ClusterName))


def test_names_beside_a_file_are_refused(file):
    with pytest.raises(UsageError, match="given together"):
        named(parsed([file, "--name", "a"], ClusterName))


def test_the_options_alone_load_nothing_of_the_room():
    heavy = "sorted(name for name in sys.modules if 'cluster.' in name or name in {'yaml', 'msgspec'})"
    code = f"import sys, kubenclave.cli.cluster_target; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
