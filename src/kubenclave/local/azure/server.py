"""HTTPS on loopback for the simulated Azure: Python's own server with TLS, bounded in connections, bytes and time.

Python's http.server is enough here: the clients are a few programs of one machine, and no further package is needed.
"""

from __future__ import annotations

import json
import secrets
import ssl
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from kubenclave.errors import HostUnfit, KubenclaveError, Refused
from kubenclave.local.azure import schema as arm_schema
from kubenclave.local.azure.context import new_id
from kubenclave.local.azure.kubernetes import Reconciler, read_kubeconfig
from kubenclave.local.azure.stand_in import StandIn, fresh
from kubenclave.local.azure.state import Settings, decode
from kubenclave.local.azure.values import CLIENT, SUBSCRIPTION, TENANT, Reply, Request
from kubenclave.local.pki import Authority
from kubenclave.local.state import write_private

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from kubenclave.local.azure.state import State
    from kubenclave.local.places import Places

MAX_BODY_BYTES = 4 << 20  # what ARM itself takes (learn.microsoft.com, ARM request size)
MAX_CONNECTIONS = 64  # a rehearsal has a handful of clients; more wait in the backlog
IDLE_SECONDS = 60.0  # a connection on which nothing happens is closed
_LOOPBACK = "127.0.0.1"
_HOSTS = ("localhost", "127.0.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Say how a simulated Azure is reached."""

    url: str
    ca: Path
    client_secret: str
    client_id: str = CLIENT
    tenant: str = TENANT
    subscription: str = SUBSCRIPTION


@contextmanager
def serving(
    folder: Path, settings: Settings, *, port: int = 0, schema: Path | None = None, places: Places | None = None
) -> Iterator[Running]:
    """Serve a simulated Azure out of a folder until the block ends; what the folder holds from before is gone on with.

    Args:
        folder: Where the state, the authority's certificate, the server's key and the owner's secret are kept.
        settings: For a fresh folder; one with a state keeps its own, but for ``kubernetes``.
        port: On loopback; 0 takes a free one.
        schema: The published ARM schema; None checks no bodies.
        places: Where local clusters are kept; needed where ``settings.kubernetes`` is set.

    Raises:
        HostUnfit: The port is in use.
        Refused: The folder's state cannot be read.
        NotFound: The schema, or the package that checks it, is not there.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    secret = _secret(folder)
    checked = arm_schema.load(schema) if schema is not None else None
    state = _state(folder, settings, secret)
    path = folder / "state.json"
    stand_in = StandIn(
        state,
        clock=time.time,
        save=lambda raw: write_private(path, raw.decode()),
        schema=checked,
        **({"kubeconfig": lambda name: read_kubeconfig(places, name)} if places is not None else {}),
    )
    server = _Server(stand_in, port, _tls(folder))
    reconciler = Reconciler(stand_in, places) if places is not None and settings.kubernetes else None
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True, name="azure").start()
    if reconciler is not None:
        reconciler.start()
    try:
        yield Running(url=f"https://localhost:{server.server_address[1]}", ca=folder / "ca.pem", client_secret=secret)
    finally:
        server.shutdown()
        server.server_close()
        if reconciler is not None:
            reconciler.stop()


def _secret(folder: Path) -> str:
    path = folder / "client-secret"
    if not path.exists():
        write_private(path, f"s{secrets.token_urlsafe(24)}")
    return path.read_text(encoding="ascii")


def _state(folder: Path, settings: Settings, secret: str) -> State:
    path = folder / "state.json"
    if not path.exists():
        return fresh(settings, secret)
    state = decode(path.read_bytes())
    state.settings.kubernetes = settings.kubernetes
    return state


def _tls(folder: Path) -> ssl.SSLContext:
    """Make the authority and the server's certificate once, or use those of before: clients keep the authority's."""
    pair, authority_file = folder / "server.pem", folder / "ca.pem"
    if not pair.exists() or not authority_file.exists():
        authority = Authority("kubenclave simulated Azure")
        issued = authority.issue("simulated-azure", names=["localhost", _LOOPBACK])
        write_private(authority_file, authority.certificate)
        write_private(pair, issued.certificate + issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(pair)
    except ssl.SSLError as exc:
        raise Refused(f"{pair} is damaged: {exc}", "Remove the simulated Azure: kubenclave local azure down") from exc
    return context


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, stand_in: StandIn, port: int, tls: ssl.SSLContext) -> None:
        self.stand_in = stand_in
        self._tls = tls
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__((_LOOPBACK, port), _Handler)
        except OSError as exc:
            raise HostUnfit(f"Port {port} on {_LOOPBACK} cannot be taken: {exc.strerror}.", "Choose another with --port.") from exc

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        self._slots.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        # The handshake belongs in the connection's own thread: a client that never finishes it holds up nobody.
        plain = cast("socket.socket", request)
        try:
            plain.settimeout(IDLE_SECONDS)
            wrapped = self._tls.wrap_socket(plain, server_side=True)
        except (OSError, ValueError):
            self.shutdown_request(plain)
        else:
            super().process_request_thread(wrapped, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base class's signature
        """Be silent about clients that went away; say anything else in one line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            sys.stderr.write(f"simulated Azure: {type(error).__name__}: {error}\n")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "kubenclave-simulated-azure"
    sys_version = ""
    timeout = IDLE_SECONDS
    wbufsize = 64 << 10  # head and body leave together; in two small writes the second waits 40 ms for an acknowledgement

    def _serve(self) -> None:
        request = self._read()
        if isinstance(request, Reply):
            self._write(request)
            self.close_connection = True
            return
        server = cast("_Server", self.server)
        try:
            reply = server.stand_in.answer(request)
        except KubenclaveError as exc:
            reply = Reply(status=500, body={"error": {"code": "InternalServerError", "message": f"simulated: {exc.what}"}})
        if reply.delay_seconds:
            time.sleep(reply.delay_seconds)
        if reply.lost:
            self.close_connection = True
            return
        self._write(reply)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_POST = do_DELETE = _serve  # noqa: N815 - the names that http.server calls

    def _read(self) -> Request | Reply:
        host = self.headers.get("host", "")
        # Only its own names: a page in a browser that reaches loopback under another name is turned away.
        if host.partition(":")[0] not in _HOSTS:
            return _refusal(421, "simulated: this stand-in answers as localhost only.")
        length = self.headers.get("content-length", "0")
        if "transfer-encoding" in self.headers or not length.isdecimal() or len(length) > 9:  # noqa: PLR2004 - more digits than the limit has
            return _refusal(411, "simulated: a request needs a Content-Length.")
        if int(length) > MAX_BODY_BYTES:
            return _refusal(413, f"simulated: a request's body has at most {MAX_BODY_BYTES} bytes.")
        try:
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=50))
        except ValueError:
            return _refusal(400, "simulated: the address is damaged or has more than 50 parameters.")
        body = self.rfile.read(int(length))
        path = "/" + unquote(parts.path).strip("/")
        return Request(
            method=self.command,
            path=path,
            query=query,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            origin=f"https://{host}",
        )

    def _write(self, reply: Reply) -> None:
        content = b"" if reply.body is None else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("cache-control", "no-cache")
        self.send_header("x-ms-request-id", new_id())
        self.send_header("x-kubenclave", "simulated")
        if content:
            self.send_header("content-type", "application/json; charset=utf-8")
        if reply.status != 204:  # noqa: PLR2004 - No Content (RFC 9110 section 8.6)
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Give the Date header, as wrong as it was asked to be."""
        skew = cast("_Server", self.server).stand_in.clock_skew_seconds
        return formatdate((time.time() if timestamp is None else timestamp) + skew, usegmt=True)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's own name
        """Be silent: /simulated/requests tells what came."""


def _refusal(status: int, message: str) -> Reply:
    return Reply(status=status, body={"error": {"code": "BadRequest", "message": message}})
