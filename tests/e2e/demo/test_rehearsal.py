"""The demo by way of the simulated Azure: what it made is asked of Kubernetes, and afterwards nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest


@pytest.fixture
def state(shell):
    return Path(shell.environment["XDG_STATE_HOME"]) / "kubenclave" / "rehearsal" / "kubenclave"


def stand_ins(state):
    """The processes of a rehearsal's simulated Azure."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if b"kubenclave.local.azure\0" in words and f"XDG_STATE_HOME={state.parent}\0".encode() in environment:
            found.append(int(process.name))
    return found


def test_the_guide_runs_on_a_cluster_made_by_way_of_a_simulated_azure_and_leaves_nothing(shell, state):
    result = json.loads(shell.ok("demo", "--azure-rehearsal", "--output", "json"))

    cluster = {each["what"]: each["value"] for each in result["steps"][0]["observations"]}
    assert "simulated" in cluster["Azure"]
    assert "Standard_DC2s_v3" in cluster["pool sgx"]
    assert cluster["node sgx-1"] == "Ready"
    job = next(step for step in result["steps"] if "Job" in step["title"])
    assert any(each["value"] == "Hello world from the enclave" for each in job["observations"])
    assert result["simulated"] is True
    assert stand_ins(state) == []
    assert [*state.iterdir()] == []


def test_a_killed_rehearsal_is_taken_up_by_the_next_one(shell, state):
    process = shell.start("demo", "--azure-rehearsal")
    deadline = time.monotonic() + 60
    while not (state / "kubeconfig").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(stand_ins(state)) == 1

    result = json.loads(shell.ok("demo", "--azure-rehearsal", "--output", "json"))

    seen = [each["what"] for each in result["steps"][0]["observations"]]
    assert "planned" not in seen
    assert "pool sgx" in seen
    assert stand_ins(state) == []


def test_a_rehearsal_cannot_be_told_to_use_another_cluster(shell):
    refused = shell.kubenclave("demo", "--azure-rehearsal", "--kubeconfig", "/nowhere")
    assert refused.returncode == 2
    assert "--azure-rehearsal" in refused.stderr
