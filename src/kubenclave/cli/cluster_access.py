"""``kubenclave cluster status`` and ``credentials``: what there is of an AKS cluster, and how kubectl reaches it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kubenclave.cli.cluster_cloud import CloudOptions, opened, secret_store
from kubenclave.cli.cluster_target import ClusterName, named
from kubenclave.cli.progress import say, step
from kubenclave.cli.show import OutputOption, show, write
from kubenclave.errors import KubenclaveError, NotFound

if TYPE_CHECKING:
    from kubenclave.cluster.azure.session import Session
    from kubenclave.cluster.check import Checked
    from kubenclave.cluster.facts import Found
    from kubenclave.cluster.spec import ClusterSpec
    from kubenclave.cluster.steps.inventory import Item

_HERE, _NO_NAME = CloudOptions(), ClusterName()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Status:
    cluster: str
    there: tuple[Item, ...]
    secret: str
    check: Checked | None
    unchecked: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Credentials:
    cluster: str
    kubeconfig: Path
    context: str
    remarks: tuple[str, ...]


def status(
    target: ClusterName = _NO_NAME,
    *,
    cloud: CloudOptions = _HERE,
    output: OutputOption = "table",
) -> None:
    """Show what there is of the cluster at Azure, and whether its SGX nodes offer EPC to pods."""
    from kubenclave.cluster.azure.reading import read_found  # noqa: PLC0415 - brings the SDKs
    from kubenclave.cluster.secrets import holds  # noqa: PLC0415
    from kubenclave.cluster.steps.inventory import inventory  # noqa: PLC0415

    spec, store = named(target), secret_store()
    with opened(cloud, spec.subscription) as session:
        with step(f"asking Azure about {spec.owner}"):
            found = read_found(session, spec, secret_kept=lambda app_id: holds(store, app_id, datetime.now(tz=UTC)))
        there = inventory(found, spec.owner)
        _require(spec, found, there)
        checked, why_not = checked_cluster(session, spec, found)
    result = _Status(cluster=spec.owner, there=there, secret=_secret(found), check=checked, unchecked=why_not)
    if output == "json":
        show(result, output=output)
        return
    show(result.there, output=output)
    if result.secret:
        say(result.secret)
    tell_check(checked, why_not)


def credentials(
    target: ClusterName = _NO_NAME,
    *,
    admin: Annotated[bool, Parameter(help="Those of an administrator of the cluster.")] = False,
    kubeconfig: Annotated[
        Path | None,
        Parameter(
            name="--kubeconfig",
            allow_leading_hyphen=True,
            help="Which kubeconfig to merge into; - writes to stdout. ~/.kube/config without this.",
        ),
    ] = None,
    overwrite_existing: Annotated[bool, Parameter(help="Replace entries of the same name.")] = False,
    cloud: CloudOptions = _HERE,
    output: OutputOption = "table",
) -> None:
    """Merge the cluster's kubeconfig into your own and make it the current context, as az aks get-credentials does."""
    from kubenclave.cluster import kubeconfig as files  # noqa: PLC0415 - --help does not need it
    from kubenclave.cluster.azure.credentials import kubeconfig as asked  # noqa: PLC0415 - brings the SDKs

    spec = named(target)
    with opened(cloud, spec.subscription) as session, step(f"asking for the credentials of {spec.owner}"):
        handed = files.handed_out(asked(session, spec.group, spec.name, admin=admin))
    if kubeconfig == Path("-"):
        merged = files.merge(None, handed, overwrite=False)
        for remark in merged.remarks:
            say(remark)
        write(merged.text)
        return
    path = (kubeconfig or Path("~/.kube/config")).expanduser()
    existing, remarks = files.read(path)
    merged = files.merge(existing, handed, overwrite=overwrite_existing)
    files.write(path, merged.text)
    show(_Credentials(cluster=spec.owner, kubeconfig=path, context=merged.context, remarks=(*remarks, *merged.remarks)), output=output)


def checked_cluster(session: Session, spec: ClusterSpec, found: Found) -> tuple[Checked | None, str]:
    """Look at the cluster itself, with its own credentials; return why that was not possible where it was not."""
    from kubenclave import kube, workload  # noqa: PLC0415 - bring the API client
    from kubenclave.cluster import kubeconfig  # noqa: PLC0415
    from kubenclave.cluster.azure.credentials import kubeconfig as asked  # noqa: PLC0415
    from kubenclave.cluster.check import check  # noqa: PLC0415
    from kubenclave.cluster.steps.ownership import STOPPED, SUCCEEDED  # noqa: PLC0415

    if found.cluster is None or found.cluster.state != SUCCEEDED:
        return None, "there is no finished cluster to look at"
    if found.cluster.power == STOPPED:
        return None, f"the cluster is stopped; az aks start --resource-group {spec.group} --name {spec.name}"
    try:
        handed = kubeconfig.merge(None, kubeconfig.handed_out(asked(session, spec.group, spec.name, admin=False)), overwrite=False)
        if handed.runs:
            return None, f"signing in to the cluster would run {handed.runs[0]!r}; see kubenclave cluster credentials"
        with tempfile.TemporaryDirectory(prefix="kubenclave-") as folder:
            path = Path(folder) / "kubeconfig"
            kubeconfig.write(path, handed.text)
            with step(f"looking at the nodes of {spec.owner}"), kube.connect(path) as cluster:
                nodes, pods = cluster.nodes(), cluster.pods("*")
    except KubenclaveError as exc:
        return None, f"the cluster itself cannot be looked at: {exc.what}"
    resources = {dialect.resource: dialect.unit_bytes for dialect in workload.dialects()}
    return check(nodes, pods, resources=resources, label=workload.NODE_LABEL, context=handed.context), ""


def tell_check(checked: Checked | None, why_not: str) -> None:
    """Say on stderr what the check saw."""
    if checked is None:
        say(f"not checked: {why_not}")
        return
    for plugin in checked.plugins:
        say(f"EPC is offered by {plugin}")
    for node in checked.nodes:
        offered = f"{node.epc_bytes >> 20} MiB of EPC as {node.offered_as}" if node.epc_bytes else "no EPC"
        say(f"SGX node {node.name} ({node.vm_size or 'size not told'}) offers {offered}")
    for finding in checked.findings:
        say(f"{finding.about}: {finding.what} {finding.fix}")


def _secret(found: Found) -> str:
    if found.principal is None:
        return f"Whether it has a service principal is not known: {found.directory_failure}" if found.directory_failure else ""
    from kubenclave.cluster.secrets import is_expired  # noqa: PLC0415 - --help does not need it

    store = secret_store()
    kept = store.find(found.principal.app_id)
    if kept is None:
        return f"The secret of service principal {found.principal.app_id} is not kept on this machine."
    expires = "expired" if is_expired(kept, datetime.now(tz=UTC)) else "expires"
    return f"The secret of service principal {found.principal.app_id} is kept in {store.where}, and {expires} on {kept.expires[:10]}."


def _require(spec: ClusterSpec, found: Found, there: tuple[Item, ...]) -> None:
    """Require that there is something to tell of.

    Raises:
        NotFound: There is neither the cluster nor anything else that bears its mark.
    """
    if found.cluster is not None or any(item.ours for item in there):
        return
    directory = f" Of the directory that is not known: {found.directory_failure}" if found.directory_failure else ""
    raise NotFound(
        f"There is no cluster {spec.name} in the group {spec.group}, and nothing that was made for one.{directory}",
        "Look at its name, group and subscription; kubenclave cluster up makes it.",
    )
