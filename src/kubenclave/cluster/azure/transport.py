"""How a request reaches Azure and an answer comes back: bounded in bytes and time, patient while the network is away.

One transport is shared by all clients of a session, so that connections are. The policies are ours rather than the SDKs' defaults
because those log, and because one of them registers resource providers unasked and waits for that without end.
"""

from __future__ import annotations

import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from azure.core.exceptions import ServiceRequestError
from azure.core.pipeline.policies import ContentDecodePolicy, HeadersPolicy, RequestIdPolicy, RetryPolicy, UserAgentPolicy
from azure.core.pipeline.transport import RequestsTransport
from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from kubenclave.cluster.azure.patience import CONNECT_SECONDS, REPLY_SECONDS
from kubenclave.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from azure.core.pipeline import PipelineRequest, PipelineResponse
    from azure.core.pipeline.policies import HTTPPolicy, SansIOHTTPPolicy

    from kubenclave.cluster.azure.patience import Patience
    from kubenclave.cluster.azure.tokens import Tokens

# The longest answer that is asked for is a region's list of sizes: about 3 MiB. An answer twenty times that is none.
MAX_REPLY_BYTES = 64 << 20
# What threads are still asking at the end is waited for this long: a connection in use cannot be closed by another thread.
LEAVING_SECONDS = 0.5
# A longer Retry-After is told rather than slept through: ARM's own windows refill every second, subscription limits within minutes.
MAX_RETRY_AFTER_SECONDS = 120.0
_RETRIES = {"retry_total": 12, "retry_connect": 0, "retry_read": 4, "retry_status": 8, "retry_backoff_factor": 0.8, "retry_backoff_max": 5}
_THROTTLED = 429
_CONNECTIONS = 16
_HTTPS_PORT = 443  # some of Azure's services write it out (RFC 9110, 4.2.2: it is the same address)


# azure-core hands its transport out by a function, which hides the type.
class Transport(RequestsTransport):  # type: ignore[misc]
    """Send over pooled connections. What was never sent is sent again until the patience ends, whatever its verb."""

    def __init__(self, patience: Patience, ca_file: Path | None) -> None:
        session = requests.Session()
        session.mount("https://", _Bounded(pool_maxsize=_CONNECTIONS, max_retries=Retry(total=False, redirect=False)))
        super().__init__(
            session=session,
            connection_timeout=CONNECT_SECONDS,
            read_timeout=REPLY_SECONDS,
            connection_verify=True if ca_file is None else str(ca_file),
        )
        self.patience = patience
        self._sending = 0
        self._left = False
        self._changed = threading.Condition()

    # What azure-core overloads for two kinds of requests, is passed on as it came.
    def send(self, request: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
        """Send one request.

        Raises:
            ServiceRequestError: Nothing could be sent within the patience.
            Unreachable: The answer is longer than any that is asked for.
        """
        with self._changed:
            self._sending += 1
        try:
            return self._sent(request, **kwargs)
        finally:
            with self._changed:
                self._sending -= 1
                self._changed.notify_all()
                if self._left and not self._sending:
                    super().close()

    def close(self) -> None:
        """Close the connections, after those that are in use; what cannot be waited for is closed by the last thread that used it."""
        with self._changed:
            self._changed.wait_for(lambda: self._sending == 0, LEAVING_SECONDS)
            self._left = True
        super().close()

    def _sent(self, request: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
        for last in self.patience.tries():
            # A thread that was left behind must not open connections that nobody closes.
            if self.patience.over:
                raise ServiceRequestError("The session has ended.")
            try:
                return super().send(request, **kwargs)
            except ServiceRequestError as exc:
                if last or isinstance(exc.inner_exception, requests.exceptions.SSLError):
                    raise
        raise AssertionError  # pragma: no cover - the last try returns or raises

    def sleep(self, duration: float) -> None:
        """Wait between two tries of a request that was answered."""
        self.patience.pause(duration)


class _Bounded(HTTPAdapter):
    """Stop reading an answer at the bound, counted after decompression."""

    def build_response(self, req: Any, resp: Any) -> requests.Response:  # noqa: ANN401 - requests leaves these untyped
        stream = resp.stream

        def counted(*args: Any, **kwargs: Any) -> Iterator[bytes]:  # noqa: ANN401 - passed on
            read = 0
            for piece in stream(*args, **kwargs):
                read += len(piece)
                if read > MAX_REPLY_BYTES:
                    resp.close()
                    raise Unreachable(f"An answer of {req.url} is longer than {MAX_REPLY_BYTES >> 20} MiB.", "This is not Azure's answer.")
                yield piece

        resp.stream = counted
        return super().build_response(req, resp)


class _Retry(RetryPolicy[Any, Any]):
    """Repeat what the server said to repeat, and what broke off while the patience lasts; connecting is the transport's matter."""

    def __init__(self, patience: Patience, *, repeat_posts: bool) -> None:
        super().__init__(**_RETRIES)
        self._patience = patience
        self._repeat_posts = repeat_posts

    def configure_retries(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**super().configure_retries(options), "begun": time.monotonic()}

    def increment(self, settings: dict[str, Any], response: Any = None, error: Exception | None = None) -> bool:  # noqa: ANN401
        # A server that takes connections and never answers costs a whole time-out at each try.
        if error is not None and time.monotonic() - settings["begun"] > self._patience.seconds:
            return False
        return super().increment(settings, response, error)

    def is_retry(self, settings: dict[str, Any], response: PipelineResponse[Any, Any]) -> bool:
        reply = response.http_response
        wait_seconds = self.get_retry_after(response)
        if wait_seconds is not None and wait_seconds > MAX_RETRY_AFTER_SECONDS:
            return False
        if reply.status_code != _THROTTLED and response.http_request.method == "POST" and not self._repeat_posts:
            return False
        return super().is_retry(settings, response)


class _Bearer(ARMChallengeAuthenticationPolicy):
    """Sign requests to one service; get a new token where it no longer takes the one we hold, or asks for more claims.

    Azure says where its next page and an operation's state are. A token goes to no other host than the service's own.
    """

    def __init__(self, tokens: Tokens, scope: str, base: str) -> None:
        super().__init__(tokens, scope)
        self._tokens = tokens
        self._base = urlsplit(base)

    def on_request(self, request: PipelineRequest[Any]) -> None:
        asked = urlsplit(request.http_request.url)
        host, own = asked.hostname or "", self._base.hostname or ""
        same_port = (asked.port or _HTTPS_PORT) == (self._base.port or _HTTPS_PORT)
        if asked.scheme != "https" or not same_port or not (host == own or host.endswith(f".{own}")):
            raise Unreachable(f"Azure points to {asked.scheme}://{asked.netloc}, which is not {own}.", "Nothing was sent there.")
        super().on_request(request)

    def on_challenge(self, request: PipelineRequest[Any], response: PipelineResponse[Any, Any]) -> bool:
        if super().on_challenge(request, response):
            return True
        if "invalid_token" not in response.http_response.headers.get("WWW-Authenticate", ""):
            return False
        self._tokens.forget()
        self.authorize_request(request, *self._scopes)
        return True


def policies(
    patience: Patience, tokens: Tokens | None, scope: str, base: str, *, repeat_posts: bool = True
) -> list[HTTPPolicy[Any, Any] | SansIOHTTPPolicy[Any, Any]]:
    """Return what every request passes through. Nothing of it writes to a log.

    Args:
        patience: For how long what breaks off is repeated.
        tokens: Who signs; None for what is asked without signing in.
        scope: What the token is for.
        base: The URL of the service, which alone is sent the token.
        repeat_posts: Whether a POST is repeated after a 5xx. ARM's are repeatable; Graph's would make a second application.
    """
    return [
        RequestIdPolicy(),
        HeadersPolicy(),
        UserAgentPolicy(f"kubenclave/{version('kubenclave')}", user_agent_use_env=False),
        ContentDecodePolicy(),
        _Retry(patience, repeat_posts=repeat_posts),
        *([_Bearer(tokens, scope, base)] if tokens is not None else []),
    ]
