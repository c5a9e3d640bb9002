from __future__ import annotations

from dataclasses import replace
from datetime import date

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.cluster.checks import rules
from kubenclave.cluster.checks.preflight import allowed, preflight, wildcard
from kubenclave.cluster.facts import (
    Found,
    FoundCluster,
    FoundGroup,
    FoundPool,
    FoundPrincipal,
    Offer,
    OfferedSize,
    OfferedVersion,
    Permission,
    Quota,
    Subscription,
)
from kubenclave.cluster.spec import OWNER_TAG, Autoscale, ClusterSpec, Identity, Mode, Network, Pool, Sgx, SgxOptions

TODAY = date(2026, 11, 24)
OWNER = Permission(actions=("*",), not_actions=())
CONTRIBUTOR = Permission(actions=("*",), not_actions=("Microsoft.Authorization/*/Write", "Microsoft.Authorization/*/Delete"))
READER = Permission(actions=("*/read",), not_actions=())
SPEC = ClusterSpec(
    name="c",
    group="g",
    location="uksouth",
    pools=(
        Pool(name="system", vm_size="Standard_D2s_v5", mode=Mode.SYSTEM),
        Pool(name="sgx", vm_size="Standard_DC4s_v3", count=2),
    ),
    kubernetes_version="1.35",
)


def version(minor, **fields):
    given_fields = {"default": False, "preview": False, "long_term_only": False, "patches": (f"{minor}.2", f"{minor}.3"), **fields}
    return OfferedVersion(minor=minor, **given_fields)


OFFER = Offer(
    subscription=Subscription(id="22222222-2222-4222-8222-222222222222", name="mine", tenant="t", state="Enabled"),
    permissions=(OWNER,),
    may_make_applications=None,
    locations=("uksouth", "westeurope"),
    sizes={
        name.lower(): OfferedSize(name=name, family=family, vcpus=vcpus, restriction="")
        for name, family, vcpus in (
            ("Standard_D2s_v5", "standardDSv5Family", 2),
            ("Standard_DC4s_v3", "standardDCSv3Family", 4),
            ("Standard_DC8_v2", "standardDCSv2Family", 8),
            ("Standard_D2_v2", "standardDv2Family", 2),
        )
    },
    quotas={
        "cores": Quota(used=4, limit=20),
        "standarddsv5family": Quota(used=0, limit=10),
        "standarddcsv3family": Quota(used=0, limit=8),
        "standarddv2family": Quota(used=0, limit=10),
        "standarddcsv2family": Quota(used=0, limit=10),
    },
    versions=(
        version("1.32", long_term_only=True),
        version("1.33"),
        version("1.34"),
        version("1.35", default=True),
        version("1.36", preview=True),
    ),
)
FOUND = Found(providers={"Microsoft.ContainerService": "Registered"})
TAGS = {OWNER_TAG: "g/c"}
GROUP = FoundGroup(location="uksouth", state="Succeeded", tags=TAGS)
PRINCIPAL = FoundPrincipal(app_id="a", application_object_id="o", principal_id="p", has_role=True, has_secret=True)


def a_pool(name="sgx", vm_size="Standard_DC4s_v3", count=2, autoscale=None):
    return FoundPool(
        name=name, vm_size=vm_size, count=count, mode="User", autoscale=autoscale, labels={}, taints=(), spot=False, max_pods=None,
        state="Succeeded", tags=TAGS,
    )  # fmt: skip


def a_cluster(**fields):
    given_fields = {
        "location": "uksouth", "state": "Succeeded", "kubernetes_version": "1.35.2", "client_id": "", "network_plugin": "azure",
        "network_mode": "", "addon": False, "quote_helper": False, "pools": (), "tags": TAGS, **fields,
    }  # fmt: skip
    return FoundCluster(**given_fields)


def changed(value, **fields):
    return msgspec.structs.replace(value, **fields) if isinstance(value, msgspec.Struct) else replace(value, **fields)


def check(spec=SPEC, offer=OFFER, found=FOUND):
    return preflight(spec, offer, found, today=TODAY)


def only(findings, about):
    found = [finding for finding in findings if finding.about == about]
    assert len(found) == 1, findings
    return found[0]


def with_pools(*pools, **fields):
    return changed(SPEC, pools=pools, **fields)


def test_a_cluster_that_azure_can_make_has_no_blocking_finding():
    findings = check()

    assert [finding.about for finding in findings] == ["pools[sgx].vmSize"]
    assert not findings[0].blocks


def test_blocking_findings_come_first():
    findings = check(offer=changed(OFFER, quotas={**OFFER.quotas, "standarddcsv3family": Quota(used=1, limit=8)}))

    assert [finding.blocks for finding in findings] == [True, False]


@pytest.mark.parametrize(
    ("state", "blocks"), [("Disabled", True), ("Deleted", True), ("Warned", False), ("PastDue", False), ("Odd", False)]
)
def test_a_subscription_that_is_not_enabled_is_told_with_its_state(state, blocks):
    findings = check(offer=changed(OFFER, subscription=changed(OFFER.subscription, state=state)))

    finding = only(findings, f"subscription {OFFER.subscription.id}")
    assert finding.blocks is blocks
    assert state in finding.evidence


def test_a_region_that_does_not_exist_blocks_and_the_nearest_name_is_given():
    finding = only(check(changed(SPEC, location="uksuoth"), changed(OFFER, sizes={}, quotas={}, versions=())), "location")

    assert finding.blocks
    assert "uksouth" in finding.fix


def test_what_a_region_offers_is_not_told_as_unknown_where_there_is_no_such_region():
    findings = check(changed(SPEC, location="nowhere"), changed(OFFER, sizes={}, versions=(), quotas={}))

    assert not {"pools", "kubernetesVersion"} & {finding.about for finding in findings}


def test_a_group_of_another_region_is_told_and_does_not_block():
    finding = only(check(found=changed(FOUND, group=changed(GROUP, location="westeurope"))), "group g")

    assert not finding.blocks
    assert "westeurope" in finding.what


def test_azures_displayed_name_of_a_region_is_the_same_region():
    assert len(check(found=changed(FOUND, group=changed(GROUP, location="UK South"), cluster=a_cluster(location="UK South")))) == 1


def test_a_cluster_in_another_region_blocks():
    assert only(check(found=changed(FOUND, group=GROUP, cluster=a_cluster(location="westeurope"))), "location").blocks


def test_a_group_that_is_being_deleted_is_told():
    assert "being deleted" in only(check(found=changed(FOUND, group=changed(GROUP, state="Deleting"))), "group g").what


@pytest.mark.parametrize(("power", "state", "told"), [("Stopped", "Succeeded", 1), ("Running", "Succeeded", 0), ("Stopped", "Deleting", 0)])
def test_a_stopped_cluster_blocks_with_the_command_that_starts_it(power, state, told):
    findings = check(found=changed(FOUND, group=GROUP, cluster=a_cluster(power=power, state=state)))
    stopped = [each for each in findings if each.about == "cluster c"]

    assert len(stopped) == told
    assert all(each.blocks and "az aks start --name c --resource-group g" in each.fix for each in stopped)


def test_a_cluster_of_someone_else_blocks_and_the_missing_tag_is_named():
    finding = only(check(found=changed(FOUND, group=GROUP, cluster=a_cluster(tags={"team": "x"}))), "name")

    assert finding.blocks
    assert f"{OWNER_TAG}=g/c" in finding.evidence


def test_a_group_of_someone_else_is_used_and_told():
    finding = only(check(found=changed(FOUND, group=changed(GROUP, tags={}))), "group g")

    assert not finding.blocks
    assert "stays" in finding.what


@pytest.mark.parametrize(
    ("permissions", "missing"),
    [
        ((OWNER,), set()),
        ((CONTRIBUTOR,), {"Microsoft.Authorization/roleAssignments/write"}),
        ((CONTRIBUTOR, Permission(actions=("Microsoft.Authorization/roleAssignments/*",), not_actions=())), set()),
        (
            (READER,),
            {
                "Microsoft.Authorization/roleAssignments/write",
                "Microsoft.ContainerService/managedClusters/write",
                "Microsoft.Resources/subscriptions/resourceGroups/write",
            },
        ),
    ],
)
def test_each_permission_that_a_service_principals_cluster_needs_and_lacks_blocks(permissions, missing):
    spec = changed(SPEC, identity=Identity.SERVICE_PRINCIPAL)
    found = changed(FOUND, principal=changed(PRINCIPAL, has_role=False))
    findings = [each for each in check(spec, changed(OFFER, permissions=permissions), found) if each.about.startswith("permission ")]

    assert {each.about.removeprefix("permission ") for each in findings} == missing
    assert all(each.blocks for each in findings)


def test_a_managed_identity_needs_no_role_assignment():
    assert not [each for each in check(offer=changed(OFFER, permissions=(CONTRIBUTOR,))) if each.blocks]


def test_registering_what_is_not_registered_takes_a_permission_of_its_own():
    found = changed(FOUND, providers={"Microsoft.Compute": "NotRegistered"}, features={"Microsoft.ContainerService/X": "NotRegistered"})
    cluster_only = Permission(actions=("Microsoft.ContainerService/managedClusters/*", "Microsoft.Resources/*"), not_actions=())
    blocking = {each.about for each in check(offer=changed(OFFER, permissions=(cluster_only,)), found=found) if each.blocks}

    assert blocking == {"permission Microsoft.Compute/register/action", "permission Microsoft.Features/providers/features/register/action"}


@pytest.mark.parametrize(
    ("general", "blocks"), [((OWNER,), None), ((), True), ((Permission(actions=("*/read",), not_actions=()),), True), (None, False)]
)
def test_an_owner_of_the_group_alone_is_told_that_it_may_not_register(general, blocks):
    found = changed(FOUND, group=GROUP, providers={"Microsoft.Compute": "NotRegistered"})
    findings = check(offer=changed(OFFER, permissions=(OWNER,), subscription_permissions=general), found=found)
    told = [each for each in findings if each.about == "permission Microsoft.Compute/register/action"]

    assert [each.blocks for each in told] == ([] if blocks is None else [blocks])
    assert all("the subscription" in each.fix for each in told)


@pytest.mark.parametrize(("may", "blocks"), [(False, True), (None, False)])
def test_an_account_that_may_not_make_applications_is_told(may, blocks):
    spec = changed(SPEC, identity=Identity.SERVICE_PRINCIPAL)

    assert only(check(spec, changed(OFFER, may_make_applications=may)), "identity").blocks is blocks


@pytest.mark.parametrize("offer", [changed(OFFER, may_make_applications=True)])
def test_an_account_that_may_make_applications_is_not_told(offer):
    assert len(check(changed(SPEC, identity=Identity.SERVICE_PRINCIPAL), offer)) == 1


def test_an_application_that_is_there_need_not_be_made():
    spec = changed(SPEC, identity=Identity.SERVICE_PRINCIPAL)

    assert len(check(spec, changed(OFFER, may_make_applications=False), changed(FOUND, principal=PRINCIPAL))) == 1


def test_an_unregistered_provider_is_told_and_does_not_block():
    finding = only(
        check(found=changed(FOUND, providers={"Microsoft.ContainerService": "NotRegistered"})), "provider Microsoft.ContainerService"
    )

    assert not finding.blocks
    assert "NotRegistered" in finding.evidence


@pytest.mark.parametrize(("state", "blocks"), [("NotRegistered", False), ("Registering", False), ("Pending", False), ("NotFound", True)])
def test_a_feature_that_is_not_registered_is_told(state, blocks):
    finding = only(check(found=changed(FOUND, features={"Microsoft.ContainerService/Gen2VMPreview": state})), "features")

    assert finding.blocks is blocks
    assert "Gen2VMPreview" in finding.what


def test_a_feature_that_the_account_may_not_ask_for_is_told_as_unknown():
    finding = only(check(changed(SPEC, features=("Microsoft.ContainerService/X",))), "features")

    assert not finding.blocks
    assert "Microsoft.ContainerService/X" in finding.what


def test_a_directory_that_did_not_answer_is_told_and_does_not_block():
    finding = only(check(found=changed(FOUND, directory_failure="it did not answer")), "identity")

    assert not finding.blocks
    assert finding.evidence == "it did not answer"


def test_a_size_that_the_region_has_not_blocks_and_the_nearest_is_named():
    finding = only(check(with_pools(Pool(name="sgx", vm_size="Standard_DC8s_v2"))), "pools[sgx].vmSize")

    assert finding.blocks
    assert "Standard_DC8_v2" in finding.fix


def test_a_restricted_size_blocks_with_azures_reason():
    sizes = {**OFFER.sizes, "standard_d2s_v5": changed(OFFER.sizes["standard_d2s_v5"], restriction="NotAvailableForSubscription")}
    finding = only(check(offer=changed(OFFER, sizes=sizes)), "pools[system].vmSize")

    assert finding.blocks
    assert "NotAvailableForSubscription" in finding.evidence


def test_a_pool_that_is_there_is_not_blocked_by_what_is_offered_now():
    sizes = {**OFFER.sizes, "standard_dc4s_v3": changed(OFFER.sizes["standard_dc4s_v3"], restriction="NotAvailableForSubscription")}
    findings = check(offer=changed(OFFER, sizes=sizes), found=changed(FOUND, group=GROUP, cluster=a_cluster(pools=(a_pool(),))))

    assert not any(finding.blocks for finding in findings)
    assert any("NotAvailableForSubscription" in finding.evidence for finding in findings)


def test_sizes_that_azure_does_not_list_are_told_as_unknown():
    assert not only(check(offer=changed(OFFER, sizes={})), "pools").blocks


def test_a_familys_quota_that_is_too_small_blocks_with_the_sum_to_ask_for():
    finding = only(
        check(offer=changed(OFFER, quotas={**OFFER.quotas, "standarddcsv3family": Quota(used=3, limit=8)})), "quota standarddcsv3family"
    )

    assert finding.blocks
    assert "3 of 8" in finding.evidence
    assert "at least 11" in finding.fix


def test_the_regions_quota_counts_all_pools():
    finding = only(check(offer=changed(OFFER, quotas={**OFFER.quotas, "cores": Quota(used=11, limit=20)})), "quota cores")

    assert finding.blocks
    assert "at least 21" in finding.fix


def test_what_the_clusters_pools_use_already_is_not_asked_for_again():
    full = {**OFFER.quotas, "standarddcsv3family": Quota(used=8, limit=8), "cores": Quota(used=18, limit=20)}
    there = changed(FOUND, group=GROUP, cluster=a_cluster(pools=(a_pool(),)))

    assert not any(finding.blocks for finding in check(offer=changed(OFFER, quotas=full), found=there))
    assert only(
        check(with_pools(SPEC.pools[0], changed(SPEC.pools[1], count=3)), changed(OFFER, quotas=full), there), "quota standarddcsv3family"
    ).blocks


def test_a_pool_of_another_size_is_counted_in_full():
    there = changed(FOUND, group=GROUP, cluster=a_cluster(pools=(a_pool(vm_size="Standard_D2_v2"),)))

    assert only(
        check(offer=changed(OFFER, quotas={**OFFER.quotas, "standarddcsv3family": Quota(used=1, limit=8)}), found=there),
        "quota standarddcsv3family",
    ).blocks


def test_how_far_a_pool_may_scale_warns_and_where_it_starts_blocks():
    scaling = changed(SPEC.pools[1], count=1, autoscale=Autoscale(min=0, max=3))
    finding = only(check(with_pools(SPEC.pools[0], scaling)), "quota standarddcsv3family")

    assert not finding.blocks
    assert "12 vCPUs more once the pools have scaled up" in finding.what
    assert only(check(with_pools(SPEC.pools[0], changed(scaling, count=3))), "quota standarddcsv3family").blocks


def test_spot_nodes_count_against_the_regions_spot_quota_alone():
    spec = with_pools(SPEC.pools[0], changed(SPEC.pools[1], spot=True))
    quotas = {**OFFER.quotas, "standarddcsv3family": Quota(used=8, limit=8), "lowprioritycores": Quota(used=0, limit=7)}
    abouts = {finding.about for finding in check(spec, changed(OFFER, quotas=quotas)) if finding.blocks}

    assert abouts == {"quota lowprioritycores"}


@pytest.mark.parametrize(("capable", "blocks"), [(False, True), (True, None), (None, None)])
def test_a_spot_pool_of_a_size_that_is_not_to_be_had_as_spot_blocks(capable, blocks):
    size = changed(OFFER.sizes["standard_dc4s_v3"], spot=capable)
    offer = changed(OFFER, sizes={**OFFER.sizes, "standard_dc4s_v3": size})

    def told(*, spot):
        findings = check(with_pools(SPEC.pools[0], changed(SPEC.pools[1], spot=spot)), offer)
        return [each.blocks for each in findings if each.about == "pools[sgx].spot"]

    assert told(spot=True) == ([] if blocks is None else [blocks])
    assert told(spot=False) == []


def test_a_quota_that_azure_does_not_list_is_told_as_unknown():
    quotas = {name: quota for name, quota in OFFER.quotas.items() if name != "standarddcsv3family"}

    assert not only(check(offer=changed(OFFER, quotas=quotas)), "quota standarddcsv3family").blocks


@pytest.mark.parametrize(
    ("wanted", "blocks", "words"),
    [
        ("1.31", True, "1.35 (default)"),
        ("1.35.9", True, "1.35.2, 1.35.3"),
        ("1.32", True, "long-term only"),
        ("1.36", False, "1.36 (preview)"),
    ],
)
def test_a_version_that_is_not_simply_offered_is_told_with_what_is(wanted, blocks, words):
    finding = only(check(changed(SPEC, kubernetes_version=wanted)), "kubernetesVersion")

    assert finding.blocks is blocks
    assert words in finding.evidence


@pytest.mark.parametrize("wanted", ["1.35", "1.35.3", "1.34", None])
def test_an_offered_version_with_or_without_its_patch_is_not_told(wanted):
    assert len(check(changed(SPEC, kubernetes_version=wanted))) == 1


def test_a_version_that_runs_already_is_told_and_does_not_block():
    there = changed(FOUND, group=GROUP, cluster=a_cluster(kubernetes_version="1.31.4"))

    assert not only(check(changed(SPEC, kubernetes_version="1.31"), found=there), "kubernetesVersion").blocks


def test_versions_that_azure_does_not_list_are_told_as_unknown():
    assert not only(check(offer=changed(OFFER, versions=())), "kubernetesVersion").blocks


@pytest.mark.parametrize(("wanted", "warned"), [("1.33", False), ("1.34.2", True), (None, True)])
def test_the_add_on_with_a_version_that_no_longer_names_it_warns_with_the_source(wanted, warned):
    findings = check(changed(SPEC, kubernetes_version=wanted, sgx=SgxOptions(by=Sgx.ADDON)))
    about_addon = [finding for finding in findings if finding.about == "sgx.by"]

    assert bool(about_addon) is warned
    assert all(not finding.blocks and "no proof" in finding.evidence for finding in about_addon)


def test_a_series_that_will_be_retired_is_told_once_with_dates_and_successors():
    pools = (SPEC.pools[0], SPEC.pools[1], changed(SPEC.pools[1], name="other", count=0))
    finding = only(check(with_pools(*pools)), "pools[sgx].vmSize, pools[other].vmSize")

    assert "2029-10-31" in finding.what
    assert "since 2026-11-01 new subscriptions do not get it" in finding.what
    assert "DCasv6" in finding.fix
    assert not finding.blocks


def test_a_retired_series_is_told_as_retired():
    finding = only(check(with_pools(Pool(name="sgx", vm_size="Standard_DC8_v2"))), "pools[sgx].vmSize")

    assert "was retired on 2026-06-30" in finding.what


def test_the_end_of_dv2_is_told_with_its_date():
    findings = check(with_pools(Pool(name="system", vm_size="Standard_D2_v2", mode=Mode.SYSTEM)))

    assert "2028-05-01" in only(findings, "pools[system].vmSize").what


@pytest.mark.parametrize("change", [{"network": Network.KUBENET}, {"group": "g" * 75}])
def test_what_the_file_says_against_itself_is_not_told_a_second_time(change):
    spec = changed(SPEC, **change)
    abouts = {each.about for each in rules.check(spec)} - {each.about for each in rules.check(SPEC)}

    assert len(abouts) == 1
    assert check(spec) == check()


def test_an_upgrade_is_told_to_take_nodes_that_the_quotas_do_not_count():
    def told(wanted, **fields):
        findings = check(changed(SPEC, kubernetes_version=wanted), found=changed(FOUND, group=GROUP, cluster=a_cluster(**fields)))
        return [each for each in findings if "at least one node more" in each.what]

    assert [each.blocks for each in told("1.35", kubernetes_version="1.34.2")] == [False]
    assert not told("1.35", kubernetes_version="1.35.2")
    assert not told(None, kubernetes_version="1.34.2")
    assert not told("1.35", kubernetes_version="1.34.2", state="Deleting")


@pytest.mark.parametrize(
    ("pattern", "action", "covers"),
    [
        ("*", "Microsoft.X/a/write", True),
        ("*/read", "Microsoft.X/a/read", True),
        ("*/read", "Microsoft.X/a/write", False),
        ("microsoft.x/*/WRITE", "Microsoft.X/a/b/write", True),
        ("Microsoft.X/a/write", "Microsoft.X/a/write", True),
        ("Microsoft.X/a", "Microsoft.X/a/write", False),
        ("a*a", "a", False),
        ("a*b*c", "a-c-b", False),
        ("[a-z]*", "b", False),
    ],
)
def test_a_star_in_an_action_stands_for_anything_and_nothing_else_does(pattern, action, covers):
    assert wildcard(pattern, action) is covers


def test_a_permission_takes_out_only_of_itself():
    assert not allowed("Microsoft.Authorization/roleAssignments/write", (CONTRIBUTOR,))
    assert allowed("Microsoft.Authorization/roleAssignments/write", (CONTRIBUTOR, OWNER))


NAMES = st.sampled_from(["Standard_D2s_v5", "Standard_DC4s_v3", "Standard_DC8_v2", "Standard_ZZ9", "Standard_D2_v2"])
COUNTS = st.integers(0, 12)
QUOTAS = st.builds(Quota, used=st.integers(0, 30), limit=st.integers(0, 30))


@st.composite
def situations(draw):
    pools = tuple(
        Pool(
            name=f"p{index}",
            vm_size=draw(NAMES),
            count=draw(COUNTS),
            spot=draw(st.booleans()),
            autoscale=draw(st.one_of(st.none(), st.builds(Autoscale, min=COUNTS, max=st.integers(1, 12)))),
        )
        for index in range(draw(st.integers(1, 3)))
    )
    there = tuple(a_pool(name=f"p{index}", vm_size=draw(NAMES), count=draw(COUNTS)) for index in range(draw(st.integers(0, 3))))
    offer = changed(
        OFFER,
        quotas=draw(st.dictionaries(st.sampled_from([*OFFER.quotas, "lowprioritycores"]), QUOTAS)),
        sizes=draw(st.sampled_from([OFFER.sizes, {}])),
        versions=draw(st.sampled_from([OFFER.versions, ()])),
        locations=draw(st.sampled_from([OFFER.locations, ()])),
        permissions=draw(st.sampled_from([(), (OWNER,), (READER,)])),
    )
    found = changed(
        FOUND, group=draw(st.sampled_from([None, GROUP])), cluster=draw(st.sampled_from([None, a_cluster(pools=there), a_cluster(tags={})]))
    )
    return with_pools(*pools, kubernetes_version=draw(st.sampled_from([None, "1.35", "1.31", "1.36.2"]))), offer, found


@given(situations())
def test_whatever_is_read_every_finding_is_whole_and_a_quota_blocks_just_where_the_sum_is_too_large(situation):
    spec, offer, found = situation
    findings = preflight(spec, offer, found, today=TODAY)

    assert all(finding.about and finding.what and finding.evidence and finding.fix for finding in findings)
    there = {pool.name: pool for pool in (found.cluster.pools if found.cluster else ())}
    vcpus = {
        "standard_d2s_v5": 2,
        "standard_dc4s_v3": 4,
        "standard_dc8_v2": 8,
        "standard_d2_v2": 2 if offer.sizes else 0,
        "standard_zz9": 0,
    }
    wanted = 0
    for pool in spec.pools:
        have = there.get(pool.name)
        have = have if have is not None and have.vm_size == pool.vm_size else None
        used = have.count if have else 0
        now = pool.count if have is None or pool.autoscale is None else max(pool.autoscale.min, used)
        known = offer.sizes or pool.vm_size.startswith("Standard_DC")
        wanted += 0 if pool.spot or not known else max(0, now - used) * vcpus[pool.vm_size.lower()]
    quota = offer.quotas.get("cores")
    blocked = any(finding.about == "quota cores" and finding.blocks for finding in findings)
    assert blocked == (quota is not None and wanted > 0 and quota.used + wanted > quota.limit)
