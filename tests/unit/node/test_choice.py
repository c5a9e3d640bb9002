from __future__ import annotations

import pytest

from kubenclave.errors import UsageError
from kubenclave.node.choice import Reason, choose
from kubenclave.node.dialect import Mode


@pytest.mark.parametrize(
    ("mode", "dialect", "chosen", "name", "reason"),
    [
        ("device-plugin", None, Mode.DEVICE_PLUGIN, "openenclave", Reason.CONFIGURED),
        ("device-plugin", "azure", Mode.DEVICE_PLUGIN, "azure", Reason.CONFIGURED),
        ("extended-resource", None, Mode.EXTENDED_RESOURCE, "intel", Reason.CONFIGURED),
        ("dra", None, Mode.DRA, "", Reason.CONFIGURED),
        (None, "azure", Mode.DEVICE_PLUGIN, "azure", Reason.DIALECT),
        (None, "intel", Mode.EXTENDED_RESOURCE, "intel", Reason.DIALECT),
    ],
)
def test_a_way_is_chosen_with_its_reason(mode, dialect, chosen, name, reason):
    choice = choose(mode, dialect)

    assert (choice.mode, choice.dialect_name, choice.reason) == (chosen, name, reason)


@pytest.mark.parametrize(
    ("mode", "dialect", "hint"),
    [
        ("device-plugin", "intel", "openenclave, azure"),
        ("extended-resource", "azure", "intel"),
        ("dra", "intel", "none"),
        (None, None, "--mode"),
    ],
)
def test_a_dialect_of_another_mode_is_refused_with_those_that_fit(mode, dialect, hint):
    with pytest.raises(UsageError) as caught:
        choose(mode, dialect)

    assert hint in caught.value.hint
