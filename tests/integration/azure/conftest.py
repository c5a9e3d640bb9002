"""A simulated Azure on a real socket, without Kubernetes, and the Azure CLI from its own virtual environment."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubenclave.local.azure import Settings
from kubenclave.local.azure.server import serving
from kubenclave.local.places import places

AZ = places(os.environ).cache / "tools" / "azure-cli-2.91.0" / "bin" / "az"
SCHEMA = Path(__file__).resolve().parents[4] / "shared" / "data" / "azure" / "schema_2026-05-01_Microsoft.ContainerService.Aks.json"
COMMAND_SECONDS = 120


@pytest.fixture
def running(tmp_path):
    settings = Settings(operation_seconds=0.5, registration_seconds=0.5, replication_seconds=1)
    with serving(tmp_path / "azure", settings, schema=SCHEMA if SCHEMA.exists() else None) as found:
        yield found


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureCLI:
    """Runs the unmodified az with the settings by which it is pointed at another cloud."""

    url: str
    environment: dict[str, str]

    def run(self, *arguments):
        return subprocess.run(
            [str(AZ), *arguments], env=self.environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )

    def __call__(self, *arguments):
        ended = self.run(*arguments)
        assert ended.returncode == 0, f"az {' '.join(arguments)}: {ended.stderr}"
        return json.loads(ended.stdout) if ended.stdout.strip() else None


@pytest.fixture
def az(running, tmp_path):
    az = pointed(running, tmp_path)
    az("login", "--service-principal", "-u", running.client_id, "-p", running.client_secret, "--tenant", running.tenant)
    return az


def pointed(running, folder):
    if not AZ.exists():
        pytest.skip(f"the Azure CLI is not at {AZ}: python3 -m venv there, then pip install azure-cli==2.91.0")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AZURE_CONFIG_DIR": str(folder / "azure-cli"),
        "REQUESTS_CA_BUNDLE": str(running.ca),
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
        "AZURE_CORE_NO_COLOR": "true",
        "AZURE_CORE_LOGIN_EXPERIENCE_V2": "off",
        "AZURE_CORE_SURVEY_MESSAGE": "false",
    }
    az = AzureCLI(url=running.url, environment=environment)
    az("cloud", "register", "-n", "Simulated", "--endpoint-resource-manager", running.url)
    az("cloud", "set", "-n", "Simulated")
    return az


@pytest.fixture
def az_without_login(running, tmp_path):
    return pointed(running, tmp_path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """Asks as curl would."""

    url: str
    tls: ssl.SSLContext

    def __call__(self, method, path, body=None, headers=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, method=method, data=data, headers=headers or {})  # noqa: S310 - https on loopback
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=20) as reply:  # noqa: S310 - as above
                return reply.status, dict(reply.headers), json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, dict(exc.headers), json.loads(exc.read() or b"null")


@pytest.fixture
def web(running):
    return Web(url=running.url, tls=ssl.create_default_context(cafile=str(running.ca)))
