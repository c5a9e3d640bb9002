"""The exported bash script, run by bash with the unmodified Azure CLI: what it makes is what the spec says."""

from __future__ import annotations

import os
import subprocess

import msgspec
import pytest

from kubenclave.cluster.body import cluster_body
from kubenclave.cluster.export import Form, export
from kubenclave.cluster.spec import ClusterSpec
from kubenclave.local.azure.values import SUBSCRIPTION
from kubenclave.local.places import places

pytestmark = pytest.mark.integration
TOOLS = places(os.environ).cache / "tools" / "azure-cli-2.91.0" / "bin"
PATH = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/sconaksg/providers/Microsoft.ContainerService/managedClusters/brandNewCluster"
SCRIPT_SECONDS = 300
SPEC = {
    "name": "brandNewCluster",
    "group": "sconaksg",
    "location": "uksouth",
    "kubernetesVersion": "1.35.3",
    "identity": "service-principal",
    "sgx": {"by": "addon", "quoteHelper": True},
    "features": ["Microsoft.ContainerService/Gen2VMPreview"],
    "headers": {"usegen2vm": "true", "a'b`c$": "x ${y} 'q' \"r\""},
    "sshKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHN1cHBvc2VkIGtleSBvZiAzMiBieXRlcyBsb25nISEh me 'x' $(id) `id` \"q\" x=@/etc/hostname",
    "tags": {"team": 'it\'s $HOME ${x} %{y} "q" `id` $(id) \\ é', "at": "@/etc/hostname", "[x] y": "", "empty": " "},
    "pools": [
        {"name": "system", "vmSize": "Standard_D2s_v5", "mode": "System", "count": 1, "labels": {"example.com/a": "b", "c": ""}},
        {
            "name": "sgx",
            "vmSize": "Standard_DC1s_v3",
            "count": 1,
            "autoscale": {"min": 0, "max": 3},
            "taints": [{"key": "sgx.intel.com/epc", "value": "true"}, {"key": "b", "value": "1", "effect": "NoExecute"}],
            "spot": True,
            "maxPods": 40,
        },
    ],
}


def test_the_exported_script_makes_the_cluster_that_the_spec_says_and_may_be_run_again(az, web, tmp_path):
    spec = msgspec.convert(SPEC, ClusterSpec)
    script = tmp_path / "make.sh"
    script.write_text(export(spec, Form.BASH), encoding="utf-8")
    first = ran(script, az)
    # Without Kubernetes behind it the stand-in hands out no kubeconfig: the last command of the script is refused, and only that.
    assert "SimulatedClusterWithoutKubernetes" in first.stderr, first.stderr
    assert az("aks", "show", "-g", spec.group, "-n", spec.name, "--query", "name") == spec.name
    body = web_get(az)
    principal = body["properties"].pop("servicePrincipalProfile")["clientId"]
    # AKS's own taint of a spot pool comes to those that the script asked for.
    body["properties"]["agentPoolProfiles"][1]["nodeTaints"].remove("kubernetes.azure.com/scalesetpriority=spot:NoSchedule")
    assert holds(body, cluster_body(spec)) == []
    assert az("ad", "sp", "show", "--id", principal, "--query", "displayName") == "kubenclave sconaksg/brandnewcluster"
    assert az("role", "assignment", "list", "-g", spec.group, "--query", "[].roleDefinitionName") == ["Contributor"]
    assert az("group", "show", "-n", spec.group, "--query", "tags") == {"kubenclave-cluster": "sconaksg/brandnewcluster"}

    before = len(web("GET", "/simulated/requests")[2])
    assert "SimulatedClusterWithoutKubernetes" in ran(script, az).stderr
    again = web("GET", "/simulated/requests")[2][before:]
    assert [row for row in again if row["method"] in {"PUT", "DELETE", "PATCH"}] == []
    assert not [row for row in again if "/applications" in row["path"]]


def ran(script, az):
    environment = az.environment | {"PATH": f"{TOOLS}:{az.environment['PATH']}", "POLL_SECONDS": "1"}
    ended = subprocess.run(
        ["bash", str(script)], env=environment, capture_output=True, text=True, timeout=SCRIPT_SECONDS, check=False, cwd=script.parent
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    return ended


def web_get(az):
    return az("rest", "--method", "GET", "--uri", f"{az.url}{PATH}?api-version=2026-05-01", "--resource", az.url)


def holds(found, wanted, place=""):
    """Return where what was found differs from what was wanted; it may hold more."""
    if isinstance(wanted, dict):
        missing = [f"{place}.{key} is missing" for key in wanted if key not in found]
        return missing + [line for key in wanted if key in found for line in holds(found[key], wanted[key], f"{place}.{key}")]
    if place.endswith("agentPoolProfiles"):
        by_name = {pool["name"]: pool for pool in found}
        assert set(by_name) == {pool["name"] for pool in wanted}
        return [line for pool in wanted for line in holds(by_name[pool["name"]], pool, f"{place}[{pool['name']}]")]
    return [] if found == wanted else [f"{place}: {found!r}, not {wanted!r}"]
