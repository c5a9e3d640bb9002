"""What passes between the HTTP server and the handlers: a request, a reply, a rejection. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs

from kubenclave.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

# JSON of clients and for clients: this whole package is an edge, and what a body holds is the client's choice.
Body: TypeAlias = dict[str, Any]

TENANT = "11111111-1111-4111-8111-111111111111"
SUBSCRIPTION = "22222222-2222-4222-8222-222222222222"
CLIENT = "33333333-3333-4333-8333-333333333333"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Hold one HTTP request: a decoded path without its query, header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    origin: str = "https://localhost"

    def json(self) -> Body:
        """Read the body as a JSON object.

        Raises:
            Rejected: It is none; 400, as ARM answers.
        """
        try:
            found = json.loads(self.body or b"{}")
        except (ValueError, RecursionError) as exc:
            raise Rejected(400, "InvalidRequestContent", "The request content was invalid and could not be deserialized.") from exc
        if not isinstance(found, dict):
            raise Rejected(400, "InvalidRequestContent", "The request content is no JSON object.")
        return found

    def form(self) -> dict[str, str]:
        """Read the body as a URL-encoded form; of a name given twice the first value counts.

        Raises:
            Rejected: It has more than 50 fields, far more than any grant.
        """
        try:
            fields = parse_qs(self.body.decode("utf-8", "replace"), max_num_fields=50)
        except ValueError as exc:
            raise Rejected(400, "InvalidRequestContent", "The form has more than 50 fields.") from exc
        return {name: values[0] for name, values in fields.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Hold one HTTP reply. ``lost`` asks the server to close the connection without sending it."""

    status: int
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0
    lost: bool = False


class Rejected(Refused):
    """Carry an error reply of Azure out of a handler; it never leaves this package."""

    def __init__(self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}

    def reply(self) -> Reply:
        """Give the reply in ARM's error form."""
        return Reply(status=self.status, body={"error": {"code": self.code, "message": self.what}}, headers=self.headers)


def stamp(seconds: float) -> str:
    """Write a time as Azure's bodies do: UTC, seven digits of a second."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}0Z"


def section(body: Body, name: str) -> Body:
    """Give a part of a body that is an object, or an empty one.

    Raises:
        Rejected: The part is there and is no object.
    """
    found = body.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Rejected(400, "InvalidRequestContent", f"The value of {name!r} is no JSON object.")
    return found


def text(body: Body, name: str) -> str:
    """Give a part of a body that is text, or an empty one.

    Raises:
        Rejected: The part is there and is no text.
    """
    found = body.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise Rejected(400, "InvalidRequestContent", f"The value of {name!r} is no text.")
    return found
