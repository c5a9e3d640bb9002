"""What a cluster's description is checked for without asking Azure."""

from __future__ import annotations

import msgspec
import pytest

from kubenclave.cluster.checks.rules import check
from kubenclave.cluster.checks.sgx_rules import NODE_LABEL
from kubenclave.cluster.spec import ClusterSpec
from kubenclave.install.objects import NODE_LABEL as AGENTS_LABEL

SYSTEM = {"name": "system", "vmSize": "Standard_D4s_v5", "count": 2, "mode": "System"}
SGX = {"name": "sgx", "vmSize": "Standard_DC2s_v3", "labels": {"tee": "sgx"}}


def found(*pools, **more):
    document = {"name": "a", "group": "b", "location": "uksouth", "pools": list(pools or (SYSTEM, SGX)), **more}
    return check(msgspec.convert(document, ClusterSpec))


def blocking(*pools, **more):
    return [finding.about for finding in found(*pools, **more) if finding.blocks]


def told(*pools, **more):
    return [finding.about for finding in found(*pools, **more) if not finding.blocks]


def test_about_an_ordinary_cluster_there_is_nothing_to_say():
    assert found() == ()


def test_every_finding_says_what_by_what_evidence_and_what_to_do():
    findings = found({**SYSTEM, "spot": True}, {**SGX, "vmSize": "Standard_DC1s_v2"}, network="kubenet", sgx={"quoteHelper": True})
    assert len(findings) > 3
    assert all(finding.what and finding.evidence and finding.fix and finding.about for finding in findings)


def test_what_blocks_stands_first():
    blocks = [finding.blocks for finding in found({**SYSTEM, "count": 1}, {**SGX, "labels": {"kubernetes.io/a": "b"}})]
    assert blocks == sorted(blocks, reverse=True)
    assert set(blocks) == {True, False}


@pytest.mark.parametrize(
    "system",
    [[], [{**SYSTEM, "count": 0}], [{**SYSTEM, "mode": "User"}], [{**SYSTEM, "count": 2, "autoscale": {"min": 0, "max": 3}}]],
)
def test_a_cluster_without_a_system_node_is_refused(system):
    assert "pools" in blocking(*system, SGX)


def test_system_pools_without_room_for_thirty_pods_are_refused():
    assert blocking({**SYSTEM, "maxPods": 14}, SGX) == ["pools"]
    assert blocking({**SYSTEM, "maxPods": 15}, SGX) == []


def test_a_single_system_node_is_told():
    assert told({**SYSTEM, "count": 1}, SGX) == ["pools[system].count"]


@pytest.mark.parametrize(
    ("count", "bounds", "what"),
    [(1, {"min": 3, "max": 2}, "min 3 is more than max 2"), (0, {"min": 1, "max": 2}, "count 0"), (3, {"min": 1, "max": 2}, "count 3")],
)
def test_bounds_that_contradict_each_other_or_the_count_are_refused(count, bounds, what):
    findings = [each for each in found(SYSTEM, {**SGX, "count": count, "autoscale": bounds}) if each.blocks]
    assert [each.about for each in findings] == ["pools[sgx].autoscale"]
    assert what in findings[0].what


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_count_within_its_bounds_is_fine_from_zero_on(count):
    assert found(SYSTEM, {**SGX, "count": count, "autoscale": {"min": 0, "max": 2}}, sgx={"by": "addon"}) == ()


def test_an_empty_sgx_pool_of_the_node_agent_is_told_that_it_grows_for_one_name_of_epc_alone():
    pool = {**SGX, "count": 1, "autoscale": {"min": 0, "max": 2}}
    (finding,) = found(SYSTEM, pool)

    assert (finding.about, finding.blocks) == ("pools[sgx].autoscale", False)
    assert "--dialect intel" in finding.fix
    assert found(SYSTEM, {**pool, "autoscale": {"min": 1, "max": 2}}) == ()
    assert found(SYSTEM, SGX, {**SYSTEM, "name": "more", "mode": "User", "count": 0, "autoscale": {"min": 0, "max": 2}}) == ()


def test_zero_nodes_and_spot_are_for_user_pools():
    other = {**SYSTEM, "name": "other"}
    assert blocking(SYSTEM, {**other, "autoscale": {"min": 0, "max": 3}}, SGX) == ["pools[other].autoscale"]
    assert blocking(SYSTEM, {**other, "spot": True}, SGX) == ["pools[other].spot"]
    assert blocking(SYSTEM, {**SGX, "spot": True}) == []


def test_two_pools_of_one_name_are_refused():
    assert blocking(SYSTEM, SGX, SGX) == ["pools[sgx].name"]


def test_dcsv2_is_refused_with_overlay_alone():
    old = {**SGX, "vmSize": "standard_DC4s_v2"}
    assert blocking(SYSTEM, old, network="azure-overlay") == ["pools[sgx].vmSize"]
    assert blocking(SYSTEM, old) == []
    assert blocking(network="azure-overlay") == []


def test_the_quote_helper_comes_with_the_add_on_only():
    assert blocking(sgx={"by": "node-agent", "quoteHelper": True}) == ["sgx.quoteHelper"]
    assert blocking(sgx={"by": "addon", "quoteHelper": True}) == []


def test_a_cluster_that_wants_sgx_and_has_none_is_told():
    assert told(SYSTEM) == ["sgx.by"]
    assert told(SYSTEM, sgx={"by": "none"}) == []


def test_sgx_nodes_whose_epc_nobody_offers_are_told():
    assert told(sgx={"by": "none"}) == ["sgx.by"]


def test_a_tee_that_is_not_sgx_is_told_where_sgx_is_wanted():
    snp = {"name": "snp", "vmSize": "Standard_DC2as_v6"}
    tdx = {"name": "tdx", "vmSize": "Standard_EC4eds_v6"}
    assert told(SYSTEM, snp, tdx) == ["sgx.by", "pools[snp].vmSize", "pools[tdx].vmSize"]
    assert told(SYSTEM, SGX, {**snp, "taints": [{"key": "sgx.intel.com/epc"}]}) == ["pools[snp].vmSize"]
    assert told(SYSTEM, SGX, snp) == []
    assert told(SYSTEM, snp, sgx={"by": "none"}) == []


def test_the_spelling_that_does_not_exist_is_refused_with_the_one_that_does():
    findings = [each for each in found(SYSTEM, {**SGX, "vmSize": "Standard_DC8s_v2"}) if each.blocks]
    assert [each.about for each in findings] == ["pools[sgx].vmSize"]
    assert "Standard_DC8_v2" in findings[0].fix


def test_one_vcpu_is_told_and_so_are_small_and_burstable_system_nodes():
    assert told(SYSTEM, {**SGX, "vmSize": "Standard_DC1s_v3"}) == ["pools[sgx].vmSize"]
    assert told(SYSTEM, {**SGX, "name": "more", "mode": "System"}) == ["pools[more].vmSize"]
    assert told({**SYSTEM, "vmSize": "Standard_B4ms"}, SGX) == ["pools[system].vmSize"]


def test_the_guides_single_pool_is_told_that_the_clusters_own_pods_run_on_it():
    assert told({**SGX, "vmSize": "Standard_DC4s_v3", "count": 2, "mode": "System"}) == ["pools[sgx].mode"]


def test_taints_that_keep_the_clusters_own_pods_off_every_system_pool_are_told():
    assert told({**SYSTEM, "taints": [{"key": "mine"}]}, SGX) == ["pools[system].taints"]
    assert told({**SYSTEM, "taints": [{"key": "CriticalAddonsOnly", "value": "true"}]}, SGX) == []
    assert told({**SYSTEM, "taints": [{"key": "mine", "effect": "PreferNoSchedule"}]}, SGX) == []


def test_the_node_agents_label_is_missed_on_an_sgx_pool():
    bare = {**SGX, "labels": {}}
    assert told(SYSTEM, bare) == ["pools[sgx].labels"]
    assert told(SYSTEM, bare, sgx={"by": "addon"}) == []


def test_the_label_is_the_one_that_the_agent_is_installed_with():
    assert NODE_LABEL == AGENTS_LABEL


@pytest.mark.parametrize("label", ["kubernetes.azure.com/mode", "kubernetes.io/hostname", "topology.kubernetes.io/zone"])
def test_labels_that_aks_keeps_for_itself_are_refused(label):
    assert blocking(SYSTEM, {**SGX, "labels": {"tee": "sgx", label: "a"}}) == ["pools[sgx].labels"]


def test_a_label_with_a_prefix_of_ones_own_is_fine():
    assert found(SYSTEM, {**SGX, "labels": {"tee": "sgx", "example.kubernetes.io.org/a": "b"}}) == ()


def test_a_taint_twice_is_refused_unless_the_effect_differs():
    twice = [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]
    assert blocking(SYSTEM, {**SGX, "taints": twice}) == ["pools[sgx].taints"]
    assert blocking(SYSTEM, {**SGX, "taints": [twice[0], {**twice[1], "effect": "NoExecute"}]}) == []


def test_the_name_of_the_nodes_group_may_have_eighty_characters():
    assert blocking(group="g" * 57, name="n" * 10) == []
    assert len("MC_" + "g" * 57 + "_" + "n" * 10 + "_uksouth") == 79
    assert blocking(group="g" * 58, name="n" * 10) == []
    assert blocking(group="g" * 59, name="n" * 10) == ["name"]


def test_kubenet_is_told_to_end_and_refused_for_more_than_400_nodes():
    assert [each.what for each in found(network="kubenet")] == ["kubenet ends on 2028-03-31"]
    assert blocking(SYSTEM, {**SGX, "count": 399}, network="kubenet") == ["network"]


def test_overlay_is_told_that_the_pod_addresses_are_for_256_nodes():
    assert told(SYSTEM, {**SGX, "count": 254}, network="azure-overlay") == []
    assert told(SYSTEM, {**SGX, "count": 1, "autoscale": {"min": 1, "max": 255}}, network="azure-overlay") == ["network"]


def test_the_flat_network_is_told_when_its_subnet_is_too_small():
    assert told(SYSTEM, {**SGX, "count": 260, "maxPods": 250}) == []
    assert told(SYSTEM, {**SGX, "count": 261, "maxPods": 250}) == ["network"]


def test_more_than_the_free_tiers_1000_nodes_are_refused_to_begin_with_and_told_as_a_bound():
    assert "pools" not in blocking(SYSTEM, {**SGX, "count": 998})
    assert "pools" in blocking(SYSTEM, {**SGX, "count": 999})
    assert "pools" in told(SYSTEM, {**SGX, "autoscale": {"min": 1, "max": 999}})


def test_fifty_tags_with_kubenclaves_own_are_the_limit():
    tags = {f"t{place}": "" for place in range(49)}
    assert blocking(tags=tags) == []
    assert blocking(tags=tags | {"one": ""}) == ["tags"]
    empty = {**SGX, "autoscale": {"min": 0, "max": 1}}
    assert blocking(SYSTEM, empty, tags=dict.fromkeys([*tags][:47], "")) == []
    assert blocking(SYSTEM, empty, tags=dict.fromkeys([*tags][:48], "")) == ["tags"]
    assert blocking(SYSTEM, empty, tags=tags, sgx={"by": "none"}) == []


@pytest.mark.parametrize("tags", [{"Kubenclave-Cluster": "b/a"}, {"azure-x": ""}, {"Microsoft": ""}, {"a": "", "A": ""}])
def test_tags_that_azure_or_kubenclave_keep_and_doubles_are_refused(tags):
    assert len(blocking(tags=tags)) == 1


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer x"}, {"content-length": "0"}, {"a": "1", "A": "2"}])
def test_headers_that_the_client_sets_itself_and_doubles_are_refused(headers):
    assert len(blocking(headers=headers)) == 1


def test_no_finding_repeats_the_value_of_a_header():
    assert not [
        each for each in found(headers={"Authorization": "Bearer abc"}) if "abc" in f"{each.what}{each.evidence}{each.fix}{each.about}"
    ]


def test_what_had_a_use_in_2020_is_told():
    assert told(headers={"UseGen2VM": "true"}, features=["Microsoft.ContainerService/Gen2VMPreview"]) == ["headers.usegen2vm", "features"]
    assert told(headers={"x": "y"}, features=["Microsoft.ContainerService/Other"]) == []
