"""A simulated Azure on a real socket, a session with it, and an https server of the tests' own for answers that no Azure gives."""

from __future__ import annotations

import json
import ssl
import threading
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

pytest.importorskip("azure.identity", reason="the Azure extra is not installed")

from kubenclave.cluster.azure.session import CloudSettings, open_session
from kubenclave.cluster.spec import ClusterSpec, Mode, Pool
from kubenclave.local.azure import Settings
from kubenclave.local.azure.server import serving
from kubenclave.local.pki import Authority

TENANT = "11111111-1111-4111-8111-111111111111"
SPEC = ClusterSpec(
    name="c",
    group="g",
    location="uksouth",
    pools=(
        Pool(name="system", vm_size="Standard_D2s_v5", mode=Mode.SYSTEM),
        Pool(name="sgx", vm_size="Standard_DC2s_v3"),
    ),
)


@pytest.fixture
def spec():
    return SPEC


@pytest.fixture
def running(tmp_path):
    settings = Settings(operation_seconds=0.2, registration_seconds=0.2, replication_seconds=0, retry_after_seconds=0)
    with serving(tmp_path / "azure", settings) as found:
        yield found


@pytest.fixture
def signed_in(monkeypatch, running):
    monkeypatch.setenv("AZURE_TENANT_ID", running.tenant)
    monkeypatch.setenv("AZURE_CLIENT_ID", running.client_id)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", running.client_secret)
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    return CloudSettings(arm_endpoint=running.url, ca_file=running.ca)


@pytest.fixture
def session(signed_in):
    with open_session(signed_in) as found:
        yield found


@pytest.fixture
def control(running):
    """Speak to the simulated Azure's own interface for faults, settings and what was asked."""
    tls = ssl.create_default_context(cafile=str(running.ca))

    def ask(method, path, /, **body):
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"{running.url}/simulated{path}", method=method, data=data)  # noqa: S310 - https on loopback
        with urllib.request.urlopen(request, context=tls, timeout=10) as reply:  # noqa: S310 - as above
            return json.loads(reply.read())

    return ask


@dataclass
class Played:
    """An https server on loopback whose answers a function makes: (method, path, query, body) to (status, headers, bytes) or None."""

    answer: object
    instead: dict = field(default_factory=dict)
    url: str = ""
    ca: Path = Path()
    asked: list = field(default_factory=list)

    def reply(self, method, target, body, headers):
        parts = urlsplit(target)
        self.asked.append((method, parts.path, headers.get("User-Agent", "")))
        for path, answer in self.own().items():
            if parts.path.endswith(path):
                return 200, {}, json.dumps(answer).encode()
        return self.answer(method, parts.path, dict(parse_qsl(parts.query)), body)

    def own(self):
        subscription = {
            "subscriptionId": "00000000-0000-0000-0000-000000000000",
            "displayName": "played",
            "tenantId": TENANT,
            "state": "Enabled",
        }
        return {
            "/metadata/endpoints": {
                "name": "Played",
                "authentication": {"loginEndpoint": self.url, "audiences": [self.url]},
                "microsoftGraphResourceId": self.url,
            },
            "/openid-configuration": {
                "issuer": f"{self.url}/{TENANT}/v2.0",
                "authorization_endpoint": f"{self.url}/{TENANT}/authorize",
                "token_endpoint": f"{self.url}/{TENANT}/token",
            },
            "/token": {"token_type": "Bearer", "expires_in": 3600, "access_token": "played-token"},
            "/subscriptions": {"value": [subscription]},
            **self.instead,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = self.server.played.reply(self.command, self.path, body, self.headers)
        if found is None:
            self.close_connection = True
            return
        status, headers, content = found
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content if self.command != "HEAD" else b"")

    def log_message(self, *_arguments):
        pass


for _verb in ("GET", "PUT", "POST", "DELETE", "HEAD", "PATCH"):
    setattr(_Handler, f"do_{_verb}", _Handler.handle_any)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, tls):
        super().__init__(("127.0.0.1", 0), _Handler)
        self._tls = tls

    def finish_request(self, request, client_address):
        with self._tls.wrap_socket(request, server_side=True) as secured:
            self.RequestHandlerClass(secured, client_address, self)

    def handle_error(self, _request, _client_address):
        pass


@contextmanager
def played(folder, answer, instead):
    authority = Authority("kubenclave tests")
    issued = authority.issue("played", names=["localhost", "127.0.0.1"])
    (folder / "ca.pem").write_text(authority.certificate, encoding="ascii")
    (folder / "server.pem").write_text(issued.certificate + issued.key, encoding="ascii")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "server.pem")
    with _Server(tls) as server:
        found = Played(answer=answer, instead=instead, url=f"https://localhost:{server.server_address[1]}", ca=folder / "ca.pem")
        server.played = found
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown()


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Serve answers and open a session with them."""
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", "33333333-3333-4333-8333-333333333333")
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "played-secret")
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)

    @contextmanager
    def playing(answer, own=None):
        with (
            played(tmp_path, answer, own or {}) as server,
            open_session(CloudSettings(arm_endpoint=server.url, ca_file=server.ca)) as found,
        ):
            yield found, server

    return playing
