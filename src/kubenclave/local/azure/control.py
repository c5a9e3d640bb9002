"""The way in which a rehearsal asks for failures and scarcity: ``/simulated``, which the real Azure has not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from kubenclave.local.azure.state import Fault, Settings
from kubenclave.local.azure.values import Rejected, Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.local.azure.state import State
    from kubenclave.local.azure.values import Body, Request

_OF_OPERATIONS = ("operation-fails", "operation-never-ends", "style")
MAX_FAULTS = 1000  # a list that grows with every test run is a defect of the tests


def add_faults(state: State, request: Request) -> Reply:
    """Add one fault or a list of them."""
    try:
        raw = json.loads(request.body)
        faults = msgspec.convert(raw if isinstance(raw, list) else [raw], type=list[Fault])
    except (ValueError, RecursionError) as exc:
        raise Rejected(400, "InvalidFault", f"simulated: the fault is not understood: {exc}") from exc
    if len(state.faults) + len(faults) > MAX_FAULTS:
        raise Rejected(400, "TooManyFaults", f"simulated: at most {MAX_FAULTS} faults are kept; DELETE them first.")
    state.faults.extend(faults)
    return Reply(status=200, body={"simulated": True, "faults": msgspec.to_builtins(state.faults)})


def change_settings(state: State, request: Request) -> Reply:
    """Set the named settings and leave the others."""
    try:
        merged = {**msgspec.to_builtins(state.settings), **request.json()}
        state.settings = msgspec.convert(merged, type=Settings)
    except msgspec.ValidationError as exc:
        raise Rejected(400, "InvalidSettings", f"simulated: the settings are not understood: {exc}") from exc
    return Reply(status=200, body={"simulated": True, "settings": merged})


def take(state: State, request: Request) -> tuple[Fault, ...]:
    """Give the faults that this request is to suffer, and count them down."""
    found = tuple(fault for fault in state.faults if _matches(fault, request))
    # One request suffers one of several "reply" faults: the others are for the requests after it.
    replies = [fault for fault in found if fault.what == "reply"][1:]
    found = tuple(fault for fault in found if not any(fault is other for other in replies))
    for fault in found:
        if fault.times is not None:
            fault.times -= 1
    state.faults = [fault for fault in state.faults if fault.times is None or fault.times > 0]
    return found


def first_reply(faults: Sequence[Fault]) -> Reply | None:
    """Give the reply that a fault puts in the place of the real one, before anything is done."""
    for fault in faults:
        if fault.what == "dropped":
            return Reply(status=500, lost=True)
        if fault.what == "reply":
            headers = {} if fault.retryAfter is None else {"retry-after": str(fault.retryAfter)}
            body: Body = {"error": {"code": fault.code, "message": fault.message}}
            return Reply(status=fault.status, body=body, headers=headers)
    return None


def _matches(fault: Fault, request: Request) -> bool:
    if fault.what in _OF_OPERATIONS and request.method not in {"PUT", "DELETE"}:
        return False
    return fault.method.upper() in {"*", request.method} and fault.path.lower() in request.path.lower()
