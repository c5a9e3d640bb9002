"""The guide's first module on the simulated Azure with a real local Kubernetes: az creates, kubectl sees the SGX node."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from kubenclave.local.places import places

AZ = places(os.environ).cache / "tools" / "azure-cli-2.91.0" / "bin" / "az"
AKS = "Microsoft.ContainerService"


@pytest.fixture
def cloud(shell, tmp_path):
    shell.ok("local", "azure", "down", "--output", "json")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = ("local", "azure", "up", "--port", str(port), "--output", "json")
    found = json.loads(shell.ok(*start))
    yield found, lambda: json.loads(shell.ok(*start))
    shell.ok("local", "azure", "down", "--output", "json")


@pytest.fixture
def az(cloud, tmp_path):
    if not AZ.exists():
        pytest.skip(f"the Azure CLI is not at {AZ}: python3 -m venv there, then pip install azure-cli==2.91.0")
    found, _ = cloud
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AZURE_CONFIG_DIR": str(tmp_path / "azure-cli"),
        "REQUESTS_CA_BUNDLE": found["ca"],
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
        "AZURE_CORE_LOGIN_EXPERIENCE_V2": "off",
    }

    def run(*arguments):
        ended = subprocess.run([str(AZ), *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert ended.returncode == 0, f"az {' '.join(arguments)}: {ended.stderr}"
        return json.loads(ended.stdout) if ended.stdout.strip() else None

    run("cloud", "register", "-n", "Simulated", "--endpoint-resource-manager", found["url"])
    run("cloud", "set", "-n", "Simulated")
    secret = Path(found["client_secret_file"]).read_text(encoding="ascii")
    run("login", "--service-principal", "-u", found["client_id"], "-p", secret, "--tenant", found["tenant"])
    run("provider", "register", "--namespace", AKS, "--wait")
    run("group", "create", "--name", "sconaksg", "--location", "uksouth")
    return run


def simulated(found):
    tls = ssl.create_default_context(cafile=found["ca"])
    with urllib.request.urlopen(f"{found['url']}/simulated", context=tls, timeout=20) as reply:  # noqa: S310 - https on loopback
        return json.loads(reply.read())


def nodes(shell, kubeconfig):
    command = [str(shell.programs / "kubectl"), "--kubeconfig", str(kubeconfig), "get", "nodes", "-o", "json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [item["metadata"]["name"] for item in json.loads(ended.stdout)["items"]]


CREATE = (
    *("aks", "create", "-l", "uksouth", "-g", "sconaksg", "-n", "brandNewCluster", "--generate-ssh-keys", "--node-count", "1"),
    *("--kubernetes-version", "1.35", "--network-plugin", "azure", "--node-vm-size", "Standard_DC2s_v3"),
    *("--aks-custom-headers", "usegen2vm=true", "--enable-addons", "confcom"),
)


def test_az_creates_a_cluster_and_kubectl_shows_its_sgx_node(shell, cloud, az, tmp_path):
    az(*CREATE)
    kubeconfig = tmp_path / "kubeconfig"
    az("aks", "get-credentials", "-g", "sconaksg", "-n", "brandNewCluster", "--file", str(kubeconfig))
    assert nodes(shell, kubeconfig) == ["sgx-1"]

    az(
        *("aks", "nodepool", "add", "-g", "sconaksg", "--cluster-name", "brandNewCluster", "-n", "plain"),
        *("--node-vm-size", "Standard_D2s_v5", "--node-count", "1"),
    )
    az("aks", "get-credentials", "-g", "sconaksg", "-n", "brandNewCluster", "--file", str(kubeconfig), "--overwrite-existing")
    assert nodes(shell, kubeconfig) == ["plain-1", "sgx-1"]

    az("group", "delete", "-y", "-n", "sconaksg")
    assert simulated(cloud[0])["kubernetes"] == {}


def test_a_stand_in_that_is_killed_while_the_cluster_comes_up_goes_on_after_a_restart(shell, cloud, az, tmp_path):
    found, start = cloud
    az(*CREATE, "--no-wait")
    deadline = time.monotonic() + 30
    while not simulated(found)["kubernetes"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(found["process"], signal.SIGKILL)
    again = start()

    assert (again["started"], again["url"]) == (True, found["url"])
    az("aks", "wait", "-g", "sconaksg", "-n", "brandNewCluster", "--created", "--interval", "1", "--timeout", "120")
    kubeconfig = tmp_path / "kubeconfig"
    az("aks", "get-credentials", "-g", "sconaksg", "-n", "brandNewCluster", "--file", str(kubeconfig))
    assert nodes(shell, kubeconfig) == ["sgx-1"]
