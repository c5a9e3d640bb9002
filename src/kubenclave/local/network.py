"""Links between boxes and this machine, made with iproute2. Every interface is the project's own; none is changed that was there."""

from __future__ import annotations

import json
import subprocess
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError

if TYPE_CHECKING:
    from kubenclave.local.spec import ClusterSpec


def taken_networks() -> list[IPv4Network]:
    """List every IPv4 network that this machine has a route or an address for, the default route aside."""
    networks = []
    for route in json.loads(_ip("-json", "-4", "route", "show", "table", "all") or "[]"):
        destination = str(route.get("dst", "default"))
        if destination != "default":
            networks.append(IPv4Network(destination, strict=False))
    return networks


def link_host(spec: ClusterSpec, control_plane: int) -> None:
    """Join this machine to the cluster's bridge, so that its user reaches the API server."""
    name = spec.host_interface
    _ip("link", "add", name, "type", "veth", "peer", "name", "host0", "netns", str(control_plane))
    _ip("address", "add", f"{spec.host_address}/{spec.node_network.prefixlen}", "dev", name)
    _ip("link", "set", name, "up")
    _ip("link", "set", "host0", "master", "br0", "up", inside=control_plane)


def link_node(node: str, node_pid: int, control_plane: int) -> None:
    """Join a node to the bridge: ``eth0`` there, ``v-NODE`` on the bridge's side."""
    name = f"v-{node}"
    _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(node_pid), inside=control_plane)
    _ip("link", "set", name, "master", "br0", "up", inside=control_plane)


def has_bridge(control_plane: int) -> bool:
    """Tell whether the control plane's box has made its bridge."""
    return _run(["ip", "link", "show", "br0"], inside=control_plane).returncode == 0


def has_host_link(name: str) -> bool:
    """Tell whether this machine's end of a cluster's link exists."""
    return _run(["ip", "link", "show", name]).returncode == 0


def unlink_host(name: str) -> None:
    """Remove this machine's end of a cluster's link. It can outlive the other end by seconds, so it is removed by name."""
    if has_host_link(name):
        result = _run(["ip", "link", "delete", name])
        if result.returncode != 0 and has_host_link(name):
            raise KubenclaveError(f"The interface {name} cannot be removed: {result.stderr.strip()}", f"Try: ip link delete {name}")


def _ip(*arguments: str, inside: int | None = None) -> str:
    result = _run(["ip", *arguments], inside=inside)
    if result.returncode != 0:
        where = "" if inside is None else f" in the box of process {inside}"
        raise KubenclaveError(
            f"ip {' '.join(arguments)} failed{where}: {result.stderr.strip()}", "Run kubenclave local down, then kubenclave local up again."
        )
    return result.stdout


def _run(command: list[str], inside: int | None = None) -> subprocess.CompletedProcess[str]:
    entry = [] if inside is None else ["nsenter", "--target", str(inside), "--net", "--"]
    return subprocess.run([*entry, *command], capture_output=True, text=True, check=False)
