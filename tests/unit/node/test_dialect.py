from __future__ import annotations

import pytest

from kubenclave.errors import UsageError
from kubenclave.node.dialect import DIALECTS, dialect_named


@pytest.mark.parametrize(
    ("name", "resource"),
    [("openenclave", "openenclave.io/sgx_epc_MiB"), ("azure", "kubernetes.azure.com/sgx_epc_mem_in_MiB")],
)
def test_a_dialect_names_its_resource_its_taint_and_its_unit(name, resource):
    dialect = dialect_named(name)

    assert dialect.resource == resource
    assert dialect.taint_key == resource
    assert dialect.unit_bytes == 1024 * 1024


def test_an_unknown_dialect_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="'intel'") as caught:
        dialect_named("intel")

    assert all(dialect.name in caught.value.hint for dialect in DIALECTS)
