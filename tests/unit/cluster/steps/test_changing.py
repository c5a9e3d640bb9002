"""What is put back to Azure is what it said, with what the file says of it and no more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubenclave.cluster.azure import parsing
from kubenclave.cluster.body import pool_properties
from kubenclave.cluster.spec import OWNER_TAG, Autoscale, ClusterSpec, Mode, Pool, Sgx, SgxOptions, Taint
from kubenclave.cluster.steps.changing import changed_cluster, changed_pool
from kubenclave.cluster.steps.pools import pool_changes

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


def test_what_aks_itself_puts_on_a_pool_stays_once():
    key = "kubernetes.azure.com/scalesetpriority"
    have = {**HAVE, "nodeLabels": {"old": "x", key: "spot"}, "nodeTaints": ["old=:NoSchedule", f"{key}=spot:NoSchedule"]}
    changed = changed_pool(have, cluster_spec(), POOL)
    assert changed["nodeLabels"] == {"a": "b", key: "spot"}
    assert changed["nodeTaints"] == ["k=:NoSchedule", f"{key}=spot:NoSchedule"]
    said = Pool(name="sgx", vm_size="Standard_DC2s_v3", taints=(Taint(key=key, value="spot"),))
    assert changed_pool(have, cluster_spec(said), said)["nodeTaints"] == [f"{key}=spot:NoSchedule"]


def test_a_tag_keeps_the_letters_that_azure_has_of_its_name():
    have = {"tags": {"Team": "x", "KUBENCLAVE-Cluster": "g/c"}, "properties": {"agentPoolProfiles": [{**HAVE, "tags": {"TEAM": "x"}}]}}
    changed = changed_cluster(have, cluster_spec(tags={"team": "y"}), pools=True)
    assert changed["tags"] == {"Team": "y", "KUBENCLAVE-Cluster": "g/c"}
    assert changed["properties"]["agentPoolProfiles"][0]["tags"] == {"TEAM": "y", OWNER_TAG: "g/c"}


def test_tags_that_tell_the_autoscaler_of_epc_go_with_their_reason_and_no_others():
    told = "k8s.io_cluster-autoscaler_node-template_resources_"
    have = {**HAVE, "tags": {f"{told}sgx.intel.com_epc": "1", f"{told}openenclave.io_sgx_epc_MiB": "1", f"{told}nvidia.com_gpu": "1"}}
    assert changed_pool(have, cluster_spec(), POOL)["tags"] == {f"{told}nvidia.com_gpu": "1", OWNER_TAG: "g/c"}
    pool = Pool(name="sgx", vm_size="Standard_DC2s_v3", autoscale=Autoscale(min=0, max=1))
    assert f"{told}openenclave.io_sgx_epc_MiB" not in changed_pool(have, cluster_spec(pool), pool)["tags"]
    assert changed_pool(have, cluster_spec(pool), pool)["tags"][f"{told}sgx.intel.com_epc"] != "1"


def test_a_service_principal_is_not_put_back_without_its_secret():
    have = {"properties": {"servicePrincipalProfile": {"clientId": "app"}, "dnsPrefix": "x"}}
    assert changed_cluster(have, cluster_spec(), pools=False)["properties"].keys() == {"dnsPrefix", "addonProfiles", "agentPoolProfiles"}


def test_a_pool_that_was_left_behind_gets_the_version_of_the_file():
    assert changed_pool(HAVE, cluster_spec(kubernetes_version="1.36"), POOL)["orchestratorVersion"] == "1.36"
    assert changed_pool(HAVE, cluster_spec(kubernetes_version="1.35"), POOL)["orchestratorVersion"] == "1.35.1"


def test_the_only_system_pool_stays_one_until_another_is_there():
    changed = changed_cluster({"properties": {"agentPoolProfiles": [HAVE]}}, cluster_spec(), pools=True)
    assert [pool["mode"] for pool in changed["properties"]["agentPoolProfiles"]] == ["System"]


values = st.sampled_from(["1", "2"])
pools = st.builds(
    Pool,
    name=st.just("sgx"),
    vm_size=st.just("Standard_DC2s_v3"),
    count=st.integers(0, 3),
    mode=st.sampled_from(Mode),
    autoscale=st.none() | st.builds(lambda low, more: Autoscale(min=low, max=low + more), st.integers(0, 3), st.integers(1, 3)),
    labels=st.dictionaries(st.sampled_from("xy"), values),
    taints=st.lists(st.builds(Taint, key=st.sampled_from("kl"), value=values), max_size=2, unique_by=lambda taint: taint.key).map(tuple),
    spot=st.booleans(),
)
specs = st.builds(
    lambda pool, tags, by, version: cluster_spec(pool, tags=tags, sgx=SgxOptions(by=by), kubernetes_version=version),
    pools,
    st.dictionaries(st.sampled_from(["team", "stage"]), values),
    st.sampled_from(Sgx),
    st.sampled_from([None, "1.35", "1.35.1", "1.36"]),
)


@given(specs, specs, st.booleans())
def test_a_pool_that_was_put_as_changed_has_no_changes_left(old, new, capitals):
    have = pool_properties(old, old.pools[0])
    if capitals:
        have["tags"] = {name.upper(): value for name, value in have["tags"].items()}
    mark = {"kubernetes.azure.com/scalesetpriority": "spot"} if old.pools[0].spot else {}
    have["nodeLabels"] = {**have.get("nodeLabels", {}), **mark}
    after = changed_pool({**have, "name": "sgx", "orchestratorVersion": "1.35.1"}, new, new.pools[0])
    cluster = parsing.cluster({"properties": {"kubernetesVersion": new.kubernetes_version or "1.36.0", "agentPoolProfiles": [after]}})
    assert pool_changes(new, new.pools[0], cluster.pools[0], cluster) == ()
    assert {key for key in after["nodeLabels"] if key.startswith("kubernetes.azure.com/")} == set(mark)
