"""From a cluster's description to its boxes: every address, certificate, command line and configuration file.

Decides only; ``boxes.py`` carries it out. The flags and their reasons were measured with Kubernetes 1.37.2 and containerd 2.4.2.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from kubenclave.local.box import Bind, Box, Device, Program
from kubenclave.local.pki import Authority, KeyPair, signing_key
from kubenclave.local.spec import API_SERVICE_ADDRESS, CONTROL_PLANE, SERVICE_NETWORK, ClusterSpec, NodeSpec

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = "/opt/kubenclave/bin"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "kubenclave.local/pause:1"
SIMULATED_MARKER = "/run/kubenclave/simulated"
NODE_TREE = "/sys/devices/system/node"

_CNI_PLUGINS = "/usr/lib/cni"
_ISSUER = "https://kubernetes.default.svc.cluster.local"
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
    return ClusterPlan(boxes=tuple(boxes), kubeconfig=_kubeconfig(spec, authority, admin))


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
        ("/etc/kubernetes/controller-manager.conf", _kubeconfig(spec, authority, manager)),
        ("/etc/kubernetes/scheduler.conf", _kubeconfig(spec, authority, scheduler)),
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
            Program(name="etcd", command=_etcd()),
            Program(name="kube-apiserver", command=_api_server(spec), after=("tcp:127.0.0.1:2379",)),
            Program(name="kube-controller-manager", command=_controller_manager(), after=api),
            Program(name="kube-scheduler", command=_scheduler(), after=api),
        ),
    )


def _api_names(spec: ClusterSpec) -> list[str]:
    service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    return [spec.api_address, API_SERVICE_ADDRESS, "127.0.0.1", "localhost", *service]


def _etcd() -> tuple[str, ...]:
    return (
        f"{PROGRAMS}/etcd",
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=default=http://127.0.0.1:2380",
        # A local cluster is made anew after a crash, so nothing is gained by waiting for the disk.
        "--unsafe-no-fsync",
        "--log-level=warn",
    )


def _api_server(spec: ClusterSpec) -> tuple[str, ...]:
    return (
        f"{PROGRAMS}/kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        # The Service address itself is on this box's lo, so port 443 must be the real one: no kube-proxy is needed for it.
        "--secure-port=443",
        f"--advertise-address={spec.api_address}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--tls-cert-file=/etc/kubernetes/apiserver.crt",
        "--tls-private-key-file=/etc/kubernetes/apiserver.key",
        "--client-ca-file=/etc/kubernetes/ca.crt",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--kubelet-client-certificate=/etc/kubernetes/kubelet-client.crt",
        "--kubelet-client-key=/etc/kubernetes/kubelet-client.key",
        "--kubelet-certificate-authority=/etc/kubernetes/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer={_ISSUER}",
        "--service-account-key-file=/etc/kubernetes/sa.pub",
        "--service-account-signing-key-file=/etc/kubernetes/sa.key",
        "--allow-privileged=true",
        "--profiling=false",
    )


def _controller_manager() -> tuple[str, ...]:
    return (
        f"{PROGRAMS}/kube-controller-manager",
        "--kubeconfig=/etc/kubernetes/controller-manager.conf",
        "--service-account-private-key-file=/etc/kubernetes/sa.key",
        "--root-ca-file=/etc/kubernetes/ca.crt",
        "--leader-elect=false",
        # At the default rate the ServiceAccount "default" appears only after 7 s, and pods are forbidden until then.
        "--kube-api-qps=1000",
        "--kube-api-burst=1000",
        "--node-monitor-grace-period=20s",
        "--bind-address=127.0.0.1",
    )


def _scheduler() -> tuple[str, ...]:
    return (
        f"{PROGRAMS}/kube-scheduler",
        "--kubeconfig=/etc/kubernetes/scheduler.conf",
        "--leader-elect=false",
        "--kube-api-qps=500",
        "--kube-api-burst=500",
        "--bind-address=127.0.0.1",
    )


def _node(spec: ClusterSpec, node: NodeSpec, authority: Authority, *, folder: Path, programs: Path, host: HostFacts) -> Box:
    client = authority.issue(f"system:node:{node.name}", organization="system:nodes")
    server = authority.issue(f"system:node:{node.name}", organization="system:nodes", names=[node.name, node.address])
    own = folder / "boxes" / node.name
    cgroup = f"{cgroup_root(spec.name)}/{node.name}"
    files = (
        ("/etc/kubernetes/ca.crt", authority.certificate),
        *_pair_files("kubelet", server),
        ("/etc/kubernetes/kubelet.conf", _kubeconfig(spec, authority, client)),
        ("/etc/kubernetes/kubelet.json", _kubelet_configuration(f"/{cgroup}")),
        ("/etc/containerd/config.toml", _containerd_configuration(host)),
        ("/etc/cni/net.d/10-bridge.conflist", _cni_configuration(node)),
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
                command=_kubelet(node),
                after=(f"unix:{CONTAINERD_SOCKET}", f"tcp:{spec.api_address}:443"),
            ),
        ),
    )


def _kubelet(node: NodeSpec) -> tuple[str, ...]:
    return (
        f"{PROGRAMS}/kubelet",
        "--config=/etc/kubernetes/kubelet.json",
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        "-v=2",
    )


def _kubelet_configuration(cgroup: str) -> str:
    configuration = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # From 1.35 the kubelet refuses cgroup v1 unless told so.
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        # One root per node: with a shared one each kubelet removes the other's pods as orphans.
        "cgroupRoot": cgroup,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "failSwapOn": False,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "makeIPTablesUtilChains": False,
        "resolvConf": "",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": "/etc/kubernetes/kubelet.crt",
        "tlsPrivateKeyFile": "/etc/kubernetes/kubelet.key",
        "kubeAPIQPS": 500,
        "kubeAPIBurst": 1000,
        "registryPullQPS": 0,
        "syncFrequency": "5s",
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "2s",
        "shutdownGracePeriod": "0s",
    }
    return json.dumps(configuration, indent=1)


def _containerd_configuration(host: HostFacts) -> str:
    return f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "{host.snapshotter}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/etc/containerd/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = {str(host.restrict_oom_score_adj).lower()}
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{_CNI_PLUGINS}"]
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def _cni_configuration(node: NodeSpec) -> str:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": node.pod_network}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    return json.dumps({"cniVersion": "1.0.0", "name": "kubenclave", "plugins": [bridge]}, indent=1)


def _kubeconfig(spec: ClusterSpec, authority: Authority, pair: KeyPair) -> str:
    """Write a kubeconfig as JSON, which is YAML, with everything inside it."""
    name = f"kubenclave-{spec.name}"
    configuration = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [
            {
                "name": name,
                "cluster": {"server": f"https://{spec.api_address}", "certificate-authority-data": _base64(authority.certificate)},
            }
        ],
        "users": [{"name": name, "user": {"client-certificate-data": _base64(pair.certificate), "client-key-data": _base64(pair.key)}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    return json.dumps(configuration, indent=1) + "\n"


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


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
