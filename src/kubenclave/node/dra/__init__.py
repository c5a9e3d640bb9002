"""Offer EPC to resource claims (dynamic resource allocation, Kubernetes 1.36 or newer): exact bytes, by NUMA node.

Decides (pure): ``slices``, ``claims``. Talks: ``publisher`` (ResourceSlices), ``driver`` and ``health`` (the kubelet's calls),
``registration`` (the kubelet's folders), ``checkpoint`` and ``cdi`` (files). ``way`` wires them.
"""

from __future__ import annotations

from kubenclave.node.dra.way import ClaimsWay

__all__ = ["ClaimsWay"]
