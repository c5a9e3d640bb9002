"""Microsoft Graph as far as a cluster's service principal needs it: applications, their secrets, service principals."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from kubenclave.local.azure.context import new_id
from kubenclave.local.azure.state import Application, Password, Principal, digest
from kubenclave.local.azure.values import TENANT, Body, Rejected, Reply, section, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.local.azure.context import Context

MAX_IDS = 1000  # in one request, as Graph documents it
MAX_TAGS, MAX_TAG = 100, 256  # of one object, and characters in each: more than a cluster's mark needs
MAX_APPLICATIONS = 250  # Entra ID's own limit for objects that one ordinary user creates
_YEAR_SECONDS = 365 * 86400
_STARTS = re.compile(r"startswith\((\w+),\s*'((?:[^']|''){0,256})'\)", re.IGNORECASE)
_EQUALS = re.compile(r"(\w+)\s+eq\s+'((?:[^']|''){0,256})'", re.IGNORECASE)
_TAGGED = re.compile(r"tags/any\((\w+):\s*\1\s+eq\s+'((?:[^']|''){0,256})'\)", re.IGNORECASE)
_ANY = re.compile(r"servicePrincipalNames/any\(\w+:\s*\w+\s+eq\s+'([^']{0,256})'\)", re.IGNORECASE)


def list_applications(context: Context, _where: dict[str, str]) -> Reply:
    """Answer the applications that a filter names."""
    return _list(context, [_application(context, each) for each in context.state.applications.values()])


def list_principals(context: Context, _where: dict[str, str]) -> Reply:
    """Answer the service principals that a filter names."""
    return _list(context, [_principal(each) for each in context.state.principals.values() if each.app_id])


def create_application(context: Context, _where: dict[str, str]) -> Reply:
    """Register an application."""
    name = text(context.request.json(), "displayName")
    if not name:
        raise Rejected(400, "Request_BadRequest", "Property displayName on the application cannot be empty.")
    if len(context.state.applications) >= MAX_APPLICATIONS:
        raise Rejected(403, "Directory_QuotaExceeded", "The directory object quota limit for the Principal has been exceeded.")
    made = Application(id=new_id(), app_id=new_id(), name=name, created=context.now, tags=_tags(context), owners=[context.caller])
    context.state.applications[made.id] = made
    return Reply(status=201, body=_application(context, made))


def get_application(context: Context, where: dict[str, str]) -> Reply:
    """Answer one application."""
    return Reply(status=200, body=_application(context, _found(context, where["id"])))


def list_owners(context: Context, where: dict[str, str]) -> Reply:
    """Answer who owns an application: who made it, until others are added."""
    found = [context.state.principals[each] for each in _found(context, where["id"]).owners if each in context.state.principals]
    return Reply(status=200, body={"value": [{"@odata.type": "#microsoft.graph.servicePrincipal", **_principal(each)} for each in found]})


def add_owner(context: Context, where: dict[str, str]) -> Reply:
    """Add an owner, named by its address."""
    found = _found(context, where["id"])
    owner = _found_principal(context, text(context.request.json(), "@odata.id").rpartition("/")[2]).id
    if owner in found.owners:
        raise Rejected(
            400, "Request_BadRequest", "One or more added object references already exist for the following modified properties: 'owners'."
        )
    found.owners.append(owner)
    return Reply(status=204)


def remove_owner(context: Context, where: dict[str, str]) -> Reply:
    """Take an owner out."""
    found = _found(context, where["id"])
    if where["owner"].lower() not in found.owners:
        raise _absent(where["owner"])
    found.owners.remove(where["owner"].lower())
    return Reply(status=204)


def update_application(context: Context, where: dict[str, str]) -> Reply:
    """Change an application's name or tags; whatever else is asked for is taken and not kept."""
    found = _found(context, where["id"])
    asked = context.request.json()
    found.name = text(asked, "displayName") or found.name
    if "tags" in asked:
        found.tags = _tags(context)
    return Reply(status=204)


def delete_application(context: Context, where: dict[str, str]) -> Reply:
    """Remove an application with its service principal."""
    found = _found(context, where["id"])
    for key in [key for key, each in context.state.principals.items() if each.app_id == found.app_id]:
        _remove_principal(context, key)
    del context.state.applications[found.id]
    return Reply(status=204)


def add_password(context: Context, where: dict[str, str]) -> Reply:
    """Make a secret; it is accepted once it is replicated, and told only here."""
    found = _found(context, where["id"])
    asked = section(context.request.json(), "passwordCredential")
    # Begins with a letter: a command line would take a leading hyphen for an option.
    secret = f"s{secrets.token_urlsafe(30)}"
    ends = text(asked, "endDateTime") or context.stamp(context.now + _YEAR_SECONDS)
    made = Password(created=context.now, ends=ends[:MAX_TAG], key=new_id(), name=text(asked, "displayName")[:MAX_TAG])
    found.secrets[digest(secret)] = made
    return Reply(status=200, body={**_password(context, made), "hint": secret[:3], "secretText": secret})


def remove_password(context: Context, where: dict[str, str]) -> Reply:
    """Take a secret out, by its key's ID."""
    found = _found(context, where["id"])
    key = text(context.request.json(), "keyId")
    kept = {name: each for name, each in found.secrets.items() if each.key != key}
    if len(kept) == len(found.secrets):
        raise Rejected(400, "Request_BadRequest", f"No password credential found with keyId '{key}'.")
    found.secrets = kept
    return Reply(status=204)


def get_by_ids(context: Context, _where: dict[str, str]) -> Reply:
    """Answer the directory objects with the given identifiers; unknown ones are left out."""
    asked = context.request.json().get("ids")
    wanted = [str(each) for each in asked[:MAX_IDS]] if isinstance(asked, list) else []
    found = [context.state.principals[each] for each in wanted if each in context.state.principals]
    return Reply(status=200, body={"value": [{"@odata.type": "#microsoft.graph.servicePrincipal", **_principal(each)} for each in found]})


def create_principal(context: Context, _where: dict[str, str]) -> Reply:
    """Make the service principal of an application."""
    app_id = text(context.request.json(), "appId")
    application = next((each for each in context.state.applications.values() if each.app_id == app_id), None)
    if application is None:
        raise Rejected(
            400,
            "Request_BadRequest",
            f"The appId '{app_id}' of the service principal does not reference a valid application object.",
        )
    if any(each.app_id == app_id for each in context.state.principals.values()):
        raise Rejected(
            409,
            "Request_MultipleObjectsWithSameKeyValue",
            f"The service principal cannot be created, updated, or restored because the service principal name {app_id} is already in use.",
        )
    made = Principal(id=new_id(), app_id=app_id, name=application.name, created=context.now, tags=_tags(context))
    context.state.principals[made.id] = made
    return Reply(status=201, body=_principal(made))


def get_principal(context: Context, where: dict[str, str]) -> Reply:
    """Answer one service principal."""
    return Reply(status=200, body=_principal(_found_principal(context, where["id"])))


def delete_principal(context: Context, where: dict[str, str]) -> Reply:
    """Remove a service principal and what was assigned to it."""
    _remove_principal(context, _found_principal(context, where["id"]).id)
    return Reply(status=204)


def require_principal(context: Context, app_id: str) -> None:
    """Check that AKS would find a cluster's service principal.

    Raises:
        Rejected: It does not exist or is not replicated yet; the CLI waits on this sentence.
    """
    found = next((each for each in context.state.principals.values() if each.app_id == app_id and app_id), None)
    if found is None or not context.replicated(found.created):
        raise Rejected(
            400,
            "ServicePrincipalNotFound",
            f"Service principal clientID: {app_id} not found in Active Directory tenant {TENANT}, "
            "Please see https://aka.ms/aks-sp-help for more details.",
        )


def _remove_principal(context: Context, key: str) -> None:
    del context.state.principals[key]
    for assignment in [name for name, each in context.state.assignments.items() if each.principal == key]:
        del context.state.assignments[assignment]


def _found(context: Context, identifier: str) -> Application:
    found = context.state.applications.get(identifier.lower())
    if found is None:
        raise _absent(identifier)
    return found


def _found_principal(context: Context, identifier: str) -> Principal:
    found = context.state.principals.get(identifier.lower())
    if found is None:
        raise _absent(identifier)
    return found


def _absent(identifier: str) -> Rejected:
    return Rejected(
        404,
        "Request_ResourceNotFound",
        f"Resource '{identifier}' does not exist or one of its queried reference-property objects are not present.",
    )


def _list(context: Context, entries: Sequence[Body]) -> Reply:
    query = context.request.query.get("$filter", "")
    any_name = _ANY.search(query)
    if any_name:
        found = [entry for entry in entries if any_name[1] in entry.get("servicePrincipalNames", [])]
        return Reply(status=200, body={"value": found})
    tagged = _TAGGED.search(query)
    if tagged:
        return Reply(status=200, body={"value": [entry for entry in entries if tagged[2].replace("''", "'") in entry["tags"]]})
    found = [entry for entry in entries if _matches(entry, query)]
    return Reply(status=200, body={"value": found})


def _matches(entry: Body, query: str) -> bool:
    starts = [(name, value.replace("''", "'").lower()) for name, value in _STARTS.findall(query)]
    equals = [(name, value.replace("''", "'").lower()) for name, value in _EQUALS.findall(query)]
    return all(str(entry.get(name, "")).lower().startswith(value) for name, value in starts) and all(
        str(entry.get(name, "")).lower() == value for name, value in equals
    )


def _tags(context: Context) -> list[str]:
    asked = context.request.json().get("tags")
    return [str(each)[:MAX_TAG] for each in asked[:MAX_TAGS]] if isinstance(asked, list) else []


def _application(context: Context, application: Application) -> Body:
    return {
        "@odata.context": f"{context.request.origin}/v1.0/$metadata#applications/$entity",
        "id": application.id,
        "appId": application.app_id,
        "displayName": application.name,
        "createdDateTime": context.stamp(application.created),
        "identifierUris": [],
        "tags": [*application.tags],
        "passwordCredentials": [_password(context, each) for each in application.secrets.values()],
        "keyCredentials": [],
        "signInAudience": "AzureADMyOrg",
        "notes": "simulated",
    }


def _password(context: Context, password: Password) -> Body:
    """Give what Graph tells of a secret after it has been made: anything but itself."""
    return {
        "customKeyIdentifier": None,
        "displayName": password.name or None,
        "startDateTime": context.stamp(password.created),
        "endDateTime": password.ends,
        "hint": None,
        "keyId": password.key,
        "secretText": None,
    }


def _principal(principal: Principal) -> Body:
    return {
        "id": principal.id,
        "appId": principal.app_id,
        "displayName": principal.name,
        "appDisplayName": principal.name,
        "servicePrincipalNames": [principal.app_id],
        "tags": [*principal.tags],
        "servicePrincipalType": "Application",
        "accountEnabled": True,
        "appOwnerOrganizationId": TENANT,
        "notes": "simulated",
    }
