"""Which cluster a command works on: found the same way by every command, and always said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kubenclave.cli.progress import say
from kubenclave.errors import NotFound, UsageError
from kubenclave.local.places import places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubenclave.kube import Cluster

KubeconfigOption = Annotated[
    Path | None,
    Parameter(
        name="--kubeconfig", help="The cluster's kubeconfig. Without it: $KUBECONFIG, the local cluster if there is one, ~/.kube/config."
    ),
]
ContextOption = Annotated[str | None, Parameter(name="--context", help="The context in the kubeconfig; its current one without this.")]

# The cluster that kubenclave local up starts without --name.
_LOCAL_CLUSTER = "kubenclave"


def connect(kubeconfig: Path | None, context: str | None) -> Cluster:
    """Connect to the cluster that is meant, and say on stderr which one that is.

    Raises:
        NotFound: No kubeconfig, or not the context.
        Unreachable: The cluster does not answer.
        Refused: The kubeconfig is damaged or its credentials are not accepted.
    """
    from kubenclave import kube  # noqa: PLC0415 - brings the API client, which --help does not need

    path = kubeconfig_path(kubeconfig, os.environ, Path.home())
    cluster = kube.connect(path, context)
    say(f"cluster: {cluster.server} ({cluster.version}), context {cluster.context} of {path}")
    return cluster


def kubeconfig_path(given: Path | None, environment: Mapping[str, str], home: Path) -> Path:
    """Return the kubeconfig to use: the one given, else $KUBECONFIG, else the local cluster's, else ~/.kube/config.

    Raises:
        NotFound: None of them is there.
        UsageError: $KUBECONFIG names several files.
    """
    if given is not None:
        return given.expanduser()
    named = [name for name in environment.get("KUBECONFIG", "").split(os.pathsep) if name]
    if len(named) > 1:
        raise UsageError(f"KUBECONFIG names {len(named)} files, and merging them is left to kubectl", "name one file with --kubeconfig")
    if named:
        return Path(named[0]).expanduser()
    local = places({**environment, "HOME": str(home)}).cluster(_LOCAL_CLUSTER) / "kubeconfig"
    candidates = (local, home / ".kube" / "config")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise NotFound(
        f"no cluster is named, and neither {candidates[0]} nor {candidates[1]} is there",
        "start a cluster with kubenclave local up, or name one with --kubeconfig",
    )
