"""Entra ID as far as a program logs in: OpenID metadata, tokens for a client's secret, and ARM's own list of endpoints."""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING

from kubenclave.local.azure.state import Token, digest
from kubenclave.local.azure.values import TENANT, Rejected, Reply

if TYPE_CHECKING:
    from kubenclave.local.azure.context import Context
    from kubenclave.local.azure.state import Application, State

MAX_TOKENS = 10_000  # a client that logs in for every request does not fill the memory; the oldest are forgotten


def metadata(context: Context, _where: dict[str, str]) -> Reply:
    """Answer ``GET /metadata/endpoints``: one origin plays ARM, Entra ID and Graph."""
    origin = context.request.origin
    entry = {
        "name": "SimulatedAzure",
        "portal": origin,
        "authentication": {
            "loginEndpoint": origin,
            "audiences": [origin],
            "tenant": TENANT,
            "identityProvider": "AAD",
        },
        "resourceManager": origin,
        "graphAudience": origin,
        "graph": origin,
        "microsoftGraphResourceId": origin,
        "gallery": origin,
        "media": origin,
        "batch": origin,
        "sqlManagement": origin,
        "vmImageAliasDoc": origin,
        "activeDirectoryDataLake": origin,
        "suffixes": {
            "storage": "core.simulated.invalid",
            "acrLoginServer": "azurecr.simulated.invalid",
            "keyVaultDns": "vault.simulated.invalid",
            "sqlServerHostname": "database.simulated.invalid",
        },
    }
    # The list form was introduced with 2019-05-01; clients of 2022-09-01 read a single object.
    return Reply(status=200, body=entry if context.request.query.get("api-version", "") >= "2022-09-01" else [entry])


def openid(context: Context, where: dict[str, str]) -> Reply:
    """Answer the OpenID metadata of the one tenant, also under the aliases that mean any tenant."""
    tenant = where["tenant"].lower()
    if tenant not in {TENANT, "organizations", "common"}:
        return _refuse(400, "invalid_tenant", f"AADSTS90002: Tenant '{where['tenant']}' not found.")
    base = f"{context.request.origin}/{tenant}"
    return Reply(
        status=200,
        body={
            "issuer": f"{base}/v2.0",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
        },
    )


def token(context: Context, where: dict[str, str]) -> Reply:
    """Give a token for a client's secret (OAuth 2.0 client credentials, RFC 6749 section 4.4); no other grant is played."""
    form = context.request.form()
    if where["tenant"].lower() != TENANT:
        return _refuse(400, "invalid_tenant", f"AADSTS90002: Tenant '{where['tenant']}' not found.")
    if form.get("grant_type") != "client_credentials":
        return _refuse(
            400,
            "unsupported_grant_type",
            f"AADSTS70003: simulated: the grant type {form.get('grant_type', '')!r} is not played here; log in with a client's secret.",
        )
    client = form.get("client_id", "")
    application = next((app for app in context.state.applications.values() if app.app_id == client), None)
    if application is None or not context.replicated(application.created):
        return _refuse(
            400, "unauthorized_client", f"AADSTS700016: Application with identifier '{client}' was not found in the directory '{TENANT}'."
        )
    principal = next((known.id for known in context.state.principals.values() if known.app_id == client), "")
    if not principal or not _knows(context, application, form.get("client_secret", "")):
        return _refuse(401, "invalid_client", f"AADSTS7000215: Invalid client secret provided for app '{client}'.")
    seconds = context.state.settings.token_seconds
    value = _web_token(principal, client, context.now + seconds)
    _forget(context.state, context.now)
    context.state.tokens[digest(value)] = Token(principal=principal, expires=context.now + seconds)
    return Reply(
        status=200,
        body={"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": value},
        headers={"cache-control": "no-store"},
    )


def authenticate(state: State, authorization: str, now: float) -> str:
    """Tell which principal a request's bearer token stands for.

    Raises:
        Rejected: No token, an unknown one, an expired one, or one that a fault killed.
    """
    kind, _, value = authorization.partition(" ")
    if kind.lower() != "bearer" or not value:
        raise Rejected(
            401,
            "AuthenticationFailed",
            "Authentication failed. The 'Authorization' header is missing.",
            headers={"www-authenticate": "Bearer"},
        )
    found = state.tokens.get(digest(value.strip()))
    if found is None:
        raise Rejected(
            401, "InvalidAuthenticationToken", "The access token is invalid.", headers={"www-authenticate": 'Bearer error="invalid_token"'}
        )
    if found.refused == "claims":
        # RFC 6750 section 3 with Entra's continuous access evaluation; the claims are base64 of {"access_token":{}}.
        challenge = 'Bearer error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ=="'
        raise Rejected(401, "InvalidAuthenticationToken", "simulated: more claims are asked for.", headers={"www-authenticate": challenge})
    if found.refused or now >= found.expires:
        raise Rejected(
            401,
            "ExpiredAuthenticationToken",
            "The access token expiry UTC time is earlier than current UTC time.",
            headers={"www-authenticate": 'Bearer error="invalid_token"'},
        )
    return found.principal


def _knows(context: Context, application: Application, secret: str) -> bool:
    found = application.secrets.get(digest(secret))
    return found is not None and context.replicated(found.created)


def _web_token(principal: str, client: str, expires: float) -> str:
    """Make a token in the form that Entra ID's have: clients read from it who they are. Its signature is random and proves nothing."""
    claims = {"tid": TENANT, "oid": principal, "appid": client, "idtyp": "app", "exp": int(expires), "simulated": True}
    parts = (json.dumps(each).encode() for each in ({"typ": "JWT", "alg": "RS256"}, claims))
    return ".".join([*(base64.urlsafe_b64encode(each).rstrip(b"=").decode("ascii") for each in parts), secrets.token_urlsafe(48)])


def _forget(state: State, now: float) -> None:
    for key in [key for key, known in state.tokens.items() if known.expires <= now]:
        del state.tokens[key]
    while len(state.tokens) >= MAX_TOKENS:
        del state.tokens[next(iter(state.tokens))]


def _refuse(status: int, code: str, description: str) -> Reply:
    return Reply(status=status, body={"error": code, "error_description": description, "error_codes": []})
