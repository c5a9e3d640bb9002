"""Azure's answers read with distrust."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.cluster.azure import parsing
from kubenclave.cluster.azure.reply import MAX_PAGES, MAX_TEXT, children, entries, flag, inside, number, text, texts, words
from kubenclave.cluster.checks.preflight import preflight
from kubenclave.cluster.facts import Found, Offer, Quota, Subscription
from kubenclave.cluster.spec import ClusterSpec, Pool
from kubenclave.errors import Unreachable


class Paged:
    """As the SDKs' lists are."""

    def __init__(self, pages):
        self._pages = pages

    def by_page(self):
        return iter(self._pages)


def sku(**fields):
    return {
        "resourceType": "virtualMachines",
        "name": "Standard_DC2s_v3",
        "family": "standardDCSv3Family",
        "capabilities": [{"name": "vCPUs", "value": "2"}],
        "restrictions": [],
        **fields,
    }


def restriction(kind="Location", values=("uksouth",), reason="NotAvailableForSubscription"):
    return {"type": kind, "values": [*values], "reasonCode": reason}


def test_a_size_is_read_with_its_family_and_vcpus():
    (found,) = parsing.sizes([sku(), sku(resourceType="disks", name="P10")], "uksouth").values()

    assert (found.name, found.family, found.vcpus, found.restriction) == ("Standard_DC2s_v3", "standardDCSv3Family", 2, "")


@pytest.mark.parametrize(("said", "read"), [("True", True), ("False", False), (None, None), (3, None)])
def test_whether_a_size_is_to_be_had_as_spot_is_read_where_it_is_said(said, read):
    answer = sku(capabilities=[{"name": "vCPUs", "value": "2"}, {"name": "LowPriorityCapable", "value": said}])

    assert parsing.sizes([answer], "uksouth")["standard_dc2s_v3"].spot is read


@pytest.mark.parametrize(
    ("restrictions", "reason"),
    [
        ([restriction()], "NotAvailableForSubscription"),
        ([restriction(values=("UKSouth",), reason="QuotaId")], "QuotaId"),
        ([restriction(reason=None)], "restricted"),
        ([restriction(kind="Zone")], ""),
        ([restriction(values=("westeurope",))], ""),
        ("all of them", ""),
    ],
)
def test_only_a_restriction_of_the_whole_region_counts(restrictions, reason):
    assert parsing.sizes([sku(restrictions=restrictions)], "uksouth")["standard_dc2s_v3"].restriction == reason


def test_quotas_without_numbers_are_left_out():
    rows = [
        {"name": {"value": "cores"}, "currentValue": 3, "limit": 10},
        {"name": {"value": "StandardDCSv3Family"}, "currentValue": "4", "limit": 8.0},
        {"name": {"value": "broken"}, "currentValue": None, "limit": 10},
        {"name": "flat", "currentValue": 1, "limit": 1},
    ]

    assert parsing.quotas(rows) == {"cores": Quota(used=3, limit=10), "standarddcsv3family": Quota(used=4, limit=8)}


def test_versions_come_in_the_order_of_their_numbers():
    rows = [
        {"version": "1.10", "patchVersions": {"1.10.12": {}, "1.10.2": {}}, "isDefault": True},
        {"version": "1.9", "capabilities": {"supportPlan": ["AKSLongTermSupport"]}, "isPreview": True},
        {"version": "1.11", "capabilities": {"supportPlan": ["KubernetesOfficial", "AKSLongTermSupport"]}},
    ]
    found = parsing.versions(rows)

    assert [each.minor for each in found] == ["1.9", "1.10", "1.11"]
    assert found[1].patches == ("1.10.2", "1.10.12")
    assert [(each.default, each.preview, each.long_term_only) for each in found] == [
        (False, True, True),
        (True, False, False),
        (False, False, False),
    ]


def cluster_answer(**properties):
    pool = {"name": "sgx", "vmSize": "Standard_DC2s_v3", "count": 1, "mode": "User", "provisioningState": "Succeeded"}
    return {
        "location": "uksouth",
        "tags": {"kubenclave-cluster": "g/c"},
        "properties": {
            "provisioningState": "Succeeded",
            "kubernetesVersion": "1.35.3",
            "networkProfile": {"networkPlugin": "azure", "networkPluginMode": "overlay"},
            "agentPoolProfiles": [pool],
            **properties,
        },
    }


def test_a_cluster_is_read():
    scaling = {
        "name": "a",
        "enableAutoScaling": True,
        "minCount": 0,
        "maxCount": 3,
        "scaleSetPriority": "Spot",
        "nodeTaints": ["x=y:NoSchedule"],
        "maxPods": 50,
        "orchestratorVersion": "1.35",
        "currentOrchestratorVersion": "1.34.6",
    }
    found = parsing.cluster(
        cluster_answer(
            addonProfiles={"accSGXdevicePlugin": {"enabled": True, "config": {"ACCSGXQuoteHelperEnabled": "true"}}},
            servicePrincipalProfile={"clientId": "app"},
            agentPoolProfiles=[scaling],
            powerState={"code": "Stopped"},
        )
    )

    assert (found.location, found.state, found.kubernetes_version) == ("uksouth", "Succeeded", "1.35.3")
    assert (found.network_plugin, found.network_mode, found.client_id) == ("azure", "overlay", "app")
    assert (found.addon, found.quote_helper, found.power) == (True, True, "Stopped")
    (pool,) = found.pools
    assert (pool.autoscale, pool.spot, pool.taints, pool.max_pods) == ((0, 3), True, ("x=y:NoSchedule",), 50)
    assert pool.version == "1.34.6"


@pytest.mark.parametrize(
    ("identity", "client"),
    [({"type": "SystemAssigned"}, "00000000-0000-0000-0000-000000000001"), (None, "msi"), ({"type": "UserAssigned"}, "x")],
)
def test_a_cluster_with_a_managed_identity_has_no_client(identity, client):
    answer = {**cluster_answer(servicePrincipalProfile={"clientId": client}), "identity": identity}

    assert parsing.cluster(answer).client_id == ""


def test_a_state_that_azure_may_invent_is_kept_as_it_is():
    assert parsing.cluster(cluster_answer(provisioningState="Dreaming")).state == "Dreaming"


def test_what_is_in_the_group_besides_the_cluster_is_kept():
    ids = [{"id": "/s/g/managedClusters/c"}, {"id": "/s/g/managedClusters/cc"}, {"id": "/s/g/disks/d"}, {"id": 5}, None]

    assert parsing.resource_ids(ids, without="/managedclusters/c") == ("/s/g/managedClusters/cc", "/s/g/disks/d")


@pytest.mark.parametrize(
    ("value", "read"), [(3, 3), ("12", 12), (2.0, 2), (2.5, None), (True, None), ("-1", None), ("1" * 19, None), ([], None)]
)
def test_a_number_is_a_whole_one_or_none(value, read):
    assert number({"x": value}, "x") == read


def test_texts_are_cut_and_what_is_none_is_empty():
    node = {"a": {"b": "x" * (MAX_TEXT + 5), "c": 5, "d": ["x", 5, None], "e": {"k": "v", "n": 5}, "f": "True"}}

    assert len(text(node, "a", "b")) == MAX_TEXT
    assert text(node, "a", "c") == text(node, "nothing", "there") == ""
    assert texts(node, "a", "d") == ("x",)
    assert words(node, "a", "e") == {"k": "v"}
    assert flag(node, "a", "f")
    assert inside(node, "a", "b", "c") is None
    assert children(node, "a") == ()


def test_a_list_that_is_longer_than_there_can_be_is_refused():
    assert entries(Paged([[1, 2], [], [3]]), most=3) == [1, 2, 3]
    with pytest.raises(Unreachable, match="more than 3 entries"):
        entries(Paged([[1, 2], [3, 4]]), most=3)


def test_pages_without_end_are_refused_although_they_are_empty():
    def forever():
        while True:
            yield []

    with pytest.raises(Unreachable, match=f"more than {MAX_PAGES} pages"):
        entries(Paged(forever()), most=3)


NAMES = st.sampled_from(
    [
        "properties",
        "agentPoolProfiles",
        "addonProfiles",
        "name",
        "value",
        "version",
        "patchVersions",
        "restrictions",
        "values",
        "type",
        "count",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda each: st.lists(each) | st.dictionaries(NAMES, each),
)


@given(st.lists(JSON, max_size=5))
def test_whatever_azure_answers_is_read_and_can_be_judged(answers):
    spec = ClusterSpec(
        name="c", group="g", location="uksouth", pools=(Pool(name="a", vm_size="Standard_DC2s_v3"),), kubernetes_version="1.35"
    )
    offer = Offer(
        subscription=Subscription(id="1", name="n", tenant="t", state="Enabled"),
        permissions=parsing.permissions(answers),
        may_make_applications=None,
        locations=parsing.locations(answers),
        sizes=parsing.sizes(answers, "uksouth"),
        quotas=parsing.quotas(answers),
        versions=parsing.versions(answers),
    )
    for answer in answers:
        found = Found(providers={}, group=parsing.group(answer), cluster=parsing.cluster(answer))
        assert all(finding.what for finding in preflight(spec, offer, found, today=date(2026, 11, 24)))
