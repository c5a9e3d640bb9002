"""A real control plane on loopback: etcd, API server, controller manager and scheduler.

There is no kubelet. Pods stay Pending unless a test asks for ``Kubelet``, which plays the kubelet's part towards the API server only:
it reports what became of a pod, and serves its log.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from lightkube import ApiError, Client, KubeConfig
from lightkube.resources import batch_v1, core_v1
from lightkube.types import PatchType

from kubenclave import kube
from kubenclave.errors import KubenclaveError
from kubenclave.kube.first_use import prepare
from kubenclave.local import programs
from kubenclave.local.places import places

START_SECONDS = 60
# The fixtures below use lightkube itself, beside the door and from several threads.
prepare(core_v1.Pod, core_v1.PodStatus, core_v1.Node, core_v1.NodeStatus, core_v1.Namespace, core_v1.ConfigMap, batch_v1.Job)
ADMIN_TOKEN = "admin-token"  # noqa: S105 - of a control plane that lives on loopback for the length of a test
READER_TOKEN = "reader-token"  # noqa: S105


@dataclass(frozen=True, kw_only=True)
class ControlPlane:
    folder: Path
    server: str
    admin: Path
    reader: Path


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def kubeconfig(folder, name, server, token, authority):
    path = folder / f"{name}.kubeconfig"
    path.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: {name}
clusters: [{{name: test, cluster: {{server: {server}, certificate-authority: {authority}}}}}]
contexts: [{{name: {name}, context: {{cluster: test, user: {name}}}}}]
users: [{{name: {name}, user: {{token: {token}}}}}]
""",
    )
    return path


class Programs:
    def __init__(self, binary, folder):
        self.binary, self.folder, self.running = binary, folder, []

    def start(self, name, *flags):
        with (self.folder / f"{name}.log").open("wb") as log:
            # They end with the test process, however that ends.
            command = ["setpriv", "--pdeathsig", "KILL", str(self.binary), name, *flags]
            self.running.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder))

    def stop(self):
        # Nothing of it is kept, so nothing has to end in good order.
        for process in self.running:
            process.kill()
        for process in self.running:
            process.wait()


def wait_for_api(admin, started):
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with kube.connect(admin) as cluster:
                if cluster.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ready", "namespace": "default"}}]):
                    return
        except KubenclaveError as exc:
            if time.monotonic() > deadline or any(process.poll() is not None for process in started.running):
                log = (started.folder / "kube-apiserver.log").read_text()[-3000:]
                pytest.fail(f"the API server did not come up: {exc}\n{log}")
        time.sleep(0.1)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory):
    named = os.environ.get("KUBENCLAVE_K8S")
    binary = Path(named) if named else programs.folder(places(os.environ).cache) / "kubenclave-k8s"
    if not binary.is_file():
        pytest.skip(f"the Kubernetes programs are not built ({binary}): kubenclave local build")
    folder = tmp_path_factory.mktemp("control-plane")
    etcd, peer, secure, controllers, scheduler = free_ports(5)
    server = f"https://127.0.0.1:{secure}"
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    (folder / "sa.key").write_bytes(pem)
    (folder / "tokens").write_text(f'{ADMIN_TOKEN},admin,1,"system:masters"\n{READER_TOKEN},reader,2\n')
    authority = folder / "certs" / "apiserver.crt"
    admin = kubeconfig(folder, "admin", server, ADMIN_TOKEN, authority)
    started = Programs(binary, folder)
    try:
        started.start(
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )
        started.start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            f"--secure-port={secure}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={folder / 'certs'}",
            f"--token-auth-file={folder / 'tokens'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'sa.key'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}",
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
        )
        wait_for_api(admin, started)
        started.start(
            "kube-controller-manager",
            f"--kubeconfig={admin}",
            f"--secure-port={controllers}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=false",
            "--kube-api-qps=1000",
            "--kube-api-burst=1000",
            # The tests' nodes have no kubelet: nothing may find them lost.
            "--controllers=*,-node-lifecycle-controller",
        )
        started.start(
            "kube-scheduler",
            f"--kubeconfig={admin}",
            f"--secure-port={scheduler}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        )
        reader = kubeconfig(folder, "reader", server, READER_TOKEN, authority)
        yield ControlPlane(folder=folder, server=server, admin=admin, reader=reader)
    finally:
        started.stop()


@pytest.fixture
def cluster(control_plane):
    with kube.connect(control_plane.admin) as connected:
        yield connected


@pytest.fixture
def raw(control_plane):
    with Client(KubeConfig.from_file(control_plane.admin), trust_env=False) as client:
        yield client


@pytest.fixture
def make_node(raw):
    """Make nodes that are Ready and offer what is asked; they are gone after the test."""
    made = []

    def make(name, allocatable, kubelet_port=1):
        amounts = {"cpu": "2", "memory": "4Gi", "pods": "100"} | allocatable
        raw.create(core_v1.Node.from_dict({"metadata": {"name": name}}))
        made.append(name)
        status = {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}},
        }
        raw.patch(core_v1.NodeStatus, name, {"status": status}, patch_type=PatchType.MERGE)
        # Admission taints a new node as not ready; only a controller that these tests do without takes that off.
        raw.patch(core_v1.Node, name, {"spec": {"taints": None}}, patch_type=PatchType.MERGE)

    yield make
    for name in made:
        raw.delete(core_v1.Node, name)


@pytest.fixture
def namespace(raw):
    created = raw.create(core_v1.Namespace.from_dict({"metadata": {"generateName": "test-"}}))
    yield created.metadata.name
    raw.delete(core_v1.Namespace, created.metadata.name)


class Kubelet:
    """What the API server sees of a kubelet. The path of a pod's image says what is to become of it: see ``_become``."""

    def __init__(self, raw, certificates):
        self.raw = raw
        self.lines = []
        self.break_after = None
        self.last_line_feed = b"\n"
        self.log_requests = []
        self.end = threading.Event()
        self._stopped = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "apiserver.crt", certificates / "apiserver.key")
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._threads = [threading.Thread(target=self._server.serve_forever), threading.Thread(target=self._play)]
        for thread in self._threads:
            thread.start()

    def stop(self):
        self._stopped.set()
        self.end.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()

    def _play(self):
        with Client(self.raw.config, trust_env=False) as client:
            while not self._stopped.wait(0.05):
                for pod in client.list(core_v1.Pod, namespace="*"):
                    # Somebody may delete a pod between the list and what is done to it.
                    with contextlib.suppress(ApiError):
                        self._become(client, pod)

    def _become(self, client, pod):
        where = {"namespace": pod.metadata.namespace}
        if pod.metadata.deletionTimestamp:
            client.delete(core_v1.Pod, pod.metadata.name, grace_period=0, **where)
        elif pod.spec.nodeName and pod.status.phase in {"Pending", "Running"}:
            status = self._status(pod)
            client.patch(core_v1.PodStatus, pod.metadata.name, {"status": status}, patch_type=PatchType.MERGE, **where)

    def _status(self, pod):
        started = (pod.status.startTime or pod.metadata.creationTimestamp).strftime("%Y-%m-%dT%H:%M:%SZ")
        image = pod.spec.containers[0].image
        if image == "missing":
            return pod_status("Pending", {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})
        if image == "unadmitted":
            return {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed"}
        if not self.end.is_set():
            return pod_status("Running", {"running": {"startedAt": started}})
        code = 3 if image == "fails" else 0
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": started, "finishedAt": started}
        return pod_status("Failed" if code else "Succeeded", {"terminated": ended})


def pod_status(phase, state):
    container = {"name": "enclave", "image": "i", "imageID": "", "ready": phase == "Running", "restartCount": 0, "state": state}
    return {"phase": phase, "containerStatuses": [container]}


def _handler(kubelet):
    class Handler(http.server.BaseHTTPRequestHandler):
        # As the real one: in chunks, so that a broken answer can be told from a whole one.
        protocol_version = "HTTP/1.1"

        def log_message(self, *words):
            del words

        def do_GET(self):
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            kubelet.log_requests.append(query)
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            # The real kubelet takes the time to the second only, and repeats the lines of that second.
            since = query.get("sinceTime", "")[:19]
            for place, (stamp, text) in enumerate(kubelet.lines):
                if place == kubelet.break_after:
                    kubelet.break_after = None
                    return
                if stamp[:19] >= since:
                    feed = kubelet.last_line_feed if place == len(kubelet.lines) - 1 else b"\n"
                    self._chunk(f"{stamp} {text}".encode() + feed)
            kubelet.end.wait(20)
            self._chunk(b"")

        def _chunk(self, data):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

    return Handler


@pytest.fixture
def kubelet(raw, control_plane):
    playing = Kubelet(raw, control_plane.folder / "certs")
    yield playing
    playing.stop()
