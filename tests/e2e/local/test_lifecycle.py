"""Up and down: what is there afterwards, also when something was killed in between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kubenclave.local import cgroups
from kubenclave.local.plan import cgroup_root

NAME = "lifecycle"
# The programs of a box by their names, whoever starts them.
PROGRAMS = {
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "containerd",
    "containerd-shim-runc-v2",
    "unshare",
}


def machine() -> dict[str, object]:
    """What a cluster could leave on this machine."""
    links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, text=True, check=True).stdout)
    return {
        "interfaces": sorted(link["ifname"] for link in links),
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "cgroups": sorted(str(path) for h in cgroups.hierarchies() for path in h.mount.glob("kubenclave*")),
        "processes": sorted(pid for pid, name in running_processes().items() if name in PROGRAMS),
        "sysctls": [Path("/proc/sys", name).read_text() for name in ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")],
    }


def running_processes() -> dict[int, str]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found[int(folder.name)] = Path((folder / "cmdline").read_bytes().split(b"\0")[0].decode()).name
        except (OSError, ValueError):
            continue
    return found


@pytest.fixture
def found(shell):
    """The machine before the test; whatever the test leaves is removed after it."""
    shell.down(NAME)
    yield machine()
    shell.down(NAME)


def nodes_are_ready(cluster) -> bool:
    conditions = [c for node in cluster.get("nodes")["items"] for c in node["status"]["conditions"] if c["type"] == "Ready"]
    return len(conditions) == 2 and all(c["status"] == "True" for c in conditions)


def test_down_leaves_the_machine_as_it_was_found(shell, found):
    cluster = shell.up(NAME)
    assert nodes_are_ready(cluster)
    assert machine() != found

    assert shell.down(NAME) is True

    assert machine() == found
    assert not cluster.kubeconfig.parent.exists()
    assert shell.down(NAME) is False


def test_up_leaves_a_cluster_alone_that_is_up(shell, found):
    first = shell.up(NAME)
    before = first.processes()

    second = shell.up(NAME)

    assert (first.started, second.started) == (True, False)
    assert second.processes() == before


def test_up_with_another_epc_is_refused_and_says_what_to_do(shell, found):
    shell.up(NAME)
    result = shell.kubenclave("local", "up", "--name", NAME, "--epc", "80Mi")
    assert result.returncode == 2
    assert "41943040" in result.stderr
    assert f"local down --name {NAME}" in result.stderr


def test_up_works_again_after_everything_was_killed(shell, found):
    first = shell.up(NAME)
    before = first.processes()
    kill_all()

    second = shell.up(NAME)

    assert second.started
    assert nodes_are_ready(second)
    assert set(before.values()).isdisjoint(second.processes().values())


def test_down_works_after_everything_was_killed(shell, found):
    shell.up(NAME)
    kill_all()
    assert shell.down(NAME) is True
    assert machine() == found


def test_up_rebuilds_a_cluster_of_which_one_box_died(shell, found):
    first = shell.up(NAME)
    os.kill(first.processes()["plain-1"], signal.SIGKILL)
    second = shell.up(NAME)
    assert second.started
    assert nodes_are_ready(second)


@pytest.mark.parametrize("seconds", [0.4, 0.8, 1.2, 2.0])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_up_that_is_stopped_halfway_leaves_what_down_removes(shell, found, seconds, number):
    process = shell.start("local", "up", "--name", NAME)
    time.sleep(seconds)
    process.send_signal(number)
    process.communicate()

    shell.down(NAME)

    assert machine() == found


def test_up_finishes_what_a_killed_up_began(shell, found):
    process = shell.start("local", "up", "--name", NAME)
    time.sleep(1.0)
    process.kill()
    process.communicate()

    cluster = shell.up(NAME)

    assert nodes_are_ready(cluster)


def test_two_clusters_stand_side_by_side(shell, found):
    other = f"{NAME}-2"
    try:
        first, second = shell.up(NAME), shell.up(other, "--epc", "8Mi")
        servers = [json.loads(c.kubeconfig.read_text())["clusters"][0]["cluster"]["server"] for c in (first, second)]
        assert servers[0] != servers[1]
        assert nodes_are_ready(first)
        assert nodes_are_ready(second)
        shell.down(other)
        assert nodes_are_ready(first)
    finally:
        shell.down(other)


def test_a_cluster_of_the_same_name_in_another_state_folder_is_not_touched(shell, found, tmp_path):
    cluster = shell.up(NAME)
    other = replace(shell, environment={**shell.environment, "XDG_STATE_HOME": str(tmp_path)})
    for command in ("up", "down"):
        result = other.kubenclave("local", command, "--name", NAME)
        assert result.returncode == 2
        assert shell.environment["XDG_STATE_HOME"] in result.stderr
    assert nodes_are_ready(cluster)


def test_an_address_range_that_is_taken_is_passed_over(shell, found):
    subprocess.run(["ip", "link", "add", "kbe-taken", "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", "10.213.0.1/24", "dev", "kbe-taken"], check=True)
        subprocess.run(["ip", "link", "set", "kbe-taken", "up"], check=True)
        cluster = shell.up(NAME)
        assert "10.213.0.1" not in cluster.kubeconfig.read_text()
        assert nodes_are_ready(cluster)
    finally:
        subprocess.run(["ip", "link", "delete", "kbe-taken"], check=True)


def test_without_root_up_says_what_needs_it_and_what_does_not(shell):
    # A user who can read the interpreter but is not root: only the user id changes, so that the check itself is what answers.
    command = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        *shell.command("local", "up", "--name", NAME),
    ]
    result = subprocess.run(command, env={**shell.environment, "HOME": "/nonexistent"}, capture_output=True, text=True, check=False)
    if result.returncode == 127 or "Permission denied" in result.stderr:
        pytest.skip("the interpreter is in a folder that only root may read")
    assert result.returncode == 6
    assert "needs root" in result.stderr
    assert "no root" in result.stderr
    assert "Traceback" not in result.stderr


def kill_all() -> None:
    for pid in cgroups.processes(cgroup_root(NAME)):
        # The first kill ends a whole box, and with it processes that are still in this list.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while cgroups.processes(cgroup_root(NAME)) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_up_on_a_full_disk_says_so_and_leaves_nothing_running(shell, found, tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(tmp_path)], check=True)
    try:
        small = replace(shell, environment={**shell.environment, "XDG_STATE_HOME": str(tmp_path)})
        result = small.kubenclave("local", "up", "--name", NAME)
        assert result.returncode == 6
        assert "No space left on device" in result.stderr
        assert not cgroups.exists(cgroup_root(NAME))
        small.down(NAME)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert machine() == found
