"""What a form leaves to its reader, in sentences that stand at its top: one line each, fit for a comment of any language. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.spec import Identity, Sgx

if TYPE_CHECKING:
    from kubenclave.cluster.spec import ClusterSpec


def title(spec: ClusterSpec) -> str:
    """Return what the file is."""
    return f"AKS cluster {spec.name} in resource group {spec.group}, written by kubenclave cluster export."


def not_carried(spec: ClusterSpec) -> tuple[str, ...]:
    """Return what the spec asks for that templates have no words for."""
    features = [f"Register the feature {feature} first: it belongs to the subscription, not to a cluster." for feature in spec.features]
    headers = [
        f"Not carried: the request header {header}. Only kubenclave cluster up and the az scripts send it." for header in spec.headers
    ]
    return (*features, *headers)


def afterwards(spec: ClusterSpec) -> tuple[str, ...]:
    """Return what is to be done once the cluster is there."""
    return ("Afterwards, with its kubeconfig: kubenclave node install.",) if spec.sgx.by is Sgx.NODE_AGENT else ()


def principal_first(spec: ClusterSpec) -> tuple[str, ...]:
    """Return what a service principal needs before a template that does not make the resource group."""
    if spec.identity is not Identity.SERVICE_PRINCIPAL:
        return ()
    return (f"Make the service principal first and give it the role Contributor on the resource group {spec.group}.",)
