"""The simulated Azure as one object: a request goes in, a reply comes out. No sockets, no files; the time is given from outside."""

from __future__ import annotations

import re
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from kubenclave.errors import NotFound
from kubenclave.local.azure import authorization, control, entra, operations, routes
from kubenclave.local.azure.context import Context, S, group_id
from kubenclave.local.azure.state import Application, Assignment, Password, Principal, State, digest, encode
from kubenclave.local.azure.values import CLIENT, SUBSCRIPTION, TENANT, Rejected, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kubenclave.local.azure.routes import Route
    from kubenclave.local.azure.schema import Schema
    from kubenclave.local.azure.state import Fault, Settings
    from kubenclave.local.azure.values import Body, Request

MAX_LOGGED = 2000  # requests remembered for /simulated/requests
_API_VERSION = re.compile(r"20\d\d-\d\d-\d\d(-[a-z]+)?")
_PRINCIPAL = "44444444-4444-4444-8444-444444444444"
_APPLICATION = "55555555-5555-4555-8555-555555555555"
_ASSIGNMENT = "66666666-6666-4666-8666-666666666666"
_KEY = "77777777-7777-4777-8777-777777777777"
_NEVER = "2299-12-31T00:00:00Z"  # what Entra ID says of a secret that does not expire
_BEFORE = 0.0  # what was there from the beginning is replicated


def fresh(settings: Settings, secret: str) -> State:
    """Give the state of a subscription that has seen nothing, with one owner who logs in with ``secret``."""
    state = State(settings=settings)
    password = Password(created=_BEFORE, ends=_NEVER, key=_KEY, name="rehearsal")
    state.applications[_APPLICATION] = Application(
        id=_APPLICATION, app_id=CLIENT, name="rehearsal", created=_BEFORE, secrets={digest(secret): password}
    )
    state.principals[_PRINCIPAL] = Principal(id=_PRINCIPAL, app_id=CLIENT, name="rehearsal", created=_BEFORE)
    state.assignments[f"{S}/{_ASSIGNMENT}".lower()] = Assignment(
        id=_ASSIGNMENT, scope=S, role=authorization.OWNER.id, principal=_PRINCIPAL, created=_BEFORE
    )
    return state


def _no_kubeconfig(name: str) -> str:
    raise NotFound(f"No local cluster {name} stands behind this simulated Azure.", "Run it as root, with the local Kubernetes.")


class StandIn:
    """Answer requests from a state, one at a time; call ``save`` with the state's JSON after each change, before the reply."""

    def __init__(
        self,
        state: State,
        *,
        clock: Callable[[], float],
        save: Callable[[bytes], None] = lambda _raw: None,
        kubeconfig: Callable[[str], str] = _no_kubeconfig,
        schema: Schema | None = None,
    ) -> None:
        self._state = state
        self._clock = clock
        self._save = save
        self._kubeconfig = kubeconfig
        self._schema = schema
        self._lock = threading.RLock()
        self._saved = encode(state)
        self._log: deque[Body] = deque(maxlen=MAX_LOGGED)
        save(self._saved)

    @contextmanager
    def changing(self) -> Iterator[State]:
        """Lend the state to the one who brings up the local Kubernetes; what it changed is settled and saved."""
        with self._lock:
            operations.settle(self._state, self._clock())
            yield self._state
            operations.settle(self._state, self._clock())
            self._keep()

    @property
    def clock_skew_seconds(self) -> float:
        """Tell how wrong this Azure's clock is asked to be."""
        return self._state.settings.clock_skew_seconds

    def answer(self, request: Request) -> Reply:
        """Answer one request."""
        with self._lock:
            now = self._clock()
            operations.settle(self._state, now)
            try:
                reply = self._answer(request, now)
            except Rejected as exc:
                reply = exc.reply()
            self._keep()
            if not request.path.startswith("/simulated"):
                self._log.append(
                    {"method": request.method, "path": request.path, "query": dict(request.query), "status": reply.status, "time": now}
                )
            return reply

    def _answer(self, request: Request, now: float) -> Reply:
        if request.path.startswith("/simulated"):
            return self._control(request)
        faults = control.take(self._state, request)
        delay = sum(fault.seconds for fault in faults if fault.what == "delay")
        replaced = control.first_reply(faults)
        if replaced is not None:
            return _with(replaced, delay, lost=replaced.lost)
        try:
            reply = self._routed(request, now, faults)
        except Rejected as exc:
            reply = exc.reply()
        return _with(reply, delay, lost=any(fault.what == "lost-reply" for fault in faults))

    def _routed(self, request: Request, now: float, faults: tuple[Fault, ...]) -> Reply:
        found = routes.find(request.method, request.path)
        if found is None:
            raise self._unknown(request)
        route, where = found
        caller = "" if route.access == "open" else self._caller(request, now, faults)
        if route.access == "arm":
            _require_api_version(request)
        context = Context(
            state=self._state, request=request, now=now, caller=caller, faults=faults, schema=self._schema, kubeconfig=self._kubeconfig
        )
        if route.action:
            authorization.require(context, route.action, _scope(route, where))
        return route.handler(context, where)

    def _caller(self, request: Request, now: float, faults: tuple[Fault, ...]) -> str:
        authorization_header = request.headers.get("authorization", "")
        for fault in faults:
            if fault.what in {"token-expired", "claims-challenge"}:
                known = self._state.tokens.get(digest(authorization_header.partition(" ")[2].strip()))
                if known is not None:
                    known.refused = "claims" if fault.what == "claims-challenge" else "expired"
        return entra.authenticate(self._state, authorization_header, now)

    def _control(self, request: Request) -> Reply:
        match request.method, request.path:
            case "GET", "/simulated":
                return Reply(status=200, body=self._self())
            case "GET", "/simulated/requests":
                return Reply(status=200, body=[*self._log])
            case "POST", "/simulated/faults":
                return control.add_faults(self._state, request)
            case "DELETE", "/simulated/faults":
                self._state.faults.clear()
                return Reply(status=200, body={"simulated": True, "faults": []})
            case "PATCH", "/simulated/settings":
                return control.change_settings(self._state, request)
            case _:
                raise Rejected(404, "NotFound", f"simulated: there is no {request.method} {request.path}.")

    def _self(self) -> Body:
        state = self._state
        return {
            "simulated": True,
            "what": "a simulated Azure on this machine; nothing here is real but the local Kubernetes behind a managed cluster",
            "tenant": TENANT,
            "subscription": SUBSCRIPTION,
            "schema": self._schema.api_version if self._schema is not None else None,
            "settings": msgspec.to_builtins(state.settings),
            "groups": [each.name for each in state.groups.values()],
            "clusters": {key: each.body["properties"]["provisioningState"] for key, each in state.clusters.items()},
            "kubernetes": msgspec.to_builtins(state.kubernetes),
            "faults": msgspec.to_builtins(state.faults),
        }

    def _unknown(self, request: Request) -> Rejected:
        subscription = re.match(r"/subscriptions/([^/]+)", request.path, re.IGNORECASE)
        if subscription and subscription[1].lower() != SUBSCRIPTION:
            return Rejected(404, "SubscriptionNotFound", f"The subscription '{subscription[1]}' could not be found.")
        return Rejected(
            404, "NotFound", f"simulated: {request.method} {request.path[:300]} is not played by this stand-in. The real Azure may have it."
        )

    def _keep(self) -> None:
        encoded = encode(self._state)
        if encoded != self._saved:
            self._save(encoded)
            self._saved = encoded


def _with(reply: Reply, delay_seconds: float, *, lost: bool) -> Reply:
    return Reply(status=reply.status, body=reply.body, headers=reply.headers, delay_seconds=delay_seconds, lost=lost)


def _require_api_version(request: Request) -> None:
    given = request.query.get("api-version", "")
    if not given:
        raise Rejected(400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
    if not _API_VERSION.fullmatch(given):
        raise Rejected(400, "InvalidApiVersionParameter", f"The api-version '{given}' is invalid.")


def _scope(route: Route, where: dict[str, str]) -> str:
    if "scope" in route.path.groupindex:
        return where["scope"] or "/"
    return group_id(where["group"]) if "group" in where else S
