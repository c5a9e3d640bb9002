"""The state folder of local clusters: one folder per cluster, one lock on all of them."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from kubenclave.local.spec import ClusterSpec, NodeSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kubenclave.local.places import Places

_SPEC = "cluster.json"


@contextmanager
def lock(places: Places, report: Callable[[str], None]) -> Iterator[None]:
    """Let one run at a time change local clusters. The lock is on the folder itself; the kernel frees it when its holder dies."""
    while True:
        places.clusters.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(places.clusters, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report("Waiting for another run that works on local clusters.")
                fcntl.flock(handle, fcntl.LOCK_EX)
            # The holder before may have removed the folder; then this lock is on nothing.
            if places.clusters.exists() and os.fstat(handle).st_ino == places.clusters.stat().st_ino:
                yield
                return
        finally:
            os.close(handle)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; it is there whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
        handle.write(text)
    partial.replace(path)


def write_spec(folder: Path, spec: ClusterSpec) -> None:
    """Keep a cluster's description in its folder."""
    write_private(folder / _SPEC, json.dumps(asdict(spec), indent=1))


def read_spec(folder: Path) -> ClusterSpec | None:
    """Read a cluster's description; None where there is none that can be read."""
    try:
        raw = json.loads((folder / _SPEC).read_text(encoding="utf-8"))
        nodes = tuple(NodeSpec(**{**node, "epc_bytes": tuple(node["epc_bytes"])}) for node in raw["nodes"])
        return ClusterSpec(name=raw["name"], block=raw["block"], nodes=nodes)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def other_specs(places: Places) -> list[ClusterSpec]:
    """Read the descriptions of all clusters, whole or not."""
    return [spec for path in places.clusters.glob(f"*/{_SPEC}") if (spec := read_spec(path.parent)) is not None]
