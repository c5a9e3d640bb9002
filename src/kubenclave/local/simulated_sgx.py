"""A simulated SGX host: what Linux shows of EPC, for a machine that has none.

Linux shows EPC as ``x86/sgx_total_bytes`` in each NUMA node's folder (Documentation/ABI/testing/sysfs-devices-system-node).
The tree made here is laid over that folder in a node's own view, so a reader works unchanged on a real node.
"""

from __future__ import annotations

from pathlib import Path

_HOST_TREE = Path("/sys/devices/system/node")


def write_node_tree(target: Path, epc_bytes: tuple[int, ...], *, cpus: int, host_tree: Path = _HOST_TREE) -> None:
    """Write one folder per simulated NUMA node, with its share of the CPUs and its EPC size in bytes."""
    count = len(epc_bytes)
    for index, size in enumerate(epc_bytes):
        folder = target / f"node{index}"
        (folder / "x86").mkdir(parents=True, exist_ok=True)
        (folder / "x86/sgx_total_bytes").write_text(f"{size}\n", encoding="ascii")
        own_cpus = [cpu for cpu in range(cpus) if cpu % count == index]
        (folder / "cpulist").write_text(",".join(map(str, own_cpus)) + "\n", encoding="ascii")
        for cpu in own_cpus:
            link = folder / f"cpu{cpu}"
            link.unlink(missing_ok=True)
            link.symlink_to(f"../../cpu/cpu{cpu}")
        (folder / "distance").write_text(" ".join("10" if other == index else "20" for other in range(count)) + "\n", encoding="ascii")
        (folder / "meminfo").write_text(_meminfo(host_tree, index, count), encoding="ascii")
        (folder / "hugepages").mkdir(exist_ok=True)
    for name in ("online", "possible", "has_cpu", "has_memory", "has_normal_memory"):
        (target / name).write_text(f"0-{count - 1}\n" if count > 1 else "0\n", encoding="ascii")


def _meminfo(host_tree: Path, index: int, count: int) -> str:
    """Split the machine's memory evenly, so that the nodes' sum stays true."""
    lines = []
    for line in (host_tree / "node0/meminfo").read_text(encoding="ascii").splitlines():
        words = line.split()
        value = f"{int(words[3]) // count}"
        unit = " kB" if words[-1] == "kB" else ""
        lines.append(f"Node {index} {words[2]} {value.rjust(15)}{unit}")
    return "\n".join(lines) + "\n"
