"""Where this project keeps files on the user's machine. Decides paths only; creates nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLUSTER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Name the folders of one user.

    ``state`` holds clusters (kubeconfig, certificates, node disks), ``cache`` holds what can be built again.
    """

    state: Path
    cache: Path

    @property
    def clusters(self) -> Path:
        """Name the folder that holds one folder per local cluster."""
        return self.state / "clusters"

    def cluster(self, name: str) -> Path:
        """Name the folder of one cluster.

        Raises:
            UsageError: The name is not a short DNS label.
        """
        if not _CLUSTER_NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name a cluster.",
                "Use 1 to 20 lower-case letters, digits or hyphens, starting and ending with a letter or digit.",
            )
        return self.clusters / name


def places(environment: Mapping[str, str]) -> Places:
    """Find the folders by the XDG base directory specification (version 0.8), from the environment given."""
    home = Path(environment.get("HOME") or "/root")

    def base(variable: str, fallback: str) -> Path:
        value = environment.get(variable, "")
        # The specification says that relative paths are invalid and must be ignored.
        return Path(value) if value.startswith("/") else home / fallback

    return Places(
        state=base("XDG_STATE_HOME", ".local/state") / "kubenclave",
        cache=base("XDG_CACHE_HOME", ".cache") / "kubenclave",
    )
