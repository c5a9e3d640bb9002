"""Speak HTTP with one registry about one repository: log in, try again, follow redirects, bound what is read.

Talks to the network. Every error is one of ours, without addresses' queries and without credentials.
"""

from __future__ import annotations

import email.utils
import random
import ssl
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2
import msgspec

from kubenclave.errors import KubenclaveError, NotFound, Refused, Unreachable, UsageError
from kubenclave.image.registry.authorize import Authorizer
from kubenclave.image.registry.challenge import origin

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from kubenclave.image.reference import Remote
    from kubenclave.image.registry.credentials import Credentials

MAX_ATTEMPTS = 5
_FIRST_WAIT_SECONDS = 0.5
# A registry that wants more patience than this is told of; a person decides.
MAX_WAIT_SECONDS = 60.0
MAX_REDIRECTS = 5
# Errors are some sentences; more is not read.
_MAX_ERROR_BYTES = 16 * 1024
_MAX_ERROR_CHARACTERS = 300
_TIMEOUT = httpx2.Timeout(connect=10.0, read=60.0, write=60.0, pool=None)
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Compressed answers could grow without bound, and blobs have digests of the bytes that are sent.
_HEADERS = {"User-Agent": "kubenclave", "Accept-Encoding": "identity"}
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY = 401, 403, 404, 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Say how a registry is reached.

    Attributes:
        credentials: Who asks; None asks without a login.
        entra_token: A Microsoft Entra access token, for Azure Container Registry.
        auth_hosts: Token servers of other names that the login may be told to.
        ca: A file with the certificate authorities to trust; None trusts those of the system.
        plain_http: Speak without encryption; a login is then sent to this machine itself only.
    """

    credentials: Credentials | None = None
    entra_token: str = field(default="", repr=False)
    auth_hosts: tuple[str, ...] = ()
    ca: Path | None = None
    plain_http: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Hold a response whose body was read."""

    status: int
    headers: httpx2.Headers
    body: bytes
    url: httpx2.URL


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


class RegistryClient:
    """Asks one registry about one repository. Several threads may ask at once."""

    def __init__(
        self,
        remote: Remote,
        access: Access,
        *,
        actions: str,
        also_pull: Collection[str] = (),
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            remote: The registry and repository.
            access: How it is reached.
            actions: What is to be done with the repository: ``pull`` or ``pull,push``.
            also_pull: Further repositories there from which blobs may be mounted.
            transport: Replaces the network.
            sleep: Waits for so many seconds.

        Raises:
            UsageError: A login would be sent unencrypted over a network, or the file of authorities cannot be used.
        """
        self.remote = remote
        host = "registry-1.docker.io" if remote.registry == "docker.io" else remote.registry
        try:
            self.base = httpx2.URL(f"{'http' if access.plain_http else 'https'}://{host}")
        except httpx2.InvalidURL as exc:
            raise UsageError(f"{host!r} is no registry.", "Write it as in registry.example:5000/team/hello:1.0.") from exc
        if access.plain_http and self.base.host not in _LOOPBACK and (access.credentials or access.entra_token):
            raise UsageError(f"The login for {host} would be sent unencrypted.", "Use https, or log out.")
        verify = _tls(access.ca)
        self._http = httpx2.Client(verify=verify, timeout=_TIMEOUT, transport=transport, follow_redirects=False, headers=_HEADERS)
        self.authorizer = Authorizer(
            self.base,
            self._http,
            access.credentials,
            entra_token=access.entra_token,
            allowed_hosts=access.auth_hosts,
            scopes=[f"repository:{remote.repository}:{actions}", *(f"repository:{name}:pull" for name in also_pull)],
        )
        self._sleep = sleep

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def url(self, path: str, **query: str) -> httpx2.URL:
        """Return an address below the repository, as in ``blobs/sha256:...``."""
        return self.base.copy_with(path=f"/v2/{self.remote.repository}/{path}", params=query or None)

    def location(self, answer: Answer, what: str) -> httpx2.URL:
        """Return the address in a Location header, absolute or not.

        Raises:
            Unreachable: There is none, or it leads from https to http.
        """
        text = answer.headers.get("Location", "")
        try:
            url = answer.url.join(text)
        except (httpx2.InvalidURL, ValueError):
            text = ""
        if not text:
            raise Unreachable(
                f"The registry {self.base.host} does not say where {what} goes on.", "Try again; it may be a faulty registry."
            )
        if url.scheme not in {self.base.scheme, "https"}:
            raise Unreachable(f"The registry {self.base.host} leads from https to {url.scheme}.", "Check that it is the registry you mean.")
        return url

    def ask(
        self,
        method: str,
        url: httpx2.URL,
        *,
        what: str,
        expected: Collection[int],
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        limit_bytes: int = _MAX_ERROR_BYTES,
        again: bool = True,
    ) -> Answer:
        """Send a request, again if that may help, and return the answer.

        Args:
            method: The method.
            url: The address.
            what: What is asked for, in an error.
            expected: Status codes that are answers; any other is an error.
            headers: Further headers.
            content: The body.
            limit_bytes: How long an answer may be.
            again: Try again after a failure that may pass.

        Raises:
            NotFound: There is no such thing.
            Refused: The registry does not let us, or the answer is too long.
            Unreachable: It does not answer, or not as it should.
        """
        with self.stream(method, url, what=what, expected=expected, headers=headers, content=content, again=again) as response:
            body = self._body(response, limit_bytes, what)
            return Answer(status=response.status_code, headers=response.headers, body=body, url=response.url)

    @contextmanager
    def stream(
        self,
        method: str,
        url: httpx2.URL,
        *,
        what: str,
        expected: Collection[int],
        headers: Mapping[str, str] | None = None,
        content: bytes | Callable[[], Iterable[bytes]] | None = None,
        again: bool = True,
    ) -> Iterator[httpx2.Response]:
        """Send a request, again if that may help, and give the answer before its body is read.

        Raises:
            NotFound: There is no such thing.
            Refused: The registry does not let us.
            Unreachable: It does not answer, or not as it should.
        """
        response = self.send(method, url, what=what, expected=expected, headers=headers, content=content, again=again)
        try:
            yield response
        except httpx2.HTTPError as exc:
            raise self.broken(exc, what) from exc
        finally:
            response.close()

    def wait(self, attempt: int, answer: httpx2.Response | None = None) -> None:
        """Wait before the next attempt, as long as the registry asks for, or longer each time.

        Raises:
            Unreachable: It asks for more patience than anybody has.
        """
        seconds = _FIRST_WAIT_SECONDS * 2**attempt * (0.5 + random.random())  # noqa: S311 - spreads load, hides nothing
        asked = _retry_after(answer.headers.get("Retry-After", ""), time.time()) if answer is not None else None
        if asked is not None:
            if asked > MAX_WAIT_SECONDS:
                raise Unreachable(f"The registry {self.base.host} asks to come back in {asked:.0f} seconds.", "Try again then.")
            seconds = max(asked, 0.0)
        self._sleep(min(seconds, MAX_WAIT_SECONDS))

    def broken(self, exc: httpx2.HTTPError, what: str) -> Unreachable:
        """Return the error for a connection that failed."""
        if isinstance(exc, httpx2.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(exc):
            return Unreachable(
                f"The certificate of {self.base.host} is not trusted: {exc}.", "Name the file of its certificate authority with --ca."
            )
        told = str(exc) or type(exc).__name__
        return Unreachable(f"{what}: the registry {self.base.host} does not answer: {self.authorizer.redacted(told)}.", "Try again.")

    def send(
        self,
        method: str,
        url: httpx2.URL,
        *,
        what: str,
        expected: Collection[int],
        headers: Mapping[str, str] | None = None,
        content: bytes | Callable[[], Iterable[bytes]] | None = None,
        again: bool = True,
    ) -> httpx2.Response:
        """Send a request, again if that may help; the caller reads the answer's body and closes it.

        Raises:
            NotFound: There is no such thing.
            Refused: The registry does not let us.
            Unreachable: It does not answer, or not as it should.
        """
        attempt = challenges = redirects = 0
        while True:
            asked = self.authorizer.header if origin(url) == origin(self.base) else ""
            last = attempt + 1 >= MAX_ATTEMPTS or not again
            try:
                request = self._http.build_request(
                    method,
                    url,
                    headers={**(headers or {}), **({"Authorization": asked} if asked else {})},
                    content=content() if callable(content) else content,
                )
                response = self._http.send(request, stream=True)
            except httpx2.TransportError as exc:
                if last or isinstance(exc, httpx2.UnsupportedProtocol) or "CERTIFICATE_VERIFY_FAILED" in str(exc):
                    raise self.broken(exc, what) from exc
                self.wait(attempt)
                attempt += 1
                continue
            if response.status_code in expected:
                return response
            if response.status_code == _UNAUTHORIZED and challenges < 2 and origin(url) == origin(self.base):  # noqa: PLR2004 - once more after a token has run out
                challenges += 1
                with _closing(response):
                    self.authorizer.answer(response.headers.get_list("WWW-Authenticate"), asked)
                continue
            if response.status_code in _REDIRECTS and method in ("GET", "HEAD") and redirects < MAX_REDIRECTS:
                redirects += 1
                with _closing(response):
                    url = self.location(Answer(status=0, headers=response.headers, body=b"", url=url), what)
                continue
            if response.status_code in _TRY_AGAIN and not last:
                with _closing(response):
                    self.wait(attempt, response)
                attempt += 1
                continue
            with _closing(response):
                raise self._failure(response, what)

    def _failure(self, response: httpx2.Response, what: str) -> KubenclaveError:
        told = self._told(response)
        if response.status_code == _UNAUTHORIZED:
            return self.authorizer.denied()
        if response.status_code == _FORBIDDEN:
            return Refused(
                f"{what}: the registry {self.base.host} does not allow it{told}.", "Check who may do this there, or log in again."
            )
        if response.status_code == _NOT_FOUND:
            return NotFound(f"{what}: {self.remote.name} does not have it{told}.", "Check the name; it may also need a login.")
        if response.status_code == _TOO_MANY:
            return Unreachable(f"{what}: the registry {self.base.host} wants fewer requests{told}.", "Try again later.")
        if response.status_code in _REDIRECTS:
            return Unreachable(
                f"{what}: the registry {self.base.host} leads elsewhere without end.", "Check that it is the registry you mean."
            )
        kind = Refused if response.status_code in (400, 413, 416) else Unreachable
        return kind(f"{what}: the registry {self.base.host} answers with {response.status_code}{told}.", "Try again; see what it says.")

    def _told(self, response: httpx2.Response) -> str:
        """Return what the registry says of an error, in a few words and without anything of ours that it sends back."""
        try:
            data = self._body(response, _MAX_ERROR_BYTES, "")
            errors = msgspec.json.decode(data, type=_Errors).errors
        except (msgspec.DecodeError, RecursionError, httpx2.HTTPError, KubenclaveError):
            return ""
        text = "; ".join(f"{error.code} {error.message}".strip() for error in errors[:3])
        return f": {self.authorizer.redacted(text)[:_MAX_ERROR_CHARACTERS]}" if text else ""

    def _body(self, response: httpx2.Response, limit_bytes: int, what: str) -> bytes:
        parts: list[bytes] = []
        size = 0
        for part in response.iter_raw():
            size += len(part)
            if size > limit_bytes:
                raise Refused(f"{what}: the registry {self.base.host} sends more than {limit_bytes} bytes.", "It may be a faulty registry.")
            parts.append(part)
        return b"".join(parts)


@contextmanager
def _closing(response: httpx2.Response) -> Iterator[None]:
    try:
        yield
    finally:
        response.close()


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as exc:
        raise UsageError(f"{ca} is no file of certificate authorities: {exc}.", "Name a file with certificates in PEM.") from exc


def _retry_after(text: str, now: float) -> float | None:
    """Read Retry-After: seconds, or a date (RFC 9110, 10.2.3)."""
    if text.isascii() and text.isdigit() and len(text) <= 9:  # noqa: PLR2004 - digits of thirty years
        return float(text)
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return None
