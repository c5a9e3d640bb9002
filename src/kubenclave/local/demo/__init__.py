"""The demo: the 2020 guide's three modules in order, on a real cluster, every line of it observed there.

``story`` tells it, ``target`` is where it happens, ``objects`` are the pods it needs, ``page`` shows the result to people who would
rather look.
"""

from __future__ import annotations

from kubenclave.local.demo.page import page
from kubenclave.local.demo.result import DemoResult, Observation, Size, Step
from kubenclave.local.demo.story import tell
from kubenclave.local.demo.target import ForeignTarget, LocalTarget, Target

__all__ = ["DemoResult", "ForeignTarget", "LocalTarget", "Observation", "Size", "Step", "Target", "page", "tell"]
