"""The local cluster's containerd pulls what we push: by digest, over TLS, with a login, from Debian's docker-registry."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kubenclave.image import Access, Compression, ImageSpec, build_image, find_credentials, parse_reference, parse_remote, push_image
from kubenclave.local import boxes

USER, PASSWORD = "alice", "correct horse battery"
NODE = "plain-1"


@pytest.fixture(scope="module")
def address(cluster):
    """The address under which the nodes reach this machine: the one from which this machine reaches the API server."""
    server = cluster.kubectl("config", "view", "--minify", "--output", "jsonpath={.clusters[0].cluster.server}").stdout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((urlsplit(server).hostname, 6443))
        return probe.getsockname()[0]


def self_signed(folder, address):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry of the tests")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(*pem))


@pytest.fixture(scope="module")
def registry(address, tmp_path_factory):
    for program in ("docker-registry", "htpasswd"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    folder = tmp_path_factory.mktemp("registry")
    self_signed(folder, address)
    line = subprocess.run(["htpasswd", "-nbB", USER, PASSWORD], capture_output=True, text=True, check=True).stdout
    (folder / "htpasswd").write_text(line)
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '{address}:{port}', secret: of-the-tests, tls: {{certificate: {folder}/ca.pem, key: {folder}/key.pem}}}}\n"
        f"auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log, env={"PATH": os.environ["PATH"]}
        )
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
                    break
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            yield f"{address}:{port}", folder
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def trusting(cluster, registry):
    """Let the node's containerd trust the registry, as an administrator would."""
    host, folder = registry
    root = Path(f"/proc/{boxes.running(cluster.name)[NODE].init}/root")
    place = root / "etc/containerd/certs.d" / host
    place.mkdir(parents=True)
    shutil.copy(folder / "ca.pem", place / "ca.pem")
    (place / "hosts.toml").write_text(
        f'server = "https://{host}"\n[host."https://{host}"]\n  ca = "/etc/containerd/certs.d/{host}/ca.pem"\n'
    )
    yield host, folder
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def docker_login(registry, tmp_path_factory):
    host, _ = registry
    folder = tmp_path_factory.mktemp("docker")
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return folder


@pytest.mark.parametrize("compression", list(Compression))
def test_a_pod_runs_an_image_that_its_node_pulled_by_digest(cluster, trusting, docker_login, tmp_path, compression):
    host, folder = trusting
    name = f"{host}/team/busybox:{compression.value}"
    # A runtime tells images apart by their configuration, which the compression of layers does not change; the variable does.
    environment = {"COMPRESSION": compression.value}
    spec = ImageSpec(
        reference=parse_reference(name), host=Path("/bin/busybox"), compression=compression, environment=environment, attest=True
    )
    built = build_image(spec, tmp_path / "x.tar", lambda _: None)
    access = Access(credentials=find_credentials(host, {"DOCKER_CONFIG": str(docker_login)}), ca=folder / "ca.pem")
    pushed = push_image(built.archive, parse_remote(name), access, moved=lambda _blob, _done: None)
    secret = base64.b64encode((docker_login / "config.json").read_bytes()).decode()
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/dockerconfigjson",
            "metadata": {"name": "registry-login", "namespace": "default"},
            "data": {".dockerconfigjson": secret},
        }
    )
    pod = f"pulled-{compression.value}"
    container = {
        "name": "main",
        "image": f"{host}/team/busybox@{pushed.digest}",
        "command": ["/app/busybox", "echo", "pulled by digest"],
        "imagePullPolicy": "Always",
    }
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod, "namespace": "default"},
            "spec": {
                "containers": [container],
                "restartPolicy": "Never",
                "imagePullSecrets": [{"name": "registry-login"}],
                "nodeSelector": {"kubernetes.io/hostname": NODE},
            },
        }
    )
    try:
        cluster.wait(f"pod/{pod}", "jsonpath={.status.phase}=Succeeded")
        status = cluster.get("pod", pod)["status"]["containerStatuses"][0]

        assert cluster.kubectl("logs", pod).stdout == "pulled by digest\n"
        assert status["imageID"].endswith(f"@{built.digest}")
    finally:
        cluster.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
        cluster.kubectl("delete", "secret", "registry-login")


def test_skopeo_inspects_it_there_with_the_same_login(registry, docker_login, tmp_path):
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo")
    host, folder = registry
    name = f"{host}/team/inspected:1"
    built = build_image(ImageSpec(reference=parse_reference(name), host=Path("/bin/busybox")), tmp_path / "x.tar", lambda _: None)
    access = Access(credentials=find_credentials(host, {"DOCKER_CONFIG": str(docker_login)}), ca=folder / "ca.pem")
    push_image(built.archive, parse_remote(name), access, moved=lambda _blob, _done: None)
    (tmp_path / "certs").mkdir()
    shutil.copy(folder / "ca.pem", tmp_path / "certs" / "ca.crt")

    words = ["skopeo", "inspect", "--cert-dir", tmp_path / "certs", "--authfile", docker_login / "config.json", f"docker://{name}"]
    seen = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    assert seen["Digest"] == built.digest
