"""From a cluster's description to its boxes: every address, certificate, command line and configuration file.

Decides only; ``boxes.py`` carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from kubenclave.local import configuration
from kubenclave.local.box import Bind, Box, Device, Program
from kubenclave.local.configuration import CONTAINERD_SOCKET, PROGRAMS
from kubenclave.local.pki import Authority, KeyPair, signing_key
from kubenclave.local.spec import API_SERVICE_ADDRESS, CONTROL_PLANE, SERVICE_NETWORK, ClusterSpec, NodeSpec

if TYPE_CHECKING:
    from pathlib import Path

SIMULATED_MARKER = "/run/kubenclave/simulated"
NODE_TREE = "/sys/devices/system/node"

_ADMIN_GROUP = "system:masters"

# Character devices that are not in runc's default allow list, so that the device cgroup really decides who may open them.
# 10:229 and 10:183 are the kernel's fuse and hwrng numbers; neither understands an SGX ioctl.
_DEVICES = (
    Device(path="/dev/sgx_enclave", major=10, minor=229, mode=0o666),
    Device(path="/dev/sgx_provision", major=10, minor=183, mode=0o660),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """State what the planner must know of this machine."""

    snapshotter: str  # overlayfs, or native where the disk cannot carry an overlay
    restrict_oom_score_adj: bool  # without CAP_SYS_RESOURCE runc may not lower a score


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """Hold all that is to be made: the boxes, and the kubeconfig for this machine's user."""

    boxes: tuple[Box, ...]
    kubeconfig: str


def plan_boxes(spec: ClusterSpec, *, folder: Path, programs: Path, host: HostFacts) -> ClusterPlan:
    """Plan every box of a cluster. ``folder`` is the cluster's own; ``programs`` holds the built binaries."""
    authority = Authority(f"kubenclave-{spec.name}")
    admin = authority.issue("kubernetes-admin", organization=_ADMIN_GROUP)
    boxes = [
        _control_plane(spec, authority, folder=folder, programs=programs),
        *(_node(spec, node, authority, folder=folder, programs=programs, host=host) for node in spec.nodes),
    ]
    return ClusterPlan(boxes=tuple(boxes), kubeconfig=configuration.kubeconfig(spec, authority, admin))


def cgroup_root(cluster: str) -> str:
    """Name the group, below every hierarchy, that holds all processes of a cluster and nothing else."""
    return f"kubenclave-{cluster}"


def _control_plane(spec: ClusterSpec, authority: Authority, *, folder: Path, programs: Path) -> Box:
    private, public = signing_key()
    server = authority.issue("kube-apiserver", names=_api_names(spec))
    kubelet_client = authority.issue("kube-apiserver-kubelet-client", organization=_ADMIN_GROUP)
    manager = authority.issue("system:kube-controller-manager", organization=_ADMIN_GROUP)
    scheduler = authority.issue("system:kube-scheduler")
    files = (
        ("/etc/kubernetes/ca.crt", authority.certificate),
        ("/etc/kubernetes/sa.key", private),
        ("/etc/kubernetes/sa.pub", public),
        *_pair_files("apiserver", server),
        *_pair_files("kubelet-client", kubelet_client),
        ("/etc/kubernetes/controller-manager.conf", configuration.kubeconfig(spec, authority, manager)),
        ("/etc/kubernetes/scheduler.conf", configuration.kubeconfig(spec, authority, scheduler)),
        *_system_files(CONTROL_PLANE, spec.api_address),
    )
    api = (f"tcp:{spec.api_address}:443",)
    return Box(
        cluster=spec.name,
        name=CONTROL_PLANE,
        folder=str(folder / "boxes" / CONTROL_PLANE),
        cgroup=f"{cgroup_root(spec.name)}/{CONTROL_PLANE}",
        address=f"{spec.api_address}/{spec.node_network.prefixlen}",
        bridge=True,
        routes=tuple((node.pod_network, node.address) for node in spec.nodes),
        local_addresses=(f"{API_SERVICE_ADDRESS}/32",),
        binds=(Bind(source=str(programs), target=PROGRAMS),),
        files=files,
        devices=(),
        programs=(
            Program(name="etcd", command=configuration.etcd()),
            Program(name="kube-apiserver", command=configuration.api_server(spec), after=("tcp:127.0.0.1:2379",)),
            Program(name="kube-controller-manager", command=configuration.controller_manager(), after=api),
            Program(name="kube-scheduler", command=configuration.scheduler(), after=api),
        ),
    )


def _api_names(spec: ClusterSpec) -> list[str]:
    service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    return [spec.api_address, API_SERVICE_ADDRESS, "127.0.0.1", "localhost", *service]


def _node(spec: ClusterSpec, node: NodeSpec, authority: Authority, *, folder: Path, programs: Path, host: HostFacts) -> Box:
    client = authority.issue(f"system:node:{node.name}", organization="system:nodes")
    server = authority.issue(f"system:node:{node.name}", organization="system:nodes", names=[node.name, node.address])
    own = folder / "boxes" / node.name
    cgroup = f"{cgroup_root(spec.name)}/{node.name}"
    files = (
        ("/etc/kubernetes/ca.crt", authority.certificate),
        *_pair_files("kubelet", server),
        ("/etc/kubernetes/kubelet.conf", configuration.kubeconfig(spec, authority, client)),
        ("/etc/kubernetes/kubelet.json", configuration.kubelet_configuration(f"/{cgroup}")),
        (
            "/etc/containerd/config.toml",
            configuration.containerd_configuration(snapshotter=host.snapshotter, restrict_oom_score_adj=host.restrict_oom_score_adj),
        ),
        ("/etc/cni/net.d/10-bridge.conflist", configuration.cni_configuration(node)),
        *_system_files(node.name, node.address),
    )
    simulated = ((SIMULATED_MARKER, f"simulated SGX host, EPC bytes per NUMA node: {list(node.epc_bytes)}\n"),) if node.epc_bytes else ()
    tree = (Bind(source=str(own / "sysfs-node"), target=NODE_TREE),) if node.epc_bytes else ()
    return Box(
        cluster=spec.name,
        name=node.name,
        folder=str(own),
        cgroup=cgroup,
        address=f"{node.address}/{spec.node_network.prefixlen}",
        bridge=False,
        routes=(
            (str(SERVICE_NETWORK), spec.api_address),
            *((other.pod_network, other.address) for other in spec.nodes if other is not node),
        ),
        local_addresses=(),
        binds=(Bind(source=str(programs), target=PROGRAMS), *tree),
        files=files + simulated,
        devices=_DEVICES if node.epc_bytes else (),
        programs=(
            Program(name="containerd", command=(f"{PROGRAMS}/containerd", "--config=/etc/containerd/config.toml")),
            Program(
                name="kubelet",
                command=configuration.kubelet(node),
                after=(f"unix:{CONTAINERD_SOCKET}", f"tcp:{spec.api_address}:443"),
            ),
        ),
    )


def _pair_files(name: str, pair: KeyPair) -> tuple[tuple[str, str], ...]:
    return ((f"/etc/kubernetes/{name}.crt", pair.certificate), (f"/etc/kubernetes/{name}.key", pair.key))


def _system_files(name: str, address: str) -> tuple[tuple[str, str], ...]:
    return (
        ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
        ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("/etc/hosts", f"127.0.0.1 localhost\n{address} {name}\n"),
        ("/etc/resolv.conf", ""),
        ("/etc/machine-id", sha256(f"{name} {address}".encode()).hexdigest()[:32] + "\n"),
    )
