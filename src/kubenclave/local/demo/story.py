"""The demo's story: the guide's modules in order. Each step does one thing and tells what it then saw of it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from kubenclave import kube, workload
from kubenclave.errors import KubenclaveError
from kubenclave.image import (
    BuiltImage,
    ImageSpec,
    build_image,
    build_node_agent_image,
    parse_reference,
    read_enclave_input,
)
from kubenclave.local import programs
from kubenclave.local.checkout import project_file
from kubenclave.local.configuration import PAUSE_IMAGE
from kubenclave.local.demo import objects
from kubenclave.local.demo.example import build_example
from kubenclave.local.demo.result import DemoResult, Observation, Size, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kubenclave.kube import Document, Node, Pod
    from kubenclave.local.demo.target import Target

HELLO_IMAGE = "kubenclave.local/hello-enclave:1"
AGENT_IMAGE = "kubenclave/node:local"
GREETING = "Hello world from the enclave"

_SECONDS = 120.0
_LOG_BYTES = 64 << 10
_FIRST_HOLDER_SECONDS = 12  # long enough that the fifth pod is seen waiting while this one still holds its EPC
_HOLDER_SECONDS = 900
_PODS_THAT_FIT = 4


class Watcher(Protocol):
    """Whoever watches the demo: told of steps as they begin, and of facts as they are seen."""

    def step(self, module: int, title: str) -> None:
        """Hear that a step begins."""

    def news(self, text: str) -> None:
        """Hear what is being done."""

    def saw(self, observation: Observation) -> None:
        """Hear of a fact."""


def tell(target: Target, folder: Path, cache: Path, watcher: Watcher) -> DemoResult:
    """Run the demo and give what it saw. ``folder`` receives what is built; ``cache`` holds the Kubernetes programs.

    Raises:
        KubenclaveError: A step does not show what it should; the message names the step.
    """
    story = _Story(target, folder, cache, watcher)
    try:
        return story.run()
    except BaseException:
        target.abandon(watcher.news, pods_left=story.has_namespace)
        raise


class _Story:
    def __init__(self, target: Target, folder: Path, cache: Path, watcher: Watcher) -> None:
        self._target = target
        self._folder = folder
        self._cache = cache
        self._watcher = watcher
        self._steps: list[Step] = []
        self._seen: list[Observation] = []
        self._sizes: list[Size] = []
        self.has_namespace = False

    def run(self) -> DemoResult:
        began = time.monotonic()
        with self._step(1, "A Kubernetes cluster"):
            self._api = kube.connect(self._target.open(self._watcher.news, self._note))
            self._nodes()
        with self._step(2, "An enclave program"):
            mrenclave = self._build_program()
        with self._step(2, "Its image"):
            hello = self._build_images()
        with self._step(3, "The SGX node, labelled and tainted"):
            self._prepare()
        with self._step(3, "The node agent offers EPC"):
            self._offer()
        with self._step(3, "The enclave program runs as a Job"):
            self._job(hello, mrenclave)
        with self._step(3, "An ordinary pod is kept off the SGX node"):
            self._kept_off()
        with self._step(3, "EPC is scheduled"):
            self._schedule(hello)
        with self._step(3, "The direct way, which is not recommended"):
            self._direct(hello)
        return self._finish(mrenclave, began)

    # --- module 1 ------------------------------------------------------------------------------------------------------------------

    def _nodes(self) -> None:
        nodes = self._api.nodes()
        self._saw("Kubernetes", self._api.version, "GET /version")
        for node in nodes:
            self._saw(f"node {node.name}", "Ready" if node.ready else "not ready", "GET nodes")
        self._sgx = self._target.sgx_node(nodes)

    # --- module 2 ------------------------------------------------------------------------------------------------------------------

    def _build_program(self) -> str:
        self._watcher.news("compiling, packing and signing examples/hello-enclave")
        built = build_example(self._folder / "hello-enclave")
        enclave = read_enclave_input(built.enclave_file)
        self._hello_host, self._hello_enclave = built.host, enclave
        mrenclave = enclave.facts.identity.mrenclave.hex()
        self._saw("MRENCLAVE", mrenclave, "measured from the pages of hello.sgxs")
        self._saw("EPC need", f"{enclave.facts.epc_bytes} bytes", "counted from the pages of hello.sgxs")
        return mrenclave

    def _build_images(self) -> str:
        news = self._watcher.news
        spec = ImageSpec(reference=parse_reference(HELLO_IMAGE), host=self._hello_host, enclaves=(self._hello_enclave,))
        hello = build_image(spec, self._folder / "hello-enclave.tar", news)
        pause = ImageSpec(reference=parse_reference(PAUSE_IMAGE), host=programs.build(self._cache, news) / programs.PAUSE)
        plain = build_image(pause, self._folder / "pause.tar", news)
        for what, image in (("hello-enclave", hello), ("plain pod", plain)):
            self._deliver(what, image)
        self._saw("size", f"{hello.compressed_bytes} bytes compressed, {hello.uncompressed_bytes} unpacked", "the image's layers")
        return hello.reference

    def _deliver(self, what: str, image: BuiltImage) -> None:
        self._sizes.append(Size(what=what, compressed_bytes=image.compressed_bytes, uncompressed_bytes=image.uncompressed_bytes))
        self._watcher.news(f"bringing {image.reference} to the nodes")
        for observation in self._target.deliver(image):
            self._note(observation)

    # --- module 3 ------------------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        dialect = workload.dialect_for(self._api.node(self._sgx))
        self._target.agree(f"label node {self._sgx} tee=sgx and taint it {dialect.taint_key}=true:NoSchedule")
        taint = kube.Taint(key=dialect.taint_key, value=workload.TAINT_VALUE, effect=workload.TAINT_EFFECT)
        self._api.label_and_taint(self._sgx, workload.NODE_LABEL, taint)
        node = self._api.node(self._sgx)
        self._saw(f"label of {node.name}", f"tee={node.labels['tee']}", f"GET node {node.name}")
        for found in node.taints:
            self._saw(f"taint of {node.name}", f"{found.key}={found.value}:{found.effect}", f"GET node {node.name}")

    def _offer(self) -> None:
        if workload.offers_of(self._api.nodes()):
            self._watcher.news("the cluster offers EPC already")
        else:
            agent = build_node_agent_image(parse_reference(AGENT_IMAGE), self._folder / "node-agent.tar", self._watcher.news)
            self._deliver("node agent", agent)
            manifest = project_file("deploy/node-agent.yaml")
            self._target.agree(f"install the node agent ({manifest.name}) in namespace kube-system")
            self._api.apply(kube.documents_of(manifest.read_text(encoding="utf-8"), str(manifest)))
        node = self._wait_for_epc()
        for resource, amount in sorted(node.allocatable.items()):
            self._saw(f"allocatable {resource}", str(amount), f"GET node {node.name}")
        self._dialect = workload.dialect_for(node)

    def _wait_for_epc(self) -> Node:
        self._watcher.news(f"waiting until EPC of {self._sgx} is allocatable")
        for nodes in self._api.follow_nodes(timeout_seconds=_SECONDS):
            node = next(node for node in nodes if node.name == self._sgx)
            if workload.offers_of([node]):
                return node
        pods = self._api.pods("kube-system", {"app.kubernetes.io/name": "kubenclave-node"})
        states = "; ".join(f"{pod.name} is {pod.phase} {pod.unschedulable or pod.message}".strip() for pod in pods)
        raise KubenclaveError(
            f"Node {self._sgx} offers no EPC after {_SECONDS:.0f} s: {states or 'no pod of the node agent'}.",
            "See the agent's log: kubectl -n kube-system logs ds/kubenclave-node",
        )

    def _job(self, image: str, mrenclave: str) -> None:
        self._fresh_namespace()
        request = workload.Request(
            image=image,
            epc_bytes=self._pod_bytes(),
            dialect=self._dialect,
            name="hello-enclave",
            namespace=objects.NAMESPACE,
        )
        lines: list[str] = []
        outcome = workload.deploy(
            self._api,
            request,
            replace=True,
            timeout_seconds=_SECONDS,
            report=self._watcher.news,
            on_line=lambda line: lines.append(line.rstrip("\n")),
        )
        self._saw("Job hello-enclave", "Complete" if outcome.succeeded else f"Failed: {outcome.reason}", "GET job")
        self._saw("asked", f"{outcome.resource}: {outcome.units}", "GET job")
        self._saw("ran on", outcome.node, "GET pod")
        for line in lines:
            self._saw("log", line, f"log of pod {outcome.pod}")
        self._must(outcome.succeeded and outcome.node == self._sgx, "the Job did not complete on the SGX node")
        self._must(GREETING in lines and any(mrenclave in line for line in lines), "the enclave did not give its greeting and MRENCLAVE")
        self._simulated = any("simulated" in line for line in lines)

    def _kept_off(self) -> None:
        image = str(parse_reference(PAUSE_IMAGE))
        self._api.apply([objects.plain_pod("plain", image, None), objects.plain_pod("insists", image, workload.NODE_LABEL)])
        insists = self._wait("insists", lambda pod: bool(pod.unschedulable))
        self._saw(
            "a plain pod that insists on the SGX node", f"{insists.phase}: {insists.unschedulable}", "GET pod, condition PodScheduled"
        )
        if any(node.name != self._sgx and not node.taints for node in self._api.nodes()):
            plain = self._wait("plain", lambda pod: pod.phase == "Running")
            self._saw("a plain pod", f"{plain.phase} on {plain.node}", "GET pod")
            self._must(plain.node != self._sgx, "a plain pod ran on the SGX node")

    def _schedule(self, image: str) -> None:
        units = self._pod_bytes() // self._dialect.unit_bytes
        names = [f"holder-{number}" for number in range(1, _PODS_THAT_FIT + 2)]
        for number, name in enumerate(names):
            seconds = _FIRST_HOLDER_SECONDS if number == 0 else _HOLDER_SECONDS
            arguments = ("/app/hello.sgxs", "/app/hello.sig", "--seconds", str(seconds))
            if number == _PODS_THAT_FIT:
                for other in names[:_PODS_THAT_FIT]:
                    held = self._wait(other, lambda pod: pod.phase == "Running")
                    self._saw(other, f"{held.phase} on {held.node} with {self._dialect.resource}: {units}", "GET pod")
            self._api.apply([objects.enclave_pod(name, image, arguments, self._dialect, units)])
        waits = self._wait(names[-1], lambda pod: bool(pod.unschedulable))
        self._saw(names[-1], f"{waits.phase}: {waits.unschedulable}", "GET pod, condition PodScheduled")
        self._watcher.news(f"{names[0]} ends after {_FIRST_HOLDER_SECONDS} s")
        first = self._wait(names[0], lambda pod: pod.finished)
        self._saw(names[0], first.phase, "GET pod")
        fifth = self._wait(names[-1], lambda pod: pod.phase == "Running")
        self._saw(names[-1], f"{fifth.phase} on {fifth.node}", "GET pod")

    def _direct(self, image: str) -> None:
        holding = [pod for pod in self._api.pods(objects.NAMESPACE) if pod.phase == "Running" and pod.node == self._sgx]
        self._saw(f"pods that hold the EPC of {self._sgx}", ", ".join(pod.name for pod in holding), "GET pods")
        self._api.apply([objects.direct_pod("direct", image, self._sgx)])
        direct = self._wait("direct", lambda pod: pod.finished)
        self._saw("a privileged pod with hostPath, asking for no EPC", f"{direct.phase} on {direct.node}", "GET pod")
        lines: list[str] = []
        self._api.follow_log(direct, "main", lines.append, limit_bytes=_LOG_BYTES, timeout_seconds=_SECONDS)
        self._saw("its log", lines[0].strip() if lines else "(empty)", "log of pod direct")
        if any(node.name != self._sgx and not node.taints for node in self._api.nodes()):
            self._api.apply([objects.direct_pod("direct-anywhere", image, None)])
            reason = self._wait_for_event("direct-anywhere", "FailedMount")
            elsewhere = self._api.pod("direct-anywhere", objects.NAMESPACE)
            self._saw("the same pod, left to the scheduler", f"{elsewhere.phase} on {elsewhere.node}: {reason}", "GET pod, events")
        warning = "not recommended: it bypasses EPC accounting, taints and isolation, and may be placed where there is no SGX"
        self._saw("the guide's warning", warning, "the guide of 2020, and the lines above")

    def _finish(self, mrenclave: str, began: float) -> DemoResult:
        server, version = self._api.server, self._api.version
        left = self._target.close(self._api, self._watcher.news)
        self._api.close()
        return DemoResult(
            cluster=self._target.name,
            server=server,
            kubernetes=version,
            simulated=self._simulated,
            mrenclave=mrenclave,
            steps=tuple(self._steps),
            sizes=tuple(self._sizes),
            seconds=round(time.monotonic() - began, 1),
            left=left,
        )

    # --- seeing --------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _step(self, module: int, title: str) -> Iterator[None]:
        self._watcher.step(module, title)
        self._seen, began = [], time.monotonic()
        try:
            yield
        except KubenclaveError as exc:
            exc.what = f"Step {title!r}: {exc.what}"
            raise
        self._steps.append(Step(module=module, title=title, observations=tuple(self._seen), seconds=round(time.monotonic() - began, 1)))

    def _saw(self, what: str, value: str, seen_in: str) -> None:
        self._note(Observation(what=what, value=value, seen_in=seen_in))

    def _note(self, observation: Observation) -> None:
        self._seen.append(observation)
        self._watcher.saw(observation)

    def _must(self, condition: bool, otherwise: str) -> None:
        if not condition:
            raise KubenclaveError(f"{otherwise}.", "Run the demo with --keep and look at namespace kubenclave-demo.")

    def _pod_bytes(self) -> int:
        """Give a quarter of the node's EPC: what four pods can have and a fifth cannot."""
        node = self._api.node(self._sgx)
        units = node.allocatable[self._dialect.resource] // _PODS_THAT_FIT
        return units * self._dialect.unit_bytes

    def _fresh_namespace(self) -> None:
        self._target.agree(f"make the namespace {objects.NAMESPACE}, and remove one that an earlier demo left")
        self._api.delete(objects.namespace(), timeout_seconds=_SECONDS)
        self._api.apply([objects.namespace()])
        self.has_namespace = True
        account: Document = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": objects.NAMESPACE},
        }
        deadline = time.monotonic() + _SECONDS
        while not self._api.exists(account) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _wait(self, name: str, condition: Callable[[Pod], bool]) -> Pod:
        pod: Pod | None = None
        for pods in self._api.follow_pods(namespace=objects.NAMESPACE, timeout_seconds=_SECONDS):
            pod = next((pod for pod in pods if pod.name == name), None)
            if pod is not None and condition(pod):
                return pod
        state = "was not seen" if pod is None else f"is {pod.phase} {pod.unschedulable or pod.message}".strip()
        raise KubenclaveError(f"Pod {name} {state} after {_SECONDS:.0f} s.", f"See: kubectl -n {objects.NAMESPACE} describe pod {name}")

    def _wait_for_event(self, about: str, reason: str) -> str:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            for event in self._api.events(about, objects.NAMESPACE):
                if event.reason == reason:
                    return event.message
            time.sleep(0.2)
        raise KubenclaveError(f"Pod {about} showed no event {reason} after {_SECONDS:.0f} s.", f"See: kubectl describe pod {about}")
