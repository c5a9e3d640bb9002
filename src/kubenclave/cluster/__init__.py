"""Module 1: clusters that can run enclaves: described in a file, checked, planned, made, changed and removed on Azure, or exported.

``file`` reads what is wanted (a ``ClusterSpec``), ``azure`` asks what there is and what is offered, ``checks`` tells what stands in the
way, ``steps`` makes a plan of the difference, ``azure`` carries it out, ``export`` says the same to other tools. Only ``azure`` talks to
Azure, and only by its official SDKs.

Must not import its sister rooms (image, workload, node, install) or the command line.
"""

from __future__ import annotations

from kubenclave.cluster.recommend import Fit, recommend
from kubenclave.cluster.sizes import Standing, Tee, VmSize, known_size, standing, vm_sizes
from kubenclave.cluster.spec import ClusterSpec

__all__ = ["ClusterSpec", "Fit", "Standing", "Tee", "VmSize", "known_size", "recommend", "standing", "vm_sizes"]
