"""The dashboard's queries, read by the parser of Prometheus itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from kubenclave.local.places import places

ROOT = Path(__file__).parents[3]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "kubenclave-epc.json").read_text())
VERSION = re.compile(r"prometheus/prometheus v([0-9.]+)")
# What Grafana puts in the places of its variables.
VARIABLES = {"$__rate_interval": "1m0s", "$node": "10[.]0[.]0[.]1:9120|10[.]0[.]0[.]2:9120"}

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def complaints():
    version = VERSION.search((ROOT / "tests" / "tools" / "promql" / "go.mod").read_text())[1]
    program = places(os.environ).cache / "tools" / f"promql-{version}" / "promql"
    if not program.exists():
        pytest.skip(f"{program} is not built: make tools")

    def run(queries):
        return subprocess.run([program], input="\n".join(queries), capture_output=True, text=True, check=False, timeout=30).stdout

    return run


def queries():
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield query


def test_prometheus_reads_every_query_of_the_dashboard(complaints):
    asked = list(queries())

    assert len(asked) > 10
    assert not any("$" in query for query in asked)
    assert complaints(asked) == ""


def test_what_prometheus_cannot_read_is_told(complaints):
    assert "parse error" in complaints(["sum by (instance) (kubenclave_epc_total_bytes{instance=~})"])
