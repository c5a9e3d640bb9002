"""Whose an application is that bears the cluster's mark: everybody who may make applications can give one any mark.

Whoever owns an application can add secrets to it, and with these would have what the cluster may do. So an application that this run has
not made, and by which the cluster does not act already, is used and removed only where nobody but the caller owns it.
Sources: Graph v1.0, "List owners"; the claim ``oid`` of Entra ID's access tokens.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from azure.core.exceptions import AzureError

from kubenclave.cluster.azure.failures import scrub
from kubenclave.cluster.azure.graph import ask_graph
from kubenclave.cluster.azure.reply import children, text
from kubenclave.cluster.steps.ownership import is_ours
from kubenclave.errors import Refused

if TYPE_CHECKING:
    from kubenclave.cluster.azure.session import Session
    from kubenclave.cluster.azure.work import Work

_MAX_TOKEN = 65_536  # characters; those of Entra ID have some thousands
_SHOWN = 3


def require_own(work: Work) -> None:
    """Check that nobody else owns the application that the work uses.

    Raises:
        Refused: Somebody else does.
    """
    others = other_owners(work, work.directory.app_id, work.directory.application_object_id)
    if others:
        raise Refused(
            f"The application {work.directory.app_id} bears the mark of {work.spec.owner}, and is owned by {others}: "
            "whoever owns it could act as the cluster.",
            f"Take its other owners out, or remove it: az ad app delete --id {work.directory.app_id}. Or give the cluster another name.",
        )


def other_owners(work: Work, app_id: str, application: str) -> str:
    """Return in words who else owns an application; empty where nobody does, and where that cannot be known, which is told.

    Args:
        work: What is worked on.
        app_id: The client ID.
        application: Its object ID.
    """
    cluster = work.found.cluster
    if cluster is not None and app_id and cluster.client_id == app_id and is_ours(cluster.tags, work.spec.owner):
        return ""
    with work.directory.judging:
        if application in work.directory.made | work.directory.judged:
            return ""
        others = _other_owners(work, app_id, application)
        if not others:
            work.directory.judged.add(application)
        return others


def _other_owners(work: Work, app_id: str, application: str) -> str:
    try:
        owners = children(ask_graph(work.session, "GET", f"/v1.0/applications/{application}/owners"), "value")
        caller = _caller(work.session) if owners else ""
    except (AzureError, ValueError, RecursionError):
        owners, caller = (), None
    if caller is None:
        work.watcher.news(f"whether somebody else owns the application {app_id} cannot be known; it bears the mark, and is taken for ours")
        return ""
    others = [each for each in owners if text(each, "id").lower() != caller]
    named = ", ".join(
        scrub(text(each, "userPrincipalName") or text(each, "displayName") or text(each, "id")) or "somebody" for each in others[:_SHOWN]
    )
    return f"{named} and {len(others) - _SHOWN} more" if len(others) > _SHOWN else named


def _caller(session: Session) -> str | None:
    """Return the caller's object ID in small letters; None where neither its token nor the directory tells it."""
    found = object_id(session.resource_manager_token()) or text(ask_graph(session, "GET", "/v1.0/me"), "id")
    return found.lower() or None


def object_id(token: str) -> str:
    """Return whom a token stands for; empty where it is of a form that is its maker's alone.

    It is read and not checked: it came from Entra ID itself, and no right follows from what it says.
    """
    parts = token.split(".")
    if len(token) > _MAX_TOKEN or len(parts) != 3:  # noqa: PLR2004 - RFC 7519, section 7.1: header, claims, signature
        return ""
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return ""
    return text(claims, "oid")
