from __future__ import annotations

import pytest

from kubenclave.errors import NotFound, Refused
from kubenclave.kube.config import is_private, read

GOOD = """
apiVersion: v1
kind: Config
current-context: one
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443"}}]
contexts:
- {name: one, context: {cluster: c, user: u, namespace: ours}}
- {name: two, context: {cluster: c}}
- {name: bad, context: {cluster: x}}
users: [{name: u, user: {token: t}}]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "kubeconfig"
    path.write_text(GOOD)
    return path


def test_the_current_context_is_read_and_the_file_left_alone(file):
    config = read(file, None)

    assert (config.context_name, config.cluster.server, config.namespace) == ("one", "https://10.0.0.1:6443", "ours")
    assert file.read_text() == GOOD


def test_a_context_without_a_user_is_usable(file):
    config = read(file, "two")

    assert config.namespace == "default"
    assert config.user is not None


def test_a_missing_file_and_a_missing_context_are_not_found(file, tmp_path):
    with pytest.raises(NotFound, match="there is no kubeconfig"):
        read(tmp_path / "other", None)
    with pytest.raises(NotFound, match="it has: bad, one, two"):
        read(file, "three")


def test_a_context_that_names_a_missing_cluster_is_refused(file):
    with pytest.raises(Refused, match="'bad'"):
        read(file, "bad")


@pytest.mark.parametrize("server", ["", "foo", "unix:///x", "https://", "https://[::1", "https://\\0"])
def test_a_server_that_is_no_address_is_refused(file, server):
    file.write_text(GOOD.replace("https://10.0.0.1:6443", server))

    with pytest.raises(Refused, match="which is no http or https address"):
        read(file, None)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "clusters: 1", "\x00", "clusters: [{}]\ncontexts: []", "&a [*a]", "[" * 5000])
def test_a_damaged_file_is_refused(file, text):
    file.write_text(text)

    with pytest.raises(Refused, match="is not a kubeconfig"):
        read(file, None)


def test_a_file_far_too_large_is_refused_unparsed(file):
    file.write_bytes(b"#" * (2 << 20))

    with pytest.raises(Refused, match="larger than"):
        read(file, None)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(Refused, match="cannot be read"):
        read(tmp_path, None)


@pytest.mark.parametrize(
    ("server", "private"),
    [
        ("https://127.0.0.1:6443", True),
        ("https://10.1.2.3", True),
        ("https://[fd00::1]:6443", True),
        ("https://8.8.8.8", False),
        ("https://a.example", False),
        ("", False),
    ],
)
def test_only_private_addresses_bypass_a_proxy(server, private):
    assert is_private(server) is private
