"""See who else offers EPC on this node: device plugins by their sockets, anybody by what the Node says. Nobody is fought."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from kubenclave.errors import Refused
from kubenclave.node.dialect import DIALECTS

if TYPE_CHECKING:
    from pathlib import Path

    from kubenclave.node.dialect import Dialect

# Intel's plugin names its sockets <namespace>-<device type>.sock (intel-device-plugins-for-kubernetes, pkg/deviceplugin).
_INTEL_SOCKETS = "sgx.intel.com-*.sock"
_OWN_SOCKETS = "kubenclave-{name}*.sock"


def check_sockets(kubelet_dir: Path, own: Dialect) -> None:
    """Make sure that no other device plugin that hands out the enclave device is served on this node.

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
                    hint="one mode and one dialect at a time on a node: remove one of the two agents",
                )


def _served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            return probe.connect_ex(str(path)) == 0
        except OSError:
            return False
