"""Where the demo happens: a local cluster of its own, or a cluster that the user has and is asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kubenclave.errors import NotFound, Refused
from kubenclave.local import cluster
from kubenclave.local.demo import objects
from kubenclave.local.demo.result import Observation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kubenclave import kube
    from kubenclave.image import BuiltImage
    from kubenclave.kube import Node
    from kubenclave.local.cluster import Wanted
    from kubenclave.local.places import Places


_REMOVE_SECONDS = 120.0


class Target(Protocol):
    """A cluster for the demo."""

    @property
    def name(self) -> str:
        """Name it for the report."""

    def open(self, report: Callable[[str], None], saw: Callable[[Observation], None]) -> Path:
        """Make it usable, telling what is seen on the way, and give its kubeconfig."""

    def sgx_node(self, nodes: tuple[Node, ...]) -> str:
        """Choose the node that has, or plays, SGX."""

    def agree(self, to: str) -> None:
        """Ask before something is changed on a cluster that is not the demo's own.

        Raises:
            Refused: The answer is no.
        """

    def deliver(self, image: BuiltImage) -> tuple[Observation, ...]:
        """Bring an image to every node."""

    def close(self, api: kube.Cluster, report: Callable[[str], None]) -> str:
        """Take it down, or leave it without the demo's pods; say which."""

    def abandon(self, report: Callable[[str], None], *, pods_left: bool) -> None:
        """Clean up after a story that broke off; ``pods_left`` tells whether its namespace was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTarget:
    """A local cluster that the demo brings up itself."""

    wanted: Wanted
    places: Places
    keep: bool

    @property
    def name(self) -> str:
        """Name the local cluster."""
        return f"local cluster {self.wanted.name}"

    def open(self, report: Callable[[str], None], saw: Callable[[Observation], None]) -> Path:  # noqa: ARG002 - the nodes tell it all
        """Bring the cluster up."""
        return cluster.up(self.wanted, self.places, report).kubeconfig

    def sgx_node(self, nodes: tuple[Node, ...]) -> str:
        """Choose the first node with simulated SGX."""
        return next(node.name for node in nodes if node.name.startswith("sgx-"))

    def agree(self, to: str) -> None:
        """Need no answer: the cluster is the demo's own."""

    def deliver(self, image: BuiltImage) -> tuple[Observation, ...]:
        """Import the archive into every node's containerd and tell what containerd then lists."""
        imported = cluster.load_image(cluster.find(self.wanted.name, self.places), image.archive)
        return tuple(Observation(what=f"{i.reference} on {i.node}", value=i.digest, seen_in="containerd's image list") for i in imported)

    def close(self, api: kube.Cluster, report: Callable[[str], None]) -> str:  # noqa: ARG002 - the pods go with the cluster
        """Take the cluster down, unless it is to be kept."""
        if self.keep:
            return f"The cluster is up: export KUBECONFIG={self.places.cluster(self.wanted.name) / 'kubeconfig'}"
        cluster.down(self.wanted.name, self.places, report)
        return "The cluster is removed; nothing of it is left."

    def abandon(self, report: Callable[[str], None], *, pods_left: bool) -> None:  # noqa: ARG002 - the pods go with the cluster
        """Take the cluster down, unless it is to be kept for a look."""
        if not self.keep:
            cluster.down(self.wanted.name, self.places, report)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTarget:
    """A cluster that was there before. Nothing is installed on it without asking."""

    kubeconfig: Path
    node: str | None
    ask: Callable[[str], bool]

    @property
    def name(self) -> str:
        """Name the kubeconfig."""
        return f"the cluster of {self.kubeconfig}"

    def open(self, report: Callable[[str], None], saw: Callable[[Observation], None]) -> Path:  # noqa: ARG002 - the nodes tell it all
        """Take it as it is."""
        report(f"Using {self.name}.")
        return self.kubeconfig

    def sgx_node(self, nodes: tuple[Node, ...]) -> str:
        """Choose the node that was named, else the first that is labelled as an SGX node."""
        names = [node.name for node in nodes if (self.node is None and node.labels.get("tee") == "sgx") or node.name == self.node]
        if not names:
            which = f"no node {self.node!r}" if self.node else "no node labelled tee=sgx"
            raise NotFound(f"The cluster has {which}.", "Name the node that has SGX with --node; the demo asks before it changes it.")
        return names[0]

    def agree(self, to: str) -> None:
        """Ask the user."""
        if not self.ask(to):
            raise Refused(f"The demo may not {to}.", "Run it without --kubeconfig on a local cluster of its own.")

    def deliver(self, image: BuiltImage) -> tuple[Observation, ...]:
        """Ask the user to bring the archive to the nodes: a cluster's runtime is not ours to touch."""
        self.agree(f"go on once {image.reference} is on every node (for example: ctr -n k8s.io images import {image.archive})")
        return (Observation(what=image.reference, value=image.digest, seen_in="the user's word"),)

    def close(self, api: kube.Cluster, report: Callable[[str], None]) -> str:
        """Remove the demo's pods and leave the rest."""
        report(f"Removing the namespace {objects.NAMESPACE}.")
        api.delete(objects.namespace(), timeout_seconds=_REMOVE_SECONDS)
        return f"The namespace {objects.NAMESPACE} is removed from the cluster; label, taint and node agent stay."

    def abandon(self, report: Callable[[str], None], *, pods_left: bool) -> None:
        """Leave what is there for a look; the next demo removes it."""
        if pods_left:
            report(f"The namespace {objects.NAMESPACE} is still there: kubectl delete namespace {objects.NAMESPACE}")
