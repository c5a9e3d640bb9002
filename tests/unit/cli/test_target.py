from __future__ import annotations

from pathlib import Path

import pytest

from kubenclave.cli.target import kubeconfig_path
from kubenclave.errors import NotFound, UsageError


def made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_given_kubeconfig_wins_over_all_others(tmp_path):
    made(tmp_path / ".kube" / "config")

    assert kubeconfig_path(Path("/given"), {"KUBECONFIG": "/named"}, tmp_path) == Path("/given")


def test_the_environment_comes_before_the_local_cluster(tmp_path):
    made(tmp_path / ".local/state/kubenclave/clusters/kubenclave/kubeconfig")

    assert kubeconfig_path(None, {"KUBECONFIG": "/named"}, tmp_path) == Path("/named")


def test_the_local_cluster_comes_before_the_users_own(tmp_path):
    own = made(tmp_path / ".kube" / "config")
    assert kubeconfig_path(None, {}, tmp_path) == own

    local = made(tmp_path / "state/kubenclave/clusters/kubenclave/kubeconfig")
    assert kubeconfig_path(None, {"XDG_STATE_HOME": str(tmp_path / "state")}, tmp_path) == local


def test_several_files_in_the_environment_are_not_guessed_among():
    with pytest.raises(UsageError, match="names 2 files"):
        kubeconfig_path(None, {"KUBECONFIG": "/a:/b"}, Path("/nowhere"))


def test_no_cluster_at_all_says_how_to_get_one(tmp_path):
    with pytest.raises(NotFound) as raised:
        kubeconfig_path(None, {}, tmp_path)

    assert "kubenclave local up" in raised.value.hint
