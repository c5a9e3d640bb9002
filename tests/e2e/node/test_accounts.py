"""What pods map of the enclave device beside what they were given, on the real local cluster.

The node's enclave device is replaced by one that can be mapped: character device 1:5 (zero). What is mapped is therefore no EPC; whose it
is and how large is real.
"""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from kubenclave.image import ImageSpec, build_image, parse_reference
from kubenclave.local import boxes

UNITS = "openenclave.io/sgx_epc_MiB"
MAPPER = "kubenclave.test/mapper:1"
MIB = 1 << 20
SOURCE = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int count, char **words) {
  int device = open("/dev/sgx_enclave", O_RDWR);
  if (device < 0 || mmap(0, strtoull(words[1], 0, 10), PROT_READ, MAP_PRIVATE, device, 0) == MAP_FAILED) return 1;
  return sleep(3600) + count;
}
"""


def until(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not seen within {seconds} s: {what}"
        time.sleep(0.1)


def mapping(name, asked_mib, mapped_mib, user):
    command = ["/app/mapper", str(mapped_mib * MIB)]
    resources = {"limits": {UNITS: str(asked_mib)}}
    container = {"name": "main", "image": MAPPER, "imagePullPolicy": "IfNotPresent", "command": command, "resources": resources}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container], "securityContext": {"runAsUser": user}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def with_processes(*capabilities):
    """The change to the agent's pod that --mapped needs."""

    def change(spec):
        (container,) = spec["containers"]
        container["securityContext"]["capabilities"]["add"] = list(capabilities)
        for name, path in (("processes", "/proc"), ("container-names", "/var/log/containers")):
            container["volumeMounts"].append({"name": name, "mountPath": f"/host{path}", "readOnly": True})
            spec["volumes"].append({"name": name, "hostPath": {"path": path, "type": "Directory"}})

    return change


@pytest.fixture(scope="module")
def mapped_node(hurt_node, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mapper")
    (folder / "mapper.c").write_text(SOURCE)
    subprocess.run(["gcc", "-static", "-O1", "-o", folder / "mapper", folder / "mapper.c"], check=True)
    build_image(ImageSpec(reference=parse_reference(MAPPER), host=folder / "mapper"), folder / "mapper.tar", lambda _news: None)
    boxes.import_image(hurt_node.box, folder / "mapper.tar")
    device = hurt_node.root / "dev/sgx_enclave"
    device.unlink()
    os.mknod(device, 0o020666, os.makedev(1, 5))
    device.chmod(0o666)
    yield hurt_node
    hurt_node.delete("pods", "--all")
    hurt_node.uninstall()


def figures(node):
    """The metrics of EPC by pod; of the node as a whole under its empty name."""
    found = {}
    for line in node.page("metrics").splitlines():
        if line.startswith("kubenclave_epc_"):
            name, _, value = line.rpartition(" ")
            metric, _, labels = name.partition("{")
            pod = labels.partition('pod="')[2].partition('"')[0]
            found[metric.removeprefix("kubenclave_epc_"), pod] = float(value)
    return found


def test_a_pod_that_maps_more_than_it_asked_for_is_shown_counted_and_told(mapped_node):
    node = mapped_node
    node.install("node-agent.yaml", "--mapped", change=with_processes("SYS_PTRACE"))
    until(lambda: node.allocatable() == "40", "the units are offered")
    # Other users than the agent's, and no user's at all: the capability is what counts.
    node.started(mapping("within", 4, 4, user=1234))
    node.started(mapping("over", 4, 9, user=0))
    until(lambda: figures(node).get(("mapped_bytes", "over")) == 9 * MIB, "the mapping is seen")

    seen = figures(node)
    assert seen["mapped_bytes", "within"] == seen["pod_bytes", "within"] == seen["pod_bytes", "over"] == 4 * MIB
    assert seen["allocated_bytes", ""] == 8 * MIB
    assert seen["over_mapped_containers", ""] == 1
    assert seen["unread_processes", ""] == 0
    (told,) = [line for line in node.log() if line["event"] == "epc.over_mapped"]
    assert "default/over maps 9437184 bytes" in told["what"]

    node.delete("pod/over")
    until(lambda: figures(node)["over_mapped_containers", ""] == 0, "it is forgotten")
    assert figures(node)["mapped_bytes", "within"] == 4 * MIB


def test_without_the_capability_it_is_said_that_nothing_is_known(mapped_node):
    node = mapped_node
    node.install("node-agent.yaml", "--mapped", change=with_processes())
    until(lambda: len(node.agents()) == 1, "the last agent has gone")
    node.started(mapping("unseen", 4, 9, user=1234))
    until(lambda: ("pod_bytes", "unseen") in figures(node), "the pod is seen")

    seen = figures(node)
    assert seen["unread_processes", ""] > 0
    assert ("mapped_bytes", "unseen") not in seen
    assert seen["over_mapped_containers", ""] == 0
