"""The commands of the how-to pages that need nothing but this machine work as they stand."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "<!-- The next block is run by the tests, line by line. -->"


def test_the_rehearsal_of_the_aks_page_runs_to_the_enclaves_greeting_and_removes_the_cluster(shell):
    block = re.search(re.escape(MARK) + r"\n```sh\n(.*?)```", (ROOT / "docs/how-to/aks.md").read_text(), re.DOTALL)
    assert block is not None
    shell.ok("local", "azure", "down")

    result = subprocess.run(
        ["bash", "-c", "set -eu\n" + block[1]], cwd=ROOT, env=shell.environment, capture_output=True, text=True, timeout=600, check=False
    )

    shell.ok("local", "azure", "down")
    assert result.returncode == 0, result.stderr
    assert "Hello world from the enclave" in result.stdout.splitlines()
    assert "8192 MiB of EPC" in result.stderr
    assert not [
        each for each in ("kubernetes", "state.json") if (Path(shell.environment["XDG_STATE_HOME"]) / "kubenclave/azure" / each).exists()
    ]
