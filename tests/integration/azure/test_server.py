from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from kubenclave.errors import HostUnfit
from kubenclave.local.azure import Settings
from kubenclave.local.azure.server import MAX_BODY_BYTES, MAX_CONNECTIONS, serving

pytestmark = pytest.mark.integration


def raw(running, text, context=None):
    context = context or ssl.create_default_context(cafile=str(running.ca))
    plain = socket.create_connection(("127.0.0.1", urlsplit(running.url).port), timeout=20)
    with context.wrap_socket(plain, server_hostname="localhost") as tls:
        tls.sendall(text)
        return tls.recv(65536)


def test_it_says_what_it_is(web):
    status, headers, body = web("GET", "/simulated")

    assert (status, body["simulated"], headers["x-kubenclave"]) == (200, True, "simulated")


def test_a_client_without_the_authority_does_not_trust_it(running):
    with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urlopen(f"{running.url}/simulated", timeout=20)  # noqa: S310 - https on loopback


def test_it_listens_on_loopback_only(running):
    port = urlsplit(running.url).port
    table = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()
    listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    assert [each for each in listening if each.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /simulated HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), b"413"),
        (b"PUT /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"411"),
        (b"GET /x?%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a=1&" * 60), b"400"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
)
def test_requests_outside_the_bounds_are_turned_away(running, web, text, status):
    assert status in raw(running, text)[:200]
    assert web("GET", "/simulated")[0] == 200


def test_clients_that_never_finish_their_handshake_hold_up_nobody(running, web):
    port = urlsplit(running.url).port
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(MAX_CONNECTIONS // 2)]
    started = time.monotonic()
    try:
        assert web("GET", "/simulated")[0] == 200
    finally:
        for each in idle:
            each.close()
    assert time.monotonic() - started < 5


def test_requests_at_the_same_time_are_all_answered_and_kept(running, web):
    _, _, found = web("GET", "/simulated")
    assert found["faults"] == []
    threads = [
        threading.Thread(target=web, args=("POST", "/simulated/faults", {"what": "delay", "path": f"/never/{i}"})) for i in range(32)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(web("GET", "/simulated")[2]["faults"]) == 32


def test_a_delay_and_a_lost_reply_are_felt_on_the_wire(running, web):
    web("POST", "/simulated/faults", [{"what": "delay", "seconds": 0.5, "path": "/metadata"}, {"what": "dropped", "path": "/tenants"}])
    started = time.monotonic()
    assert web("GET", "/metadata/endpoints?api-version=2022-09-01")[0] == 200
    assert time.monotonic() - started >= 0.5
    with pytest.raises((URLError, ConnectionError)):
        web("GET", "/tenants?api-version=2022-12-01")


def test_a_restart_keeps_the_certificate_the_secret_and_the_state(tmp_path):
    with serving(tmp_path, Settings()) as first:
        ca, secret = first.ca.read_text(encoding="ascii"), first.client_secret
    with serving(tmp_path, Settings()) as second:
        assert (second.ca.read_text(encoding="ascii"), second.client_secret) == (ca, secret)
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_a_port_in_use_is_named(running, tmp_path):
    port = urlsplit(running.url).port
    with pytest.raises(HostUnfit, match=f"Port {port}"), serving(tmp_path / "other", Settings(), port=port):
        pass
