"""The API's two endless answers, watches and logs, read with a bound on memory and on silence.

lightkube reads both without either bound, so they are read here from the same HTTP client and configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import httpx2
import msgspec
from lightkube.config import client_adapter
from lightkube.core.exceptions import ApiError
from lightkube.core.generic_client import transform_exception
from lightkube.core.resource import api_info
from lightkube.models import meta_v1

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from lightkube.config.kubeconfig import SingleConfig
    from lightkube.core.resource import Resource

# How long a watch lasts before the API server is asked to end it; the list that follows repairs whatever was missed.
WATCH_SECONDS = 60
# Silence after which a stream's connection is taken for dead and made anew. A log may be silent for long: that costs one request.
SILENCE_SECONDS = WATCH_SECONDS + 10
CONNECT_SECONDS = 5
# A pod that holds 32,768 EPC units measured 5.4 MB as JSON: the kubelet lists every unit's ID in its status.
LARGEST_EVENT_BYTES = 64 << 20
# The kubelet's log reader joins the runtime's 16-KiB pieces of a line without any bound; longer lines are cut here.
LONGEST_LOG_LINE_BYTES = 64 << 10
# Answers read as a whole: the end of a log, a pod's metrics. A node agent's metrics take some 10 KB and 200 bytes for each pod.
LARGEST_ANSWER_BYTES = 4 << 20

R = TypeVar("R", bound="Resource")


class Gone(Exception):  # noqa: N818 - the API's own word, HTTP 410
    """The version that a watch was to start from is no longer kept; list again."""


class _Version(msgspec.Struct):
    git_version: str = msgspec.field(name="gitVersion")


class _WatchEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a log, or a piece of one that is too long; ``time`` is the runtime's, of the line's beginning."""

    time: str
    text: str
    size_bytes: int

    @property
    def is_open(self) -> bool:
        """Say whether the answer ended within this line: the rest of it may come in another answer."""
        return not self.text.endswith("\n") and self.size_bytes < LONGEST_LOG_LINE_BYTES


# Two decoders without nested kinds of the API: built here, by the one thread that imports.
_event_decoder = msgspec.json.Decoder(_WatchEvent)
_version_decoder = msgspec.json.Decoder(_Version)


class Streams:
    """A connection for watches and logs beside lightkube's own."""

    def __init__(self, config: SingleConfig, *, trust_env: bool) -> None:
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=SILENCE_SECONDS)
        self._http = client_adapter.Client(config, client_adapter.ConnectionParams(timeout=timeout, trust_env=trust_env))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def version(self) -> str:
        """Return the API server's version, such as v1.37.2."""
        response = self._http.get("version", timeout=CONNECT_SECONDS)
        _raise_for_status(response)
        return _version_decoder.decode(response.content).git_version

    def watch(self, kind: type[R], namespace: str | None, labels: str, resource_version: str, seconds: int) -> Generator[tuple[str, R]]:
        """Yield each change after a version as its type and the object, until the API server ends the watch after some seconds.

        Raises:
            Gone: The version is no longer kept.
        """
        parameters = {"watch": "true", "resourceVersion": resource_version, "timeoutSeconds": str(seconds)}
        parameters |= {"labelSelector": labels} if labels else {}
        try:
            with self._http.stream("GET", _path(kind, namespace), params=parameters) as response:
                _raise_for_status(response)
                for line in split_lines(response.iter_bytes(), LARGEST_EVENT_BYTES):
                    yield _changed(line, kind)
        except ApiError as exc:
            if exc.status.code == HTTPStatus.GONE:
                raise Gone from exc
            raise

    def log(self, namespace: str, pod: str, container: str, *, since: str, silence_seconds: float) -> Generator[LogLine]:
        """Yield the lines of a container's log from a time on, until the container ends or nothing comes for some seconds."""
        parameters = {"container": container, "follow": "true", "timestamps": "true"} | ({"sinceTime": since} if since else {})
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=min(silence_seconds, SILENCE_SECONDS))
        with self._http.stream("GET", f"api/v1/namespaces/{namespace}/pods/{pod}/log", params=parameters, timeout=timeout) as response:
            _raise_for_status(response)
            time, continued = "", False
            for line in split_lines(response.iter_bytes(), LONGEST_LOG_LINE_BYTES):
                text = line.decode("utf-8", errors="replace")
                if not continued:
                    time, _, text = text.partition(" ")
                continued = not line.endswith(b"\n")
                yield LogLine(time=time, text=text, size_bytes=len(line))

    def log_tail(self, namespace: str, pod: str, container: str, *, lines: int, previous: bool) -> tuple[str, ...]:
        """Return the last lines of a container's log, without their line feeds."""
        parameters = {"container": container, "tailLines": str(lines), "limitBytes": str(LARGEST_ANSWER_BYTES)}
        parameters |= {"previous": "true"} if previous else {}
        return tuple(self._whole(f"api/v1/namespaces/{namespace}/pods/{pod}/log", parameters).splitlines())

    def ask_pod(self, namespace: str, pod: str, port: int, path: str, timeout_seconds: float) -> str:
        """Return what a pod's web server answers to a GET; each step may take the time, and so may all pieces together."""
        path = f"api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path.lstrip('/')}"
        return self._whole(path, {}, step_seconds=timeout_seconds, until=monotonic() + timeout_seconds)

    def _whole(self, path: str, parameters: Mapping[str, str], *, step_seconds: float = CONNECT_SECONDS, until: float = inf) -> str:
        with self._http.stream("GET", path, params=dict(parameters), timeout=step_seconds) as response:
            _raise_for_status(response)
            answer = bytearray()
            for chunk in response.iter_bytes():
                answer += chunk
                if len(answer) > LARGEST_ANSWER_BYTES:
                    raise ValueError(f"more than {LARGEST_ANSWER_BYTES} bytes")
                if monotonic() > until:
                    raise httpx2.ReadTimeout("the answer trickles in for too long")
            return answer.decode("utf-8", errors="replace")


class LogCursor:
    """Where one has got to in a log that may be read in several goes: each line passes once, up to a number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self.since = ""
        self._at_since = 0
        self._again = 0
        self._left_bytes = limit_bytes

    def full(self) -> bool:
        """Say whether the bytes are used up."""
        return self._left_bytes <= 0

    def resume(self) -> None:
        """Start another go: the API server will repeat the lines of the last time seen."""
        self._again = self._at_since

    def passes(self, line: LogLine) -> bool:
        """Say whether a line is new, and move past it."""
        # RFC 3339 times in UTC with nine decimals, as the runtime writes them (CRI log format), compare as text.
        if line.time < self.since:
            return False
        if line.time == self.since and self._again > 0:
            self._again -= 1
            return False
        if line.time > self.since:
            self.since, self._at_since, self._again = line.time, 0, 0
        self._at_since += 1
        if self.full():
            return False
        self._left_bytes -= line.size_bytes
        return True


def _changed(line: bytes, kind: type[R]) -> tuple[str, R]:
    event = _event_decoder.decode(line)
    if event.type == "ERROR":
        raise ApiError(status=msgspec.json.decode(event.object, type=meta_v1.Status))
    return event.type, msgspec.json.decode(event.object, type=kind)


def split_lines(chunks: Iterable[bytes], limit_bytes: int) -> Iterator[bytes]:
    """Yield lines with their line feeds; what exceeds the limit comes in pieces of that size, the last one with the line feed."""
    buffer = bytearray()
    for chunk in chunks:
        searched = len(buffer)
        buffer += chunk
        start = 0
        while (end := buffer.find(b"\n", max(start, searched))) >= 0:
            yield from _pieces(buffer[start : end + 1], limit_bytes)
            start = end + 1
        del buffer[:start]
        while len(buffer) > limit_bytes:
            yield bytes(buffer[:limit_bytes])
            del buffer[:limit_bytes]
    if buffer:
        yield bytes(buffer)


def _pieces(line: bytearray, limit_bytes: int) -> Iterator[bytes]:
    for start in range(0, len(line), limit_bytes):
        yield bytes(line[start : start + limit_bytes])


def _path(kind: type[Resource], namespace: str | None) -> str:
    info = api_info(kind)
    root = f"apis/{info.resource.group}/{info.resource.version}" if info.resource.group else f"api/{info.resource.version}"
    return f"{root}/namespaces/{namespace}/{info.plural}" if namespace else f"{root}/{info.plural}"


def _raise_for_status(response: httpx2.Response) -> None:
    if response.is_success:
        return
    response.read()
    try:
        response.raise_for_status()
    except httpx2.HTTPStatusError as exc:
        raise transform_exception(exc) from exc
