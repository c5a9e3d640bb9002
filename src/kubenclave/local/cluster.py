"""A local cluster: up, status, down. Each may be killed anywhere and run again."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave import kube
from kubenclave.errors import KubenclaveError, NotFound, UsageError
from kubenclave.image import ImageSpec, build_image, parse_reference
from kubenclave.local import boxes, cgroups, network, programs, simulated_sgx
from kubenclave.local.archives import image_names
from kubenclave.local.configuration import PAUSE_IMAGE
from kubenclave.local.host import check_host, host_facts, require_root, writable
from kubenclave.local.plan import ClusterPlan, cgroup_root, plan_boxes
from kubenclave.local.spec import CONTROL_PLANE, ClusterSpec, plan_cluster
from kubenclave.local.state import lock, other_specs, read_spec, write_private, write_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kubenclave.local.boxes import RunningBox
    from kubenclave.local.places import Places

_READY_SECONDS = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """State what a user asks of a local cluster."""

    name: str
    sgx_nodes: int
    plain_nodes: int
    epc_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCluster:
    """Name a cluster that is up."""

    name: str
    kubeconfig: Path
    spec: ClusterSpec
    started: bool  # False where it was up already


def up(wanted: Wanted, places: Places, report: Callable[[str], None]) -> LocalCluster:
    """Bring a cluster up, or leave it as it is where it is up as wanted.

    Remains of a cluster that is not whole are removed first: nothing half-built is ever reused.

    Raises:
        HostUnfit: Not root, or this machine lacks a tool, a controller, disk space or a folder that can be written to.
        UsageError: The cluster is up with other nodes or another EPC.
    """
    folder = places.cluster(wanted.name)
    check_host()
    binaries = programs.build(places.cache, report)
    with writable("XDG_STATE_HOME"), lock(places, report):
        _require_own(wanted.name, folder)
        existing = _healthy(wanted.name, folder)
        if existing is not None:
            _require_same(wanted, existing)
            return LocalCluster(name=wanted.name, kubeconfig=folder / "kubeconfig", spec=existing, started=False)
        if _remains(wanted.name, folder):
            report("Removing what is left of an earlier run.")
            _remove(wanted.name, folder)
        spec = _claim(wanted, places)
        plan = plan_boxes(spec, folder=folder, programs=binaries, host=host_facts(folder))
        try:
            _start(spec, plan, folder, binaries, report)
        except BaseException:
            # The folder stays for its logs; the next up or down removes it.
            _stop(wanted.name)
            raise
    return LocalCluster(name=wanted.name, kubeconfig=folder / "kubeconfig", spec=spec, started=True)


def down(name: str, places: Places, report: Callable[[str], None]) -> bool:
    """Remove a cluster and everything it left on this machine; tell whether there was anything.

    Raises:
        HostUnfit: Not root.
    """
    folder = places.cluster(name)
    require_root()
    with writable("XDG_STATE_HOME"), lock(places, report):
        _require_own(name, folder)
        found = _remains(name, folder)
        _remove(name, folder)
        if not any(places.clusters.iterdir()):
            places.clusters.rmdir()
    return found


def find(name: str, places: Places) -> LocalCluster:
    """Find a cluster that is up.

    Raises:
        NotFound: There is none of that name, or it is not whole.
    """
    folder = places.cluster(name)
    spec = _healthy(name, folder)
    if spec is None:
        raise NotFound(f"The local cluster {name!r} is not up.", f"Start it with: kubenclave local up --name {name}")
    return LocalCluster(name=name, kubeconfig=folder / "kubeconfig", spec=spec, started=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """State what a node is on this machine (its process, its simulated EPC) and in the cluster."""

    name: str
    init: int
    ready: bool
    simulated_epc_bytes: int
    allocatable_epc: dict[str, int]


def status(cluster: LocalCluster) -> list[NodeStatus]:
    """Ask the API server about every node of a cluster that is up.

    Raises:
        Unreachable: The API server does not answer.
    """
    with kube.connect(cluster.kubeconfig) as api:
        seen = {node.name: node for node in api.nodes()}
    running = boxes.running(cluster.name)
    return [
        NodeStatus(
            name=node.name,
            init=running[node.name].init,
            ready=node.name in seen and seen[node.name].ready,
            simulated_epc_bytes=sum(node.epc_bytes),
            allocatable_epc=_epc(seen[node.name].allocatable) if node.name in seen else {},
        )
        for node in cluster.spec.nodes
    ]


def _epc(allocatable: Mapping[str, int]) -> dict[str, int]:
    return {resource: amount for resource, amount in allocatable.items() if "epc" in resource}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedImage:
    """Name an image as one node's containerd knows it."""

    node: str
    reference: str
    digest: str


def load_image(cluster: LocalCluster, archive: Path) -> list[ImportedImage]:
    """Import an OCI archive into every node and give what containerd made of it.

    Raises:
        NotFound: The archive is not there.
        Refused: It is no OCI archive with a name in it.
        KubenclaveError: containerd refuses it.
    """
    names = image_names(archive)
    imported = []
    for box in running_nodes(cluster):
        boxes.import_image(box, archive)
        imported += [ImportedImage(node=box.name, reference=name, digest=boxes.image_digest(box, name)) for name in names]
    return imported


def running_nodes(cluster: LocalCluster) -> list[RunningBox]:
    """List the boxes of a cluster's nodes, in its own order."""
    found = boxes.running(cluster.name)
    return [found[node.name] for node in cluster.spec.nodes]


# --- up ----------------------------------------------------------------------------------------------------------------------------


def _claim(wanted: Wanted, places: Places) -> ClusterSpec:
    """Choose addresses that neither this machine nor another local cluster uses, and write them down before using them."""
    folder = places.cluster(wanted.name)
    others = other_specs(places)
    spec = plan_cluster(
        wanted.name,
        sgx_nodes=wanted.sgx_nodes,
        plain_nodes=wanted.plain_nodes,
        epc_bytes=wanted.epc_bytes,
        taken=[*network.taken_networks(), *(other.node_network for other in others)],
    )
    folder.mkdir(mode=0o700, exist_ok=True)
    write_spec(folder, spec)
    return spec


def _start(spec: ClusterSpec, plan: ClusterPlan, folder: Path, binaries: Path, report: Callable[[str], None]) -> None:
    report(f"Starting the control plane and {len(spec.nodes)} nodes.")
    for node in spec.nodes:
        if node.epc_bytes:
            tree = folder / "boxes" / node.name / "sysfs-node"
            simulated_sgx.write_node_tree(tree, node.epc_bytes, cpus=os.cpu_count() or 1)
    started = {box.name: boxes.start(box) for box in plan.boxes}
    descriptions = {box.name: box for box in plan.boxes}
    control_plane = started[CONTROL_PLANE]

    def wait(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not condition():
            for name, box in started.items():
                boxes.require_alive(box, descriptions[name])
            if time.monotonic() > deadline:
                raise KubenclaveError(f"{what} within {_READY_SECONDS:.0f} s.", f"The logs are in {folder / 'boxes'}/*/logs.")
            time.sleep(0.05)

    wait(lambda: network.has_bridge(control_plane.outer), "The control plane made no network")
    network.link_host(spec, control_plane.outer)
    for node in spec.nodes:
        network.link_node(node.name, started[node.name].outer, control_plane.outer)
    pause = _pause_archive(folder, binaries)
    for node in spec.nodes:
        box = started[node.name]
        wait(lambda box=box: boxes.containerd_answers(box), f"containerd on {node.name} did not answer")  # type: ignore[misc]
        boxes.import_image(box, pause)
    pending = folder / "kubeconfig.pending"
    write_private(pending, plan.kubeconfig)
    report("Waiting for the nodes to be ready.")
    wait(lambda: _all_ready(pending, spec), "The nodes were not ready")
    # The kubeconfig appears last: whoever finds it finds a cluster that was whole.
    pending.replace(folder / "kubeconfig")


def _pause_archive(folder: Path, binaries: Path) -> Path:
    archive = folder / "pause.tar"
    build_image(ImageSpec(reference=parse_reference(PAUSE_IMAGE), host=binaries / programs.PAUSE), archive, lambda _news: None)
    return archive


def _all_ready(kubeconfig: Path, spec: ClusterSpec) -> bool:
    """Tell whether every node is Ready and pods can be made, which needs the default ServiceAccount."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}}
    try:
        with kube.connect(kubeconfig) as api:
            ready = {node.name for node in api.nodes() if node.ready}
            return ready >= {node.name for node in spec.nodes} and api.exists(account)
    except KubenclaveError:
        return False


def _healthy(name: str, folder: Path) -> ClusterSpec | None:
    """Read the description of a cluster that is whole: every box runs, its link is there, and it was ready once."""
    spec = read_spec(folder)
    if spec is None or not (folder / "kubeconfig").exists() or not network.has_host_link(spec.host_interface):
        return None
    expected = {CONTROL_PLANE, *(node.name for node in spec.nodes)}
    return spec if set(boxes.running(name)) == expected else None


def _require_own(name: str, folder: Path) -> None:
    """Refuse to touch a cluster of the same name that another state folder holds: names are the machine's, folders a user's."""
    others = boxes.folders(name) - {folder}
    if others:
        state = min(others).parents[2]
        raise UsageError(
            f"A local cluster {name!r} is up that belongs to another state folder, {state}.",
            f"Choose another --name, or remove that one: XDG_STATE_HOME={state} kubenclave local down --name {name}",
        )


def _require_same(wanted: Wanted, existing: ClusterSpec) -> None:
    sgx = [node for node in existing.nodes if node.epc_bytes]
    have = (len(sgx), len(existing.nodes) - len(sgx), sgx[0].epc_bytes if sgx else wanted.epc_bytes)
    if have != (wanted.sgx_nodes, wanted.plain_nodes, wanted.epc_bytes):
        raise UsageError(
            f"The local cluster {existing.name!r} is up with {have[0]} SGX nodes of {list(have[2])} bytes EPC and {have[1]} plain nodes.",
            f"Remove it first (kubenclave local down --name {existing.name}), or choose another --name.",
        )


# --- down --------------------------------------------------------------------------------------------------------------------------


def _remains(name: str, folder: Path) -> bool:
    return folder.exists() or cgroups.exists(cgroup_root(name)) or network.has_host_link(_interface(name))


def _remove(name: str, folder: Path) -> None:
    _stop(name)
    if folder.exists():
        shutil.rmtree(folder)


def _stop(name: str) -> None:
    cgroups.remove(cgroup_root(name))
    network.unlink_host(_interface(name))


def _interface(name: str) -> str:
    return ClusterSpec(name=name, block=0, nodes=()).host_interface
