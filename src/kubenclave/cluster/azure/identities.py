"""Make and remove a cluster's service principal: application, service principal, secret, and the role on the group.

Everything bears the cluster's mark from its first moment, so that a run that was killed leaves nothing that the next one does not find.
Graph's requests are not repeated blindly: before an application is made anew, it is looked for.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from azure.core.exceptions import HttpResponseError, ServiceResponseError

from kubenclave.cluster.azure.failures import error_code, telling
from kubenclave.cluster.azure.graph import ask_graph, marked_applications
from kubenclave.cluster.azure.marks import CONTRIBUTOR_ID, directory_tag
from kubenclave.cluster.azure.owners import other_owners, require_own
from kubenclave.cluster.azure.reply import children, entries, text
from kubenclave.cluster.azure.work import Lag, is_absent, until_replicated
from kubenclave.cluster.secrets import Secret
from kubenclave.errors import KubenclaveError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubenclave.cluster.azure.work import Work

SECRET_NAME = "kubenclave"  # noqa: S105 - what the password credential is called, not one
_TRIES = 5
_PAUSE_SECONDS = 2.0
_MOST_ASSIGNMENTS = 5_000
_CONFLICT, _SERVER_ERROR = 409, 500
_UNKNOWN_OBJECT = "request_resourcenotfound"
_EXISTS = frozenset({"roleassignmentexists"})


def make_application(work: Work) -> None:
    """Make the application, unless one bears the mark already; of two runs that make one at the same time, the later takes its own back.

    Raises:
        Refused: Somebody else owns the one that bears the mark.
        KubenclaveError: The directory refused or did not answer.
    """
    spec = work.spec
    body = {
        "displayName": f"kubenclave {spec.owner}",
        "signInAudience": "AzureADMyOrg",
        "tags": [directory_tag(work.session.subscription_id, spec.owner)],
    }

    def make() -> None:
        found = next(iter(marked_applications(work.session, spec.owner)), None)
        if found is None:
            made = ask_graph(work.session, "POST", "/v1.0/applications", body)
            work.directory.made.add(text(made, "id"))
            found = next(iter(marked_applications(work.session, spec.owner)), made)
            if text(found, "id") != text(made, "id"):
                ask_graph(work.session, "DELETE", f"/v1.0/applications/{text(made, 'id')}")
        work.directory.app_id, work.directory.application_object_id = text(found, "appId"), text(found, "id")
        require_own(work)

    _repeated(work, make, f"making the application of {spec.owner}")


def make_principal(work: Work) -> None:
    """Make the application's service principal, unless it is there.

    Raises:
        Refused: Somebody else owns the application.
        KubenclaveError: The directory refused or did not answer.
    """
    require_own(work)
    app_id = work.directory.app_id
    body = {"appId": app_id, "tags": [directory_tag(work.session.subscription_id, work.spec.owner)]}
    doing = f"making the service principal of {work.spec.owner}"

    def make() -> None:
        found = _principal(work, app_id) or until_replicated(
            work, lambda: ask_graph(work.session, "POST", "/v1.0/servicePrincipals", body), doing
        )
        work.directory.principal_id = text(found, "id")

    _repeated(work, make, doing)


def make_secret(work: Work) -> None:
    """Make the service principal's secret and keep it. Others stay until the cluster has one: another run may be about to use its own.

    Raises:
        Refused: Somebody else owns the application.
        KubenclaveError: The directory refused or did not answer, or the secret cannot be kept.
    """
    require_own(work)
    path = f"/v1.0/applications/{work.directory.application_object_id}"

    def make() -> None:
        made = ask_graph(work.session, "POST", f"{path}/addPassword", {"passwordCredential": {"displayName": SECRET_NAME}})
        value = text(made, "secretText")
        if not value:
            raise Unreachable("The directory made a secret and did not tell it.", "Run the same command again.")
        work.store.keep(work.directory.app_id, Secret(value=value, expires=text(made, "endDateTime"), key_id=text(made, "keyId")))

    _repeated(work, make, f"making the secret of the service principal of {work.spec.owner}")


def remove_other_secrets(work: Work) -> None:
    """Remove what was made on the way to the secret that the cluster has now: lost answers and other runs leave some that nobody uses."""
    kept = work.store.find(work.directory.app_id)
    if kept is None or not kept.sent or not kept.key_id:
        return
    path = f"/v1.0/applications/{work.directory.application_object_id}"

    def remove() -> None:
        for old in children(ask_graph(work.session, "GET", path), "passwordCredentials"):
            if text(old, "displayName") == SECRET_NAME and text(old, "keyId") not in {"", kept.key_id}:
                ask_graph(work.session, "POST", f"{path}/removePassword", {"keyId": text(old, "keyId")})

    try:
        _repeated(work, remove, f"removing the secrets of {work.spec.owner} that nobody uses")
    except KubenclaveError as exc:
        # The cluster is there; it does not fail for this.
        work.watcher.news(exc.what)


def assign_role(work: Work) -> None:
    """Give the service principal the role Contributor on the group. The assignment's name follows from what it says.

    Raises:
        Refused: Somebody else owns the application.
        KubenclaveError: Azure refused, or does not know the service principal after the time that replication takes.
    """
    from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters  # noqa: PLC0415 - 50 ms

    require_own(work)
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


def remove_applications(work: Work, key: str) -> None:
    """Remove every application that bears the mark, with its service principal, and forget the secrets.

    One that somebody else owns stays, and that is told. Args: the work, and the key of its step, which is not planned again then.

    Raises:
        KubenclaveError: The directory refused or did not answer.
    """

    def remove() -> None:
        for each in marked_applications(work.session, work.spec.owner):
            app_id, others = text(each, "appId"), other_owners(work, text(each, "appId"), text(each, "id"))
            if others:
                work.given_up.add(key)
                work.watcher.news(f"the application {app_id} stays: it is owned by {others}; az ad app delete --id {app_id} removes it")
                continue
            work.store.forget(app_id)
            try:
                ask_graph(work.session, "DELETE", f"/v1.0/applications/{text(each, 'id')}")
            except HttpResponseError as exc:
                # The directory's list may show for a while what is gone.
                if not is_absent(exc):
                    raise
            work.directory.removed.add(app_id)

    _repeated(work, remove, f"removing the application of {work.spec.owner}")
    work.directory.app_id = work.directory.application_object_id = work.directory.principal_id = ""


def assignment_name(scope: str, principal: str) -> str:
    """Return the one name of an assignment of Contributor: the same request twice makes one assignment."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{scope}|{principal}|{CONTRIBUTOR_ID}".lower()))


def _principal(work: Work, app_id: str) -> object:
    found = ask_graph(work.session, "GET", "/v1.0/servicePrincipals", parameters={"$filter": f"appId eq '{app_id}'"})
    return next((each for each in children(found, "value") if text(each, "appId") == app_id), None)


def _repeated(work: Work, make: Callable[[], None], doing: str) -> None:
    """Do something again that failed at the directory's own end, or whose answer was lost: each time it looks first at what is there."""
    lag, left = Lag(work.clock, work.watcher, doing), _TRIES
    with telling(doing):
        while True:
            try:
                make()
            except HttpResponseError as exc:
                if _is_new(work, exc) and not lag.is_over:
                    lag.pause()
                    continue
                failed: HttpResponseError | ServiceResponseError = exc
                lagging = is_absent(exc) or exc.status_code == _CONFLICT or (exc.status_code or 0) >= _SERVER_ERROR
            except ServiceResponseError as exc:
                failed, lagging = exc, True
            else:
                return
            left -= 1
            if not lagging or not left:
                raise failed
            work.clock.pause(_PAUSE_SECONDS, doing)


def _is_new(work: Work, exc: HttpResponseError) -> bool:
    """Say whether the directory does not know an object that this run made."""
    made = work.directory.application_object_id in work.directory.made
    return made and is_absent(exc) and error_code(exc).lower() == _UNKNOWN_OBJECT
