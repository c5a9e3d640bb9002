"""The real local cluster for tests: built once, one shared cluster for the session, a state folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubenclave.local import programs
from kubenclave.local.places import places

COMMAND_SECONDS = 300


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/e2e" in str(item.path):
            item.add_marker(pytest.mark.e2e)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="the local cluster needs root: namespaces, mounts, control groups, device nodes"))


def heed_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Runs the project's commands as a user does: as processes, in an environment of their own."""

    environment: dict[str, str]
    programs: Path

    def kubenclave(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=timeout, check=False)

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).parent / "kubenclave"), *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that can be interrupted, also where these tests run in the background and so ignore SIGINT themselves."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heed_interrupts,  # noqa: PLW1509 - one thread runs here
        )

    def ok(self, *arguments: str) -> str:
        result = self.kubenclave(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def up(self, name: str, *arguments: str) -> Cluster:
        shown = json.loads(self.ok("local", "up", "--name", name, "--output", "json", *arguments))
        return Cluster(name=name, kubeconfig=Path(shown["kubeconfig"]), shell=self, started=shown["started"])

    def down(self, name: str) -> bool:
        return bool(json.loads(self.ok("local", "down", "--name", name, "--output", "json"))["removed"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    name: str
    kubeconfig: Path
    shell: Shell
    started: bool

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        command = [str(self.shell.programs / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)

    def get(self, *arguments: str) -> dict:
        result = self.kubectl("get", *arguments, "-o", "json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def apply(self, document: dict) -> None:
        result = self.kubectl("apply", "-f", "-", stdin=json.dumps(document))
        assert result.returncode == 0, result.stderr

    def wait(self, what: str, condition: str, *arguments: str, seconds: int = 60) -> None:
        result = self.kubectl("wait", what, f"--for={condition}", f"--timeout={seconds}s", *arguments, timeout=seconds + 30)
        assert result.returncode == 0, result.stderr + self.kubectl("describe", what, *arguments).stdout

    def processes(self) -> dict[str, int]:
        rows = json.loads(self.shell.ok("local", "status", "--name", self.name, "--output", "json"))
        return {row["name"]: row["process"] for row in rows}


@pytest.fixture(scope="session")
def built_programs():
    return programs.build(places(os.environ).cache, lambda text: sys.stderr.write(f"{text}\n"))


@pytest.fixture(scope="session")
def shell(built_programs):
    # The same folder in every run, so that a run that was killed leaves nothing that the next one cannot remove.
    state = Path(tempfile.gettempdir()) / "kubenclave-e2e"
    state.mkdir(mode=0o700, exist_ok=True)
    return Shell(environment={**os.environ, "XDG_STATE_HOME": str(state), "COLUMNS": "200"}, programs=built_programs)


@pytest.fixture(scope="session")
def cluster(shell):
    """One cluster for all tests that do not take clusters down."""
    shell.down("e2e")
    running = shell.up("e2e")
    yield running
    shell.down("e2e")
