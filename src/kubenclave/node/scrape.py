"""Serve three pages over HTTP: /metrics for Prometheus, /healthz and /readyz for the kubelet. Nothing else, and no more than a few at once.

Probes and scrapes come to the same port, which every pod of the cluster reaches: who is silent, or waits for a slow scrape, gives way to
who comes after, so that nobody keeps the kubelet's probes out.

Not one of the Prometheus client's servers: they answer from a thread beside the loop, and /healthz has to show that the loop turns.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from kubenclave.errors import HostUnfit
from kubenclave.node.metrics import CONTENT_TYPE
from kubenclave.node.problems import Problems

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter, Task

DEFAULT_PORT = 9120

_MAX_REQUEST_BYTES = 8 << 10
_REQUEST_SECONDS = 5.0
# Prometheus waits 10 s by default for a whole scrape.
_ANSWER_SECONDS = 9.0
# Connections whose request has not come yet: more than are accepted at a time (asyncio's backlog of 100), so that a probe among many is
# read before it is the oldest. Each takes some 20 KiB at most.
_MAX_SILENT = 128
# Scrapes that wait for what is slow; two or three servers scrape a node.
_MAX_ASKED = 8
_RETRY_SECONDS = 5.0
_TEXT = "text/plain; charset=utf-8"

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Told(Protocol):
    """What the pages tell."""

    @property
    def ready(self) -> bool:
        """Whether EPC is offered where pods are scheduled by it."""

    async def metrics(self) -> bytes:
        """Return the metrics in the Prometheus text format."""


class Pages:
    """The pages on one port."""

    def __init__(self, told: Told, port: int) -> None:
        self._told = told
        self._port = port
        # The oldest first.
        self._silent: dict[StreamWriter, Task[None]] = {}
        self._asked: dict[StreamWriter, Task[None]] = {}
        self._problems = Problems("metrics.not_served")

    async def run(self) -> None:
        """Serve until cancelled; a port that is taken is tried again, since EPC is offered without it."""
        while True:
            try:
                server = await asyncio.start_server(self._accept, port=self._port, limit=_MAX_REQUEST_BYTES)
            except OSError as exc:
                self._problems.report(
                    HostUnfit(f"cannot listen on port {self._port}: {exc.strerror or exc}", "give another --metrics-port, or 0 for none")
                )
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._problems.clear()
            log.info("metrics.served", port=self._port)
            async with server:
                await server.serve_forever()

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        if len(self._silent) >= _MAX_SILENT:
            _cut_off_oldest(self._silent)
        self._silent[writer] = asyncio.get_running_loop().create_task(self._serve(reader, writer))

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            # Whoever is slow or speaks something else is cut off without an answer.
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            if len(self._asked) >= _MAX_ASKED:
                _cut_off_oldest(self._asked)
            self._asked[writer] = self._silent.pop(writer)
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer = await self._answer(head)
            async with asyncio.timeout(_REQUEST_SECONDS):
                writer.write(answer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.transport.abort()
            self._silent.pop(writer, None)
            self._asked.pop(writer, None)

    async def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        if method not in {b"GET", b"HEAD"}:
            return _response("405 Method Not Allowed", b"only GET\n", _TEXT)
        page = rest.partition(b" ")[0].partition(b"?")[0]
        if page == b"/metrics":
            answer = _response("200 OK", await self._told.metrics(), CONTENT_TYPE)
        elif page == b"/healthz":
            answer = _response("200 OK", b"ok\n", _TEXT)
        elif page == b"/readyz":
            ready = self._told.ready
            answer = _response(
                "200 OK" if ready else "503 Service Unavailable", b"ready\n" if ready else b"not ready: see the log\n", _TEXT
            )
        else:
            answer = _response("404 Not Found", b"/metrics, /healthz and /readyz are here\n", _TEXT)
        return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == b"HEAD" else answer


def _cut_off_oldest(connections: dict[StreamWriter, Task[None]]) -> None:
    writer = next(iter(connections))
    connections.pop(writer).cancel()
    writer.transport.abort()


def _response(status: str, body: bytes, content_type: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode("ascii") + body
