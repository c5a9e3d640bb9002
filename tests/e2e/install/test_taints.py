"""Taints of SGX nodes: those of the dialects, and those that a pool has from its cloud or its administrator."""

from __future__ import annotations

import pytest

NODE = "sgx-1"
RESOURCE = "openenclave.io/sgx_epc_MiB"
AZURE = "kubernetes.azure.com/sgx_epc_mem_in_MiB"
SKU = "sku=sgx:NoSchedule"


@pytest.fixture
def pool(admin):
    """The node is of a pool with a taint of its own."""
    admin.cluster.kubectl("taint", "node", NODE, SKU, "--overwrite")
    yield admin
    admin.cluster.kubectl("taint", "node", NODE, "sku-")


def test_a_pools_own_taint_is_named_with_the_option_by_which_agent_and_epc_pods_tolerate_it(pool):
    refused = pool.node("install")
    assert refused.returncode == 1
    assert f"the agent does not tolerate the node's taint {SKU}" in refused.stderr

    assert f"--toleration={SKU}" in refused.stderr
    assert pool.ok("install", "--toleration", SKU)["findings"] == []
    # Neither the dialect's toleration nor the pool's is in the pod.
    pool.soon(pool.holder("a", 10))
    pool.cluster.wait("pod/a", "condition=Ready")

    again = pool.node("install")
    assert again.returncode == 0, again.stderr
    assert f"--toleration={SKU}" in again.stderr
    assert pool.node("status").stderr.count("taint") == 0


def test_a_taint_that_comes_later_is_told_by_status(installed):
    installed.cluster.kubectl("taint", "node", NODE, SKU)
    said = installed.node("status").stderr
    installed.cluster.kubectl("taint", "node", NODE, "sku-")

    assert f"node {NODE} carries the taint {SKU}, which pods that ask for {RESOURCE} do not tolerate" in said


def test_after_a_change_of_dialect_the_taint_is_told_until_prepare_exchanges_it(installed):
    (told,) = installed.ok("install", "--dialect", "azure")["findings"]
    assert f"carries the taint {RESOURCE}=true:NoSchedule" in told
    assert told in installed.node("status").stderr
    command = told.rpartition(": kubenclave node ")[2]

    changed = installed.ok(*command.split())["changed"]
    assert changed == [f"taint {AZURE}=true:NoSchedule", f"no longer taint {RESOURCE}=true:NoSchedule"]
    assert [taint["key"] for taint in installed.cluster.get("node", NODE)["spec"]["taints"]] == [AZURE]
    assert "taint" not in installed.node("status").stderr
    installed.soon(installed.holder("a", 10, AZURE))
    installed.cluster.wait("pod/a", "condition=Ready")
