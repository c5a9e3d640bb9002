"""Tell in words what Azure's failures mean and what to do about them.

Azure says what is wrong by an error code and leaves the rest to search engines. The table holds the codes that stand between a person
and a cluster; whatever is not in it is told in Azure's own words. Nothing that could be a secret passes through.

Sources: the ARM and AKS troubleshooting references (learn.microsoft.com, "common deployment errors", "AKS error codes"), the sentences of
the recorded traffic, and RFC 6749 section 5.2 for sign-in.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from kubenclave.cluster.azure.reply import children, inside, text
from kubenclave.errors import KubenclaveError, NotFound, Refused, Unreachable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from azure.core.rest import HttpResponse

MAX_SENTENCE = 500  # characters of Azure's own words; some errors list every VM size of a region
_MAX_DEPTH = 6  # errors within errors; a deployment's go three deep
_MAX_CAUSES = 8
_THROTTLED, _SERVER_ERROR, _GONE, _DENIED = 429, 500, 404, 403


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Say what a code means: the kind of our error, what it is in words, and what to do."""

    kind: type[KubenclaveError]
    words: str
    hint: str


_QUOTA = Failure(
    kind=Refused,
    words="the quota of vCPUs does not allow so many",
    hint="Ask for more of the family and of the region's total (portal: Quotas), take fewer or smaller nodes, or another region.",
)
_SIZE = Failure(
    kind=Refused,
    words="the VM size is not to be had for this subscription in this region",
    hint="Take another size or region, or ask Azure's support for access; az vm list-skus --location REGION shows what there is.",
)
_REPLICATING = Failure(
    kind=Refused,
    words="the directory does not know the service principal yet",
    hint="A new one takes up to some minutes to be known everywhere. Run the same command again.",
)
_DENIED_HERE = Failure(
    kind=Refused,
    words="the account that is signed in may not do this",
    hint="Contributor on the group makes clusters; role assignments take Owner or User Access Administrator besides.",
)
_BUSY = Failure(
    kind=Refused,
    words="another operation on it is still going on",
    hint="Wait until it ends (kubenclave cluster status shows it), then run the same command again.",
)
_DELETING = Failure(kind=Refused, words="it is being deleted", hint="Wait until it is gone, then run the same command again.")
_UNREGISTERED = Failure(
    kind=Refused,
    words="the subscription is not registered for this service",
    hint="az provider register --namespace Microsoft.ContainerService; it takes some minutes.",
)
_POLICY = Failure(
    kind=Refused,
    words="a policy of the organization forbids it",
    hint="The policy that Azure names says what is missing: often tags, a region, or a VM size. Its owner can make an exception.",
)
_BODY = Failure(
    kind=UsageError, words="the request is not as Azure wants it", hint="Correct the part of the cluster file that Azure names."
)
_NAME = Failure(kind=UsageError, words="the name is reserved or not allowed", hint="Choose another name.")
_VERSION = Failure(
    kind=UsageError,
    words="this Kubernetes version is not offered",
    hint="See az aks get-versions --location REGION, or leave kubernetesVersion out to get Azure's default.",
)
_PLACE = Failure(kind=UsageError, words="the region does not offer it, or it is in another region already", hint="Check location.")
_THROTTLING = Failure(
    kind=Unreachable, words="Azure takes no more requests for now", hint="Wait a few minutes, then run the same command again."
)
_SERVER = Failure(
    kind=Unreachable, words="Azure failed at its own end", hint="Run the same command again; see https://status.azure.com if it goes on."
)
_ABSENT = Failure(kind=NotFound, words="it is not there", hint="")
_DISABLED = Failure(
    kind=Refused, words="the subscription is disabled or read-only", hint="Its owner can enable it: az account list shows its state."
)
_FULL = Failure(
    kind=Refused, words="a limit of the subscription or the directory is reached", hint="Remove what is not used, or ask for more."
)
_LOCKED = Failure(kind=Refused, words="a lock forbids it", hint="az lock list shows it; its owner can take it away.")
_CAPACITY = Failure(
    kind=Refused,
    words="the region has no machines of this size free",
    hint="Try again later, or take another size or region; a quota does not reserve any.",
)
_SIGN_IN = Failure(
    kind=Refused,
    words="nobody is signed in to Azure",
    hint="Sign in with az login, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.",
)
_SIGN_IN_REFUSED = Failure(
    kind=Refused,
    words="the sign-in was refused",
    hint="Sign in again with az login, or check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.",
)
_TOKEN = Failure(
    kind=Refused,
    words="Azure does not take the token of this sign-in",
    hint="Sign in again with az login; check that this machine's clock is right and that the tenant is the subscription's.",
)
_TLS = Failure(
    kind=Unreachable,
    words="the certificate of the other side is not trusted",
    hint="Give the authority that signed it: --ca-file, or KUBENCLAVE_CA_FILE. Behind a proxy that opens TLS: REQUESTS_CA_BUNDLE.",
)
_RESOLUTION = Failure(kind=Unreachable, words="the name of the host cannot be resolved", hint="Check the network and the address.")
_NETWORK = Failure(
    kind=Unreachable,
    words="it cannot be reached, or broke off",
    hint="Check the network, the proxy settings and the address, then run the same command again.",
)
_GARBAGE = Failure(
    kind=Unreachable,
    words="the answer is not as Azure's",
    hint="Check that the address is that of a resource manager, and that no proxy answers in its place.",
)

# By code, in small letters.
CODES = {
    "quotaexceeded": _QUOTA,
    "errcode_insufficientvcpuquota": _QUOTA,
    "insufficientvcpuquota": _QUOTA,
    "skunotavailable": _SIZE,
    "vmsizenotsupported": _SIZE,
    "principalnotfound": _REPLICATING,
    "serviceprincipalnotfound": _REPLICATING,
    "authorizationfailed": _DENIED_HERE,
    "linkedauthorizationfailed": _DENIED_HERE,
    "authorization_requestdenied": Failure(
        kind=Refused,
        words="the directory does not let this account make applications",
        hint="Take identity: managed, or let an administrator give the role Application Developer.",
    ),
    "roleassignmentupdatenotpermitted": _DENIED_HERE,
    "missingsubscriptionregistration": _UNREGISTERED,
    "subscriptionnotregistered": _UNREGISTERED,
    "conflict": _BUSY,
    "operationnotallowed": _BUSY,
    "anotheroperationinprogress": _BUSY,
    "etagmismatch": _BUSY,
    "resourcegroupbeingdeleted": _DELETING,
    "requestdisallowedbypolicy": _POLICY,
    "requestdisallowedbyazure": _POLICY,
    "invalidtemplate": _BODY,
    "invalidtemplatedeployment": _BODY,
    "invalidrequestcontent": _BODY,
    "invalidparameter": _BODY,
    "badrequest": _BODY,
    "reservedresourcename": _NAME,
    "invalidresourcename": _NAME,
    "invalidresourcegroupname": _NAME,
    "k8sversionnotsupported": _VERSION,
    "agentpoolk8sversionnotsupported": _VERSION,
    "locationnotavailableforresourcetype": _PLACE,
    "locationnotavailableforresourcegroup": _PLACE,
    "invalidresourcelocation": _PLACE,
    "invalidresourcegrouplocation": _PLACE,
    "noregisteredproviderfound": _PLACE,
    "toomanyrequests": _THROTTLING,
    "subscriptionrequeststhrottled": _THROTTLING,
    "operationpreempted": _BUSY,
    "resourcegroupnotfound": _ABSENT,
    "resourcenotfound": _ABSENT,
    "notfound": _ABSENT,
    "request_resourcenotfound": _ABSENT,
    "featurenotfound": Failure(
        kind=NotFound, words="there is no such feature", hint="It may have become a part of AKS for everybody: leave it out of features."
    ),
    "invalidresourcenamespace": Failure(kind=NotFound, words="there is no such resource provider", hint=""),
    "subscriptionnotfound": Failure(
        kind=NotFound, words="the account that is signed in does not see this subscription", hint="See az account list."
    ),
    "readonlydisabledsubscription": _DISABLED,
    "disallowedoperation": _DISABLED,
    "resourcegroupquotaexceeded": _FULL,
    "directory_quotaexceeded": _FULL,
    "roleassignmentlimitexceeded": _FULL,
    "scopelocked": _LOCKED,
    "allocationfailed": _CAPACITY,
    "overconstrainedallocationrequest": _CAPACITY,
    "zonalallocationfailed": _CAPACITY,
    "vmextensionprovisioningerror": Failure(
        kind=Unreachable,
        words="a node was made and did not become ready",
        hint="Run the same command again; if it goes on, look whether the network lets nodes reach Azure.",
    ),
    "invalidauthenticationtoken": _TOKEN,
    "invalidauthenticationtokentenant": _TOKEN,
    "expiredauthenticationtoken": _TOKEN,
    "authenticationfailed": _TOKEN,
    "internalservererror": _SERVER,
    "internaloperationerror": _SERVER,
    "serviceunavailable": _SERVER,
    "gatewaytimeout": _SERVER,
}
# Some codes mean many things; then a sentence decides. The first that fits counts.
SENTENCES = (
    (re.compile(r"not found in Active Directory tenant|does not exist in the directory", re.IGNORECASE), _REPLICATING),
    (re.compile(r"\bquota\b", re.IGNORECASE), _QUOTA),
    (
        re.compile(
            r"VM size of .{1,100} is not (allowed|available)|is not available in location|requested size .{1,100} not available",
            re.IGNORECASE,
        ),
        _SIZE,
    ),
    (
        re.compile(r"(another|an?|ongoing) (\w+ )?operation.{0,60}in progress|in progress|being (created|updated|upgraded)", re.IGNORECASE),
        _BUSY,
    ),
    (re.compile(r"being deleted|deprovisioning", re.IGNORECASE), _DELETING),
    (re.compile(r"version .{1,60} is not supported", re.IGNORECASE), _VERSION),
)
# Codes that only say that something within failed.
_ENVELOPES = frozenset(
    {
        "",
        "badrequest",
        "conflict",
        "operationnotallowed",
        "deploymentfailed",
        "resourcedeploymentfailure",
        "invalidtemplatedeployment",
        "multipleerrorsoccurred",
    }
)
_UNTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|SSLCertVerificationError|SSLError", re.IGNORECASE)
_UNRESOLVED = re.compile(
    r"NameResolutionError|Failed to resolve|Name or service not known|Temporary failure in name resolution|getaddrinfo failed"
)
_BROKEN = re.compile(
    r"Connection refused|Network is unreachable|No route to host|Connection (aborted|reset|broken)|timed out|Max retries exceeded"
    r"|RemoteDisconnected"
)
_REFUSED_SIGN_IN = re.compile(r"AADSTS\d{4,9}[^\n]*")
# What looks like a secret: JSON web tokens, bearer headers, named secrets, and client secrets in the form that Entra ID makes.
_SECRETS = (
    (re.compile(r"eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)*"), "***"),
    (re.compile(r"(bearer\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1***"),
    (
        re.compile(
            r"""((?:secret|secrettext|password|access_token|refresh_token|assertion|accesskey|sig)["']?\s*[:=]\s*["']?)[^\s"',;&}]{3,}""",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (re.compile(r"[A-Za-z0-9_.~-]{3}\dQ~[A-Za-z0-9_.~-]{30,36}"), "***"),
)


def told(exc: AzureError, doing: str) -> KubenclaveError:
    """Translate a failure of the SDKs.

    Args:
        exc: What the SDK raised.
        doing: What was being done, as in "creating the cluster g/c".
    """
    if isinstance(exc, ClientAuthenticationError) and exc.response is None:
        return _sign_in(exc, doing)
    if isinstance(exc, DecodeError):
        return _sentence(_GARBAGE, doing)
    if isinstance(exc, HttpResponseError):
        return _reply(exc, doing)
    if isinstance(exc, ServiceRequestError | ServiceResponseError):
        return _sentence(_broken(exc) or _NETWORK, doing)
    return KubenclaveError(f"{_begun(doing)} did not work: {scrub(str(exc))}")


@contextmanager
def telling(doing: str) -> Iterator[None]:
    """Translate whatever the SDKs raise inside the block, also what an answer of the wrong shape makes them raise.

    Raises:
        KubenclaveError: See ``told``.
    """
    try:
        yield
    except AzureError as exc:
        raise told(exc, doing) from exc
    # The SDKs read JSON without checking it: a number where a list belongs ends in one of these.
    except (RecursionError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise _sentence(_GARBAGE, doing) from exc


def error_code(exc: AzureError) -> str:
    """Return Azure's code of a failure, the innermost that says something; empty where it has none.

    A failed operation arrives with the HTTP status 200: only its code tells.
    """
    return _innermost(exc)[0] if isinstance(exc, HttpResponseError) else ""


def is_network(exc: BaseException) -> bool:
    """Say whether a failure comes from the way to Azure, so that waiting may help."""
    found = _broken(exc)
    return found is not None and found is not _TLS


def scrub(words: str) -> str:
    """Return words on one line, bounded, without control characters and without what looks like a secret."""
    kept = os.environ.get("AZURE_CLIENT_SECRET", "")
    if kept:
        words = words.replace(kept, "***")
    for pattern, instead in _SECRETS:
        words = pattern.sub(instead, words)
    plain = " ".join("".join(char if char.isprintable() else " " for char in words).split())
    return plain if len(plain) <= MAX_SENTENCE else f"{plain[:MAX_SENTENCE]} ..."


def _reply(exc: HttpResponseError, doing: str) -> KubenclaveError:
    code, message = _innermost(exc)
    status = exc.status_code or 0
    found = _meaning(code, message, status)
    if found is None:
        said = f"{_said(code, message)}" if code or message else f"Azure answered with the HTTP status {status} and no reason."
        return KubenclaveError(f"{_begun(doing)} did not work. {said}", _request_id(exc))
    return _sentence(found, doing, _said(code, message))


def _meaning(code: str, message: str, status: int) -> Failure | None:
    if status == _THROTTLED:
        return _THROTTLING
    low = code.lower()
    if low in _ENVELOPES:
        by_sentence = next((found for pattern, found in SENTENCES if pattern.search(message)), None)
        if by_sentence is not None:
            return by_sentence
    if low in CODES:
        return CODES[low]
    by_status = {_GONE: _ABSENT, _DENIED: _DENIED_HERE, 401: _TOKEN}
    return by_status.get(status) or (_SERVER if status >= _SERVER_ERROR else None)


def _innermost(exc: HttpResponseError) -> tuple[str, str]:
    """Return code and message of the error that the others only wrap. Azure sends them with and without an ``error`` around."""
    try:
        body: object = cast("HttpResponse", exc.response).json() if exc.response is not None else None
    except (AzureError, ValueError, TypeError, AttributeError, RecursionError):
        body = None
    node = inside(body, "error") or body
    code, message = text(node, "code"), text(node, "message")
    if not code and exc.error is not None:
        code, message = str(exc.error.code or "")[:200], str(exc.error.message or "")
    for _ in range(_MAX_DEPTH):
        within = next((each for each in children(node, "details") if text(each, "code")), None)
        if within is None or code.lower() not in _ENVELOPES:
            break
        node, code, message = within, text(within, "code"), text(within, "message") or message
    return code, message


def _sign_in(exc: ClientAuthenticationError, doing: str) -> KubenclaveError:
    """Cut the long report of every way to sign in that was tried down to what matters."""
    broken = _broken(exc)
    if broken is not None:
        return _sentence(broken, f"signing in, while {doing}")
    refused = _REFUSED_SIGN_IN.search(str(exc.message))
    if refused is not None or "invalid_client" in str(exc.message):
        return _sentence(_SIGN_IN_REFUSED, doing, f"Entra ID says: {scrub(refused[0])}" if refused is not None else "")
    return _sentence(_SIGN_IN, doing)


def _broken(exc: BaseException) -> Failure | None:
    """Say what is wrong with the way to Azure, by the causes of a failure; None where the way is not what failed."""
    at: BaseException | None = exc
    network = False
    for _ in range(_MAX_CAUSES):
        if at is None:
            break
        words = str(at)
        for pattern, found in ((_UNTRUSTED, _TLS), (_UNRESOLVED, _RESOLUTION), (_BROKEN, _NETWORK)):
            if pattern.search(words):
                return found
        network = network or isinstance(at, ServiceRequestError | ServiceResponseError)
        at = at.__cause__ or at.__context__
    return _NETWORK if network else None


def _sentence(found: Failure, doing: str, said: str = "") -> KubenclaveError:
    return found.kind(f"{_begun(doing)} did not work: {found.words}.{' ' if said else ''}{said}", found.hint)


def _said(code: str, message: str) -> str:
    words = scrub(message)
    if not words:
        return f"Azure's code is {scrub(code)}." if code else ""
    return f"Azure says: {words}{f' ({scrub(code)})' if code else ''}"


def _request_id(exc: HttpResponseError) -> str:
    found = cast("HttpResponse", exc.response).headers.get("x-ms-request-id", "") if exc.response is not None else ""
    return f"Azure's support finds it by the request ID {scrub(found)}." if found else ""


def _begun(doing: str) -> str:
    return doing[:1].upper() + doing[1:]
