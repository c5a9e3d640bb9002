"""What ``kubenclave cluster`` costs beside Azure's own time, as whole commands against a simulated Azure in this process.

Nothing timed is asserted: run with -s and read.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("azure.identity", reason="the Azure extra is not installed")

from kubenclave.local.azure import Settings
from kubenclave.local.azure.process import environment
from kubenclave.local.azure.server import serving

COMMAND = str(Path(sys.executable).parent / "kubenclave")
CLUSTER = ("--name", "brandNewCluster", "--group", "sconaksg")
WANTED = (*CLUSTER, "--location", "uksouth")
PLAN_SECONDS, HELP_SECONDS, UP_SHARE = 2.0, 0.2, 0.05
# A pool of AKS takes minutes; one minute leaves less room for what is added.
OPERATION_SECONDS = 60.0
RUNS = 5


@contextmanager
def azure(folder, **settings):
    with serving(folder / "azure", Settings(registration_seconds=0, replication_seconds=0, **settings)) as found:
        variables = environment(found.url, found.ca, found.client_secret)
        yield {**os.environ, **variables, "XDG_STATE_HOME": str(folder), "HOME": str(folder)}


def seconds(variables, *words):
    began = time.monotonic()
    ended = subprocess.run([COMMAND, *words], env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    return time.monotonic() - began


def tell(line):
    print(f"\n  {line} (load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors)")  # noqa: T201 - figures are what this file is for


def test_a_plan_and_the_help(tmp_path):
    with azure(tmp_path, operation_seconds=0) as variables:
        plans = [seconds(variables, "cluster", "plan", *WANTED) for _ in range(RUNS)]
        helps = [seconds(variables, "--help") for _ in range(RUNS)]
        starts = [seconds_of_python(variables) for _ in range(RUNS)]
    plan, help_, python = (statistics.median(each) for each in (plans, helps, starts))
    tell(f"plan on a live stand-in: {plan:.2f} s (limit {PLAN_SECONDS})")
    tell(f"--help: {help_:.3f} s (limit {HELP_SECONDS}), {help_ / python:.1f} x a bare Python, {python:.3f} s")


def test_what_up_adds_to_the_operations_own_time(tmp_path):
    with azure(tmp_path, operation_seconds=OPERATION_SECONDS) as variables:
        taken = seconds(variables, "cluster", "up", *WANTED)
    share = taken / OPERATION_SECONDS - 1
    tell(f"up: {taken:.1f} s for an operation of {OPERATION_SECONDS:.0f} s: {share:.1%} more (limit {UP_SHARE:.0%})")


def seconds_of_python(variables):
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", ""], env=variables, check=True)
    return time.monotonic() - began
