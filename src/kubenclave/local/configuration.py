"""Command lines and configuration files of the Kubernetes programs in a local cluster. Pure: values in, text out.

The flags and their reasons were measured with Kubernetes 1.37.2 and containerd 2.4.2.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING

from kubenclave.local.spec import SERVICE_NETWORK

if TYPE_CHECKING:
    from kubenclave.local.pki import Authority, KeyPair
    from kubenclave.local.spec import ClusterSpec, NodeSpec

PROGRAMS = "/opt/kubenclave/bin"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "kubenclave.local/pause:1"

_CNI_PLUGINS = "/usr/lib/cni"
_ISSUER = "https://kubernetes.default.svc.cluster.local"


def etcd() -> tuple[str, ...]:
    """Give etcd's command line."""
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


def api_server(spec: ClusterSpec) -> tuple[str, ...]:
    """Give kube-apiserver's command line."""
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


def controller_manager() -> tuple[str, ...]:
    """Give kube-controller-manager's command line."""
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


def scheduler() -> tuple[str, ...]:
    """Give kube-scheduler's command line."""
    return (
        f"{PROGRAMS}/kube-scheduler",
        "--kubeconfig=/etc/kubernetes/scheduler.conf",
        "--leader-elect=false",
        "--kube-api-qps=500",
        "--kube-api-burst=500",
        "--bind-address=127.0.0.1",
    )


def kubelet(node: NodeSpec) -> tuple[str, ...]:
    """Give a node's kubelet command line."""
    return (
        f"{PROGRAMS}/kubelet",
        "--config=/etc/kubernetes/kubelet.json",
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        "-v=2",
    )


def kubelet_configuration(cgroup: str) -> str:
    """Write a KubeletConfiguration (kubelet.config.k8s.io/v1beta1); ``cgroup`` is the node's own root below every hierarchy."""
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


def containerd_configuration(*, snapshotter: str, restrict_oom_score_adj: bool) -> str:
    """Write containerd's configuration (version 3)."""
    return f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "{snapshotter}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/etc/containerd/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = {str(restrict_oom_score_adj).lower()}
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{_CNI_PLUGINS}"]
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def cni_configuration(node: NodeSpec) -> str:
    """Write a node's CNI network list: a bridge with addresses from the node's pod network."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": node.pod_network}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    return json.dumps({"cniVersion": "1.0.0", "name": "kubenclave", "plugins": [bridge]}, indent=1)


def kubeconfig(spec: ClusterSpec, authority: Authority, pair: KeyPair) -> str:
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
