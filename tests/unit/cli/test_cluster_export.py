"""``kubenclave cluster export``: to stdout or to a file, from a file or from flags."""

from __future__ import annotations

from typing import get_args

import pytest

from kubenclave.cli.app import build, run
from kubenclave.cli.cluster_export import FormName
from kubenclave.cluster.export import Form

FLAGS = ["--name", "small", "--group", "g", "--location", "uksouth"]


def ran(*words):
    return run(build(), ["cluster", "export", *words])


def test_the_command_offers_every_form():
    assert set(get_args(FormName)) == {form.value for form in Form}


def test_flags_become_a_file_and_the_file_the_same_script(tmp_path, capsys):
    path = tmp_path / "cluster.yaml"
    assert ran(*FLAGS, "--to", "file", "--out", str(path)) == 0
    assert ran(*FLAGS, "--to", "bash") == 0
    of_flags = capsys.readouterr().out
    assert ran(str(path), "--to", "bash") == 0
    assert capsys.readouterr().out == of_flags
    assert of_flags.startswith("#!/usr/bin/env bash\n")


def test_a_script_is_written_as_a_program_in_the_place_of_what_was_there(tmp_path, capsys):
    path = tmp_path / "make.sh"
    assert ran(*FLAGS, "--to", "bash", "--out", str(path)) == 0
    assert path.stat().st_mode & 0o777 == 0o755
    path.write_text("old", encoding="utf-8")
    assert ran(*FLAGS, "--to", "bash", "--out", str(path)) == 0
    assert "az aks create" in path.read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["make.sh"]
    assert capsys.readouterr().out == ""


def test_what_the_form_has_no_words_for_leaves_the_old_file(tmp_path, capsys):
    path = tmp_path / "cluster.yaml"
    path.write_text("old", encoding="utf-8")
    assert ran(*FLAGS, "--to", "capz", "--out", str(path)) == 2
    assert path.read_text(encoding="utf-8") == "old"
    assert "kubernetesVersion" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "said"), [("3", "note: pools[system].count"), ("1001", "error: ")])
def test_what_is_wrong_with_the_cluster_is_said_beside_the_export(count, said, capsys):
    ran(*FLAGS, "--count", count, "--to", "arm")
    assert said in capsys.readouterr().err
