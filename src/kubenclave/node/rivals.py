"""See who else offers EPC on this node: device plugins by their sockets, anybody by what the Node says. Nobody is fought."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.node.dialect import DIALECTS, DRIVER
from kubenclave.node.problems import Problems

if TYPE_CHECKING:
    from pathlib import Path

    from kubenclave.node.dialect import Dialect

# Intel's plugin names its sockets <namespace>-<device type>.sock (intel-device-plugins-for-kubernetes, pkg/deviceplugin).
_INTEL_SOCKETS = "sgx.intel.com-*.sock"
_OWN_SOCKETS = "kubenclave-{name}*.sock"
_DRIVER_SOCKETS = f"{DRIVER}*-reg.sock"
_ONE_AT_A_TIME = "one mode and one dialect at a time on a node: remove one of the two agents"


class Rivals:
    """Whoever else hands out the enclave device here: seen before the first offer, nothing is offered; seen later, it is said.

    What pods hold is not taken back for one that came later: it would not know of it either.
    """

    def __init__(self, kubelet_dir: Path, registry_dir: Path, own: Dialect) -> None:
        self._kubelet_dir = kubelet_dir
        self._registry_dir = registry_dir
        self._own = own
        self._problems = Problems("epc.offered_twice")

    def check(self, *, offered: bool) -> None:
        """Look once.

        Raises:
            Refused: Somebody is there, and nothing has been offered yet.
        """
        try:
            check_sockets(self._kubelet_dir, self._registry_dir, self._own)
        except Refused as exc:
            if not offered:
                raise
            self._problems.report(exc)
        else:
            self._problems.clear()


def check_sockets(kubelet_dir: Path, registry_dir: Path, own: Dialect) -> None:
    """Make sure that nobody else who hands out the enclave device is served on this node: a device plugin, or the driver of claims.

    Raises:
        Refused: One is; the message names its socket.
    """
    for path in sorted(kubelet_dir.glob(_INTEL_SOCKETS)):
        if _served(path):
            raise Refused(
                f"Intel's SGX device plugin already serves {path}: both would hand out the same EPC",
                hint="remove Intel's plugin (DaemonSet intel-sgx-plugin) from this node, or this agent",
            )
    for dialect in DIALECTS:
        for path in sorted(kubelet_dir.glob(_OWN_SOCKETS.format(name=dialect.name))):
            if dialect is not own and _served(path):
                raise Refused(
                    f"another agent already serves {path} and offers this node's EPC as {dialect.resource}",
                    hint=_ONE_AT_A_TIME,
                )
    for path in sorted(registry_dir.glob(_DRIVER_SOCKETS)):
        if _served(path):
            raise Refused(f"another agent already serves {path} and offers this node's EPC to resource claims", hint=_ONE_AT_A_TIME)


def _served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            return probe.connect_ex(str(path)) == 0
        except OSError:
            return False
