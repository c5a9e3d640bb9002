from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kubenclave.node.choice import choose
from kubenclave.node.holdings import Container, Holding
from kubenclave.node.inventory import Inventory, NumaEpc, Source
from kubenclave.node.mapped import Usage
from kubenclave.node.metrics import NAMES, Figures, View, exposition
from kubenclave.node.processor import SgxFeatures

MIB = 1 << 20
LABELS = ("numa", "source", "namespace", "pod", "container")
MAIN = Container(namespace="app", pod="enclave-0", name="main")
REFERENCE = Path(__file__).parents[3] / "docs/reference/metrics.md"


def inventory(*sizes):
    return Inventory(
        numa=tuple(NumaEpc(numa_node=node, epc_bytes=size) for node, size in enumerate(sizes)),
        source=Source.SYSFS,
        features=SgxFeatures(sgx1=True, sgx2=False, flc=True),
        enclave_device="/dev/sgx_enclave",
        provision_device=None,
        simulated=True,
    )


def view(**changes):
    figures = Figures(offered=inventory(38 * MIB), ready=True, allocations=3, registrations=2, kubelet_restarts=1, message_bytes=560)
    known = {
        "choice": choose("device-plugin", "azure"),
        "simulated": True,
        "total": inventory(40 * MIB),
        "figures": figures,
        "holdings": (),
        "usages": None,
        "unread": 0,
        "failures": {"pod-resources": 0},
    }
    return View(**known | changes)


def told(view):
    """Every sample by name and label values."""
    families = text_string_to_metric_families(exposition(view).decode())
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, *(sample.labels[label] for label in LABELS if label in sample.labels)): sample.value for sample in samples}


def test_what_there_is_what_is_offered_and_what_was_counted_is_told():
    found = told(view())

    assert found["kubenclave_epc_total_bytes", "0"] == 40 * MIB
    assert found["kubenclave_epc_offered_bytes", "0"] == 38 * MIB
    assert found["kubenclave_epc_allocated_bytes", "0"] == 0
    assert found[("kubenclave_allocations_total",)] == 3
    assert found[("kubenclave_registrations_total",)] == 2
    assert found[("kubenclave_kubelet_restarts_total",)] == 1
    assert found[("kubenclave_list_message_bytes",)] == 560
    assert found[("kubenclave_ready",)] == found[("kubenclave_simulated",)] == 1


def test_the_way_of_offering_is_told_with_its_reason():
    text = exposition(view()).decode()

    assert 'kubenclave_offer_info{dialect="azure",mode="device-plugin",reason="configured by --mode"} 1.0' in text


def test_what_containers_hold_is_told_by_container_and_by_numa_node():
    offered = Figures(offered=inventory(MIB, MIB), ready=True, allocations=1, registrations=1)
    found = told(view(figures=offered, holdings=(Holding(container=MAIN, epc_bytes={"1": 4096}),)))

    assert found["kubenclave_epc_pod_bytes", "app", "enclave-0", "main"] == 4096
    assert found["kubenclave_epc_allocated_bytes", "0"] == 0
    assert found["kubenclave_epc_allocated_bytes", "1"] == 4096


def test_units_that_say_no_node_are_the_only_nodes_where_there_is_one():
    found = told(view(holdings=(Holding(container=MAIN, epc_bytes={"unknown": 4096}),)))

    assert found["kubenclave_epc_allocated_bytes", "0"] == 4096
    assert ("kubenclave_epc_allocated_bytes", "unknown") not in found


def test_what_containers_map_is_told_and_those_over_are_counted():
    usages = (Usage(container=MAIN, mapped_bytes=8192, held_bytes=4096),)
    found = told(view(usages=usages, unread=2))

    assert found["kubenclave_epc_mapped_bytes", "app", "enclave-0", "main"] == 8192
    assert found[("kubenclave_epc_over_mapped_containers",)] == 1
    assert found[("kubenclave_epc_unread_processes",)] == 2


@pytest.mark.parametrize(
    ("changes", "silent"),
    [
        ({"holdings": None}, "kubenclave_epc_allocated_bytes"),
        ({"holdings": (Holding(container=MAIN, epc_bytes=None),)}, "kubenclave_epc_allocated_bytes"),
        ({"holdings": (Holding(container=MAIN, epc_bytes=None),)}, "kubenclave_epc_pod_bytes"),
        ({"choice": choose("extended-resource", "intel"), "holdings": ()}, "kubenclave_epc_allocated_bytes"),
        ({"usages": None}, "kubenclave_epc_over_mapped_containers"),
        ({"total": None}, "kubenclave_epc_total_bytes"),
        ({"figures": Figures(offered=None, ready=False, allocations=0, registrations=0)}, "kubenclave_list_message_bytes"),
    ],
)
def test_what_is_not_known_has_no_value_rather_than_a_zero(changes, silent):
    assert not [sample for sample in told(view(**changes)) if sample[0] == silent]


def test_every_metric_has_its_help_and_type_even_without_a_value():
    text = exposition(view(holdings=None, total=None)).decode()

    for name in NAMES:
        assert re.search(rf"^# HELP {name}(_total|_info)? .+$", text, re.MULTILINE), name


def test_the_reference_describes_every_metric_and_no_other():
    described = re.findall(r"^\| `(kubenclave_\w+)`", REFERENCE.read_text(), re.MULTILINE)

    assert sorted(name.removesuffix("_total").removesuffix("_info") for name in described) == sorted(NAMES)
