"""The README's commands work as they stand."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = "<!-- The next block is run by the tests, line by line. -->"


@pytest.fixture
def commands():
    block = re.search(re.escape(MARK) + r"\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    return block[1]


def test_the_readmes_commands_run_to_the_enclaves_greeting(commands, shell):
    shell.down("kubenclave")
    script = "set -eu\n" + commands
    result = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=shell.environment, capture_output=True, text=True, timeout=600, check=False
    )
    shell.down("kubenclave")
    assert result.returncode == 0, result.stderr
    assert "Hello world from the enclave" in result.stdout.splitlines()
    assert "simulated" in result.stdout


def test_every_page_that_the_readme_and_the_docs_name_is_there():
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md")]
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_the_readme_names_the_two_commands_that_the_makefile_has():
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{verb}:", makefile, re.MULTILINE) for verb in ("demo", "test"))
