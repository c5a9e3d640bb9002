"""A local cluster: up, status, down. Each may be killed anywhere and run again."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave import kube
from kubenclave.errors import HostUnfit, KubenclaveError, NotFound, UsageError
from kubenclave.image import ImageSpec, build_image, parse_reference
from kubenclave.local import boxes, cgroups, network, programs, simulated_sgx
from kubenclave.local.archives import image_names
from kubenclave.local.plan import PAUSE_IMAGE, ClusterPlan, HostFacts, cgroup_root, plan_boxes
from kubenclave.local.spec import CONTROL_PLANE, ClusterSpec, NodeSpec, plan_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kubenclave.local.boxes import RunningBox
    from kubenclave.local.places import Places

_READY_SECONDS = 90.0
_CAP_SYS_RESOURCE = 24  # capabilities(7)
_TOOLS = ("unshare", "nsenter", "ip", "runc")
_CNI_BRIDGE = Path("/usr/lib/cni/bridge")


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
        HostUnfit: Not root, or this machine lacks a tool, a controller or disk space.
        UsageError: The cluster is up with other nodes or another EPC.
    """
    folder = places.cluster(wanted.name)
    check_host()
    binaries = programs.build(places.cache, report)
    with _lock(places, report):
        _require_own(wanted.name, folder)
        existing = _healthy(wanted.name, folder)
        if existing is not None:
            _require_same(wanted, existing)
            return LocalCluster(name=wanted.name, kubeconfig=folder / "kubeconfig", spec=existing, started=False)
        if _remains(wanted.name, folder):
            report("Removing what is left of an earlier run.")
            _remove(wanted.name, folder)
        spec = _claim(wanted, places)
        plan = plan_boxes(spec, folder=folder, programs=binaries, host=_host_facts(folder))
        _start(spec, plan, folder, binaries, report)
    return LocalCluster(name=wanted.name, kubeconfig=folder / "kubeconfig", spec=spec, started=True)


def down(name: str, places: Places, report: Callable[[str], None]) -> bool:
    """Remove a cluster and everything it left on this machine; tell whether there was anything.

    Raises:
        HostUnfit: Not root.
    """
    folder = places.cluster(name)
    _require_root()
    with _lock(places, report):
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


def check_host() -> None:
    """Check that this machine can carry a cluster, before anything is made.

    Raises:
        HostUnfit: With the first thing that is missing.
    """
    _require_root()
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None]
    if missing or not _CNI_BRIDGE.exists():
        names = ", ".join([*missing, *([] if _CNI_BRIDGE.exists() else [str(_CNI_BRIDGE)])])
        raise HostUnfit(
            f"The local cluster needs programs that are not installed: {names}.",
            "On Debian or Ubuntu: apt-get install --no-install-recommends iproute2 util-linux runc containernetworking-plugins",
        )
    cgroups.check(cgroups.hierarchies())


def _require_root() -> None:
    if os.geteuid() != 0:
        raise HostUnfit(
            "The local cluster needs root: it makes namespaces, mounts, control groups and device nodes.",
            "Run it with sudo. The commands on enclave files and images need no root.",
        )


# --- up ----------------------------------------------------------------------------------------------------------------------------


def _claim(wanted: Wanted, places: Places) -> ClusterSpec:
    """Choose addresses that neither this machine nor another local cluster uses, and write them down before using them."""
    folder = places.cluster(wanted.name)
    others = [spec for other in places.clusters.glob("*/cluster.json") if (spec := _read_spec(other.parent)) is not None]
    spec = plan_cluster(
        wanted.name,
        sgx_nodes=wanted.sgx_nodes,
        plain_nodes=wanted.plain_nodes,
        epc_bytes=wanted.epc_bytes,
        taken=[*network.taken_networks(), *(other.node_network for other in others)],
    )
    folder.mkdir(mode=0o700, exist_ok=True)
    _write(folder / "cluster.json", json.dumps(asdict(spec), indent=1))
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
    _write(pending, plan.kubeconfig)
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
    spec = _read_spec(folder)
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
    cgroups.remove(cgroup_root(name))
    network.unlink_host(_interface(name))
    shutil.rmtree(folder, ignore_errors=False) if folder.exists() else None


def _interface(name: str) -> str:
    return ClusterSpec(name=name, block=0, nodes=()).host_interface


# --- this machine ------------------------------------------------------------------------------------------------------------------


def _host_facts(folder: Path) -> HostFacts:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    return HostFacts(
        snapshotter="native" if _file_system(folder) == "overlay" else "overlayfs",
        restrict_oom_score_adj=not effective >> _CAP_SYS_RESOURCE & 1,
    )


def _file_system(path: Path) -> str:
    """Name the type of the file system that holds a folder, from proc_pid_mountinfo(5)."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0]
    return ""


@contextmanager
def _lock(places: Places, report: Callable[[str], None]) -> Iterator[None]:
    """Let one run at a time change local clusters. The lock is on the folder itself; the kernel frees it when its holder dies."""
    while True:
        places.clusters.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(places.clusters, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report("Waiting for another run that works on local clusters.")
                fcntl.flock(handle, fcntl.LOCK_EX)
            # The holder before may have removed the folder; then this lock is on nothing.
            if places.clusters.exists() and os.fstat(handle).st_ino == places.clusters.stat().st_ino:
                yield
                return
        finally:
            os.close(handle)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
        handle.write(text)
    partial.replace(path)


def _read_spec(folder: Path) -> ClusterSpec | None:
    try:
        raw = json.loads((folder / "cluster.json").read_text(encoding="utf-8"))
        nodes = tuple(NodeSpec(**{**node, "epc_bytes": tuple(node["epc_bytes"])}) for node in raw["nodes"])
        return ClusterSpec(name=raw["name"], block=raw["block"], nodes=nodes)
    except (OSError, ValueError, KeyError, TypeError):
        return None
