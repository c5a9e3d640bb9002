"""What an agent is told when it starts. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.node.handout import Extras

if TYPE_CHECKING:
    from kubenclave.node.choice import Choice

SCAN_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one agent is told.

    Attributes:
        choice: The way in which EPC is offered.
        host_root: Where the host's filesystem is seen.
        kubelet_dir: The kubelet's device plugin folder.
        registry_dir: The kubelet's folder of plugins' registration sockets.
        driver_dir: The folder of the DRA driver: its socket and its checkpoint.
        cdi_dir: Where the container runtime finds CDI files that need not outlive a reboot.
        reserve_bytes: EPC that is not offered.
        extras: What is handed out only where it was asked for.
        node_name: The Node's name; needed to talk to the API server.
        pod_uid: The agent's pod's UID, by which agents of one node tell their sockets apart; empty outside of a pod.
        pod_resources: The kubelet's socket that lists which pods hold what.
        metrics_port: Where /metrics, /healthz and /readyz are served; 0 for nowhere.
        mapped: Look at the host's processes for what they map of the enclave device.
        scan_seconds: How often the host is looked at again.
    """

    choice: Choice
    host_root: Path
    kubelet_dir: Path
    registry_dir: Path = Path("/var/lib/kubelet/plugins_registry")
    driver_dir: Path = Path("/var/lib/kubelet/plugins/epc.kubenclave.dev")
    cdi_dir: Path = Path("/var/run/cdi")
    reserve_bytes: int = 0
    extras: Extras = field(default_factory=Extras)
    node_name: str = ""
    pod_uid: str = ""
    pod_resources: Path = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
    metrics_port: int = 0
    mapped: bool = False
    scan_seconds: float = SCAN_SECONDS
