from __future__ import annotations

import pytest

from kubenclave.errors import Refused, UsageError
from kubenclave.install.plan import MODES, plan
from kubenclave.node.dialect import DIALECTS as OFFERED
from kubenclave.workload import dialects


@pytest.mark.parametrize(
    ("mode", "dialect", "chosen"),
    [
        (None, None, ("device-plugin", "openenclave")),
        (None, "azure", ("device-plugin", "azure")),
        (None, "intel", ("extended-resource", "intel")),
        ("device-plugin", None, ("device-plugin", "openenclave")),
        ("extended-resource", None, ("extended-resource", "intel")),
        ("dra", None, ("dra", "")),
    ],
)
def test_what_is_not_said_follows_from_what_is(mode, dialect, chosen):
    decided = plan(mode, dialect, version="v1.37.2", admission=True)

    assert (decided.mode, decided.dialect) == chosen
    assert decided.lost == ()


@pytest.mark.parametrize(
    ("mode", "dialect", "hint"),
    [
        ("device-plugin", "intel", "use --dialect openenclave or azure"),
        ("extended-resource", "azure", "use --dialect intel"),
        ("dra", "intel", "leave --dialect out"),
        (None, "alibaba", "choose one of openenclave, azure, intel"),
    ],
)
def test_a_mode_and_a_dialect_that_do_not_go_together_are_refused(mode, dialect, hint):
    with pytest.raises(UsageError) as refusal:
        plan(mode, dialect, version="v1.37.2", admission=True)

    assert refusal.value.hint == hint


@pytest.mark.parametrize(
    ("version", "files", "lost"),
    [
        ("v1.29.9", ("node-agent.yaml",), ("no admission rules", "nothing is added to pods")),
        ("v1.30.0", ("node-agent.yaml", "admission.yaml"), ("nothing is added to pods",)),
        ("v1.35.7-gke.100", ("node-agent.yaml", "admission.yaml"), ("nothing is added to pods",)),
        ("v1.36.0", ("node-agent.yaml", "admission.yaml", "admission-mutating.yaml"), ()),
    ],
)
def test_an_older_cluster_gets_what_it_can_have_and_what_is_lost_is_said(version, files, lost):
    decided = plan(None, None, version=version, admission=True)

    assert decided.files == files
    assert len(decided.lost) == len(lost)
    assert all(sentence.startswith(start) for sentence, start in zip(decided.lost, lost, strict=True))


def test_rules_for_claims_come_with_the_mode_that_has_claims():
    assert plan("dra", None, version="v1.36.0", admission=True).files[1:] == (
        "admission.yaml",
        "admission-mutating.yaml",
        "admission-claims.yaml",
    )
    assert plan("dra", None, version="v1.36.0", admission=False).files == ("node-agent-dra.yaml",)


def test_without_admission_nothing_of_it_is_installed_or_missed():
    decided = plan(None, None, version="v1.29.9", admission=False)

    assert (decided.files, decided.lost) == (("node-agent.yaml",), ())


@pytest.mark.parametrize(
    ("mode", "too_old", "enough"),
    [("device-plugin", "v1.25.9", "v1.26.0"), ("extended-resource", "v1.29.9", "v1.30.0"), ("dra", "v1.35.2", "v1.36.0")],
)
def test_each_mode_has_a_version_from_which_it_works(mode, too_old, enough):
    with pytest.raises(Refused, match=f"mode {mode} needs Kubernetes {enough[1:5]} or newer, this is {too_old}"):
        plan(mode, None, version=too_old, admission=True)

    assert plan(mode, None, version=enough, admission=True).mode == mode


def test_something_that_is_not_a_version_is_refused():
    with pytest.raises(Refused, match="not a Kubernetes version"):
        plan(None, None, version="<html>", admission=True)


def test_every_dialect_that_the_agent_offers_can_be_installed():
    for dialect in OFFERED:
        assert plan(None, dialect.name, version="v1.37.2", admission=True).mode in MODES
        assert dialect.resource in {known.resource for known in dialects()}
