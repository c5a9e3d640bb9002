"""Talk to a cluster's API server: the verbs that this project needs, in its own values and errors."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx2
from lightkube import Client
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.core.resource import NamespacedResource, api_info
from lightkube.core.resource_registry import resource_registry
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources import batch_v1, core_v1
from lightkube.types import CascadeType, PatchType

from kubenclave.errors import KubenclaveError, NotFound, Refused
from kubenclave.kube import config as kubeconfig
from kubenclave.kube.documents import Document, reference
from kubenclave.kube.first_use import LOCK, prepare
from kubenclave.kube.follow import awaited, follow, follow_log
from kubenclave.kube.preparing import preparation
from kubenclave.kube.streams import CONNECT_SECONDS, Streams
from kubenclave.kube.translate import translated
from kubenclave.kube.values import Event, Job, Node, Pod, Taint, event_of, job_of, node_of, pod_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from lightkube.config.kubeconfig import SingleConfig
    from lightkube.core.resource import Resource

    from kubenclave.kube.preparing import Preparation
    from kubenclave.kube.streams import LogLine

FIELD_MANAGER = "kubenclave"

# Admission webhooks may take 30 s each (timeoutSeconds' upper limit in admissionregistration.k8s.io/v1).
_ANSWER_SECONDS = 40
# Objects per page of a list: the API server's own default for its paged reads.
_PAGE = 500
# A taint list is replaced as a whole; another writer in between costs one more try.
_CONFLICT_TRIES = 5
_POLL_SECONDS = 0.2

R = TypeVar("R", bound="Resource")
V = TypeVar("V", Node, Pod)


def connect(kubeconfig_path: Path, context: str | None = None) -> Cluster:
    """Return a connection to the cluster of a kubeconfig file, after its API server has answered once.

    Args:
        kubeconfig_path: The file; it is read, never written.
        context: The context in it; its current one when None.

    Raises:
        NotFound: The file or the context does not exist.
        Refused: The file is damaged, or the credentials are not accepted.
        Unreachable: The API server does not answer.
    """
    with LOCK:
        config = kubeconfig.read(kubeconfig_path, context)
    cluster = Cluster(config)
    try:
        cluster.check()
    except BaseException:
        cluster.close()
        raise
    return cluster


class Cluster:
    """A connection to one cluster; ``namespace`` is the context's own, used wherever none is given."""

    def __init__(self, config: SingleConfig) -> None:
        self.server = config.cluster.server
        self.context = config.context_name
        self.namespace = config.namespace
        self.version = ""
        prepare(core_v1.Node, core_v1.Pod, core_v1.Event, batch_v1.Job)
        trust_env = not kubeconfig.is_private(self.server)
        timeout = httpx2.Timeout(_ANSWER_SECONDS, connect=CONNECT_SECONDS)
        try:
            self._client = Client(config, timeout=timeout, field_manager=FIELD_MANAGER, trust_env=trust_env)
            self._streams = Streams(config, trust_env=trust_env)
        except (ConfigError, OSError, ValueError, TypeError) as exc:
            # Certificates and keys, in files or in the kubeconfig itself: missing, half there, or no such thing.
            raise Refused(f"the certificates or credentials for {self.server} cannot be used: {exc}", "see its kubeconfig") from exc
        # lightkube's overloads tell kinds apart by their class; where the kind is a parameter they cannot.
        self._untyped: Any = self._client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._streams.close()

    def check(self) -> None:
        """Ask the API server for its version.

        Raises:
            Unreachable: It does not answer.
            Refused: It does not accept the credentials.
        """
        with self._doing("give its version"):
            self.version = self._streams.version()

    def apply(self, documents: Iterable[Document]) -> tuple[str, ...]:
        """Bring objects to what the documents say, by server-side apply, and return their names.

        Raises:
            Refused: The API server rejects an object, or another manager owns one of its fields.
            NotFound: A namespace does not exist.
        """
        applied = []
        for document in documents:
            version, kind, name, namespace = reference(document)
            with self._doing(f"apply {kind} {name}"):
                model = _model(version, kind)
                where = self._where(model, namespace)
                self._untyped.patch(model, name, dict(document), patch_type=PatchType.APPLY, **where)
            applied.append(f"{kind} {name}")
        return tuple(applied)

    def delete(self, document: Document, *, timeout_seconds: float) -> bool:
        """Delete an object with everything it owns and wait until it is gone; return False if it was not there.

        Raises:
            KubenclaveError: It is still there after the time, held by a finalizer.
        """
        version, kind, name, namespace = reference(document)
        uid = self._uid(document)
        if uid is None:
            return False
        with suppress(NotFound), self._doing(f"delete {kind} {name}"):
            model = _model(version, kind)
            self._untyped.delete(model, name, cascade=CascadeType.FOREGROUND, **self._where(model, namespace))
        deadline = time.monotonic() + timeout_seconds
        while self._uid(document) == uid:
            if time.monotonic() > deadline:
                raise KubenclaveError(
                    f"{kind} {name} is still being deleted after {timeout_seconds:.0f} s", "see its finalizers and its pods"
                )
            time.sleep(_POLL_SECONDS)
        return True

    def exists(self, document: Document) -> bool:
        """Tell whether the object that a document names is there.

        Raises:
            Refused: These credentials may not read it.
            Unreachable: The API server does not answer.
        """
        return self._uid(document) is not None

    def objects(self, api_version: str, kind: str, labels: Mapping[str, str] | None = None) -> tuple[Document, ...]:
        """Return all objects of a kind, in every namespace, that carry the labels; none where the cluster does not know the kind."""
        with suppress(NotFound), self._doing(f"list {kind}"):
            model: Any = resource_registry.load(api_version, kind)
            prepare(model)
            where = {"namespace": "*"} if issubclass(model, NamespacedResource) else {}
            found = self._untyped.list(model, labels=dict(labels or {}), chunk_size=_PAGE, **where)
            return tuple({**item.to_dict(), "apiVersion": api_version, "kind": kind} for item in found)
        return ()

    def nodes(self) -> tuple[Node, ...]:
        """Return all nodes."""
        with self._doing("list nodes"):
            return tuple(node_of(node) for node in self._client.list(core_v1.Node, chunk_size=_PAGE))

    def node(self, name: str) -> Node:
        """Return one node.

        Raises:
            NotFound: There is no such node.
        """
        with self._doing(f"get node {name}"):
            return node_of(self._client.get(core_v1.Node, name))

    def label_and_taint(self, name: str, label: tuple[str, str], taint: Taint, *, instead_of: Collection[str] = ()) -> tuple[str, ...]:
        """Give a node a label and a taint where it lacks them, in the place of taints of other keys; return what was changed, in words.

        Args:
            name: The node's.
            label: Key and value.
            taint: One of the same key and effect is left as it is, whatever its value.
            instead_of: Keys of taints that this one replaces, where they have its effect.

        Raises:
            NotFound: There is no such node.
            Refused: The label is there with another value, or the user may not change nodes.
        """
        for _ in range(_CONFLICT_TRIES):
            node = self.node(name)
            change = preparation(node, label, taint, instead_of)
            if not change.words or self._patch_node(node, change):
                return change.words
        raise KubenclaveError(f"node {name} is being changed by others all the time", "run the same command again")

    def withdraw(self, node: str, resource: str, annotation: str) -> None:
        """Take an extended resource out of a node's status, and the annotation that marks it; what is not there is passed over.

        Raises:
            NotFound: There is no such node.
            Refused: The user may not change the status of nodes.
        """
        gone = {"metadata": {"annotations": {annotation: None}}, "status": {"capacity": {resource: None}, "allocatable": {resource: None}}}
        with self._doing(f"take {resource} from node {node}"):
            self._client.patch(core_v1.NodeStatus, node, gone, patch_type=PatchType.MERGE)

    def _patch_node(self, node: Node, change: Preparation) -> bool:
        """Patch a node if it is still as it was read; say whether it was."""
        with self._doing(f"change node {node.name}"):
            metadata: dict[str, object] = {"resourceVersion": node.resource_version, "labels": dict(change.labels)}
            patch: dict[str, object] = {"metadata": metadata}
            if change.taints is not None:
                patch["spec"] = {"taints": [{"key": each.key, "value": each.value, "effect": each.effect} for each in change.taints]}
            try:
                self._client.patch(core_v1.Node, node.name, patch, patch_type=PatchType.MERGE)
            except ApiError as exc:
                if exc.status.reason == "Conflict":
                    return False
                raise
        return True

    def job(self, name: str, namespace: str | None = None) -> Job | None:
        """Return a Job, or None if there is none of that name."""
        with suppress(NotFound), self._doing(f"get Job {name}"):
            return job_of(self._client.get(batch_v1.Job, name, namespace=namespace or self.namespace))
        return None

    def pod(self, name: str, namespace: str | None = None) -> Pod:
        """Return one pod.

        Raises:
            NotFound: There is no such pod.
        """
        with self._doing(f"get pod {name}"):
            return pod_of(self._client.get(core_v1.Pod, name, namespace=namespace or self.namespace))

    def pods(self, namespace: str | None = None, labels: Mapping[str, str] | None = None) -> tuple[Pod, ...]:
        """Return a namespace's pods that carry the labels; those of all namespaces for ``*``."""
        with self._doing("list pods"):
            found = self._client.list(core_v1.Pod, namespace=namespace or self.namespace, labels=dict(labels or {}), chunk_size=_PAGE)
            return tuple(pod_of(pod) for pod in found)

    def events(self, about: str, namespace: str | None = None) -> tuple[Event, ...]:
        """Return the events about the object of a name, oldest first."""
        with self._doing(f"list events about {about}"):
            fields: dict[str, Any] = {"involvedObject.name": about}
            found = self._client.list(core_v1.Event, namespace=namespace or self.namespace, fields=fields, chunk_size=_PAGE)
            return tuple(sorted((event_of(event) for event in found), key=lambda event: str(event.last_seen)))

    def log_tail(self, pod: Pod, container: str, *, lines: int, previous: bool = False) -> tuple[str, ...]:
        """Return the last lines of a container's log, of its run before this one if ``previous``; none where there is no log.

        Raises:
            Unreachable: The API server does not answer.
        """
        with suppress(NotFound, Refused), self._doing(f"read the log of pod {pod.name}"):
            return self._streams.log_tail(pod.namespace, pod.name, container, lines=lines, previous=previous)
        return ()

    def ask_pod(self, pod: Pod, port: int, path: str, *, timeout_seconds: float = CONNECT_SECONDS) -> str:
        """Return what a pod's web server answers, asked by the API server (its ``proxy`` of pods). Several threads may ask at a time.

        Raises:
            NotFound: The pod or the path is not there.
            Refused: These credentials may not ask pods.
            Unreachable: The pod does not answer in time, or with more than a few megabytes.
        """
        with self._doing(f"ask pod {pod.name} for {path}"):
            return self._streams.ask_pod(pod.namespace, pod.name, port, path, timeout_seconds)

    def follow_pods(
        self, *, namespace: str | None = None, labels: Mapping[str, str] | None = None, timeout_seconds: float
    ) -> Iterator[tuple[Pod, ...]]:
        """Yield all matching pods at once, and again after each change, until the time is over.

        Raises:
            Unreachable: The API server was away for longer than a restart takes.
        """
        yield from self._follow(core_v1.Pod, pod_of, namespace or self.namespace, labels or {}, timeout_seconds)

    def follow_nodes(self, *, timeout_seconds: float) -> Iterator[tuple[Node, ...]]:
        """Yield all nodes at once, and again after each change, until the time is over.

        Raises:
            Unreachable: The API server was away for longer than a restart takes.
        """
        yield from self._follow(core_v1.Node, node_of, None, {}, timeout_seconds)

    def wait_for_pods(
        self,
        wished: Callable[[tuple[Pod, ...]], bool],
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout_seconds: float,
        on_change: Callable[[tuple[Pod, ...]], None] | None = None,
    ) -> tuple[Pod, ...]:
        """Return the matching pods as soon as they are as wished; ``on_change`` receives them whenever they have changed.

        Raises:
            KubenclaveError: The time is over.
            Unreachable: The API server was away for longer than a restart takes.
        """
        states = self.follow_pods(namespace=namespace, labels=labels, timeout_seconds=timeout_seconds)
        return awaited(states, wished, on_change, f"pods are not as they should be after {timeout_seconds:.0f} s")

    def wait_for_nodes(
        self,
        wished: Callable[[tuple[Node, ...]], bool],
        *,
        timeout_seconds: float,
        on_change: Callable[[tuple[Node, ...]], None] | None = None,
    ) -> tuple[Node, ...]:
        """Return the nodes as soon as they are as wished; ``on_change`` receives them whenever they have changed.

        Raises:
            KubenclaveError: The time is over.
            Unreachable: The API server was away for longer than a restart takes.
        """
        states = self.follow_nodes(timeout_seconds=timeout_seconds)
        return awaited(states, wished, on_change, f"nodes are not as they should be after {timeout_seconds:.0f} s")

    def follow_log(
        self,
        pod: Pod,
        container: str,
        on_line: Callable[[str], None],
        *,
        limit_bytes: int,
        timeout_seconds: float,
    ) -> bool:
        """Pass on a started container's log, line by line, until its pod has finished; return whether all of it was passed on.

        A broken connection is taken up again where it broke. Lines come with their line feeds; a line longer than 64 KiB comes in pieces.

        Args:
            pod: The pod, in which the container has started.
            container: The container's name.
            on_line: Receives each line.
            limit_bytes: Where to stop.
            timeout_seconds: When to stop.

        Raises:
            NotFound: The pod has been deleted.
            Unreachable: The API server was away for longer than a restart takes.
        """

        def read(since: str, silence_seconds: float) -> Generator[LogLine]:
            with self._doing(f"read the log of pod {pod.name}"):
                yield from self._streams.log(pod.namespace, pod.name, container, since=since, silence_seconds=silence_seconds)

        return follow_log(lambda: self.pod(pod.name, pod.namespace).finished, read, on_line, limit_bytes, timeout_seconds)

    def _follow(
        self,
        kind: type[R],
        value_of: Callable[[R], V],
        namespace: str | None,
        labels: Mapping[str, str],
        timeout_seconds: float,
    ) -> Iterator[tuple[V, ...]]:
        plural = api_info(kind).plural
        where = {} if namespace is None else {"namespace": namespace}
        selector = ",".join(f"{key}={value}" for key, value in labels.items())

        def read() -> tuple[dict[str, V], str]:
            with self._doing(f"list {plural}"):
                listed = self._untyped.list(kind, labels=dict(labels), chunk_size=_PAGE, **where)
                return {_uid_of(item): value_of(item) for item in listed}, listed.resourceVersion

        def changes(version: str, seconds: int) -> Generator[tuple[str, str, V]]:
            with self._doing(f"watch {plural}"), closing(self._streams.watch(kind, namespace, selector, version, seconds)) as changed:
                for change, item in changed:
                    yield change, _uid_of(item), value_of(item)

        yield from follow(read, changes, timeout_seconds)

    def _uid(self, document: Document) -> str | None:
        version, kind, name, namespace = reference(document)
        with suppress(NotFound), self._doing(f"get {kind} {name}"):
            model = _model(version, kind)
            return _uid_of(self._untyped.get(model, name, **self._where(model, namespace)))
        return None

    def _where(self, model: type[Resource], namespace: str | None) -> dict[str, str]:
        return {"namespace": namespace or self.namespace} if issubclass(model, NamespacedResource) else {}

    def _doing(self, doing: str) -> AbstractContextManager[None]:
        return translated(self.server, doing)


def _model(version: str, kind: str) -> Any:  # noqa: ANN401 - lightkube's class for a kind that is known only now
    model = resource_registry.load(version, kind)
    prepare(model)
    return model


def _uid_of(item: Resource) -> str:
    metadata = getattr(item, "metadata", None)
    return metadata.uid or "" if isinstance(metadata, ObjectMeta) else ""
