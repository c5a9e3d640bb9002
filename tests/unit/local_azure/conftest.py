"""A simulated Azure without sockets, with a clock that the test moves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from kubenclave.local.azure import Request, Settings, StandIn
from kubenclave.local.azure.stand_in import fresh
from kubenclave.local.azure.state import decode
from kubenclave.local.azure.values import CLIENT, SUBSCRIPTION, TENANT

SECRET = "owner-secret"  # noqa: S105 - of the simulated owner
S = f"/subscriptions/{SUBSCRIPTION}"


@dataclass
class Azure:
    settings: Settings = field(default_factory=lambda: Settings(operation_seconds=10, registration_seconds=5, replication_seconds=5))
    now: float = 1_000_000.0
    saved: bytes = b""
    token: str = ""
    schema: object = None

    def __post_init__(self):
        self.stand_in = self.made(fresh(self.settings, SECRET))
        self.token = self.login(CLIENT, SECRET)

    def made(self, state):
        return StandIn(state, clock=lambda: self.now, save=self.keep, schema=self.schema, kubeconfig=lambda _name: "{}")

    def keep(self, raw):
        self.saved = raw

    def killed_and_started_again(self):
        self.stand_in = self.made(decode(self.saved))

    def login(self, client, secret):
        reply = self.token_reply(client, secret)
        assert reply.status == 200, reply.body
        return reply.body["access_token"]

    def token_reply(self, client, secret, grant="client_credentials"):
        body = urlencode({"grant_type": grant, "client_id": client, "client_secret": secret})
        return self.stand_in.answer(Request(method="POST", path=f"/{TENANT}/oauth2/v2.0/token", body=body.encode()))

    def ask(self, method, where, body=None, token=None, version="2026-08-01"):
        parts = urlsplit(where)
        query = dict(parse_qsl(parts.query))
        if version:
            query.setdefault("api-version", version)
        return self.stand_in.answer(
            Request(
                method=method,
                path=parts.path,
                query=query,
                headers={"authorization": f"Bearer {token or self.token}"},
                body=b"" if body is None else json.dumps(body).encode(),
            )
        )

    def fault(self, **fault):
        reply = self.stand_in.answer(Request(method="POST", path="/simulated/faults", body=json.dumps(fault).encode()))
        assert reply.status == 200, reply.body

    def set(self, **settings):
        reply = self.stand_in.answer(Request(method="PATCH", path="/simulated/settings", body=json.dumps(settings).encode()))
        assert reply.status == 200, reply.body

    def ready(self):
        """A subscription that is registered for AKS and has a group."""
        self.ask("POST", f"{S}/providers/Microsoft.ContainerService/register")
        self.now += 10
        assert self.ask("PUT", f"{S}/resourcegroups/g", {"location": "uksouth"}).status == 201
        return self

    def poll(self, reply):
        return self.ask("GET", reply.headers["azure-asyncoperation"].removeprefix("https://localhost"), version="")


@pytest.fixture
def azure():
    return Azure()


@pytest.fixture
def make_azure():
    return Azure
