"""A simulated Azure on one machine: Entra tokens, ARM and Graph as far as clusters with SGX nodes need them.

It answers clients that nobody here wrote (the Azure CLI, the Azure SDKs) and says "simulated" wherever a person looks.
``StandIn`` decides every answer from a state, a request and the time; ``server`` speaks HTTPS on loopback; ``kubernetes`` brings up
the local Kubernetes that a managed cluster stands for. It proves nothing about the real Azure: docs/explanation/azure-stand-in.md
lists what it does differently from recorded traffic.
"""

from __future__ import annotations

from kubenclave.local.azure.stand_in import StandIn
from kubenclave.local.azure.state import Settings, State
from kubenclave.local.azure.values import Reply, Request

__all__ = ["Reply", "Request", "Settings", "StandIn", "State"]
