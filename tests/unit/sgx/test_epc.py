from __future__ import annotations

import pytest

from kubenclave.sgx.epc import epc_need


@pytest.mark.parametrize(
    ("added_pages", "version_array_pages", "pages", "epc_bytes", "mib"),
    [
        (2253, 5, 2259, 9_252_864, 9),
        (1, 1, 3, 12_288, 1),
        (511, 1, 513, 2_101_248, 3),
        (512, 2, 515, 2_109_440, 3),
        (253, 1, 255, 1_044_480, 1),
        (254, 1, 256, 1_048_576, 1),
        (255, 1, 257, 1_052_672, 2),
    ],
)
def test_epc_need_counts_the_secs_and_one_version_array_page_for_each_512(added_pages, version_array_pages, pages, epc_bytes, mib):
    need = epc_need(added_pages)

    assert need.secs_pages == 1
    assert need.version_array_pages == version_array_pages
    assert (need.pages, need.epc_bytes, need.epc_mib) == (pages, epc_bytes, mib)
