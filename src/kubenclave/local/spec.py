"""What a local cluster is: its nodes, its simulated EPC and its addresses. Pure: values in, values out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from kubenclave.errors import HostUnfit, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# One range holds 16 clusters of 16 networks each: the first for the nodes, one more for every node's pods.
_RANGE = IPv4Network("10.213.0.0/16")
_BLOCK_PREFIX = 20
MAX_NODES = 14
MAX_EPC_BYTES = 1 << 40  # larger than any machine's EPC (512 GiB per socket, two sockets)
SERVICE_NETWORK = IPv4Network("10.96.0.0/16")
API_SERVICE_ADDRESS = "10.96.0.1"
CONTROL_PLANE = "control-plane"

_EPC_SIZE = re.compile(r"([0-9]{1,12})(Ki|Mi|Gi)?")
_UNIT = {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_PAGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """Describe one node. ``epc_bytes`` holds one value per simulated NUMA node; empty means no SGX."""

    name: str
    address: str
    pod_network: str
    epc_bytes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """Describe a whole local cluster, before any of it exists."""

    name: str
    block: int
    nodes: tuple[NodeSpec, ...]

    @property
    def node_network(self) -> IPv4Network:
        """Give the network that joins control plane, nodes and this machine."""
        return _networks(self.block)[0]

    @property
    def api_address(self) -> str:
        """Give the address at which this machine and the nodes reach the API server."""
        return str(self.node_network[1])

    @property
    def host_address(self) -> str:
        """Give this machine's own address on the node network."""
        return str(self.node_network[254])

    @property
    def host_interface(self) -> str:
        """Name this machine's end of the link; derived from the name alone, so that it is found without any state."""
        return f"kbe-{sha256(self.name.encode()).hexdigest()[:8]}"


def parse_epc(text: str) -> tuple[int, ...]:
    """Read sizes such as ``40Mi`` or ``128Gi,128Gi``: bytes of EPC per NUMA node.

    Raises:
        UsageError: Not a size, not a whole number of 4-KiB pages, more than 8 NUMA nodes, or out of range.
    """
    sizes = []
    for part in text.split(","):
        match = _EPC_SIZE.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"EPC size {part.strip()!r} is not understood.", "Write sizes as 40Mi or 128Gi,128Gi (one per NUMA node).")
        size = int(match[1]) * _UNIT[match[2]]
        if size == 0 or size % _PAGE or size > MAX_EPC_BYTES:
            raise UsageError(
                f"EPC size {part.strip()} is not a whole number of 4-KiB pages between 4Ki and 1024Gi.", "Choose a size such as 40Mi."
            )
        sizes.append(size)
    if len(sizes) > 8:  # noqa: PLR2004 - the most EPC sections that CPUID leaf 12H reports on one machine
        raise UsageError(f"{len(sizes)} NUMA nodes of EPC were asked for.", "A machine has at most 8 EPC sections.")
    return tuple(sizes)


def parse_nodes(text: str) -> tuple[int, int]:
    """Read how many nodes have SGX and how many have not: ``sgx=2,plain=1``, or ``3`` for two with and one without.

    Raises:
        UsageError: Neither form.
    """
    if text.isdecimal() and len(text) <= 3:  # noqa: PLR2004 - three digits are more than MAX_NODES
        total = int(text)
        return (total - 1, 1) if total > 1 else (total, 0)
    counts = {"sgx": 0, "plain": 0}
    for part in text.split(","):
        kind, _, number = part.strip().partition("=")
        if kind not in counts or not number.isdecimal() or len(number) > 3:  # noqa: PLR2004
            raise UsageError(f"Nodes {text!r} are not understood.", "Write --nodes 3 or --nodes sgx=2,plain=1.")
        counts[kind] = int(number)
    return counts["sgx"], counts["plain"]


def plan_cluster(name: str, *, sgx_nodes: int, plain_nodes: int, epc_bytes: tuple[int, ...], taken: Iterable[IPv4Network]) -> ClusterSpec:
    """Choose names and addresses for a cluster, away from every network in ``taken``.

    Raises:
        UsageError: No node or more than MAX_NODES.
        HostUnfit: Every address range is in use on this machine.
    """
    count = sgx_nodes + plain_nodes
    if not 1 <= count <= MAX_NODES:
        raise UsageError(
            f"A local cluster has 1 to {MAX_NODES} nodes; {count} were asked for.", "Write --nodes 3 or --nodes sgx=2,plain=1."
        )
    block = _free_block(list(taken))
    names = [f"sgx-{i + 1}" for i in range(sgx_nodes)] + [f"plain-{i + 1}" for i in range(plain_nodes)]
    networks = _networks(block)
    nodes = tuple(
        NodeSpec(
            name=node,
            address=str(networks[0][11 + i]),
            pod_network=str(networks[1 + i]),
            epc_bytes=epc_bytes if i < sgx_nodes else (),
        )
        for i, node in enumerate(names)
    )
    return ClusterSpec(name=name, block=block, nodes=nodes)


def _networks(block: int) -> list[IPv4Network]:
    return list(list(_RANGE.subnets(new_prefix=_BLOCK_PREFIX))[block].subnets(new_prefix=24))


def _free_block(taken: Sequence[IPv4Network]) -> int:
    blocks = list(_RANGE.subnets(new_prefix=_BLOCK_PREFIX))
    for index, network in enumerate(blocks):
        if not any(network.overlaps(other) for other in taken):
            return index
    raise HostUnfit(
        f"All {len(blocks)} address ranges for local clusters ({_RANGE}) are in use on this machine.",
        "Remove a local cluster (kubenclave local down --name NAME) or the route that covers the range.",
    )
