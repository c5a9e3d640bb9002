"""The installed agent, as its DaemonSet and its own metrics show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError
from kubenclave.install.metrics import agent_view
from kubenclave.install.objects import METRICS_PORT, POD_LABELS
from kubenclave.install.options import Options, installed_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.install.metrics import AgentView
    from kubenclave.kube import Cluster, Document, Pod


def arguments_of(daemon_set: Document) -> tuple[str, ...]:
    """Return the arguments of the agent in a DaemonSet, whatever its state."""
    words = _container(daemon_set).get("args")
    return tuple(str(word) for word in words) if isinstance(words, list) else ()


def image_of(daemon_set: Document) -> str:
    """Return the agent's image in a DaemonSet."""
    return str(_container(daemon_set).get("image", ""))


def _container(daemon_set: Document) -> Mapping[str, object]:
    containers = at(daemon_set, "spec", "template", "spec", "containers")
    first = containers[0] if isinstance(containers, list) and containers else None
    return first if isinstance(first, Mapping) else {}


def offering(arguments: Sequence[str]) -> tuple[str, str]:
    """Return mode and dialect in an agent's arguments."""
    values = dict(word.removeprefix("--").split("=", 1) for word in arguments if word.startswith("--") and "=" in word)
    return values.get("mode", "device-plugin"), values.get("dialect", "")


def daemon_set(cluster: Cluster) -> Document | None:
    """Return the installed agent's DaemonSet, whoever installed it."""
    return next(iter(cluster.objects("apps/v1", "DaemonSet", POD_LABELS)), None)


def current(cluster: Cluster) -> Options:
    """Return the options of what is installed; all empty where nothing is.

    Raises:
        UsageError: The agent was given a reserve that is none.
    """
    installed = daemon_set(cluster)
    return installed_options(arguments_of(installed), image_of(installed)) if installed else Options()


def asked(cluster: Cluster, pod: Pod) -> AgentView | None:
    """Return what an agent says of its node; None where it does not answer."""
    try:
        return agent_view(cluster.ask_pod(pod, METRICS_PORT, "metrics"))
    except KubenclaveError:
        return None


def at(value: object, *names: str) -> object:
    """Return what lies in a document under these names; None where there is nothing."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
