"""The simulated Azure as a process of its own: started, asked after, stopped. One per user's state folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, NotFound
from kubenclave.local import cluster
from kubenclave.local.azure.state import decode
from kubenclave.local.azure.values import CLIENT, SUBSCRIPTION, TENANT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kubenclave.local.places import Places

ENVIRONMENT_FILE = "environment"
_START_SECONDS = 20.0
# A step that builds a local Kubernetes is let end before the process does.
_STOP_SECONDS = 150.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reachable:
    """Say how the running stand-in is reached. The secret itself is in the files.

    Attributes:
        environment_file: Shell lines that point this project's commands and the SDKs at it: ``. FILE``.
        local_clusters: Names of the local clusters that stand behind managed ones.
    """

    url: str
    ca: Path
    client_secret_file: Path
    environment_file: Path
    process: int
    started: bool
    kubernetes: bool
    schema: Path | None
    local_clusters: tuple[str, ...] = ()
    client_id: str = CLIENT
    tenant: str = TENANT
    subscription: str = SUBSCRIPTION


def folder_of(places: Places) -> Path:
    """Name the folder in which the stand-in keeps its state, certificate and log."""
    return places.state / "azure"


def environment(url: str, ca: Path, secret: str) -> dict[str, str]:
    """Give the variables that point ``kubenclave cluster`` and azure-identity at a stand-in."""
    return {
        "KUBENCLAVE_ARM_ENDPOINT": url,
        "KUBENCLAVE_CA_FILE": str(ca),
        "AZURE_TENANT_ID": TENANT,
        "AZURE_CLIENT_ID": CLIENT,
        "AZURE_CLIENT_SECRET": secret,
        "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
    }


def up(places: Places, *, port: int, operation_seconds: float, kubernetes: bool, schema: Path | None) -> Reachable:
    """Start the stand-in in the background, or leave the one that runs as it is.

    Raises:
        KubenclaveError: It did not start; its last words are told.
    """
    folder = folder_of(places)
    found = find(places)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = {
        "port": port,
        "operation_seconds": operation_seconds,
        "kubernetes": kubernetes,
        "schema": str(schema.resolve()) if schema is not None else None,
    }
    log = folder / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "kubenclave.local.azure", json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            start_new_session=True,
            env={**os.environ, "XDG_STATE_HOME": str(places.state.parent), "XDG_CACHE_HOME": str(places.cache.parent)},
        )
    deadline = time.monotonic() + _START_SECONDS
    while (found := find(places, started=True)) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise KubenclaveError("The simulated Azure did not start: " + (words[-1] if words else "no word in its log."), f"See {log}.")
        time.sleep(0.05)
    return found


def find(places: Places, *, started: bool = False) -> Reachable | None:
    """Find the stand-in that runs; None where there is none. It holds a lock on its file as long as it lives."""
    folder = folder_of(places)
    path = folder / "running.json"
    try:
        with path.open("rb") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raw = json.loads(handle.read())
            else:
                return None
    except (OSError, ValueError):
        return None
    return Reachable(
        url=raw["url"],
        ca=folder / "ca.pem",
        client_secret_file=folder / "client-secret",
        environment_file=folder / ENVIRONMENT_FILE,
        process=raw["process"],
        started=started,
        kubernetes=raw["kubernetes"],
        schema=raw["schema"],
        local_clusters=tuple(_backing_clusters(folder)),
    )


def down(places: Places, report: Callable[[str], None]) -> bool:
    """Stop the stand-in, remove the local clusters behind its managed ones and its folder; tell whether there was anything.

    Raises:
        KubenclaveError: It does not end.
        HostUnfit: Not root, and local clusters stand behind it.
    """
    folder = folder_of(places)
    found = find(places)
    if found is not None:
        os.kill(found.process, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while find(places) is not None:
            if time.monotonic() > deadline:
                raise KubenclaveError(f"The simulated Azure, process {found.process}, does not end.", f"See {folder / 'log'}.")
            time.sleep(0.05)
    if not folder.exists():
        return False
    for name in _backing_clusters(folder):
        cluster.down(name, places, report)
    shutil.rmtree(folder)
    return True


def require(places: Places) -> Reachable:
    """Find the stand-in that runs.

    Raises:
        NotFound: There is none.
    """
    found = find(places)
    if found is None:
        raise NotFound("The simulated Azure is not up.", "Start it with: kubenclave local azure up")
    return found


def _backing_clusters(folder: Path) -> list[str]:
    try:
        return [*decode((folder / "state.json").read_bytes()).kubernetes]
    except (OSError, KubenclaveError):
        return []
