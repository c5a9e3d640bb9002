"""A plan leads from what is there to what is wanted, from every state in between, and then is empty."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenclave.cluster.body import network_profile, scale_from_zero_tags
from kubenclave.cluster.facts import Found, FoundCluster, FoundGroup, FoundPool, FoundPrincipal
from kubenclave.cluster.spec import OWNER_TAG, Autoscale, ClusterSpec, Effect, Identity, Mode, Network, Pool, Sgx, SgxOptions, Taint
from kubenclave.cluster.steps.plan import plan
from kubenclave.cluster.steps.removal import does_something, removal
from kubenclave.cluster.steps.step import Kind, Step, Verb
from kubenclave.errors import Refused

AKS = "Microsoft.ContainerService"
SPOT = "kubernetes.azure.com/scalesetpriority"
NOTHING = Found(
    providers={AKS: "NotRegistered", "Microsoft.Compute": "Registered"},
    features={f"{AKS}/One": "NotRegistered", f"{AKS}/Two": "Unregistered"},
)


def cluster_spec(**changes):
    pools = (Pool(name="system", vm_size="Standard_D2s_v5", mode=Mode.SYSTEM), Pool(name="sgx", vm_size="Standard_DC2s_v3"))
    return ClusterSpec(**{"name": "C", "group": "G", "location": "uksouth", "pools": pools, **changes})


# --- a pure model of Azure: what there is after a step ---


def made_pool(spec, pool):
    return FoundPool(
        name=pool.name,
        vm_size=pool.vm_size,
        count=pool.count,
        mode=pool.mode.value,
        autoscale=None if pool.autoscale is None else (pool.autoscale.min, pool.autoscale.max),
        labels=dict(pool.labels) | ({SPOT: "spot"} if pool.spot else {}),
        taints=(*(taint.text() for taint in pool.taints), *([f"{SPOT}=spot:NoSchedule"] if pool.spot else [])),
        spot=pool.spot,
        max_pods=pool.max_pods or 30,
        state="Succeeded",
        tags={name.upper(): value for name, value in {**spec.tags, **scale_from_zero_tags(spec, pool), OWNER_TAG: spec.owner}.items()},
        version=version_of(spec),
    )


def version_of(spec):
    version = spec.kubernetes_version or "1.35"
    return version if version.count(".") == 2 else f"{version}.1"


def made_cluster(spec, principal, state="Succeeded"):
    network = network_profile(spec.network)
    return FoundCluster(
        location=spec.location,
        state=state,
        kubernetes_version=version_of(spec),
        client_id=principal.app_id if spec.identity is Identity.SERVICE_PRINCIPAL and principal else "",
        network_plugin=network["networkPlugin"],
        network_mode=network.get("networkPluginMode", ""),
        addon=spec.sgx.by is Sgx.ADDON,
        quote_helper=spec.sgx.by is Sgx.ADDON and spec.sgx.quote_helper,
        pools=tuple(made_pool(spec, pool) for pool in spec.pools),
        tags={name.title(): value for name, value in {**spec.tags, OWNER_TAG: spec.owner}.items()},
        power="Running",
    )


def with_pools(cluster, pools):
    return replace(cluster, pools=tuple(pools))


def after(spec: ClusterSpec, found: Found, step: Step) -> Found:  # noqa: C901, PLR0911, PLR0912 - the model is one table
    wanted = {pool.name: pool for pool in spec.pools}
    match step.kind, step.verb:
        case Kind.PROVIDER, Verb.REGISTER:
            return replace(found, providers={**found.providers, step.name: "Registered"})
        case Kind.FEATURE, Verb.REGISTER:
            return replace(found, features={**found.features, step.name: "Registered"})
        case Kind.GROUP, Verb.CREATE:
            return replace(found, group=FoundGroup(location=spec.location, state="Succeeded", tags={**spec.tags, OWNER_TAG: spec.owner}))
        case Kind.GROUP, Verb.UPDATE:
            return replace(found, group=replace(found.group, tags={**found.group.tags, **spec.tags}))
        case Kind.GROUP, Verb.WAIT | Verb.DELETE:
            return replace(found, group=None, cluster=None, others_in_group=())
        case Kind.APPLICATION, Verb.CREATE:
            made = FoundPrincipal(app_id="app", application_object_id="o", principal_id="", has_role=False, has_secret=False)
            return replace(found, principal=made)
        case Kind.APPLICATION, Verb.DELETE:
            return replace(found, principal=None)
        case Kind.PRINCIPAL, Verb.CREATE:
            return replace(found, principal=replace(found.principal, principal_id="p"))
        case Kind.SECRET, Verb.CREATE | Verb.UPDATE:
            return replace(found, principal=replace(found.principal, has_secret=True))
        case Kind.SECRET, Verb.DELETE:
            return replace(found, principal=replace(found.principal, has_secret=False))
        case Kind.ROLE, _:
            given = step.verb is Verb.CREATE
            return replace(found, principal=replace(found.principal, has_role=given, role_on_group=given))
        case Kind.CLUSTER, Verb.CREATE:
            assert found.cluster is None
            assert found.group is not None
            return replace(found, cluster=made_cluster(spec, found.principal))
        case Kind.CLUSTER, Verb.UPDATE:
            fresh = made_cluster(spec, found.principal)
            pools = found.cluster.pools
            if found.cluster.state == "Failed":
                pools = [made_pool(spec, wanted[pool.name]) if pool.name in wanted else replace(pool, state="Succeeded") for pool in pools]
            version = found.cluster.kubernetes_version if spec.kubernetes_version is None else fresh.kubernetes_version
            if version != found.cluster.kubernetes_version:
                pools = [replace(pool, version=version) for pool in pools]
            return replace(found, cluster=replace(with_pools(fresh, pools), kubernetes_version=version))
        case Kind.CLUSTER, Verb.WAIT:
            if found.cluster.state == "Deleting":
                return replace(found, cluster=None)
            pools = [replace(pool, state="Succeeded") for pool in found.cluster.pools]
            return replace(found, cluster=replace(with_pools(found.cluster, pools), state="Succeeded"))
        case Kind.CLUSTER, Verb.DELETE:
            return replace(found, cluster=None)
        case Kind.POOL, Verb.CREATE:
            assert step.name not in {pool.name for pool in found.cluster.pools}
            return replace(found, cluster=with_pools(found.cluster, [*found.cluster.pools, made_pool(spec, wanted[step.name])]))
        case Kind.POOL, Verb.UPDATE:
            pools = [made_pool(spec, wanted[pool.name]) if pool.name == step.name else pool for pool in found.cluster.pools]
            assert any(pool.mode == "System" for pool in pools)
            return replace(found, cluster=with_pools(found.cluster, pools))
        case Kind.POOL, Verb.DELETE | Verb.WAIT:
            gone = [pool for pool in found.cluster.pools if pool.name != step.name or (step.verb is Verb.WAIT and pool.state != "Deleting")]
            pools = [replace(pool, state="Succeeded") if pool.name == step.name else pool for pool in gone]
            assert any(pool.mode == "System" for pool in pools)
            return replace(found, cluster=with_pools(found.cluster, pools))
    raise AssertionError(step)


def done(spec, found, steps, count=None):
    """Do the first steps of a plan, in its order; nothing that comes after a WAIT."""
    blocked = set()
    for step in (step for step in steps[:count] if not step.is_remark):
        if blocked & set(step.after):
            blocked.add(step.key)
            continue
        found = after(spec, found, step)
        if step.verb is Verb.WAIT:
            blocked.add(step.key)
    return found


def converged(spec, found):
    for _ in range(6):
        steps = plan(spec, found)
        if not steps:
            return found
        found = done(spec, found, steps)
    raise AssertionError(plan(spec, found))


pool_names = st.sampled_from(["a", "b", "sgx"])
autoscales = st.none() | st.builds(lambda low, more: Autoscale(min=low, max=low + more), st.integers(0, 3), st.integers(1, 3))
pools = st.builds(
    Pool,
    name=pool_names,
    vm_size=st.just("Standard_DC2s_v3"),
    spot=st.just(value=False),
    count=st.integers(0, 3),
    mode=st.sampled_from(Mode),
    autoscale=autoscales,
    labels=st.dictionaries(st.sampled_from("xy"), st.sampled_from(["1", "2"])),
    taints=st.lists(
        st.builds(Taint, key=st.sampled_from("kl"), effect=st.sampled_from(Effect)), max_size=2, unique_by=lambda t: t.text()
    ).map(tuple),
)
# One pool is of spot nodes, and one may be the only System pool in a file and be gone from the next.
spot_pools = st.lists(st.builds(Pool, name=st.just("spot"), vm_size=st.just("Standard_DC2s_v3"), spot=st.just(value=True)), max_size=1)
system_names = st.sampled_from(["system", "main", "a", "b"])
specs = st.builds(
    lambda more, spot, system, identity, sgx, quote, tags, features: cluster_spec(
        pools=(
            *(pool for pool in more if pool.name != system),
            Pool(name=system, vm_size="Standard_DC2s_v3", mode=Mode.SYSTEM),
            *spot,
        ),
        identity=identity,
        sgx=SgxOptions(by=sgx, quote_helper=quote),
        tags=tags,
        features=features,
    ),
    st.lists(pools, max_size=3, unique_by=lambda pool: pool.name),
    spot_pools,
    system_names,
    st.sampled_from(Identity),
    st.sampled_from(Sgx),
    st.booleans(),
    st.dictionaries(st.sampled_from(["team"]), st.sampled_from(["x", "y"])),
    st.sampled_from([(), (f"{AKS}/One",), (f"{AKS}/One", f"{AKS}/Two")]),
)


@settings(max_examples=200)
@given(specs, st.data())
def test_from_every_prefix_of_a_plan_the_next_one_leads_to_the_end_and_an_empty_plan(spec, data):
    steps = plan(spec, NOTHING)
    prefix = data.draw(st.integers(0, len(steps)))
    assert plan(spec, converged(spec, done(spec, NOTHING, steps, prefix))) == ()


@settings(max_examples=200)
@given(specs, specs, st.data())
def test_a_changed_file_is_reached_from_every_prefix_or_refused_and_then_its_plan_is_empty(old, new, data):
    found = converged(old, NOTHING)
    if old.identity is not new.identity:
        with pytest.raises(Refused, match="identity"):
            plan(new, found)
        return
    steps = plan(new, found)
    prefix = data.draw(st.integers(0, len(steps)))
    final = converged(new, done(new, found, steps, prefix))
    assert plan(new, final) == ()
    assert {pool.name for pool in final.cluster.pools} == {pool.name for pool in new.pools}


@settings(max_examples=100)
@given(specs, st.data())
def test_from_every_prefix_of_creation_and_removal_nothing_is_left(spec, data):
    steps = plan(spec, NOTHING)
    found = done(spec, NOTHING, steps, data.draw(st.integers(0, len(steps))))
    going = removal(found, spec.owner)
    found = done(spec, found, going, data.draw(st.integers(0, len(going))))
    for _ in range(3):
        found = done(spec, found, removal(found, spec.owner))
    assert (found.group, found.cluster, found.principal) == (None, None, None)


@given(specs)
def test_every_step_comes_after_steps_that_stand_before_it(spec):
    seen = set()
    for step in plan(spec, NOTHING):
        assert set(step.after) <= seen
        seen.add(step.key)


# --- what single states lead to ---

SPEC = cluster_spec()


def found(spec=SPEC, **changes):
    return replace(converged(spec, NOTHING), **changes)


def changed_cluster(spec=SPEC, **changes):
    have = found(spec)
    return replace(have, cluster=replace(have.cluster, **changes))


def changed_pool(name, **changes):
    have = found()
    return replace(
        have, cluster=with_pools(have.cluster, [replace(pool, **changes) if pool.name == name else pool for pool in have.cluster.pools])
    )


def keys(steps):
    return [step.key for step in steps]


def test_a_cluster_from_nothing_is_one_request_with_all_pools_after_everything_it_needs():
    steps = plan(cluster_spec(identity=Identity.SERVICE_PRINCIPAL), NOTHING)
    assert keys(steps) == [
        f"register provider {AKS}",
        "create group G",
        "create application g/c",
        "create service principal g/c",
        "create secret g/c",
        "create role assignment Contributor on G",
        "create cluster C",
    ]
    by_key = {step.key: step for step in steps}
    assert set(by_key["create role assignment Contributor on G"].after) == {"create group G", "create service principal g/c"}
    assert set(by_key["create cluster C"].after) == set(by_key) - {"create cluster C"}
    assert by_key["create group G"].after == by_key["create application g/c"].after == ()


def test_a_group_that_others_made_is_used_and_never_touched():
    group = FoundGroup(location="eastus", state="Succeeded", tags={"team": "other"})
    assert keys(plan(cluster_spec(tags={"team": "mine"}), replace(NOTHING, group=group))) == [
        f"register provider {AKS}",
        "create cluster C",
    ]


def test_a_cluster_of_others_is_refused():
    with pytest.raises(Refused, match="not of this making"):
        plan(SPEC, changed_cluster(tags={"team": "x"}))


@pytest.mark.parametrize("state", ["Creating", "Updating", "Upgrading", "Starting"])
def test_what_azure_is_at_is_waited_for_before_anything_is_changed(state):
    have = changed_cluster(state=state, addon=True)
    wait, change = plan(SPEC, have)
    assert (wait.key, change.key) == ("wait cluster C", "update cluster C")
    assert wait.key in change.after


def test_a_cluster_that_is_being_deleted_is_waited_for_and_made_anew():
    assert keys(plan(SPEC, changed_cluster(state="Deleting"))) == ["wait cluster C", "create cluster C"]


@pytest.mark.parametrize("state", ["Failed", "Canceled"])
def test_a_cluster_that_ended_badly_is_asked_for_again(state):
    (step,) = plan(SPEC, changed_cluster(state=state))
    assert step.key == "update cluster C"
    assert state in step.reason


def test_a_lower_count_after_a_failure_for_quota_goes_with_the_same_request():
    have = changed_pool("sgx", count=50, state="Failed")
    have = replace(have, cluster=replace(have.cluster, state="Failed"))
    (step,) = plan(SPEC, have)
    assert step.changes == ("pool sgx, count: 50 -> 1",)


def test_a_failed_pool_is_asked_for_again():
    assert keys(plan(SPEC, changed_pool("sgx", state="Failed"))) == ["update pool sgx"]


def test_a_pool_that_azure_is_at_is_waited_for():
    assert keys(plan(SPEC, changed_pool("sgx", state="Scaling", count=3))) == ["wait pool sgx", "update pool sgx"]


def test_the_count_of_a_pool_that_scales_itself_is_not_the_files():
    spec = cluster_spec(pools=(SPEC.pools[0], Pool(name="sgx", vm_size="Standard_DC2s_v3", count=1, autoscale=Autoscale(min=0, max=9))))
    have = found(spec)
    scaled = [replace(pool, count=7) if pool.name == "sgx" else pool for pool in have.cluster.pools]
    assert plan(spec, replace(have, cluster=with_pools(have.cluster, scaled))) == ()


def test_pools_are_made_before_others_are_removed_and_one_after_the_other():
    spec = cluster_spec(pools=(Pool(name="new", vm_size="Standard_D2s_v5", mode=Mode.SYSTEM), SPEC.pools[1]))
    create, delete = plan(spec, found())
    assert (create.key, delete.key) == ("create pool new", "delete pool system")
    assert create.key in delete.after


def test_a_pool_without_the_mark_is_left_alone_and_one_of_its_name_refused():
    assert (
        plan(
            SPEC,
            replace(
                found(),
                cluster=with_pools(
                    found().cluster, [*found().cluster.pools, replace(made_pool(SPEC, SPEC.pools[1]), name="hers", tags={})]
                ),
            ),
        )
        == ()
    )
    with pytest.raises(Refused, match="pool sgx was made by someone else"):
        plan(SPEC, changed_pool("sgx", tags={}))


def test_what_aks_itself_puts_on_the_nodes_is_no_difference():
    have = changed_pool("sgx", labels={SPOT: "spot"}, taints=(f"{SPOT}=spot:NoSchedule",))
    assert plan(SPEC, have) == ()
    (step,) = plan(SPEC, changed_pool("sgx", labels={SPOT: "spot", "x": "1"}))
    assert step.changes == ("labels: x=1 -> none",)


def test_tags_by_which_a_pool_told_the_autoscaler_of_epc_go_once_they_are_not_wanted_and_those_of_others_stay():
    told = "k8s.io_cluster-autoscaler_node-template_resources_"
    have = changed_pool("sgx", tags={OWNER_TAG: "g/c", f"{told}openenclave.io_sgx_epc_MiB": "8192", f"{told}nvidia.com_gpu": "1", "x": "y"})
    (step,) = plan(SPEC, have)
    assert step.changes == (f"tag {told}openenclave.io_sgx_epc_MiB: 8192 -> none",)


def test_letters_of_a_tags_name_make_no_difference_and_those_of_its_value_do():
    spec = cluster_spec(tags={"team": "x"})
    have = found(spec)
    spelled = {"TEAM": "x", OWNER_TAG.upper(): "g/c"}
    pools = [replace(pool, tags=spelled) for pool in have.cluster.pools]
    have = replace(have, group=replace(have.group, tags=spelled), cluster=replace(with_pools(have.cluster, pools), tags=spelled))
    assert plan(spec, have) == ()
    assert {step.changes for step in plan(cluster_spec(tags={"Team": "X"}), have)} == {("tag Team: x -> X",)}


def test_the_system_pool_is_swapped_by_making_the_other_one_first():
    old = cluster_spec(pools=(Pool(name="a", vm_size="s", mode=Mode.SYSTEM), Pool(name="b", vm_size="s"), Pool(name="gone", vm_size="s")))
    new = cluster_spec(pools=(Pool(name="a", vm_size="s"), Pool(name="b", vm_size="s", mode=Mode.SYSTEM), Pool(name="new", vm_size="s")))
    steps = plan(new, found(old))
    assert keys(steps) == ["update pool b", "create pool new", "update pool a", "delete pool gone"]
    assert all(before.key in step.after for before, step in pairwise(steps))


def test_pools_that_an_upgrade_of_the_control_plane_left_behind_are_taken_along():
    spec = cluster_spec(kubernetes_version="1.36")
    have = changed_cluster(spec, pools=tuple(replace(pool, version="1.35.1") for pool in found(spec).cluster.pools))
    assert [(step.key, step.changes) for step in plan(spec, have)] == [
        ("update pool system", ("Kubernetes: 1.35.1 -> 1.36",)),
        ("update pool sgx", ("Kubernetes: 1.35.1 -> 1.36",)),
    ]
    assert plan(SPEC, have) == ()


def test_pools_go_with_the_clusters_own_upgrade_in_one_request():
    assert keys(plan(cluster_spec(kubernetes_version="1.36"), found())) == ["update cluster C"]


def test_a_stopped_cluster_is_not_changed_and_it_is_told_how_it_is_started():
    have = changed_cluster(power="Stopped")
    assert plan(SPEC, have) == ()
    with pytest.raises(Refused, match=r"stopped.*update cluster C") as refused:
        plan(cluster_spec(tags={"team": "x"}), have)
    assert refused.value.hint == "Start it first: az aks start --resource-group G --name C"
    assert keys(plan(SPEC, changed_cluster(power="Stopped", state="Starting"))) == ["wait cluster C"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"location": "eastus"}, r"the location \(uksouth -> eastus\)"),
        ({"network": Network.KUBENET}, r"network plugin \(azure -> kubenet\)"),
        ({"network": Network.AZURE_OVERLAY}, r"network plugin \(azure -> azure-overlay\)"),
        ({"identity": Identity.SERVICE_PRINCIPAL}, r"identity \(managed -> service-principal\)"),
        ({"kubernetes_version": "1.34"}, "Kubernetes 1.35.1 -> 1.34"),
        ({"kubernetes_version": "1.37"}, "Kubernetes 1.35.1 -> 1.37"),
        ({"kubernetes_version": "1.35.0"}, "Kubernetes 1.35.1 -> 1.35.0"),
        ({"pools": (SPEC.pools[0], Pool(name="sgx", vm_size="Standard_DC4s_v3"))}, "VM size of pool sgx"),
        ({"pools": (SPEC.pools[0], Pool(name="sgx", vm_size="Standard_DC2s_v3", spot=True))}, "priority of pool sgx"),
        ({"pools": (SPEC.pools[0], Pool(name="sgx", vm_size="Standard_DC2s_v3", max_pods=99))}, "pods per node of pool sgx"),
    ],
)
def test_what_cannot_be_changed_in_place_is_refused_with_both_values(changes, told):
    with pytest.raises(Refused, match=told) as refused:
        plan(cluster_spec(**changes), found())
    assert "down" in refused.value.hint


@pytest.mark.parametrize(
    ("version", "steps"), [("1.35", []), ("1.35.1", []), ("1.36", ["update cluster C"]), ("1.35.9", ["update cluster C"])]
)
def test_a_version_goes_up_by_one_minor_or_any_patch(version, steps):
    assert keys(plan(cluster_spec(kubernetes_version=version), found())) == steps


def test_letters_of_a_location_and_a_size_do_not_make_a_difference():
    have = changed_pool("sgx", vm_size="standard_dc2s_V3")
    assert plan(SPEC, replace(have, cluster=replace(have.cluster, location="UK South"))) == ()


def test_a_secret_that_is_not_kept_here_is_replaced_only_while_there_is_no_cluster():
    spec = cluster_spec(identity=Identity.SERVICE_PRINCIPAL)
    have = found(spec)
    lost = replace(have, principal=replace(have.principal, has_secret=False))
    assert plan(spec, lost) == ()
    assert keys(plan(spec, replace(lost, cluster=None))) == ["adopt application app", "update secret g/c", "create cluster C"]


def test_an_application_that_is_taken_up_is_shown_by_its_id_only_until_the_cluster_is_there():
    spec = cluster_spec(identity=Identity.SERVICE_PRINCIPAL)
    have = found(spec)
    adopt = plan(spec, replace(have, cluster=None))[0]
    assert (adopt.key, adopt.is_remark) == ("adopt application app", True)
    assert not any(step.verb is Verb.ADOPT for step in (*plan(spec, have), *plan(spec, NOTHING)))


def test_a_service_principal_that_the_file_no_longer_asks_for_goes():
    have = replace(found(cluster_spec(identity=Identity.SERVICE_PRINCIPAL)), cluster=None)
    assert keys(plan(SPEC, have))[-2:] == ["delete role assignment Contributor on G", "delete application g/c"]


@pytest.mark.parametrize(
    "principal", [None, FoundPrincipal(app_id="other", application_object_id="o", principal_id="p", has_role=True, has_secret=True)]
)
def test_a_cluster_whose_service_principal_is_gone_or_another_is_refused(principal):
    spec = cluster_spec(identity=Identity.SERVICE_PRINCIPAL)
    with pytest.raises(Refused, match="service principal"):
        plan(spec, replace(found(spec), principal=principal))


def test_a_feature_is_followed_by_its_provider_also_where_a_run_before_was_killed_between_the_two():
    spec = cluster_spec(features=(f"{AKS}/One",))
    steps = plan(spec, NOTHING)
    assert keys(steps)[:2] == [f"register feature {AKS}/One", f"register provider {AKS}"]
    assert steps[1].after == (steps[0].key,)
    registered = replace(NOTHING, providers={AKS: "Registered"}, features={f"{AKS}/One": "Registered"})
    assert f"register provider {AKS}" in keys(plan(spec, registered))


@pytest.mark.parametrize("state", ["Pending", "NotFound", None])
def test_a_feature_that_waits_for_consent_has_ended_or_may_not_be_asked_about_is_not_asked_for(state):
    spec = cluster_spec(features=(f"{AKS}/One",))
    assert not any(step.kind is Kind.FEATURE for step in plan(spec, replace(NOTHING, features={f"{AKS}/One": state} if state else {})))


# --- removal ---


def test_down_removes_the_cluster_then_what_it_needed_then_the_group():
    spec = cluster_spec(identity=Identity.SERVICE_PRINCIPAL)
    assert keys(removal(found(spec), spec.owner)) == [
        "delete cluster c",
        "delete role assignment Contributor on g",
        "delete secret g/c",
        "delete application g/c",
        "delete group g",
    ]


def test_a_service_principal_that_cannot_be_seen_or_is_not_marked_is_said_to_stay():
    spec = cluster_spec(identity=Identity.SERVICE_PRINCIPAL)
    keep = removal(found(spec, principal=None), spec.owner)[1]
    assert (keep.verb, keep.kind, keep.name) == (Verb.KEEP, Kind.PRINCIPAL, "app")
    keep = removal(found(directory_failure="Graph said no."), SPEC.owner)[1]
    assert (keep.verb, keep.kind) == (Verb.KEEP, Kind.APPLICATION)
    assert "Graph said no." in keep.reason


def test_a_role_that_comes_from_above_the_group_is_not_taken_away():
    spec = cluster_spec(identity=Identity.SERVICE_PRINCIPAL)
    have = found(spec)
    steps = removal(replace(have, principal=replace(have.principal, role_on_group=False)), spec.owner)
    assert not any(step.kind is Kind.ROLE for step in steps)


def test_a_group_with_something_else_in_it_is_kept_and_it_is_said_why():
    disk = "/subscriptions/s/resourceGroups/G/providers/Microsoft.Compute/disks/d"
    keep = removal(found(others_in_group=(disk,)), SPEC.owner)[-1]
    assert (keep.verb, keep.kind) == (Verb.KEEP, Kind.GROUP)
    assert "Microsoft.Compute/disks/d" in keep.reason


def test_a_group_that_was_there_before_is_kept():
    group = FoundGroup(location="uksouth", state="Succeeded", tags={})
    assert removal(found(group=group), SPEC.owner)[-1].verb is Verb.KEEP


def test_of_a_cluster_of_others_only_the_pools_with_the_mark_go():
    have = changed_cluster(tags={})
    hers = replace(have.cluster.pools[0], name="hers", tags={})
    steps = removal(replace(have, cluster=with_pools(have.cluster, [hers, have.cluster.pools[1]])), SPEC.owner)
    assert keys(steps) == ["keep cluster c", "delete pool sgx", "keep group g"]


def test_of_what_is_all_of_others_nothing_goes():
    have = changed_cluster(tags={}, pools=())
    assert not does_something(removal(replace(have, group=replace(have.group, tags={OWNER_TAG: "g/other"})), SPEC.owner))


@pytest.mark.parametrize("state", ["Creating", "Failed", "Updating"])
def test_a_cluster_is_removed_whatever_it_is_at_but_its_deletion_is_waited_for(state):
    assert keys(removal(changed_cluster(state=state), SPEC.owner))[0] == "delete cluster c"
    assert keys(removal(changed_cluster(state="Deleting"), SPEC.owner))[0] == "wait cluster c"
