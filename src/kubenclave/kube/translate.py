"""Turn what lightkube and its HTTP client raise into this project's errors: nothing of theirs leaves this room."""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx2
import msgspec
from lightkube.core.exceptions import ApiError, ConfigError, LoadResourceError

from kubenclave.errors import KubenclaveError, NotFound, Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

# The API's own sentence is shown; a webhook can make it as long as it likes.
_LONGEST_MESSAGE = 2000


@contextmanager
def translated(server: str, doing: str) -> Iterator[None]:
    """Translate what is raised inside; ``doing`` completes the sentence "the cluster did not ...".

    Raises:
        Refused: The API server understood and said no: 401, 403, 409, 422 and other 4xx, with its own message.
        NotFound: The object or its namespace does not exist.
        Unreachable: No answer, not in time, a failing server, or an answer that is not the Kubernetes API's.
    """
    try:
        yield
    except ApiError as exc:
        raise error_of(server, doing, exc) from exc
    except httpx2.TimeoutException as exc:
        raise Unreachable(f"{server} did not answer in time (to {doing})", "see whether the cluster is up and not overloaded") from exc
    except httpx2.HTTPStatusError as exc:
        raise _not_kubernetes(server, doing, f"HTTP status {exc.response.status_code}") from exc
    except httpx2.HTTPError as exc:
        raise _no_connection(server, exc) from exc
    except LoadResourceError as exc:
        raise Refused(f"cannot {doing}: {exc}", "see apiVersion and kind of the object") from exc
    except (ConfigError, OSError) as exc:
        # Certificate files, token files and login programs that a kubeconfig names.
        raise Refused(f"the certificates or credentials for {server} cannot be used: {_short(str(exc))}", "see its kubeconfig") from exc
    except (msgspec.MsgspecError, ValueError, KeyError) as exc:
        raise _not_kubernetes(server, doing, f"{type(exc).__name__}: {exc}") from exc


def error_of(server: str, doing: str, exc: ApiError) -> KubenclaveError:
    """Return this project's error for an error status of the API."""
    code, message = exc.status.code or 0, _short(exc.status.message or exc.status.reason or "no reason given")
    # Server-side apply answers 500 to a field that the schema does not have: the object is at fault, not the server.
    at_fault = message.startswith("failed to create typed patch object")
    if code == HTTPStatus.NOT_FOUND:
        return NotFound(f"cannot {doing}: {message}", "see the name and the namespace")
    if code == HTTPStatus.TOO_MANY_REQUESTS or (code >= HTTPStatus.INTERNAL_SERVER_ERROR and not at_fault):
        return Unreachable(f"{server} failed to {doing}: {message}", "try again; see the API server's log if it goes on")
    refusals: dict[int, tuple[str, str]] = {
        HTTPStatus.UNAUTHORIZED: ("no valid credentials to", "renew the user's credentials in the kubeconfig"),
        HTTPStatus.FORBIDDEN: ("not allowed to", "ask the cluster's administrator for this right"),
        HTTPStatus.CONFLICT: ("cannot", "somebody else owns or has changed this; kubectl get --show-managed-fields tells who"),
    }
    start, hint = refusals.get(code, ("cannot", "see the field that the message names"))
    return Refused(f"{start} {doing}: {message}", hint)


def _no_connection(server: str, exc: httpx2.HTTPError) -> Unreachable:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Unreachable(
                f"{server} shows a certificate that its kubeconfig does not trust: {cause.verify_message}",
                "see certificate-authority-data in the kubeconfig, and that the address is the cluster's",
            )
        cause = cause.__cause__ or cause.__context__
    return Unreachable(
        f"{server} cannot be reached: {_short(str(exc)) or type(exc).__name__}", "see whether the cluster is up and the address right"
    )


def _not_kubernetes(server: str, doing: str, detail: str) -> Unreachable:
    return Unreachable(
        f"{server} did not answer as a Kubernetes API does (to {doing}): {_short(detail)}", "see the server in the kubeconfig"
    )


def _short(text: str) -> str:
    return text[:_LONGEST_MESSAGE]
