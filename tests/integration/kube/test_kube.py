from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time

import pytest
from lightkube.resources import core_v1
from lightkube.types import PatchType

from kubenclave import kube
from kubenclave.errors import KubenclaveError, NotFound, Refused, Unreachable
from kubenclave.kube import Taint

pytestmark = pytest.mark.integration

LABEL = ("tee", "sgx")
TAINT = Taint(key="openenclave.io/sgx_epc_MiB", value="true", effect="NoSchedule")


def config_map(name, namespace, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def pod(name, namespace, **limits):
    container = {"name": "enclave", "image": "hello", "resources": {"limits": limits}}
    spec = {"containers": [container], "restartPolicy": "Never"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": "hello"}}, "spec": spec}


def test_connecting_tells_server_context_and_version_and_leaves_the_kubeconfig_alone(control_plane):
    before = control_plane.admin.read_bytes(), control_plane.admin.stat().st_mtime_ns

    with kube.connect(control_plane.admin) as cluster:
        assert (cluster.server, cluster.context, cluster.namespace) == (control_plane.server, "admin", "default")
        assert cluster.version.startswith("v1.")

    assert (control_plane.admin.read_bytes(), control_plane.admin.stat().st_mtime_ns) == before


def test_applying_makes_changes_and_does_nothing_the_third_time(cluster, raw, namespace):
    assert cluster.apply([config_map("c", namespace, a="1")]) == ("ConfigMap c",)
    cluster.apply([config_map("c", namespace, a="2")])
    version = raw.get(core_v1.ConfigMap, "c", namespace=namespace).metadata.resourceVersion
    cluster.apply([config_map("c", namespace, a="2")])

    stored = raw.get(core_v1.ConfigMap, "c", namespace=namespace)
    assert stored.data == {"a": "2"}
    assert stored.metadata.resourceVersion == version
    assert {entry.manager for entry in stored.metadata.managedFields} == {"kubenclave"}


def test_objects_without_a_namespace_and_of_the_whole_cluster_are_applied(cluster, raw):
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "kubenclave-test"}, "rules": []}
    bare = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bare"}}

    assert cluster.apply([role, bare]) == ("ClusterRole kubenclave-test", "ConfigMap bare")

    assert raw.get(core_v1.ConfigMap, "bare", namespace="default")
    assert cluster.delete(role, timeout_seconds=10)
    assert cluster.delete(bare, timeout_seconds=10)


def test_deleting_what_is_not_there_says_so(cluster, namespace):
    assert cluster.delete(config_map("none", namespace), timeout_seconds=1) is False


def test_deleting_what_a_finalizer_holds_gives_up_in_time(cluster, raw, namespace):
    held = config_map("held", namespace)
    held["metadata"]["finalizers"] = ["example.test/held"]
    cluster.apply([held])

    with pytest.raises(KubenclaveError, match="still being deleted after 1 s"):
        cluster.delete(held, timeout_seconds=1)

    raw.patch(core_v1.ConfigMap, "held", {"metadata": {"finalizers": None}}, namespace=namespace, patch_type=PatchType.MERGE)


def test_an_unknown_field_and_an_impossible_value_are_refused_in_the_apis_own_words(cluster, namespace):
    with pytest.raises(Refused, match="field not declared in schema"):
        cluster.apply([config_map("c", namespace) | {"dta": {}}])
    with pytest.raises(Refused, match="lower case alphanumeric"):
        cluster.apply([config_map("C_", namespace)])
    with pytest.raises(Refused, match="Cannot find resource Bar"):
        cluster.apply([{"apiVersion": "foo/v1", "kind": "Bar", "metadata": {"name": "b"}}])


def test_a_field_that_somebody_else_owns_is_not_taken_from_them(cluster, raw, namespace):
    theirs = core_v1.ConfigMap.from_dict(config_map("c", namespace, a="theirs"))
    raw.apply(theirs, field_manager="them")

    with pytest.raises(Refused, match='conflict with "them"'):
        cluster.apply([config_map("c", namespace, a="ours")])


def test_a_missing_namespace_is_not_found(cluster):
    with pytest.raises(NotFound, match='namespaces "nowhere" not found'):
        cluster.apply([config_map("c", "nowhere")])


def test_a_user_without_the_right_is_refused_with_verb_and_resource(control_plane):
    with (
        kube.connect(control_plane.reader) as cluster,
        pytest.raises(Refused, match=r'not allowed to list nodes: .*cannot list resource "nodes"'),
    ):
        cluster.nodes()


def test_credentials_that_are_not_accepted_are_refused(control_plane, tmp_path):
    stale = tmp_path / "kubeconfig"
    stale.write_text(control_plane.admin.read_text().replace("admin-token", "old-token"))

    with pytest.raises(Refused, match="no valid credentials"):
        kube.connect(stale)


def test_a_server_that_is_not_there_is_unreachable_by_its_address(control_plane, tmp_path):
    away = tmp_path / "kubeconfig"
    away.write_text(control_plane.admin.read_text().replace(control_plane.server, "https://127.0.0.1:1"))

    with pytest.raises(Unreachable, match=r"https://127\.0\.0\.1:1 cannot be reached"):
        kube.connect(away)


def test_a_server_that_never_answers_is_given_up_after_seconds(control_plane, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        away = tmp_path / "kubeconfig"
        away.write_text(control_plane.admin.read_text().replace(control_plane.server, f"http://127.0.0.1:{silent.getsockname()[1]}"))
        started = time.monotonic()

        with pytest.raises(Unreachable, match="did not answer in time"):
            kube.connect(away)

    assert time.monotonic() - started < 8


def test_a_certificate_that_the_kubeconfig_does_not_trust_is_named_as_such(control_plane, tmp_path):
    untrusting = tmp_path / "kubeconfig"
    text = control_plane.admin.read_text()
    untrusting.write_text(text.replace(f", certificate-authority: {control_plane.folder / 'certs' / 'apiserver.crt'}", ""))

    with pytest.raises(Unreachable, match="shows a certificate that its kubeconfig does not trust"):
        kube.connect(untrusting)


@pytest.mark.parametrize(
    "user",
    [
        "client-certificate: /nowhere, client-key: /nowhere",
        "client-certificate: half",
        "client-certificate-data: A, client-key-data: A",
        "tokenFile: /nowhere",
    ],
)
def test_credentials_that_are_damaged_or_missing_are_refused(user, control_plane, tmp_path):
    broken = tmp_path / "kubeconfig"
    broken.write_text(control_plane.admin.read_text().replace("token: admin-token", user))

    with pytest.raises(Refused, match=r"the certificates or credentials for .* cannot be used"):
        kube.connect(broken)


def test_a_server_that_is_no_kubernetes_is_said_to_be_none(control_plane, tmp_path):
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        other = tmp_path / "kubeconfig"
        other.write_text(control_plane.admin.read_text().replace(control_plane.server, f"http://127.0.0.1:{server.getsockname()[1]}"))
        with pytest.raises(Unreachable, match="did not answer as a Kubernetes API does"):
            kube.connect(other)
        thread.join()


class Trickling(http.server.BaseHTTPRequestHandler):
    """An API server that gives its version, and of everything else a byte now and then."""

    def do_GET(self):
        version = b'{"gitVersion": "v1.37.2"}'
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path == "/version":
                self.wfile.write(version)
                return
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)

    def log_message(self, *_):
        pass


def test_a_pod_that_answers_a_byte_at_a_time_is_not_waited_for_longer_than_one_that_is_silent(control_plane, tmp_path, cluster, namespace):
    cluster.apply([pod("slow", namespace)])
    slow = cluster.pod("slow", namespace)
    other = tmp_path / "kubeconfig"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trickling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        other.write_text(control_plane.admin.read_text().replace(control_plane.server, f"http://127.0.0.1:{server.server_port}"))
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.callback(server.shutdown)
            trickling = stack.enter_context(kube.connect(other))
            with pytest.raises(Unreachable, match="did not answer in time"):
                trickling.ask_pod(slow, 9120, "metrics", timeout_seconds=0.5)
            assert time.monotonic() - began < 2


def test_a_node_is_labelled_and_tainted_once_and_keeps_what_it_had(cluster, raw, make_node):
    make_node("sgx-a", {"openenclave.io/sgx_epc_MiB": "40"})
    other = {"key": "example.test/other", "value": "x", "effect": "NoExecute"}
    raw.patch(core_v1.Node, "sgx-a", {"spec": {"taints": [other]}}, patch_type=PatchType.MERGE)

    assert cluster.label_and_taint("sgx-a", LABEL, TAINT) == ("label tee=sgx", "taint openenclave.io/sgx_epc_MiB=true:NoSchedule")
    assert cluster.label_and_taint("sgx-a", LABEL, TAINT) == ()

    node = cluster.node("sgx-a")
    assert node.labels["tee"] == "sgx"
    assert {taint.key for taint in node.taints} == {"example.test/other", TAINT.key}
    assert node.allocatable["openenclave.io/sgx_epc_MiB"] == 40
    assert node.ready


def test_the_taint_of_another_dialect_is_exchanged_in_one_step(cluster, raw, make_node):
    make_node("sgx-b2", {})
    taints = [{"key": key, "value": "true", "effect": "NoSchedule"} for key in ("kubernetes.azure.com/sgx_epc_mem_in_MiB", "sku")]
    raw.patch(core_v1.Node, "sgx-b2", {"spec": {"taints": taints}}, patch_type=PatchType.MERGE)
    keys = ["kubernetes.azure.com/sgx_epc_mem_in_MiB", TAINT.key]

    assert cluster.label_and_taint("sgx-b2", LABEL, TAINT, instead_of=keys) == (
        "label tee=sgx",
        "taint openenclave.io/sgx_epc_MiB=true:NoSchedule",
        "no longer taint kubernetes.azure.com/sgx_epc_mem_in_MiB=true:NoSchedule",
    )
    assert {taint.key for taint in cluster.node("sgx-b2").taints} == {"sku", TAINT.key}
    assert cluster.label_and_taint("sgx-b2", LABEL, TAINT, instead_of=keys) == ()


def test_a_label_with_another_value_is_not_overwritten(cluster, raw, make_node):
    make_node("tdx-a", {})
    raw.set(core_v1.Node, "tdx-a", labels={"tee": "tdx"})

    with pytest.raises(Refused, match="has the label tee=tdx, not sgx"):
        cluster.label_and_taint("tdx-a", LABEL, TAINT)

    assert cluster.node("tdx-a").taints == ()


def test_a_missing_node_is_not_found(cluster):
    with pytest.raises(NotFound, match='nodes "nobody" not found'):
        cluster.label_and_taint("nobody", LABEL, TAINT)


def test_the_scheduler_says_in_its_own_words_why_a_pod_is_pending(cluster, make_node, namespace):
    make_node("sgx-b", {"openenclave.io/sgx_epc_MiB": "40"})
    cluster.apply([pod("greedy", namespace, **{"openenclave.io/sgx_epc_MiB": "41"})])

    waiting = cluster.wait_for_pods(lambda pods: any(each.unschedulable for each in pods), namespace=namespace, timeout_seconds=20)

    assert "Insufficient openenclave.io/sgx_epc_MiB" in waiting[0].unschedulable
    assert waiting[0].node == ""


def test_following_pods_shows_each_change_as_it_happens(cluster, raw, namespace):
    seen = []

    def change():
        time.sleep(0.3)
        raw.create(core_v1.Pod.from_dict(pod("late", namespace)))
        time.sleep(0.3)
        raw.delete(core_v1.Pod, "late", namespace=namespace, grace_period=0)

    thread = threading.Thread(target=change)
    thread.start()
    for pods in cluster.follow_pods(namespace=namespace, labels={"app": "hello"}, timeout_seconds=10):
        seen.append([each.name for each in pods])
        if len(seen) > 1 and seen[-1] == []:
            break
    thread.join()

    assert seen[0] == []
    assert ["late"] in seen


class Wire:
    """A way to the API server that can be cut."""

    def __init__(self, port):
        self.port, self.open, self.threads = port, [], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"https://127.0.0.1:{self.listener.getsockname()[1]}"
        self._start(self._accept)

    def _start(self, target, *words):
        self.threads.append(threading.Thread(target=target, args=words))
        self.threads[-1].start()

    def cut(self):
        for end in self.open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
        for thread in self.threads:
            thread.join()
        for end in self.open:
            end.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port))
                self.open += [near, far]
                for one, other in ((near, far), (far, near)):
                    self._start(self._carry, one, other)

    def _carry(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_following_goes_on_after_its_connection_has_broken(control_plane, raw, namespace, tmp_path):
    wire = Wire(int(control_plane.server.rpartition(":")[2]))
    path = tmp_path / "kubeconfig"
    path.write_text(control_plane.admin.read_text().replace(control_plane.server, wire.address))
    seen = []
    with kube.connect(path) as cluster:
        for pods in cluster.follow_pods(namespace=namespace, timeout_seconds=20):
            seen.append([each.name for each in pods])
            if len(seen) == 1:
                wire.cut()
                raw.create(core_v1.Pod.from_dict(pod("meanwhile", namespace)))
            if "meanwhile" in seen[-1]:
                break
    wire.close()

    assert seen[0] == []
    assert seen[-1] == ["meanwhile"]


def test_following_lists_again_when_its_version_is_no_longer_kept(control_plane, tmp_path):
    calls = []
    gone = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "reason": "Expired",
        "code": 410,
        "message": "too old",
    }

    class Forgetful(http.server.BaseHTTPRequestHandler):
        def log_message(self, *words):
            del words

        def do_GET(self):
            calls.append(self.path.partition("?")[0] + (" watch" if "watch=true" in self.path else ""))
            if self.path.startswith("/version"):
                body = {"gitVersion": "v1.0.0"}
            elif "watch=true" in self.path:
                body = {"type": "ERROR", "object": gone}
            else:
                body = {"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": []}
            data = json.dumps(body).encode() + b"\n"
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = tmp_path / "kubeconfig"
        path.write_text(control_plane.admin.read_text().replace(control_plane.server, f"http://127.0.0.1:{server.server_address[1]}"))
        with kube.connect(path) as cluster:
            states = list(cluster.follow_nodes(timeout_seconds=2))
        server.shutdown()

    assert states == [()] * len(states)
    assert calls[1:5] == ["/api/v1/nodes", "/api/v1/nodes watch", "/api/v1/nodes", "/api/v1/nodes watch"]
    # It does not ask without pause either.
    assert len(states) <= 6


def test_following_ends_when_its_time_is_over(cluster, namespace):
    started = time.monotonic()

    assert [pods for pods in cluster.follow_pods(namespace=namespace, timeout_seconds=1.5) if pods] == []

    assert 1.4 < time.monotonic() - started < 4


def test_a_wait_that_is_over_says_how_long_it_was(cluster, namespace):
    with pytest.raises(KubenclaveError, match="after 1 s"):
        cluster.wait_for_pods(lambda pods: len(pods) > 0, namespace=namespace, timeout_seconds=1)


def test_waiting_for_nodes_returns_as_soon_as_they_are_as_wished(cluster, make_node):
    make_node("sgx-c", {"openenclave.io/sgx_epc_MiB": "40"})

    nodes = cluster.wait_for_nodes(
        lambda nodes: any(node.allocatable.get("openenclave.io/sgx_epc_MiB") for node in nodes), timeout_seconds=10
    )

    assert "sgx-c" in [node.name for node in nodes]
