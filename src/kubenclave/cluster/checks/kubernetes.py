"""Whether Azure offers the Kubernetes version, and whether the SGX add-on still comes with it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.findings import Finding
from kubenclave.cluster.spec import Sgx
from kubenclave.cluster.steps.ownership import DELETING
from kubenclave.cluster.versions import is_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.cluster.facts import Found, Offer, OfferedVersion
    from kubenclave.cluster.spec import ClusterSpec

# azure-aks-docs supported-kubernetes-versions.md (August 2026) names sgx-plugin, sgx-webhook and sgx-attestation among the components of
# 1.33 and leaves them out of the equally long list of 1.34. That is a signal, not a proof.
ADDON_LAST_NAMED = (1, 33)
_ADDON_SOURCE = "azure-aks-docs supported-kubernetes-versions.md, August 2026"


def version_findings(spec: ClusterSpec, offer: Offer, found: Found) -> Iterator[Finding]:
    """Yield what is the matter with the Kubernetes version."""
    wanted = spec.kubernetes_version
    if not offer.versions:
        if not offer.locations or spec.location in offer.locations:
            yield _finding(
                f"Which Kubernetes versions {spec.location} offers is not known.",
                "Azure lists none: the account may not ask, or Microsoft.ContainerService is not registered yet",
                "Run plan again after the registration, or have someone ask who may read the subscription.",
            )
    elif wanted is not None:
        running = found.cluster is not None and is_version(wanted, found.cluster.kubernetes_version)
        yield from _offered(wanted, offer, running=running)
    yield from _addon(spec, offer)
    yield from _surge(spec, found)


def _offered(wanted: str, offer: Offer, *, running: bool) -> Iterator[Finding]:
    minor = ".".join(wanted.split(".")[:2])
    match = next((each for each in offer.versions if each.minor == minor), None)
    listed = ", ".join(each.minor + _remark(each) for each in offer.versions)
    evidence = f"versions of the region: {listed}"
    if match is None:
        fix = "Plan an upgrade: what runs goes on." if running else "Choose one of these, or leave kubernetesVersion out."
        yield _finding(f"Kubernetes {wanted} is not offered.", evidence, fix, blocks=not running)
        return
    if wanted != minor and match.patches and wanted not in match.patches and not running:
        patches = ", ".join(match.patches)
        yield _finding(f"Kubernetes {minor} is offered, {wanted} is not.", f"patches of {minor}: {patches}", f"Write {minor}.", blocks=True)
    if match.long_term_only:
        yield _finding(
            f"Kubernetes {minor} is offered with long-term support only.",
            evidence,
            "Choose a later one: long-term support takes the tier Premium, which kubenclave does not ask for.",
            blocks=not running,
        )
    if match.preview:
        yield _finding(
            f"Kubernetes {minor} is a preview.", evidence, "Choose another for anything that has to last: previews have no support."
        )


def _addon(spec: ClusterSpec, offer: Offer) -> Iterator[Finding]:
    default = next((each.minor for each in offer.versions if each.default), "")
    version = spec.kubernetes_version or default
    if spec.sgx.by is Sgx.ADDON and _numbers(version) > ADDON_LAST_NAMED:
        yield Finding(
            about="sgx.by",
            what=f"The SGX add-on may no longer come with Kubernetes {version}.",
            evidence=f"its components are last named for {'.'.join(map(str, ADDON_LAST_NAMED))} ({_ADDON_SOURCE}); a signal, no proof",
            fix="Take sgx.by: node-agent, which does not depend on it; or check after up, with kubenclave cluster status.",
            blocks=False,
        )


def _surge(spec: ClusterSpec, found: Found) -> Iterator[Finding]:
    """Yield a note on the nodes that an upgrade takes for its time, and that the quotas' demand does not count."""
    wanted, cluster = spec.kubernetes_version, found.cluster
    if wanted is None or cluster is None or cluster.state == DELETING or is_version(wanted, cluster.kubernetes_version):
        return
    yield _finding(
        f"While the upgrade to {wanted} goes on, each pool has at least one node more than it should.",
        "AKS adds surge nodes before it empties old ones: azure-aks-docs upgrade-aks-cluster.md; the quotas told here do not count them",
        "See that quotas and subnet have room for them, or the upgrade stops halfway.",
    )


def _remark(version: OfferedVersion) -> str:
    remarks = [
        word
        for word, holds in (("default", version.default), ("preview", version.preview), ("long-term only", version.long_term_only))
        if holds
    ]
    return f" ({', '.join(remarks)})" if remarks else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isascii() and part.isdecimal())


def _finding(what: str, evidence: str, fix: str, *, blocks: bool = False) -> Finding:
    return Finding(about="kubernetesVersion", what=what, evidence=evidence, fix=fix, blocks=blocks)
