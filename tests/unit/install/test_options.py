from __future__ import annotations

import argparse

import pytest

from kubenclave.errors import UsageError
from kubenclave.install.options import Options, installed_options
from kubenclave.install.tolerations import parse_toleration
from kubenclave.node.__main__ import size

INSTALLED = installed_options(
    ["--mode=dra", "--host-root=/host", "--reserve=2Mi", "--provision", "--mapped"],
    "r/n@sha256:0",
    (parse_toleration("sku=sgx:NoSchedule"),),
)


def test_what_is_installed_is_read_from_the_agents_arguments():
    assert (
        INSTALLED.command
        == "kubenclave node install --mode=dra --reserve=2Mi --provision --mapped --toleration=sku=sgx:NoSchedule --image=r/n@sha256:0"
    )
    assert installed_options([], "kubenclave/node:local").command == "kubenclave node install --mode=device-plugin"


def test_nothing_said_leaves_everything_as_it_is():
    """Else the command that renews the rules would change how EPC is offered."""
    assert Options().over(INSTALLED) == INSTALLED


def test_what_is_said_counts_and_the_rest_stays():
    wanted = Options(reserve="4Mi", provision=False, aesm=True).over(INSTALLED)

    assert (
        wanted.command
        == "kubenclave node install --mode=dra --reserve=4Mi --aesm --mapped --toleration=sku=sgx:NoSchedule --image=r/n@sha256:0"
    )


@pytest.mark.parametrize("said", [Options(mode="device-plugin"), Options(dialect="azure")])
def test_another_mode_or_dialect_takes_neither_of_the_installed(said):
    wanted = said.over(INSTALLED)

    assert (wanted.mode, wanted.dialect) == (said.mode, said.dialect)
    assert wanted.arguments == ("--reserve=2Mi", "--provision")


@pytest.mark.parametrize("texts", [["spot:NoExecute"], []])
def test_tolerations_that_are_said_take_the_place_of_all_before(texts):
    said = tuple(map(parse_toleration, texts))

    assert Options(tolerations=said).over(INSTALLED).tolerations == said


def test_where_nothing_is_installed_only_what_is_said_counts():
    assert Options(dialect="intel").over(Options()) == Options(dialect="intel")


@pytest.mark.parametrize("text", ["0", "4096", "2Mi", "512Ki", "1Gi", "2M", "3Ki", "2MB", "-1", "1", "x", " 2Mi", "9" * 20, "2Mi\n"])
def test_a_reserve_is_taken_exactly_where_the_agent_takes_it(text):
    try:
        size(text)
    except argparse.ArgumentTypeError:
        with pytest.raises(UsageError, match="whole pages of 4096 bytes"):
            Options(reserve=text)
    else:
        assert Options(reserve=text).arguments == (f"--reserve={text}",)
