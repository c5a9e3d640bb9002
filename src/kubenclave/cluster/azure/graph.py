"""Ask Microsoft Graph, and find what bears a cluster's mark there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azure.core.rest import HttpRequest

from kubenclave.cluster.azure.marks import directory_filter, directory_tag
from kubenclave.cluster.azure.reply import children, text, texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubenclave.cluster.azure.session import Session


def ask_graph(session: Session, method: str, path: str, body: object = None, *, parameters: Mapping[str, str] | None = None) -> object:
    """Send one request, and return what was answered; None where that is empty.

    Raises:
        AzureError: Graph did not answer, or refused to.
        ValueError: The answer is no JSON.
    """
    answer = session.graph.send_request(
        HttpRequest(method, session.graph.format_url(path), params=None if parameters is None else dict(parameters), json=body)
    )
    answer.raise_for_status()
    found: object = answer.json() if answer.content else None
    return found


def marked_applications(session: Session, owner: str) -> list[object]:
    """Return the applications that bear a cluster's whole mark, oldest first, whatever the directory makes of the filter.

    Raises:
        AzureError: Graph did not answer, or refused to.
    """
    mark = directory_tag(session.subscription_id, owner)
    found = ask_graph(session, "GET", "/v1.0/applications", parameters={"$filter": directory_filter(session.subscription_id, owner)})
    marked = [each for each in children(found, "value") if text(each, "id") and text(each, "appId") and mark in texts(each, "tags")]
    return sorted(marked, key=lambda each: (text(each, "createdDateTime"), text(each, "id")))
