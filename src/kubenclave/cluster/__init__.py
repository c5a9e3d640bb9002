"""Module 1: clusters that can run enclaves. So far: which Azure VM sizes there are and which one fits.

Must not import its sister rooms (image, workload, node, install) or the command line. Nothing here calls Azure yet.
"""

from __future__ import annotations

from kubenclave.cluster.recommend import Fit, recommend
from kubenclave.cluster.sizes import Standing, VmSize, standing, vm_sizes

__all__ = ["Fit", "Standing", "VmSize", "recommend", "standing", "vm_sizes"]
