"""Module 3, the application's side: an image and its EPC need become a Job that the cluster can place, and is seen to its end.

A documented Python API as well as the CLI's engine. ``deploy`` talks to a cluster through ``kubenclave.kube``; the rest is pure. It
knows nothing of how images are built or nodes offer their EPC: an image reference and a number of bytes are all that comes in.
"""

from __future__ import annotations

from kubenclave.workload.deploy import LOG_LIMIT_BYTES, Outcome, deploy
from kubenclave.workload.detect import Choice, Offer, choose, dialect_for, offers_of
from kubenclave.workload.dialects import NODE_LABEL, TAINT_EFFECT, TAINT_VALUE, Dialect, dialect_of, dialects
from kubenclave.workload.epc import parse_epc
from kubenclave.workload.render import Request, name_of, render

__all__ = [
    "LOG_LIMIT_BYTES",
    "NODE_LABEL",
    "TAINT_EFFECT",
    "TAINT_VALUE",
    "Choice",
    "Dialect",
    "Offer",
    "Outcome",
    "Request",
    "choose",
    "deploy",
    "dialect_for",
    "dialect_of",
    "dialects",
    "name_of",
    "offers_of",
    "parse_epc",
    "render",
]
