"""The one door to the Kubernetes API: everything else sees a cluster through the small values and verbs of this package.

It reads kubeconfig files and never writes one. Only this package imports lightkube.
"""

from __future__ import annotations

from kubenclave.kube.cluster import Cluster, connect
from kubenclave.kube.documents import Document, documents_of, name_of
from kubenclave.kube.quantity import LARGEST_QUANTITY, parse_quantity
from kubenclave.kube.values import Container, Event, Job, Node, Pod, Taint

__all__ = [
    "LARGEST_QUANTITY",
    "Cluster",
    "Container",
    "Document",
    "Event",
    "Job",
    "Node",
    "Pod",
    "Taint",
    "connect",
    "documents_of",
    "name_of",
    "parse_quantity",
]
