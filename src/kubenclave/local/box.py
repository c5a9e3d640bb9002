"""The description of one box: a machine of the local cluster, in namespaces of its own.

A box is written as JSON by the planner and read by the box's init process, which knows nothing of Kubernetes.
Values only; the init process imports this module, so it imports nothing beyond the standard library.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """Show ``source`` of this machine at ``target`` inside the box."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Make one character device in the box's own /dev."""

    path: str
    major: int
    minor: int
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Start one program and start it again whenever it ends.

    ``after`` names what must answer before the first start: ``unix:PATH`` or ``tcp:ADDRESS:PORT``.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Describe one machine: what it sees, its network and what it runs."""

    cluster: str
    name: str
    folder: str  # this box's own folder on this machine: its disk, logs and new root
    cgroup: str  # path below every cgroup hierarchy, for example "kubenclave-demo/sgx-1"
    address: str  # with prefix length, on eth0 or on the bridge
    bridge: bool  # the control plane holds the bridge that joins all boxes
    routes: tuple[tuple[str, str], ...]  # (network, gateway)
    local_addresses: tuple[str, ...]  # further addresses on lo
    binds: tuple[Bind, ...]
    files: tuple[tuple[str, str], ...]  # (path, text), private to the box
    devices: tuple[Device, ...]
    programs: tuple[Program, ...]

    def to_json(self) -> str:
        """Write the description for the init process."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Box:
        """Read what ``to_json`` wrote."""
        raw = json.loads(text)
        return Box(
            cluster=raw["cluster"],
            name=raw["name"],
            folder=raw["folder"],
            cgroup=raw["cgroup"],
            address=raw["address"],
            bridge=raw["bridge"],
            routes=tuple((network, gateway) for network, gateway in raw["routes"]),
            local_addresses=tuple(raw["local_addresses"]),
            binds=tuple(Bind(**bind) for bind in raw["binds"]),
            files=tuple((path, text) for path, text in raw["files"]),
            devices=tuple(Device(**device) for device in raw["devices"]),
            programs=tuple(Program(name=p["name"], command=tuple(p["command"]), after=tuple(p["after"])) for p in raw["programs"]),
        )
