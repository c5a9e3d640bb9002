"""The installed agent, as its DaemonSet and its own metrics show it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import KubenclaveError, Refused
from kubenclave.install.metrics import agent_view
from kubenclave.install.objects import METRICS_PORT, POD_LABELS
from kubenclave.install.options import Options, installed_options
from kubenclave.install.tolerations import tolerations_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.install.metrics import AgentView
    from kubenclave.install.objects import Resource
    from kubenclave.install.tolerations import Toleration
    from kubenclave.kube import Cluster, Document, Pod


# A healthy agent answers within some 50 ms; one that holds 262,144 units takes a second.
ANSWER_SECONDS = 3.0
ASKED_AT_A_TIME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of asking an agent; ``silent`` where it should have answered and did not."""

    view: AgentView | None = None
    silent: bool = False


def arguments_of(daemon_set: Document) -> tuple[str, ...]:
    """Return the arguments of the agent in a DaemonSet, whatever its state."""
    words = _container(daemon_set).get("args")
    return tuple(str(word) for word in words) if isinstance(words, list) else ()


def image_of(daemon_set: Document) -> str:
    """Return the agent's image in a DaemonSet."""
    return str(_container(daemon_set).get("image", ""))


def tolerations_of(daemon_set: Document) -> tuple[Toleration, ...]:
    """Return what the agent in a DaemonSet tolerates."""
    return tolerations_in(at(daemon_set, "spec", "template", "spec", "tolerations"))


def further_tolerations(daemon_set: Document, resources: Sequence[Resource]) -> tuple[Toleration, ...]:
    """Return what the agent in a DaemonSet tolerates by its installation's options.

    In every dialect the taint's key is the resource's name, and every agent tolerates them all.
    """
    dialects = {resource.name for resource in resources}
    further = (toleration for toleration in tolerations_of(daemon_set) if toleration.key not in dialects)
    return tuple(toleration for toleration in further if toleration.key and toleration.effect)


def options_of(daemon_set: Document, resources: Sequence[Resource]) -> Options:
    """Return the options of which a DaemonSet was made.

    Raises:
        UsageError: The agent was given a reserve that is none.
    """
    return installed_options(arguments_of(daemon_set), image_of(daemon_set), further_tolerations(daemon_set, resources))


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


def current(cluster: Cluster, resources: Sequence[Resource]) -> Options:
    """Return the options of what is installed; all empty where nothing is.

    Raises:
        UsageError: The agent was given a reserve that is none.
    """
    installed = daemon_set(cluster)
    return options_of(installed, resources) if installed else Options()


def _answer(cluster: Cluster, pod: Pod) -> Answer:
    """Ask an agent for its metrics."""
    try:
        return Answer(view=agent_view(cluster.ask_pod(pod, METRICS_PORT, "metrics", timeout_seconds=ANSWER_SECONDS)))
    except Refused:
        return Answer()  # whoever may not ask pods learns nothing of their agents
    except KubenclaveError:
        return Answer(silent=True)


def answers(cluster: Cluster, pods: Sequence[Pod]) -> dict[str, Answer]:
    """Ask agents, many at a time, and return their answers by the pods' names.

    However many agents hang, this returns after ``ANSWER_SECONDS``; nothing is said of those whose turn had not come by then.
    """
    executor = ThreadPoolExecutor(max_workers=ASKED_AT_A_TIME)
    try:
        asking = {pod.name: executor.submit(_answer, cluster, pod) for pod in pods}
        done, _ = wait(asking.values(), timeout=ANSWER_SECONDS)
        return {name: future.result() if future in done else Answer(silent=not future.cancel()) for name, future in asking.items()}
    finally:
        # Each that still waits ends by its own limit of the same length.
        executor.shutdown(wait=False, cancel_futures=True)


def at(value: object, *names: str) -> object:
    """Return what lies in a document under these names; None where there is nothing."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
