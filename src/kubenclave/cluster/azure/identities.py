"""Make and remove a cluster's service principal: application, service principal, secret, and the role on the group.

Everything bears the cluster's mark from its first moment, so that a run that was killed leaves nothing that the next one does not find.
Graph's requests are not repeated blindly: before an application is made anew, it is looked for.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from azure.core.exceptions import HttpResponseError, ServiceResponseError
from azure.core.rest import HttpRequest

from kubenclave.cluster.azure.failures import telling
from kubenclave.cluster.azure.marks import CONTRIBUTOR_ID, directory_filter, directory_tag
from kubenclave.cluster.azure.reply import children, entries, text
from kubenclave.cluster.azure.work import is_absent, until_replicated
from kubenclave.cluster.secrets import Secret
from kubenclave.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubenclave.cluster.azure.work import Work

SECRET_NAME = "kubenclave"  # noqa: S105 - what the password credential is called, not one
_TRIES = 5
_PAUSE_SECONDS = 2.0
_MOST_ASSIGNMENTS = 5_000
_CONFLICT, _SERVER_ERROR = 409, 500
_EXISTS = frozenset({"roleassignmentexists"})


def make_application(work: Work) -> None:
    """Make the application, unless one bears the mark already.

    Raises:
        KubenclaveError: The directory refused or did not answer.
    """
    spec = work.spec
    body = {"displayName": f"kubenclave {spec.owner}", "signInAudience": "AzureADMyOrg", "tags": [directory_tag(spec.owner)]}

    def make() -> None:
        found = next(iter(_applications(work)), None) or _graph(work, "POST", "/v1.0/applications", body)
        work.directory.app_id, work.directory.application_object_id = text(found, "appId"), text(found, "id")

    _repeated(work, make, f"making the application of {spec.owner}")


def make_principal(work: Work) -> None:
    """Make the application's service principal, unless it is there.

    Raises:
        KubenclaveError: The directory refused or did not answer.
    """
    app_id = work.directory.app_id
    body = {"appId": app_id, "tags": [directory_tag(work.spec.owner)]}
    doing = f"making the service principal of {work.spec.owner}"

    def make() -> None:
        found = _principal(work, app_id) or until_replicated(work, lambda: _graph(work, "POST", "/v1.0/servicePrincipals", body), doing)
        work.directory.principal_id = text(found, "id")

    _repeated(work, make, doing)


def make_secret(work: Work) -> None:
    """Make the service principal's secret and keep it; secrets of before, which nobody has, are taken out.

    Raises:
        KubenclaveError: The directory refused or did not answer, or the secret cannot be kept.
    """
    path = f"/v1.0/applications/{work.directory.application_object_id}"

    def make() -> None:
        for old in children(_graph(work, "GET", path), "passwordCredentials"):
            if text(old, "displayName") == SECRET_NAME:
                _graph(work, "POST", f"{path}/removePassword", {"keyId": text(old, "keyId")})
        made = _graph(work, "POST", f"{path}/addPassword", {"passwordCredential": {"displayName": SECRET_NAME}})
        value = text(made, "secretText")
        if not value:
            raise Unreachable("The directory made a secret and did not tell it.", "Run the same command again.")
        work.store.keep(work.directory.app_id, Secret(value=value, expires=text(made, "endDateTime")))

    _repeated(work, make, f"making the secret of the service principal of {work.spec.owner}")


def assign_role(work: Work) -> None:
    """Give the service principal the role Contributor on the group. The assignment's name follows from what it says.

    Raises:
        KubenclaveError: Azure refused, or does not know the service principal after the time that replication takes.
    """
    from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters  # noqa: PLC0415 - 50 ms

    scope, principal = work.group_scope, work.directory.principal_id
    name = assignment_name(scope, principal)
    role = f"/subscriptions/{work.session.subscription_id}/providers/Microsoft.Authorization/roleDefinitions/{CONTRIBUTOR_ID}"
    wanted = RoleAssignmentCreateParameters(role_definition_id=role, principal_id=principal, principal_type="ServicePrincipal")
    doing = f"giving the service principal the role Contributor on {work.spec.group}"
    with telling(doing):
        try:
            until_replicated(work, lambda: work.session.authorization.role_assignments.create(scope, name, wanted), doing)
        except HttpResponseError as exc:
            if exc.error is None or (exc.error.code or "").lower() not in _EXISTS:
                raise


def remove_role(work: Work) -> None:
    """Take the service principal's roles on the group away.

    Raises:
        KubenclaveError: Azure refused.
    """
    scope, principal = work.group_scope, work.directory.principal_id
    with telling(f"taking the role of the service principal on {work.spec.group} away"):
        try:
            listed = entries(
                work.session.authorization.role_assignments.list_for_scope(scope, filter=f"principalId eq '{principal}'"),
                most=_MOST_ASSIGNMENTS,
            )
        except HttpResponseError as exc:
            if not is_absent(exc):
                raise
            return
        for each in listed:
            at, name = str(getattr(each, "scope", "")), str(getattr(each, "name", ""))
            if at.lower() == scope.lower() and getattr(each, "principal_id", "") == principal and name:
                work.session.authorization.role_assignments.delete(scope, name)


def remove_applications(work: Work) -> None:
    """Remove every application that bears the mark, with its service principal, and forget the secrets.

    Raises:
        KubenclaveError: The directory refused or did not answer.
    """

    def remove() -> None:
        for each in _applications(work):
            work.store.forget(text(each, "appId"))
            try:
                _graph(work, "DELETE", f"/v1.0/applications/{text(each, 'id')}")
            except HttpResponseError as exc:
                # The directory's list may show for a while what is gone.
                if not is_absent(exc):
                    raise

    _repeated(work, remove, f"removing the application of {work.spec.owner}")
    work.directory.app_id = work.directory.application_object_id = work.directory.principal_id = ""


def assignment_name(scope: str, principal: str) -> str:
    """Return the one name of an assignment of Contributor: the same request twice makes one assignment."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{scope}|{principal}|{CONTRIBUTOR_ID}".lower()))


def _applications(work: Work) -> list[object]:
    found = _graph(work, "GET", "/v1.0/applications", parameters={"$filter": directory_filter(work.spec.owner)})
    marked = [each for each in children(found, "value") if text(each, "id") and text(each, "appId")]
    return sorted(marked, key=lambda each: (text(each, "createdDateTime"), text(each, "id")))


def _principal(work: Work, app_id: str) -> object:
    found = _graph(work, "GET", "/v1.0/servicePrincipals", parameters={"$filter": f"appId eq '{app_id}'"})
    return next((each for each in children(found, "value") if text(each, "appId") == app_id), None)


def _graph(work: Work, method: str, path: str, body: object = None, *, parameters: dict[str, str] | None = None) -> object:
    graph = work.session.graph
    request = HttpRequest(method, graph.format_url(path), params=parameters, json=body)
    answer = graph.send_request(request)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def _repeated(work: Work, make: Callable[[], None], doing: str) -> None:
    """Do something again that failed at the directory's own end, or whose answer was lost: each time it looks first at what is there."""
    with telling(doing):
        for left in reversed(range(_TRIES)):
            try:
                make()
            except HttpResponseError as exc:
                lagging = is_absent(exc) or exc.status_code == _CONFLICT or (exc.status_code or 0) >= _SERVER_ERROR
                if not lagging or not left:
                    raise
            except ServiceResponseError:
                if not left:
                    raise
            else:
                return
            work.clock.pause(_PAUSE_SECONDS, doing)
