"""Bring the node agent and its admission rules to a cluster, see what became of it, and take all of it away again.

Works from outside the cluster, through ``kubenclave.kube``. The agent itself is a program of its own (room ``node``) and is not imported
here, nor is this room part of its image.

Decides (pure): ``options``, ``plan``, ``render``, ``diagnose``, ``tolerations``, ``limits``, ``holders``, ``metrics``. Talks to the API
server: ``daemon``, ``rollout``, ``waiting``, ``removal``, ``status``.
"""

from __future__ import annotations

from kubenclave.install.daemon import current
from kubenclave.install.objects import Resource
from kubenclave.install.options import Options
from kubenclave.install.plan import MODES, Mode, Plan, plan
from kubenclave.install.removal import Removed, uninstall
from kubenclave.install.render import DEFAULT_IMAGE
from kubenclave.install.rollout import Installed, NodeOffer, Order, install
from kubenclave.install.status import NodeEpc, PodEpc, Status, status
from kubenclave.install.tolerations import parse_toleration

__all__ = [
    "DEFAULT_IMAGE",
    "MODES",
    "Installed",
    "Mode",
    "NodeEpc",
    "NodeOffer",
    "Options",
    "Order",
    "Plan",
    "PodEpc",
    "Removed",
    "Resource",
    "Status",
    "current",
    "install",
    "parse_toleration",
    "plan",
    "status",
    "uninstall",
]
