"""Decide how to answer a registry that wants to know who asks, and to whom a credential may be told.

Pure. Sources: RFC 9110, 11.6.1 (WWW-Authenticate); distribution, "Token Authentication Specification".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2

from kubenclave.errors import Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Collection

# Real ones have some hundred characters.
MAX_CHALLENGE_CHARACTERS = 4096
_SCHEME = re.compile(r"(?:^|,)\s*(Bearer|Basic)\b", re.IGNORECASE)
_PARAMETER = re.compile(r'\b([A-Za-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
# Registries whose tokens come from a host of another name, by their own documentation.
_OTHER_REALMS = {
    "registry-1.docker.io": "auth.docker.io",
    "registry.gitlab.com": "gitlab.com",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """Hold what a registry asks for: ``basic``, or a token from ``realm``."""

    basic: bool
    realm: str = ""
    service: str = ""


def parse_challenge(headers: Collection[str], registry: str) -> Challenge:
    """Read WWW-Authenticate; a token is preferred, since it holds no password.

    Raises:
        Unreachable: It asks for nothing that is known.
    """
    text = ", ".join(headers)[:MAX_CHALLENGE_CHARACTERS]
    starts = [(match[1].lower(), match.end()) for match in _SCHEME.finditer(text)]
    for wanted in ("bearer", "basic"):
        for place, (scheme, begin) in enumerate(starts):
            if scheme != wanted:
                continue
            end = starts[place + 1][1] if place + 1 < len(starts) else len(text)
            values = {match[1].lower(): match[2] if match[2] is not None else match[3] for match in _PARAMETER.finditer(text[begin:end])}
            if wanted == "basic":
                return Challenge(basic=True)
            if "realm" in values:
                return Challenge(basic=False, realm=values["realm"], service=values.get("service", ""))
    raise Unreachable(
        f"The registry {registry} wants a login of a kind that is not supported.", "Supported are basic and token (Bearer) authentication."
    )


def token_url(challenge: Challenge, registry: httpx2.URL) -> httpx2.URL:
    """Return where a token is to be had.

    Raises:
        Refused: It is no address, holds a login, or is not encrypted although the registry is.
    """
    try:
        url = httpx2.URL(challenge.realm)
    except (httpx2.InvalidURL, ValueError) as exc:
        raise Refused(
            f"The registry {registry.host} names no proper address for tokens.", "Check that it is the registry you mean."
        ) from exc
    allowed = ("https", "http") if registry.scheme == "http" and url.host == registry.host else ("https",)
    if url.scheme not in allowed or not url.host or url.userinfo:
        raise Refused(
            f"The registry {registry.host} wants tokens from {_shown(url)}, which is not https.", "Check that it is the registry you mean."
        )
    return url


def may_be_told(url: httpx2.URL, registry: httpx2.URL, allowed_hosts: Collection[str]) -> bool:
    """Say whether a credential for a registry may be sent to an address: its own, one that is known, or one that the user allows."""
    if origin(url) == origin(registry):
        return True
    host = url.host if url.port is None else f"{url.host}:{url.port}"
    return host in allowed_hosts or (url.port is None and _OTHER_REALMS.get(registry.host) == url.host)


def origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    """Return what makes two addresses those of the same server."""
    return url.scheme, url.host, url.port or {"https": 443, "http": 80}.get(url.scheme)


def _shown(url: httpx2.URL) -> str:
    return f"{url.scheme}://{url.host}{'' if url.port is None else f':{url.port}'}"
