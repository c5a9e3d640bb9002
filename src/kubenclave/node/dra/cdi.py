"""Write, for each prepared claim, the CDI file by which the container runtime puts the devices into a container.

Source: Container Device Interface specification 0.6.0 (cncf-tags/container-device-interface, SPEC.md). The kubelet passes the names of
a claim's devices to the runtime only for containers that use the claim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kubenclave.errors import HostUnfit
from kubenclave.node.dialect import DRIVER
from kubenclave.node.dra.files import remove, write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kubenclave.node.handout import Handout

# 0.5.0 brought hostPath for device nodes, 0.6.0 is what containerd 1.7 and 2 read alike.
_CDI_VERSION = "0.6.0"
_KIND = f"{DRIVER}/claim"
_PREFIX, _SUFFIX = f"{DRIVER}-claim-", ".json"


def device_id(claim_uid: str, device: str) -> str:
    """Name a claim's device for the kubelet and the runtime; never the same twice, since a UID is not."""
    return f"{_KIND}={claim_uid}-{device}"


def cdi_spec(claim_uid: str, handouts: Mapping[str, Handout]) -> bytes:
    """Write the CDI file of a claim: its devices by name, each with what the container gets."""
    devices = [{"name": f"{claim_uid}-{device}", "containerEdits": _edits(handout)} for device, handout in handouts.items()]
    return msgspec.json.encode({"cdiVersion": _CDI_VERSION, "kind": _KIND, "devices": devices})


def _edits(handout: Handout) -> dict[str, object]:
    edits: dict[str, object] = {
        "deviceNodes": [{"path": path, "hostPath": host, "permissions": "rw"} for host, path in handout.devices],
    }
    if handout.folders:
        options = ["rbind", "ro", "nosuid", "nodev", "noexec"]
        edits["mounts"] = [{"hostPath": folder, "containerPath": folder, "options": options} for folder in handout.folders]
    if handout.variables:
        edits["env"] = [f"{name}={value}" for name, value in handout.variables]
    return edits


class CdiFolder:
    """This driver's files in the runtime's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, claim_uid: str, content: bytes) -> None:
        """Write a claim's file.

        Raises:
            HostUnfit: It cannot be written; none is left.
        """
        write_whole(self._path(claim_uid), content)

    def remove(self, claim_uid: str) -> None:
        """Remove a claim's file, if it is there.

        Raises:
            HostUnfit: It cannot be removed.
        """
        remove(self._path(claim_uid))

    def claims(self) -> tuple[str, ...]:
        """Return the UIDs of the claims that have a file here.

        Raises:
            HostUnfit: The folder cannot be read.
        """
        try:
            names = [path.name for path in self._folder.iterdir()]
        except OSError as exc:
            raise HostUnfit(f"{self._folder} cannot be read: {exc.strerror}", "mount the runtime's CDI folder there") from exc
        return tuple(name[len(_PREFIX) : -len(_SUFFIX)] for name in names if name.startswith(_PREFIX) and name.endswith(_SUFFIX))

    def remove_halves(self) -> None:
        """Remove what a killed agent was writing; only under the checkpoint's lock, as everything here that writes.

        Raises:
            HostUnfit: One cannot be removed.
        """
        for path in self._folder.glob(f".{_PREFIX}*"):
            remove(path)

    def _path(self, claim_uid: str) -> Path:
        return self._folder / f"{_PREFIX}{claim_uid}{_SUFFIX}"
