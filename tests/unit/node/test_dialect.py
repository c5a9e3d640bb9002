from __future__ import annotations

import pytest

from kubenclave.errors import UsageError
from kubenclave.node.dialect import DIALECTS, MIB, dialect_named


@pytest.mark.parametrize(
    ("name", "resource", "unit_bytes"),
    [
        ("openenclave", "openenclave.io/sgx_epc_MiB", MIB),
        ("azure", "kubernetes.azure.com/sgx_epc_mem_in_MiB", MIB),
        ("intel", "sgx.intel.com/epc", 1),
    ],
)
def test_a_dialect_names_its_resource_its_taint_and_its_unit(name, resource, unit_bytes):
    dialect = dialect_named(name)

    assert dialect.resource == resource
    assert dialect.taint_key == resource
    assert dialect.unit_bytes == unit_bytes


def test_an_unknown_dialect_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="'sgx'") as caught:
        dialect_named("sgx")

    assert all(dialect.name in caught.value.hint for dialect in DIALECTS)
