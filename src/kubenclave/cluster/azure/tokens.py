"""Sign in once for all clients of a session, and wait while the sign-in service cannot be reached."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import ClientAuthenticationError
from azure.identity import DefaultAzureCredential

from kubenclave.cluster.azure.failures import is_network
from kubenclave.cluster.azure.patience import CONNECT_SECONDS, REPLY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from azure.core.credentials import AccessToken

    from kubenclave.cluster.azure.patience import Patience

# azure-core renews from five minutes before a token ends; one that is kept here must not be older than that.
_RENEW_SECONDS = 300
# Of the ways to sign in, these ask services of the public cloud, or programs that know no other.
_PUBLIC_ONLY = (
    "workload_identity",
    "managed_identity",
    "shared_token_cache",
    "visual_studio_code",
    "powershell",
    "developer_cli",
    "broker",
)


class Tokens:
    """Hand out tokens, one request for each scope however many clients ask."""

    def __init__(self, make: Callable[[], DefaultAzureCredential], patience: Patience) -> None:
        self._make = make
        self._patience = patience
        self._lock = threading.Lock()
        self._credential = make()
        self._kept: dict[tuple[str, ...], AccessToken] = {}
        self._closed = False

    # The signature is azure-core's protocol TokenCredential.
    def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **kwargs: Any,  # noqa: ANN401 - as above
    ) -> AccessToken:
        """Return a token.

        Raises:
            ClientAuthenticationError: There is nobody to sign in as, the sign-in was refused, or its service was away for too long.
        """
        with self._lock:
            if self._closed:
                raise ClientAuthenticationError("The session has ended.")
            kept = self._kept.get(scopes)
            if claims is None and kept is not None and kept.expires_on - time.time() > _RENEW_SECONDS:
                return kept
            try:
                self._kept[scopes] = self._asked(*scopes, claims=claims, tenant_id=tenant_id, enable_cae=enable_cae, **kwargs)
            finally:
                if self._closed:
                    self._credential.close()
            return self._kept[scopes]

    def forget(self) -> None:
        """Forget every token, also those that the credential itself would give again."""
        with self._lock:
            self._kept.clear()
            self._credential.close()
            self._credential = self._make()

    def close(self) -> None:
        """End the connections to the sign-in service; a thread that is signing in just now ends its own."""
        self._closed = True
        if self._lock.acquire(blocking=False):
            self._lock.release()
            self._credential.close()

    def _asked(self, *scopes: str, **kwargs: Any) -> AccessToken:  # noqa: ANN401 - passed on
        for last in self._patience.tries():
            try:
                return self._credential.get_token(*scopes, **kwargs)
            except ClientAuthenticationError as exc:
                if last or not is_network(exc):
                    raise
        raise AssertionError  # pragma: no cover - the last try returns or raises


def public_credential() -> DefaultAzureCredential:
    """Return who is signed in on this machine."""
    return DefaultAzureCredential()


def credential_for(login: str, ca_file: Path | None) -> DefaultAzureCredential:
    """Return who is signed in to another cloud: by the environment's client secret or certificate, or by ``az login``."""
    return DefaultAzureCredential(
        authority=login,
        disable_instance_discovery=True,
        connection_verify=True if ca_file is None else str(ca_file),
        connection_timeout=CONNECT_SECONDS,
        read_timeout=REPLY_SECONDS,
        **{f"exclude_{way}_credential": True for way in _PUBLIC_ONLY},
    )
