from __future__ import annotations

import json
from datetime import date
from importlib import resources

import pytest

from kubenclave.cli import app
from kubenclave.cluster import Standing, vm_sizes
from kubenclave.cluster.body import scale_from_zero_tags, sgx_pools
from kubenclave.cluster.recommend import SYSTEM_PODS, recommend
from kubenclave.cluster.sizes import Tee, known_size, standing, tee_of
from kubenclave.cluster.spec import Autoscale, ClusterSpec, Pool
from kubenclave.errors import Refused, UsageError

MIB = 1 << 20
GIB = 1 << 30
TODAY = date(2026, 11, 24)


def size(name):
    return next(each for each in vm_sizes() if each.name == name)


def test_every_size_that_the_epc_table_knows_is_known_here_too():
    table = json.loads(resources.files("kubenclave.sgx").joinpath("vm_sizes.json").read_text())["epc_mib"]
    assert {each.name: each.epc_bytes // MIB for each in vm_sizes() if each.epc_bytes is not None} == table


def test_every_size_names_its_source():
    assert all(each.source for each in vm_sizes())


@pytest.mark.parametrize(
    ("name", "cores", "memory_gib", "epc_bytes", "family"),
    [
        ("Standard_DC1s_v2", 1, 4, 28 * MIB, "standardDCSv2Family"),
        ("Standard_DC8_v2", 8, 32, 168 * MIB, "standardDCSv2Family"),
        ("Standard_DC2s_v3", 2, 16, 8 * GIB, "standardDCSv3Family"),
        ("Standard_DC48ds_v3", 48, 384, 256 * GIB, "standardDDCSv3Family"),
    ],
)
def test_a_size_has_the_published_figures(name, cores, memory_gib, epc_bytes, family):
    found = size(name)
    assert (found.cores, found.memory_gib, found.epc_bytes, found.quota_family) == (cores, memory_gib, epc_bytes, family)


def test_the_preview_series_has_no_epc_that_any_document_says():
    assert size("Standard_DC2s").epc_bytes is None


def test_names_that_only_look_like_sgx_have_none():
    assert "Standard_DC8s_v2" not in {each.name for each in vm_sizes()}
    assert not {each.series for each in vm_sizes() if each.tee is Tee.SGX} - {"DC", "DCsv2", "DCsv3", "DCdsv3"}


@pytest.mark.parametrize(
    ("name", "tee", "cores", "memory_gib", "family"),
    [
        ("Standard_DC4as_v5", Tee.SEV_SNP, 4, 16, "standardDCASv5Family"),
        ("Standard_EC20as_v5", Tee.SEV_SNP, 20, 160, "standardECASv5Family"),
        ("Standard_DC2as_v6", Tee.SEV_SNP, 2, 8, "standardDCasv6Family"),
        ("Standard_EC96as_v6", Tee.SEV_SNP, 96, 672, "standardECasv6Family"),
        ("Standard_DC128es_v6", Tee.TDX, 128, 512, "standardDCEV6Family"),
        ("Standard_EC64es_v6", Tee.TDX, 64, 512, "StandardECEV6Family"),
    ],
)
def test_sizes_of_another_tee_are_in_the_table_as_what_they_are(name, tee, cores, memory_gib, family):
    found = size(name)
    assert (found.tee, found.cores, found.memory_gib, found.quota_family, found.epc_bytes) == (tee, cores, memory_gib, family, None)


def test_the_successors_of_a_retiring_series_are_in_the_table():
    series = {each.series for each in vm_sizes()}
    assert not {name for each in vm_sizes() for name in each.successors} - series


@pytest.mark.parametrize(
    ("name", "tee"),
    [
        ("standard_dc2s_V3", Tee.SGX),
        ("Standard_DC2ads_v6", Tee.SEV_SNP),
        ("Standard_DC4as_cc_v5", Tee.SEV_SNP),
        ("Standard_EC2eds_v6", Tee.TDX),
        ("Standard_DC6s_v3", None),
        ("Standard_D4s_v5", None),
        ("Standard_E4as_v5", None),
    ],
)
def test_the_tee_of_a_size_is_known_by_the_table_or_by_the_rule_of_its_name(name, tee):
    assert tee_of(name) is tee


def test_only_pools_with_sgx_count_as_such_and_announce_epc():
    bounds = Autoscale(min=0, max=1)
    pools = tuple(
        Pool(name=f"p{place}", vm_size=each, autoscale=bounds, count=0)
        for place, each in enumerate(("STANDARD_dc2s_v3", "Standard_DC2as_v6"))
    )
    spec = ClusterSpec(name="a", group="b", location="uksouth", pools=pools)
    assert sgx_pools(spec) == pools[:1]
    assert [bool(scale_from_zero_tags(spec, pool)) for pool in pools] == [True, False]


def test_a_size_is_found_in_any_spelling():
    assert known_size("sTANDARD_dc8_V2") == size("Standard_DC8_v2")
    assert known_size("Standard_D4s_v5") is None


def test_only_sizes_with_sgx_are_recommended():
    assert all(fit.size.tee is Tee.SGX for fit in recommend(vm_sizes(), epc_bytes=1, pods=1, today=date(2025, 1, 1)))


@pytest.mark.parametrize(
    ("name", "day", "expected"),
    [
        ("Standard_DC2s_v2", date(2025, 6, 30), Standing.OFFERED),
        ("Standard_DC2s_v2", date(2025, 7, 1), Standing.CLOSED_TO_NEW),
        ("Standard_DC2s_v2", date(2026, 6, 30), Standing.RETIRED),
        ("Standard_DC2s_v3", date(2026, 10, 31), Standing.OFFERED),
        ("Standard_DC2s_v3", date(2026, 11, 1), Standing.CLOSED_TO_NEW),
        ("Standard_DC2ds_v3", date(2029, 10, 31), Standing.RETIRED),
    ],
)
def test_a_size_stands_as_its_notice_says_on_that_day(name, day, expected):
    assert standing(size(name), today=day) is expected


def test_twelve_pods_of_40_mib_fit_one_node_of_the_smallest_size_that_is_not_retired():
    best = recommend(vm_sizes(), epc_bytes=40 * MIB, pods=12, today=TODAY)[0]
    assert (best.size.name, best.nodes, best.cores) == ("Standard_DC2ds_v3", 1, 2)
    assert best.spare_epc_bytes == 8 * GIB - 12 * 40 * MIB


def test_a_size_with_one_vcpu_comes_last_as_aks_may_refuse_it():
    names = [fit.size.name for fit in recommend(vm_sizes(), epc_bytes=MIB, pods=1, today=TODAY)]
    assert names[-2:] == ["Standard_DC1ds_v3", "Standard_DC1s_v3"]


def test_retired_sizes_are_not_recommended():
    assert not {fit.size.series for fit in recommend(vm_sizes(), epc_bytes=MIB, pods=1, today=TODAY)} & {"DCsv2", "DC"}


def test_before_its_retirement_a_size_is_recommended():
    assert "DCsv2" in {fit.size.series for fit in recommend(vm_sizes(), epc_bytes=MIB, pods=1, today=date(2025, 1, 1))}


def test_the_limit_of_pods_on_a_node_counts_with_the_pods_of_the_system():
    fits = recommend(vm_sizes(), epc_bytes=MIB, pods=11, today=TODAY, max_pods=SYSTEM_PODS + 5)
    assert all((fit.pods_per_node, fit.nodes) == (5, 3) for fit in fits)


@pytest.mark.parametrize("pods", [1, 7, 100])
@pytest.mark.parametrize("epc_bytes", [1, 40 * MIB, 3 * GIB, 256 * GIB])
def test_no_fit_promises_more_epc_than_its_nodes_have_and_none_has_a_node_too_many(epc_bytes, pods):
    for fit in recommend(vm_sizes(), epc_bytes=epc_bytes, pods=pods, today=TODAY):
        assert fit.pods_per_node * epc_bytes <= fit.size.epc_bytes
        assert (fit.nodes - 1) * fit.pods_per_node < pods <= fit.nodes * fit.pods_per_node
        assert fit.spare_epc_bytes >= 0


def test_a_pod_larger_than_every_node_is_refused_with_the_largest():
    with pytest.raises(Refused, match=str(256 * GIB)):
        recommend(vm_sizes(), epc_bytes=256 * GIB + 1, pods=1, today=TODAY)


@pytest.mark.parametrize("wrong", [{"pods": 0}, {"epc_bytes": 0}, {"max_pods": SYSTEM_PODS}])
def test_numbers_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError):
        recommend(vm_sizes(), **{"epc_bytes": MIB, "pods": 1, "today": TODAY, **wrong})


def test_the_command_recommends_as_json(capsys):
    assert app.run(app.build(), ["cluster", "sizes", "--epc", "8Gi", "--pods", "3", "--output", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all({"name", "nodes", "cores", "spare_epc_bytes"} <= row.keys() for row in rows)


def test_the_command_shows_every_size_with_its_source(capsys):
    assert app.run(app.build(), ["cluster", "sizes", "--output", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["tee"]) for row in rows] == [(each.name, each.tee.value) for each in vm_sizes()]


def test_pods_without_epc_is_a_usage_error(capsys):
    assert app.run(app.build(), ["cluster", "sizes", "--pods", "3"]) == 2
    assert "--epc" in capsys.readouterr().err
