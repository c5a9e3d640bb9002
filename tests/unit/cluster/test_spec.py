"""The values of a cluster file and the body that Azure gets for them."""

from __future__ import annotations

import msgspec
import pytest

from kubenclave.cluster.body import cluster_body, dns_prefix
from kubenclave.cluster.spec import ClusterSpec

SMALL = {
    "name": "brandNewCluster",
    "group": "sconaksg",
    "location": "uksouth",
    "pools": [{"name": "system", "vmSize": "Standard_D4s_v5", "mode": "System"}],
}
SGX_POOL = {
    "name": "sgx",
    "vmSize": "Standard_DC2s_v3",
    "count": 0,
    "autoscale": {"min": 0, "max": 3},
    "taints": [{"key": "sgx.intel.com/epc"}],
}


def spec(**more):
    return msgspec.convert(SMALL | more, ClusterSpec)


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "ab\n"), ("name", "-a"), ("group", "ends."), ("location", "UK South"), ("network", "cilium"), ("pools", []), ("pool", [])],
)
def test_a_value_outside_its_limits_is_refused(field, value):
    with pytest.raises(msgspec.ValidationError, match=field):
        spec(**{field: value})


def test_everything_that_is_made_bears_the_clusters_mark():
    body = cluster_body(spec(tags={"team": "a"}))
    assert body["tags"] == {"team": "a", "kubenclave-cluster": "sconaksg/brandnewcluster"}
    assert body["properties"]["agentPoolProfiles"][0]["tags"] == body["tags"]


def test_the_add_on_is_asked_for_as_recorded():
    properties = cluster_body(spec(sgx={"by": "addon", "quoteHelper": True}))["properties"]
    assert properties["addonProfiles"] == {"ACCSGXDevicePlugin": {"enabled": True, "config": {"ACCSGXQuoteHelperEnabled": "true"}}}
    assert "addonProfiles" not in cluster_body(spec())["properties"]


@pytest.mark.parametrize(
    ("by", "read"),
    [
        ("addon", {"sgx.intel.com/epc": str(8 << 30), "sgx.intel.com/enclave": "250"}),
        ("node-agent", {"sgx.intel.com/epc": str(8 << 30), "sgx.intel.com/enclave": "250"}),
        ("none", {}),
    ],
)
def test_a_pool_that_starts_empty_tells_the_autoscaler_its_epc_and_device_by_names_that_it_can_read(by, read):
    tags = cluster_body(spec(pools=[*SMALL["pools"], SGX_POOL], sgx={"by": by}))["properties"]["agentPoolProfiles"][1]["tags"]
    prefix = "k8s.io_cluster-autoscaler_node-template_resources_"
    # As the autoscaler reads them (kubernetes/autoscaler, azure_template.go).
    told = {key.removeprefix(prefix).replace("_", "/").replace("~2", "/"): value for key, value in tags.items() if key.startswith(prefix)}

    assert told == read


def test_a_service_principals_cluster_asks_for_no_managed_identity():
    assert cluster_body(spec())["identity"] == {"type": "SystemAssigned"}
    assert "identity" not in cluster_body(spec(identity="service-principal"))


def test_the_dns_prefix_has_only_what_a_host_name_may_have():
    long = msgspec.convert(SMALL | {"name": "a_b" * 20, "group": "g.(1)"}, ClusterSpec)
    assert len(dns_prefix(long)) <= 54
    assert dns_prefix(spec()) == "brandNewCluster-sconaksg"
    assert dns_prefix(long).replace("-", "").isalnum()
