"""The pods that the demo needs beside its Job, as documents. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kubenclave.kube import Document
    from kubenclave.workload import Dialect

NAMESPACE = "kubenclave-demo"
LABEL = ("app.kubernetes.io/part-of", "kubenclave-demo")
DEVICE = "/dev/sgx_enclave"

_RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}


def namespace() -> Document:
    """Give the namespace that holds all the demo's pods, so that removing it removes them."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": dict([LABEL])}}


def plain_pod(name: str, image: str, node_label: tuple[str, str] | None) -> Document:
    """Give an ordinary pod without toleration; with a label, one that insists on a node of that label."""
    return _pod(name, image, {"nodeSelector": dict([node_label])} if node_label else {}, {"securityContext": _RESTRICTED})


def enclave_pod(name: str, image: str, arguments: Sequence[str], dialect: Dialect, units: int) -> Document:
    """Give a pod that asks for EPC, as the guide's does."""
    limits = {dialect.resource: str(units), **{companion: str(count) for companion, count in dialect.companions.items()}}
    toleration = {"key": dialect.taint_key, "operator": "Exists", "effect": "NoSchedule"}
    container = {"args": list(arguments), "resources": {"limits": limits}, "securityContext": _RESTRICTED}
    return _pod(name, image, {"tolerations": [toleration]}, container)


def direct_pod(name: str, image: str, node: str | None) -> Document:
    """Give a pod of the guide's direct way: privileged, with the device by hostPath. Not recommended; shown for what it does."""
    volume = {"name": "dev-sgx", "hostPath": {"path": DEVICE, "type": "CharDevice"}}
    container = {"securityContext": {"privileged": True}, "volumeMounts": [{"name": "dev-sgx", "mountPath": DEVICE}]}
    # A pod that names its node is not seen by the scheduler, so neither taint nor EPC is looked at.
    where = {"nodeName": node} if node else {}
    return _pod(name, image, {**where, "volumes": [volume]}, container)


def _pod(name: str, image: str, spec: Mapping[str, object], container: Mapping[str, object]) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": dict([LABEL])},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            **spec,
            "containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent", **container}],
        },
    }
