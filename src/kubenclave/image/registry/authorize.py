"""Get what a registry wants to see with a request: a password, or a token from its token server.

Talks to token servers. No credential leaves this file but in a request to where it may go (``challenge.may_be_told``).
"""

from __future__ import annotations

import base64
import re
import threading
from typing import TYPE_CHECKING

import httpx2
import msgspec

from kubenclave.errors import Refused, Unreachable
from kubenclave.image.registry.challenge import may_be_told, parse_challenge, token_url
from kubenclave.image.registry.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Collection

    from kubenclave.image.registry.challenge import Challenge

# Tokens with many claims have some ten KiB.
MAX_TOKEN_BYTES = 256 * 1024
# Azure Container Registry in Azure's clouds (learn.microsoft.com, "Authenticate with an Azure container registry").
ENTRA_REGISTRIES = (".azurecr.io", ".azurecr.us", ".azurecr.cn")
_CLIENT = "kubenclave"
# RFC 6750: what a token can consist of, so what can stand in a header.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_MIN_SECRET = 4
"""Shorter passwords than this would make every message unreadable if they were blotted out."""


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    refresh_token: str = ""


class Authorizer:
    """Answers the challenges of one registry; several threads may ask at once."""

    def __init__(
        self,
        registry: httpx2.URL,
        client: httpx2.Client,
        credentials: Credentials | None,
        *,
        entra_token: str = "",
        allowed_hosts: Collection[str] = (),
        scopes: Collection[str],
    ) -> None:
        self._registry = registry
        self._client = client
        self._credentials = credentials
        self._entra_token = entra_token
        self._allowed_hosts = frozenset(allowed_hosts)
        self._scopes = tuple(scopes)
        self._header = ""
        self._lock = threading.Lock()
        self._secrets: set[str] = set()
        for secret in (entra_token, *((credentials.password, credentials.identity_token) if credentials else ())):
            self._keep_secret(secret)

    @property
    def header(self) -> str:
        """Give the Authorization header that worked last; empty before the first challenge."""
        return self._header

    def answer(self, challenges: Collection[str], tried: str) -> None:
        """Find the header for a challenge; what the registry's scope asks for is not looked at, only what is needed is asked for.

        Args:
            challenges: The values of WWW-Authenticate.
            tried: The header that was not good enough.

        Raises:
            Refused: The credential would have to be told to somebody else, or is not accepted.
            Unreachable: The token server does not answer as it should.
        """
        with self._lock:
            if self._header != tried:
                # Another thread has been here meanwhile.
                return
            challenge = parse_challenge(challenges, self._registry.host)
            self._header = self._basic() if challenge.basic else f"Bearer {self._token(challenge)}"
            if self._header == tried:
                raise self.denied()

    def denied(self) -> Refused:
        """Return the error that a login is missing or not accepted."""
        host = self._host()
        if self._credentials is None and not self._entra_token:
            return Refused(f"The registry {host} wants a login.", f"Log in with: docker login {host}, or skopeo login {host}.")
        return Refused(f"The registry {host} does not accept the login for this.", f"Check who may do this there, or log in again: {host}.")

    def redacted(self, text: str) -> str:
        """Return text of a server without any of our secrets, should it have sent one back."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "(secret)")
        return text

    def _host(self) -> str:
        return self._registry.host if self._registry.port is None else f"{self._registry.host}:{self._registry.port}"

    def _keep_secret(self, secret: str) -> None:
        if len(secret) >= _MIN_SECRET:
            self._secrets.add(secret)

    def _basic(self) -> str:
        if self._credentials is None or not self._credentials.username:
            raise self.denied()
        pair = f"{self._credentials.username}:{self._credentials.password}".encode()
        encoded = base64.b64encode(pair).decode("ascii")
        self._keep_secret(encoded)
        return f"Basic {encoded}"

    def _token(self, challenge: Challenge) -> str:
        url = token_url(challenge, self._registry)
        if self._entra_token:
            self._exchange(challenge)
        if self._credentials is not None and not may_be_told(url, self._registry, self._allowed_hosts):
            place = url.host if url.port is None else f"{url.host}:{url.port}"
            raise Refused(
                f"The registry {self._host()} wants its login sent to {place}; it was not sent.",
                f"If that is the registry's own token server, say so: --auth-host {place}.",
            )
        parameters = [("service", challenge.service), *(("scope", scope) for scope in self._scopes)]
        if self._credentials is not None and self._credentials.identity_token:
            form = [("grant_type", "refresh_token"), ("client_id", _CLIENT), ("refresh_token", self._credentials.identity_token)]
            answer = self._ask("POST", url, [*form, ("service", challenge.service), ("scope", " ".join(self._scopes))])
        else:
            headers = {} if self._credentials is None else {"Authorization": self._basic()}
            answer = self._ask("GET", url.copy_with(params=[*url.params.multi_items(), *parameters]), None, headers)
        token = answer.token or answer.access_token
        if not _TOKEN.fullmatch(token):
            raise Unreachable(f"The token server {url.host} sends no token.", "Try again; if it stays so, ask who runs the registry.")
        self._keep_secret(token)
        return token

    def _exchange(self, challenge: Challenge) -> None:
        """Exchange a Microsoft Entra access token for one of the registry (ACR's /oauth2/exchange)."""
        if not self._registry.host.endswith(ENTRA_REGISTRIES) or self._registry.scheme != "https":
            raise Refused(
                f"{self._host()} is no Azure Container Registry; the Entra token was not sent.", "Log in there with a user and a password."
            )
        form = [("grant_type", "access_token"), ("service", challenge.service or self._host()), ("access_token", self._entra_token)]
        answer = self._ask("POST", self._registry.copy_with(path="/oauth2/exchange"), form)
        if not _TOKEN.fullmatch(answer.refresh_token):
            raise Unreachable(f"The registry {self._host()} exchanges no token.", "Try again, or log in with: az acr login.")
        self._keep_secret(answer.refresh_token)
        self._credentials = Credentials(identity_token=answer.refresh_token)
        self._entra_token = ""

    def _ask(self, method: str, url: httpx2.URL, form: list[tuple[str, str]] | None, headers: dict[str, str] | None = None) -> _Token:
        where = url.host
        try:
            # A token server has no reason to send us elsewhere.
            with self._client.stream(
                method, url, data=None if form is None else dict(form), headers=headers or {}, follow_redirects=False
            ) as response:
                data = _limited(response)
        except httpx2.HTTPError as exc:
            raise Unreachable(f"The token server {where} does not answer: {exc}.", "Check the network, and try again.") from exc
        if response.status_code in (400, 401, 403):
            raise self.denied()
        if response.status_code != 200:  # noqa: PLR2004 - OK
            raise Unreachable(f"The token server {where} answers with {response.status_code}.", "Try again later.")
        try:
            return msgspec.json.decode(data, type=_Token)
        except (msgspec.DecodeError, RecursionError):
            # The decoder's words could hold a piece of a token.
            raise Unreachable(f"The token server {where} sends no token.", "Try again later.") from None


def _limited(response: httpx2.Response) -> bytes:
    data = b""
    for part in response.iter_raw():
        data += part
        if len(data) > MAX_TOKEN_BYTES:
            raise Unreachable("The token server sends more than any token has.", "Check that it is the registry you mean.")
    return data
