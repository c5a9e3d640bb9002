from __future__ import annotations

import pytest

from kubenclave.errors import HostUnfit
from kubenclave.local.cgroups import check, hierarchies

V1 = """\
30 20 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
33 30 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
35 20 0:31 / /mnt/elsewhere rw,relatime - cgroup cgroup rw,pids
36 30 0:32 /a/container /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
"""


def test_v1_hierarchies_are_read_with_their_controllers():
    found = {str(h.mount): h.controllers for h in hierarchies(V1)}
    assert found == {
        "/sys/fs/cgroup/cpu,cpuacct": ("cpu", "cpuacct"),
        "/sys/fs/cgroup/cpuset": ("cpuset",),
        "/sys/fs/cgroup/memory": ("memory",),
        "/sys/fs/cgroup/systemd": (),
    }


def test_a_machine_with_all_controllers_passes():
    check(hierarchies(V1))


@pytest.mark.parametrize("controller", ["cpuset", "memory"])
def test_a_missing_controller_is_named(controller):
    without = "\n".join(line for line in V1.splitlines() if not line.endswith(f",{controller}"))
    with pytest.raises(HostUnfit) as caught:
        check(hierarchies(without))
    assert controller in caught.value.what
    assert caught.value.hint
