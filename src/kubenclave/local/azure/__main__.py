"""``python -m kubenclave.local.azure``: the process behind ``kubenclave local azure up``. Serves until SIGTERM."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError
from kubenclave.local.azure.process import ENVIRONMENT_FILE, environment, folder_of
from kubenclave.local.azure.server import serving
from kubenclave.local.azure.state import Settings
from kubenclave.local.places import places
from kubenclave.local.state import write_private

if TYPE_CHECKING:
    from typing import Any


def main(arguments: list[str]) -> int:
    """Serve with the options given as JSON; write down how it is reached, under a lock that lives as long as this process."""
    options: dict[str, Any] = json.loads(arguments[0])
    found = places(os.environ)
    folder = folder_of(found)
    settings = Settings(operation_seconds=options["operation_seconds"], kubernetes=options["kubernetes"])
    schema = Path(options["schema"]) if options["schema"] else None
    # Caught, not blocked: the programs of a local Kubernetes are started from here and would inherit a blocked signal.
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    try:
        with serving(folder, settings, port=options["port"], schema=schema, places=found) as running:
            pending = folder / "running.pending"
            record = {"url": running.url, "process": os.getpid(), "kubernetes": options["kubernetes"], "schema": options["schema"]}
            write_private(pending, json.dumps(record))
            variables = environment(running.url, running.ca, running.client_secret)
            lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
            write_private(folder / ENVIRONMENT_FILE, "".join(lines))
            with pending.open("rb") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                pending.replace(folder / "running.json")
                ended.wait()
                (folder / "running.json").unlink(missing_ok=True)
    except KubenclaveError as exc:
        sys.stderr.write(f"{exc.what} {exc.hint}\n")
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
