"""What is put back to Azure is what it said, with what the file says of it and no more."""

from __future__ import annotations

from kubenclave.cluster.changing import changed_cluster, changed_pool
from kubenclave.cluster.spec import OWNER_TAG, Autoscale, ClusterSpec, Mode, Pool, Sgx, SgxOptions, Taint

POOL = Pool(name="sgx", vm_size="Standard_DC2s_v3", count=2, labels={"a": "b"}, taints=(Taint(key="k"),))
HAVE = {
    "name": "sgx",
    "count": 5,
    "vmSize": "Standard_DC2s_v3",
    "mode": "System",
    "enableAutoScaling": True,
    "minCount": 1,
    "maxCount": 9,
    "nodeLabels": {"old": "x"},
    "nodeTaints": ["old=:NoSchedule"],
    "tags": {"theirs": "1", OWNER_TAG: "g/c"},
    "orchestratorVersion": "1.35.1",
    "osDiskSizeGB": 99,
}


def cluster_spec(pool=POOL, **changes):
    return ClusterSpec(**{"name": "c", "group": "g", "location": "uksouth", "pools": (pool,), **changes})


def test_a_pool_gets_what_the_file_says_and_keeps_the_rest():
    changed = changed_pool(HAVE, cluster_spec(), POOL)
    assert changed == {
        "name": "sgx",
        "count": 2,
        "vmSize": "Standard_DC2s_v3",
        "mode": "User",
        "enableAutoScaling": False,
        "nodeLabels": {"a": "b"},
        "nodeTaints": ["k=:NoSchedule"],
        "tags": {"theirs": "1", OWNER_TAG: "g/c"},
        "orchestratorVersion": "1.35.1",
        "osDiskSizeGB": 99,
    }


def test_a_pool_that_scales_itself_keeps_its_count_within_the_bounds():
    for low, high, count in ((0, 9, 5), (6, 9, 6), (0, 3, 3)):
        pool = Pool(name="sgx", vm_size="Standard_DC2s_v3", count=1, autoscale=Autoscale(min=low, max=high))
        changed = changed_pool(HAVE, cluster_spec(pool), pool)
        assert (changed["count"], changed["minCount"], changed["maxCount"]) == (count, low, high)


def test_a_cluster_keeps_what_the_file_does_not_speak_of():
    have = {
        "location": "uksouth",
        "tags": {"theirs": "1"},
        "properties": {
            "agentPoolProfiles": [HAVE],
            "addonProfiles": {"omsagent": {"enabled": True}},
            "apiServerAccessProfile": {"authorizedIPRanges": ["1.2.3.4/32"]},
            "kubernetesVersion": "1.35.1",
        },
    }
    changed = changed_cluster(have, cluster_spec(tags={"team": "x"}, kubernetes_version="1.35"), pools=False)
    assert changed["tags"] == {"theirs": "1", "team": "x", OWNER_TAG: "g/c"}
    assert changed["properties"] == have["properties"]


def test_the_add_on_is_switched_on_and_off_under_whatever_letters_azure_writes_it():
    on = changed_cluster({"properties": {}}, cluster_spec(sgx=SgxOptions(by=Sgx.ADDON, quote_helper=True)), pools=False)
    assert on["properties"]["addonProfiles"] == {"ACCSGXDevicePlugin": {"enabled": True, "config": {"ACCSGXQuoteHelperEnabled": "true"}}}
    off = changed_cluster({"properties": {"addonProfiles": {"accSgxDevicePlugin": {"enabled": True}}}}, cluster_spec(), pools=False)
    assert off["properties"]["addonProfiles"] == {"ACCSGXDevicePlugin": {"enabled": False}}


def test_an_upgrade_takes_the_pools_along():
    changed = changed_cluster(
        {"properties": {"kubernetesVersion": "1.35.1", "agentPoolProfiles": [HAVE]}}, cluster_spec(kubernetes_version="1.36"), pools=False
    )
    assert changed["properties"]["kubernetesVersion"] == "1.36"
    assert [pool["orchestratorVersion"] for pool in changed["properties"]["agentPoolProfiles"]] == ["1.36"]


def test_after_a_failure_the_pools_that_are_there_become_what_the_file_says_and_those_of_others_stay():
    theirs = {**HAVE, "name": "theirs"}
    changed = changed_cluster({"properties": {"agentPoolProfiles": [HAVE, theirs]}}, cluster_spec(), pools=True)
    assert changed["properties"]["agentPoolProfiles"] == [changed_pool(HAVE, cluster_spec(), POOL), theirs]
    assert Mode.SYSTEM.value == theirs["mode"]
