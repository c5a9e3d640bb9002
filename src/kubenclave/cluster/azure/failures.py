"""Tell in words what Azure's failures mean and what to do about them.

Azure says what is wrong by an error code and leaves the rest to search engines. What is not in the table of ``meanings`` is told in
Azure's own words. Nothing that could be a secret passes through. Source for sign-in: RFC 6749, section 5.2.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from kubenclave.cluster.azure.meanings import (
    ABSENT,
    CODES,
    DENIED_HERE,
    ENVELOPES,
    GARBAGE,
    NETWORK,
    RESOLUTION,
    SENTENCES,
    SERVER,
    SIGN_IN,
    SIGN_IN_REFUSED,
    THROTTLING,
    TLS,
    TOKEN,
    Failure,
)
from kubenclave.cluster.azure.reply import children, inside, text
from kubenclave.errors import KubenclaveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from azure.core.rest import HttpResponse

MAX_SENTENCE = 500  # characters of Azure's own words; some errors list every VM size of a region
_MAX_DEPTH = 6  # errors within errors; a deployment's go three deep
_MAX_CAUSES = 8
_THROTTLED, _SERVER_ERROR, _GONE, _DENIED = 429, 500, 404, 403

_UNTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|SSLCertVerificationError|SSLError", re.IGNORECASE)
_UNRESOLVED = re.compile(
    r"NameResolutionError|Failed to resolve|Name or service not known|Temporary failure in name resolution|getaddrinfo failed"
)
_BROKEN = re.compile(
    r"Connection refused|Network is unreachable|No route to host|Connection (aborted|reset|broken)|timed out|Max retries exceeded"
    r"|RemoteDisconnected"
)
_REFUSED_SIGN_IN = re.compile(r"AADSTS\d{4,9}[^\n]*")
# What looks like a secret: JSON web tokens, bearer headers, named secrets, and client secrets in the form that Entra ID makes.
_SECRETS = (
    (re.compile(r"eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)*"), "***"),
    (re.compile(r"(bearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1***"),
    (
        re.compile(
            r"""((?:secret|secrettext|password|access_token|refresh_token|assertion|accesskey|sig)["']?\s*[:=]\s*["']?)[^\s"',;&}]{3,}""",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (re.compile(r"[A-Za-z0-9_.~-]{3}\dQ~[A-Za-z0-9_.~-]{30,36}"), "***"),
)


def told(exc: AzureError, doing: str) -> KubenclaveError:
    """Translate a failure of the SDKs.

    Args:
        exc: What the SDK raised.
        doing: What was being done, as in "creating the cluster g/c".
    """
    if isinstance(exc, ClientAuthenticationError) and exc.response is None:
        return _sign_in(exc, doing)
    if isinstance(exc, DecodeError):
        return _sentence(GARBAGE, doing)
    if isinstance(exc, HttpResponseError):
        return _reply(exc, doing)
    if isinstance(exc, ServiceRequestError | ServiceResponseError):
        return _sentence(_broken(exc) or NETWORK, doing)
    return KubenclaveError(f"{_begun(doing)} did not work: {scrub(str(exc))}")


@contextmanager
def telling(doing: str) -> Iterator[None]:
    """Translate whatever the SDKs raise inside the block, also what an answer of the wrong shape makes them raise.

    Raises:
        KubenclaveError: See ``told``.
    """
    try:
        yield
    except AzureError as exc:
        raise told(exc, doing) from exc
    # The SDKs read JSON without checking it: a number where a list belongs ends in one of these.
    except (RecursionError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise _sentence(GARBAGE, doing) from exc


def error_code(exc: AzureError) -> str:
    """Return Azure's code of a failure, the innermost that says something; empty where it has none.

    A failed operation arrives with the HTTP status 200: only its code tells.
    """
    return _innermost(exc)[0] if isinstance(exc, HttpResponseError) else ""


def is_network(exc: BaseException) -> bool:
    """Say whether a failure comes from the way to Azure, so that waiting may help."""
    found = _broken(exc)
    return found is not None and found is not TLS


def scrub(words: str) -> str:
    """Return words on one line, bounded, without control characters and without what looks like a secret."""
    kept = os.environ.get("AZURE_CLIENT_SECRET", "")
    if kept:
        words = words.replace(kept, "***")
    for pattern, instead in _SECRETS:
        words = pattern.sub(instead, words)
    plain = " ".join("".join(char if char.isprintable() else " " for char in words).split())
    return plain if len(plain) <= MAX_SENTENCE else f"{plain[:MAX_SENTENCE]} ..."


def _reply(exc: HttpResponseError, doing: str) -> KubenclaveError:
    code, message = _innermost(exc)
    status = exc.status_code or 0
    found = _meaning(code, message, status)
    if found is None:
        said = f"{_said(code, message)}" if code or message else f"Azure answered with the HTTP status {status} and no reason."
        return KubenclaveError(f"{_begun(doing)} did not work. {said}", _request_id(exc))
    return _sentence(found, doing, _said(code, message))


def _meaning(code: str, message: str, status: int) -> Failure | None:
    if status == _THROTTLED:
        return THROTTLING
    low = code.lower()
    if low in ENVELOPES:
        by_sentence = next((found for pattern, found in SENTENCES if pattern.search(message)), None)
        if by_sentence is not None:
            return by_sentence
    if low in CODES:
        return CODES[low]
    by_status = {_GONE: ABSENT, _DENIED: DENIED_HERE, 401: TOKEN}
    return by_status.get(status) or (SERVER if status >= _SERVER_ERROR else None)


def _innermost(exc: HttpResponseError) -> tuple[str, str]:
    """Return code and message of the error that the others only wrap. Azure sends them with and without an ``error`` around."""
    try:
        body: object = cast("HttpResponse", exc.response).json() if exc.response is not None else None
    except (AzureError, ValueError, TypeError, AttributeError, RecursionError):
        body = None
    node = inside(body, "error") or body
    code, message = text(node, "code"), text(node, "message")
    if not code and exc.error is not None:
        code, message = str(exc.error.code or "")[:200], str(exc.error.message or "")
    for _ in range(_MAX_DEPTH):
        within = next((each for each in children(node, "details") if text(each, "code")), None)
        if within is None or code.lower() not in ENVELOPES:
            break
        node, code, message = within, text(within, "code"), text(within, "message") or message
    return code, message


def _sign_in(exc: ClientAuthenticationError, doing: str) -> KubenclaveError:
    """Cut the long report of every way to sign in that was tried down to what matters."""
    broken = _broken(exc)
    if broken is not None:
        return _sentence(broken, f"signing in, while {doing}")
    refused = _REFUSED_SIGN_IN.search(str(exc.message))
    if refused is not None or "invalid_client" in str(exc.message):
        return _sentence(SIGN_IN_REFUSED, doing, f"Entra ID says: {scrub(refused[0])}" if refused is not None else "")
    return _sentence(SIGN_IN, doing)


def _broken(exc: BaseException) -> Failure | None:
    """Say what is wrong with the way to Azure, by the causes of a failure; None where the way is not what failed."""
    at: BaseException | None = exc
    network = False
    for _ in range(_MAX_CAUSES):
        if at is None:
            break
        words = str(at)
        for pattern, found in ((_UNTRUSTED, TLS), (_UNRESOLVED, RESOLUTION), (_BROKEN, NETWORK)):
            if pattern.search(words):
                return found
        network = network or isinstance(at, ServiceRequestError | ServiceResponseError)
        at = at.__cause__ or at.__context__
    return NETWORK if network else None


def _sentence(found: Failure, doing: str, said: str = "") -> KubenclaveError:
    return found.kind(f"{_begun(doing)} did not work: {found.words}.{' ' if said else ''}{said}", found.hint)


def _said(code: str, message: str) -> str:
    words = scrub(message)
    if not words:
        return f"Azure's code is {scrub(code)}." if code else ""
    return f"Azure says: {words}{f' ({scrub(code)})' if code else ''}"


def _request_id(exc: HttpResponseError) -> str:
    found = cast("HttpResponse", exc.response).headers.get("x-ms-request-id", "") if exc.response is not None else ""
    return f"Azure's support finds it by the request ID {scrub(found)}." if found else ""


def _begun(doing: str) -> str:
    return doing[:1].upper() + doing[1:]
