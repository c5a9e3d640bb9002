from __future__ import annotations

import pytest

from kubenclave.errors import UsageError
from kubenclave.workload import dialect_of, dialects


def test_the_guides_two_dialects_count_in_mebibytes():
    assert dialect_of("openenclave").resource == "openenclave.io/sgx_epc_MiB"
    assert dialect_of("azure").resource == "kubernetes.azure.com/sgx_epc_mem_in_MiB"
    assert {dialect_of(name).unit_bytes for name in ("openenclave", "azure", "alibaba")} == {1 << 20}


def test_intels_dialect_counts_bytes_and_needs_the_device_beside_them():
    intel = dialect_of("intel")

    assert intel.unit_bytes == 1
    assert intel.companions == {"sgx.intel.com/enclave": 1}


def test_a_dialect_is_found_by_its_resource_too():
    assert dialect_of("sgx.intel.com/epc") is dialect_of("intel")


def test_an_unknown_dialect_is_a_usage_error_that_names_the_known_ones():
    with pytest.raises(UsageError) as raised:
        dialect_of("sgx")

    assert raised.value.hint == "choose one of intel, azure, openenclave, alibaba"


def test_every_dialect_has_its_source_and_names_of_its_own():
    assert all(dialect.source for dialect in dialects())
    assert len({dialect.resource for dialect in dialects()}) == len({dialect.name for dialect in dialects()}) == len(dialects())
