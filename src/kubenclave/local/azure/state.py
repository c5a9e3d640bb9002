"""What the simulated Azure holds between two requests, as one JSON document. Decides nothing; reads and writes nothing itself.

All that takes time (registrations, replication, operations) is kept as the moment at which it began or ends, so that a stand-in that
was killed and started again goes on as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

import msgspec

from kubenclave.errors import Refused
from kubenclave.local.azure.values import Body  # noqa: TC001 - read at run time by msgspec

Style = Literal["async", "location", "both", "none"]
OperationKind = Literal["put-cluster", "delete-cluster", "put-pool", "delete-pool", "delete-group"]


@dataclass(slots=True, kw_only=True)
class Settings:
    """Say how slow and how scarce the simulated Azure is. Quota is in vCPUs by family and location alike.

    ``feature_never`` names features that stay Pending; ``restricted`` gives VM sizes the reason for which they are refused.
    """

    operation_seconds: float = 2
    retry_after_seconds: int = 1  # 0 sends no Retry-After, as the recorded AKS polls had none
    registration_seconds: float = 2
    replication_seconds: float = 2
    token_seconds: int = 3600
    clock_skew_seconds: float = 0
    quota: dict[str, int] = field(default_factory=dict)
    restricted: dict[str, str] = field(default_factory=dict)
    feature_never: list[str] = field(default_factory=list)
    kubernetes: bool = False  # whether a managed cluster brings up the local Kubernetes


@dataclass(slots=True, kw_only=True)
class Group:
    """Keep a resource group; ``managed_by`` names the cluster that a node resource group belongs to."""

    name: str
    location: str
    tags: dict[str, str] = field(default_factory=dict)
    managed_by: str = ""
    deleting: bool = False


@dataclass(slots=True, kw_only=True)
class Cluster:
    """Keep a managed cluster. ``doomed`` says that its creation was asked to fail or never to end: no Kubernetes is made for it."""

    group: str
    name: str
    body: Body
    deleting: bool = False
    doomed: bool = False


@dataclass(slots=True, kw_only=True)
class Operation:
    """Keep a long-running operation. ``ends`` is None where it never does; ``ended`` is set once its effect has happened."""

    id: str
    kind: OperationKind
    target: str  # key of the cluster or group
    pool: str = ""
    location: str
    style: Style
    started: float
    ends: float | None
    failure: Body | None = None
    ended: float | None = None


@dataclass(slots=True, kw_only=True)
class Password:
    """Keep what is told of an application's secret: when it was made, its key's ID and its name."""

    created: float
    ends: str
    key: str
    name: str = ""


@dataclass(slots=True, kw_only=True)
class Application:
    """Keep an application registration of Graph; secrets are kept by their SHA-256 digests, owners by their principals' IDs."""

    id: str
    app_id: str
    name: str
    created: float
    secrets: dict[str, Password] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Principal:
    """Keep a service principal or a managed identity of the directory."""

    id: str
    app_id: str
    name: str
    created: float
    tags: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Assignment:
    """Keep a role assignment; the scope is in lower case."""

    id: str
    scope: str
    role: str
    principal: str
    created: float


@dataclass(slots=True, kw_only=True)
class Token:
    """Keep what a bearer token stands for."""

    principal: str
    expires: float
    refused: str = ""  # "expired" or "claims" where a fault killed it


@dataclass(slots=True, kw_only=True)
class Fault:
    """Keep a fault that was asked for: what, on which requests, how often (None: always)."""

    what: Literal[
        "reply", "lost-reply", "dropped", "delay", "operation-fails", "operation-never-ends", "style", "token-expired", "claims-challenge"
    ]
    method: str = "*"
    path: str = ""
    times: int | None = 1
    status: int = 500
    code: str = "InternalServerError"
    message: str = "simulated: this failure was asked for."
    retryAfter: int | None = None  # noqa: N815 - the control interface's own spelling, in seconds
    seconds: float = 0
    style: Style = "both"


@dataclass(slots=True, kw_only=True)
class Kubernetes:
    """Keep what is known of the local Kubernetes behind a managed cluster."""

    sgx_nodes: int
    plain_nodes: int
    epc_bytes: int
    phase: Literal["working", "ready", "failed"]
    marks: str = ""
    error: str = ""


@dataclass(slots=True, kw_only=True)
class State:
    """Hold everything. Keys of groups and clusters are in lower case, as ARM compares them."""

    settings: Settings
    groups: dict[str, Group] = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    features: dict[str, float] = field(default_factory=dict)
    providers: dict[str, float] = field(default_factory=dict)
    applications: dict[str, Application] = field(default_factory=dict)
    principals: dict[str, Principal] = field(default_factory=dict)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    kubernetes: dict[str, Kubernetes] = field(default_factory=dict)


def digest(secret: str) -> str:
    """Give what is kept of a secret or token instead of itself."""
    return sha256(secret.encode()).hexdigest()


def encode(state: State) -> bytes:
    """Write the state as JSON."""
    return msgspec.json.encode(state)


def decode(raw: bytes) -> State:
    """Read a state that ``encode`` wrote.

    Raises:
        Refused: It is damaged or of another version.
    """
    try:
        return msgspec.json.decode(raw, type=State)
    except msgspec.MsgspecError as exc:
        raise Refused(f"The state of the simulated Azure cannot be read: {exc}", "Remove it: kubenclave local azure down") from exc
