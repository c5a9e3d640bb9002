"""The demo's cluster by way of the simulated Azure, made and removed by the room that makes one on the real Azure."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kubenclave.cluster.azure import applying
from kubenclave.cluster.azure.credentials import kubeconfig
from kubenclave.cluster.azure.session import CloudSettings, open_session
from kubenclave.cluster.checks.preflight import preflight
from kubenclave.cluster.secrets import Files
from kubenclave.cluster.spec import ClusterSpec, Mode, Pool
from kubenclave.cluster.steps.carrying import Watcher
from kubenclave.cluster.steps.inventory import inventory
from kubenclave.cluster.steps.plan import plan
from kubenclave.errors import Refused
from kubenclave.local import cluster
from kubenclave.local.azure import process
from kubenclave.local.azure.backing import local_name
from kubenclave.local.azure.context import cluster_key
from kubenclave.local.demo.result import Observation
from kubenclave.local.state import write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from kubenclave import kube
    from kubenclave.cluster.azure.session import Session
    from kubenclave.image import BuiltImage
    from kubenclave.kube import Node
    from kubenclave.local.azure.process import Reachable
    from kubenclave.local.places import Places

# The guide's cluster in today's sizes: an ordinary node for the system's pods, and one with SGX.
SPEC = ClusterSpec(
    name="brandNewCluster",
    group="sconaksg",
    location="uksouth",
    pools=(
        Pool(name="system", vm_size="Standard_D4s_v5", mode=Mode.SYSTEM),
        Pool(name="sgx", vm_size="Standard_DC2s_v3"),
    ),
)
_OPERATION_SECONDS = 2.0


def rehearsal_places(places: Places) -> Places:
    """Name the folders of a rehearsal: its own state, so that a simulated Azure of the user's is left alone."""
    return replace(places, state=places.state / "rehearsal" / "kubenclave")


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureTarget:
    """A cluster that is planned, checked, made and removed by way of a simulated Azure of the demo's own."""

    places: Places
    keep: bool

    @property
    def name(self) -> str:
        """Name the cluster as Azure would."""
        return f"AKS cluster {SPEC.name} in {SPEC.group} on a simulated Azure"

    def open(self, report: Callable[[str], None], saw: Callable[[Observation], None]) -> Path:
        """Check, plan and make the cluster, and fetch its kubeconfig."""
        report("starting a simulated Azure")
        reached = process.up(self.places, port=0, operation_seconds=_OPERATION_SECONDS, kubernetes=True, schema=None)
        saw(Observation(what="Azure", value=f"simulated, at {reached.url}", seen_in="GET /metadata/endpoints"))
        with self._session(reached) as session:
            self._make(self._job(session, report), saw)
            raw = kubeconfig(session, SPEC.group, SPEC.name, admin=True)
        path = self.places.state / "kubeconfig"
        write_private(path, raw.decode("utf-8"))
        saw(Observation(what="kubeconfig", value=f"{len(raw)} bytes", seen_in="listClusterAdminCredential"))
        return path

    def sgx_node(self, nodes: tuple[Node, ...]) -> str:
        """Choose the first node with simulated SGX."""
        return next(node.name for node in nodes if node.name.startswith("sgx-"))

    def agree(self, to: str) -> None:
        """Need no answer: the cluster is the demo's own."""

    def deliver(self, image: BuiltImage) -> tuple[Observation, ...]:
        """Import the archive into the containerd of every node behind the managed cluster: the rehearsal has no registry."""
        backing = cluster.find(local_name(cluster_key(SPEC.group, SPEC.name)), self.places)
        imported = cluster.load_image(backing, image.archive)
        return tuple(Observation(what=f"{i.reference} on {i.node}", value=i.digest, seen_in="containerd's image list") for i in imported)

    def close(self, api: kube.Cluster, report: Callable[[str], None]) -> str:  # noqa: ARG002 - the pods go with the cluster
        """Remove what was made at the simulated Azure, see that nothing is left there, and stop it; unless it is to be kept."""
        if self.keep:
            return f"The cluster is up: export KUBECONFIG={self.places.state / 'kubeconfig'}"
        with self._session(process.require(self.places)) as session:
            job = self._job(session, report)
            left = inventory(applying.down(job, applying.look(job)), SPEC.owner)
        if left:
            raise Refused(f"After its removal the simulated Azure still holds {left[0].kind} {left[0].name}.", "This is a defect.")
        self._stop(report)
        return "What was made at the simulated Azure is removed, and so is the simulated Azure; nothing of it is left."

    def abandon(self, report: Callable[[str], None], *, pods_left: bool) -> None:  # noqa: ARG002 - the pods go with the cluster
        """Stop the simulated Azure with all it made, unless it is to be kept for a look."""
        if not self.keep:
            self._stop(report)

    def _make(self, job: applying.Job, saw: Callable[[Observation], None]) -> None:
        offer, found = applying.look_around(job)
        for finding in preflight(SPEC, offer, found, today=datetime.now(tz=UTC).date()):
            if finding.blocks:
                raise Refused(f"{finding.about}: {finding.what}", finding.fix)
            saw(Observation(what=f"to know: {finding.about}", value=finding.what, seen_in=finding.evidence))
        for step in plan(SPEC, found):
            saw(Observation(what="planned", value=step.key, seen_in=step.reason))
        for item in inventory(applying.up(job, found), SPEC.owner):
            value = ", ".join(part for part in (item.state, item.detail) if part)
            saw(Observation(what=f"{item.kind} {item.name}", value=value, seen_in="GET from the simulated ARM"))

    def _job(self, session: Session, report: Callable[[str], None]) -> applying.Job:
        store = Files(self.places.state / "secrets")
        return applying.Job(session=session, spec=SPEC, store=store, watcher=Watcher(news=report, done=report))

    def _stop(self, report: Callable[[str], None]) -> None:
        process.down(self.places, report)
        (self.places.state / "kubeconfig").unlink(missing_ok=True)

    @contextmanager
    def _session(self, reached: Reachable) -> Iterator[Session]:
        secret = reached.client_secret_file.read_text(encoding="ascii")
        settings = CloudSettings(arm_endpoint=reached.url, ca_file=reached.ca, subscription=reached.subscription)
        with _variables(process.environment(reached.url, reached.ca, secret)), open_session(settings) as session:
            yield session


@contextmanager
def _variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process for a while: azure-identity reads who signs in from there and nowhere else."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
