"""The Grafana dashboard shows what the node agent has, and nothing that it has not."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from kubenclave.install.metrics import POD_HELD, POD_MAPPED, SIMULATED, TOTAL
from kubenclave.node.metrics import NAMES

DASHBOARD = json.loads((Path(__file__).parents[3] / "deploy" / "grafana" / "kubenclave-epc.json").read_text())
PANELS = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
GRID_COLUMNS = 24  # the width of every Grafana dashboard
NAME = re.compile(r"\bkubenclave_[a-z_]+")


def named(texts):
    # The Prometheus client adds these two endings itself.
    return {name.removesuffix("_total").removesuffix("_info") for text in texts for name in NAME.findall(text)}


@pytest.fixture
def agents():
    return set(NAMES)


def test_every_query_asks_for_metrics_that_the_agent_has(agents):
    variables = [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"] if isinstance(variable["query"], dict)]

    assert named([*QUERIES, *variables]) <= agents


def test_status_reads_metrics_that_the_agent_has(agents):
    assert named([TOTAL, POD_HELD, POD_MAPPED, SIMULATED]) <= agents


def test_a_rate_is_taken_of_counters_and_of_nothing_else():
    for query in QUERIES:
        assert ("rate(" in query or "increase(" in query) == ("_total{" in query)


def test_every_query_is_bound_to_the_chosen_nodes():
    assert all('{instance=~"$node"}' in query for query in QUERIES)


def test_every_panel_has_its_place_its_unit_and_a_word_of_explanation():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_it_has_what_grafana_asks_of_a_dashboard_that_is_imported():
    """Grafana's schema for dashboards (kind/dashboard): what it fills in by itself is left out here."""
    assert DASHBOARD["title"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", DASHBOARD["uid"])
    # None, so that importing never takes the place of another dashboard with that number.
    assert DASHBOARD.get("id") is None
    assert DASHBOARD["schemaVersion"] >= 36  # from there on a data source is named by its type and uid
    for panel in PANELS:
        assert panel["type"] in {"stat", "gauge", "timeseries", "table"}  # panels that come with Grafana
        assert panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRID_COLUMNS
        assert min(place["w"], place["h"]) > 0
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        # Lines in one picture are told apart by their legend.
        assert panel["type"] != "timeseries" or all(target["legendFormat"] for target in panel["targets"])


def test_its_variables_are_declared_before_they_are_used():
    used = {name for text in [*QUERIES, json.dumps(DASHBOARD["templating"])] for name in re.findall(r"\$\{?([a-z][a-z_]*)", text)}
    used |= {panel["datasource"]["uid"].strip("${}") for panel in PANELS}
    (source, node) = DASHBOARD["templating"]["list"]

    assert used - {"__rate_interval", "__all"} <= {source["name"], node["name"]}
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert (node["type"], node["datasource"]) == ("query", {"type": "prometheus", "uid": "${datasource}"})
    # All nodes are chosen by an expression, so the queries match by expression.
    assert node["includeAll"]
    assert node["allValue"] == ".*"


def test_the_limit_in_the_picture_is_the_kubelets():
    (panel,) = [panel for panel in PANELS if "kubenclave_list_message_bytes" in panel["targets"][0]["expr"]]

    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] == 4 * 1024 * 1024
