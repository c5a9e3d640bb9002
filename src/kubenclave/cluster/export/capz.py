"""The cluster as objects of Cluster API for Azure 1.26, for a management cluster. Pure.

Source of names: the provider's types ``AzureManagedControlPlane`` and ``AzureManagedMachinePool``, version v1beta1.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

import yaml

from kubenclave.cluster.body import ADDON, addon_profile, cluster_body, dns_prefix, network_profile, pool_properties
from kubenclave.cluster.export import notes
from kubenclave.cluster.spec import Identity, Sgx
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.cluster.body import Body, Json
    from kubenclave.cluster.spec import ClusterSpec, Pool

CLUSTER_API = "cluster.x-k8s.io/v1beta1"
INFRASTRUCTURE = "infrastructure.cluster.x-k8s.io/v1beta1"
# The identity by which the provider reaches Azure is the management cluster's own; this is the name in the provider's book.
CONTROLLER_IDENTITY = "cluster-identity"
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123 label; the name is a label's value, too
_BREAKS = "\x85\u2028\u2029"  # YAML 1.1, 5.4: line breaks besides those of every text file
_FULL_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")


def cluster_api_documents(spec: ClusterSpec) -> str:
    """Return the objects as YAML documents, to be applied in a namespace of the management cluster.

    Raises:
        UsageError: The spec says what the provider has no words for.
    """
    version = _version(spec)
    _require_words(spec)
    documents = [
        _object(CLUSTER_API, "Cluster", spec.name, _cluster(spec)),
        _object(INFRASTRUCTURE, "AzureManagedCluster", spec.name, {}),
        _object(INFRASTRUCTURE, "AzureManagedControlPlane", spec.name, _control_plane(spec, version)),
    ]
    for pool in spec.pools:
        name = f"{spec.name}-{pool.name}"
        documents.append(_object(CLUSTER_API, "MachinePool", name, _machine_pool(spec, pool, name, version)))
        documents.append(_object(INFRASTRUCTURE, "AzureManagedMachinePool", name, _managed_pool(spec, pool)))
    said = (
        notes.title(spec),
        f"The management cluster must hold an AzureClusterIdentity named {CONTROLLER_IDENTITY}.",
        *notes.not_carried(spec),
        *notes.afterwards(spec),
    )
    return "".join(f"# {note}\n" for note in said) + yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, explicit_start=True
    )


class _Dumper(yaml.SafeDumper):
    """Write line breaks that are none to a reader of lines by their escapes: quoted once, a reader of YAML folds them to a space."""

    def represent_text(self, data: str) -> yaml.ScalarNode:
        style = '"' if any(char in data for char in _BREAKS) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _version(spec: ClusterSpec) -> str:
    version = spec.kubernetes_version
    if version is None or _FULL_VERSION.fullmatch(version) is None:
        raise UsageError(
            f"kubernetesVersion: Cluster API needs a version with its patch, not {version or 'none'}",
            "name one, such as 1.35.3: `az aks get-versions` lists them",
        )
    return f"v{version}"


def _require_words(spec: ClusterSpec) -> None:
    if _OBJECT_NAME.fullmatch(spec.name) is None:
        raise UsageError(
            f"name: {spec.name} cannot be the name of a Kubernetes object, as Cluster API makes it one",
            "use small letters, digits and hyphens, at most 63, or another form",
        )
    if spec.identity is Identity.SERVICE_PRINCIPAL:
        raise UsageError(
            "identity: Cluster API for Azure gives a cluster a managed identity, no service principal",
            "say identity: managed, or take another form",
        )


def _object(api_version: str, kind: str, name: str, spec: Body) -> Body:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _reference(kind: str, name: str) -> Body:
    return {"apiVersion": INFRASTRUCTURE, "kind": kind, "name": name}


def _cluster(spec: ClusterSpec) -> Body:
    return {
        "controlPlaneRef": _reference("AzureManagedControlPlane", spec.name),
        "infrastructureRef": _reference("AzureManagedCluster", spec.name),
    }


def _control_plane(spec: ClusterSpec, version: str) -> Body:
    found: Body = {
        "location": spec.location,
        "resourceGroupName": spec.group,
        "version": version,
        "identityRef": _reference("AzureClusterIdentity", CONTROLLER_IDENTITY),
        "identity": {"type": "SystemAssigned"},
        "dnsPrefix": dns_prefix(spec),
        "sku": {"tier": "Free"},
        **network_profile(spec.network),
        "additionalTags": cluster_body(spec)["tags"],
    }
    if spec.subscription is not None:
        found["subscriptionID"] = spec.subscription
    if spec.sgx.by is Sgx.ADDON:
        found["addonProfiles"] = [{"name": ADDON, **addon_profile(quote_helper=spec.sgx.quote_helper)}]
    if spec.ssh_key is not None:
        found["sshPublicKey"] = base64.b64encode(spec.ssh_key.encode()).decode()
    return found


def _machine_pool(spec: ClusterSpec, pool: Pool, name: str, version: str) -> Body:
    machine: Body = {
        "bootstrap": {"dataSecretName": ""},
        "clusterName": spec.name,
        "infrastructureRef": _reference("AzureManagedMachinePool", name),
        "version": version,
    }
    return {"clusterName": spec.name, "replicas": pool.count, "template": {"spec": machine}}


def _managed_pool(spec: ClusterSpec, pool: Pool) -> Body:
    found: Body = {
        "name": pool.name,
        "mode": pool.mode.value,
        "sku": pool.vm_size,
        "osType": "Linux",
        "additionalTags": pool_properties(spec, pool)["tags"],
    }
    if pool.autoscale is not None:
        found["scaling"] = {"minSize": pool.autoscale.min, "maxSize": pool.autoscale.max}
    if pool.labels:
        found["nodeLabels"] = {**pool.labels}
    if pool.taints:
        taints: list[Json] = [{"key": taint.key, "value": taint.value, "effect": taint.effect.value} for taint in pool.taints]
        found["taints"] = taints
    if pool.spot:
        found |= {"scaleSetPriority": "Spot", "spotMaxPrice": "-1"}
    if pool.max_pods is not None:
        found["maxPods"] = pool.max_pods
    return found
