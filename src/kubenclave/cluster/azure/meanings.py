"""What Azure's error codes mean, as a table: the kind of our error, what it is in words, and what to do about it. Pure.

The table holds the codes that stand between a person and a cluster.

Sources: the ARM and AKS troubleshooting references (learn.microsoft.com, "common deployment errors", "AKS error codes"), and the
sentences of the recorded traffic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kubenclave.errors import KubenclaveError, NotFound, Refused, Unreachable, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Say what a code means: the kind of our error, what it is in words, and what to do."""

    kind: type[KubenclaveError]
    words: str
    hint: str


QUOTA = Failure(
    kind=Refused,
    words="the quota of vCPUs does not allow so many",
    hint="Ask for more of the family and of the region's total (portal: Quotas), take fewer or smaller nodes, or another region.",
)
SIZE = Failure(
    kind=Refused,
    words="the VM size is not to be had for this subscription in this region",
    hint="Take another size or region, or ask Azure's support for access; az vm list-skus --location REGION shows what there is.",
)
REPLICATING = Failure(
    kind=Refused,
    words="the directory does not know the service principal yet",
    hint="A new one takes up to some minutes to be known everywhere. Run the same command again.",
)
DENIED_HERE = Failure(
    kind=Refused,
    words="the account that is signed in may not do this",
    hint="Contributor on the group makes clusters; role assignments take Owner or User Access Administrator besides.",
)
BUSY = Failure(
    kind=Refused,
    words="another operation on it is still going on",
    hint="Wait until it ends (kubenclave cluster status shows it), then run the same command again.",
)
DELETING = Failure(kind=Refused, words="it is being deleted", hint="Wait until it is gone, then run the same command again.")
UNREGISTERED = Failure(
    kind=Refused,
    words="the subscription is not registered for this service",
    hint="az provider register --namespace Microsoft.ContainerService; it takes some minutes.",
)
POLICY = Failure(
    kind=Refused,
    words="a policy of the organization forbids it",
    hint="The policy that Azure names says what is missing: often tags, a region, or a VM size. Its owner can make an exception.",
)
BODY = Failure(kind=UsageError, words="the request is not as Azure wants it", hint="Correct the part of the cluster file that Azure names.")
NAME = Failure(kind=UsageError, words="the name is reserved or not allowed", hint="Choose another name.")
VERSION = Failure(
    kind=UsageError,
    words="this Kubernetes version is not offered",
    hint="See az aks get-versions --location REGION, or leave kubernetesVersion out to get Azure's default.",
)
PLACE = Failure(kind=UsageError, words="the region does not offer it, or it is in another region already", hint="Check location.")
THROTTLING = Failure(
    kind=Unreachable, words="Azure takes no more requests for now", hint="Wait a few minutes, then run the same command again."
)
SERVER = Failure(
    kind=Unreachable, words="Azure failed at its own end", hint="Run the same command again; see https://status.azure.com if it goes on."
)
ABSENT = Failure(kind=NotFound, words="it is not there", hint="")
DISABLED = Failure(
    kind=Refused, words="the subscription is disabled or read-only", hint="Its owner can enable it: az account list shows its state."
)
FULL = Failure(
    kind=Refused, words="a limit of the subscription or the directory is reached", hint="Remove what is not used, or ask for more."
)
LOCKED = Failure(kind=Refused, words="a lock forbids it", hint="az lock list shows it; its owner can take it away.")
CAPACITY = Failure(
    kind=Refused,
    words="the region has no machines of this size free",
    hint="Try again later, or take another size or region; a quota does not reserve any.",
)
SIGN_IN = Failure(
    kind=Refused,
    words="nobody is signed in to Azure",
    hint="Sign in with az login, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.",
)
SIGN_IN_REFUSED = Failure(
    kind=Refused,
    words="the sign-in was refused",
    hint="Sign in again with az login, or check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET.",
)
TOKEN = Failure(
    kind=Refused,
    words="Azure does not take the token of this sign-in",
    hint="Sign in again with az login; check that this machine's clock is right and that the tenant is the subscription's.",
)
TLS = Failure(
    kind=Unreachable,
    words="the certificate of the other side is not trusted",
    hint="Give the authority that signed it: --ca-file, or KUBENCLAVE_CA_FILE. Behind a proxy that opens TLS: REQUESTS_CA_BUNDLE.",
)
RESOLUTION = Failure(kind=Unreachable, words="the name of the host cannot be resolved", hint="Check the network and the address.")
NETWORK = Failure(
    kind=Unreachable,
    words="it cannot be reached, or broke off",
    hint="Check the network, the proxy settings and the address, then run the same command again.",
)
GARBAGE = Failure(
    kind=Unreachable,
    words="the answer is not as Azure's",
    hint="Check that the address is that of a resource manager, and that no proxy answers in its place.",
)

# By code, in small letters.
CODES = {
    "quotaexceeded": QUOTA,
    "errcode_insufficientvcpuquota": QUOTA,
    "insufficientvcpuquota": QUOTA,
    "skunotavailable": SIZE,
    "vmsizenotsupported": SIZE,
    "principalnotfound": REPLICATING,
    "serviceprincipalnotfound": REPLICATING,
    "authorizationfailed": DENIED_HERE,
    "linkedauthorizationfailed": DENIED_HERE,
    "authorization_requestdenied": Failure(
        kind=Refused,
        words="the directory does not let this account make applications",
        hint="Take identity: managed, or let an administrator give the role Application Developer.",
    ),
    "roleassignmentupdatenotpermitted": DENIED_HERE,
    "missingsubscriptionregistration": UNREGISTERED,
    "subscriptionnotregistered": UNREGISTERED,
    "conflict": BUSY,
    "operationnotallowed": BUSY,
    "anotheroperationinprogress": BUSY,
    "etagmismatch": BUSY,
    "resourcegroupbeingdeleted": DELETING,
    "requestdisallowedbypolicy": POLICY,
    "requestdisallowedbyazure": POLICY,
    "invalidtemplate": BODY,
    "invalidtemplatedeployment": BODY,
    "invalidrequestcontent": BODY,
    "invalidparameter": BODY,
    "badrequest": BODY,
    "reservedresourcename": NAME,
    "invalidresourcename": NAME,
    "invalidresourcegroupname": NAME,
    "k8sversionnotsupported": VERSION,
    "agentpoolk8sversionnotsupported": VERSION,
    "locationnotavailableforresourcetype": PLACE,
    "locationnotavailableforresourcegroup": PLACE,
    "invalidresourcelocation": PLACE,
    "invalidresourcegrouplocation": PLACE,
    "noregisteredproviderfound": PLACE,
    "toomanyrequests": THROTTLING,
    "subscriptionrequeststhrottled": THROTTLING,
    "operationpreempted": BUSY,
    "resourcegroupnotfound": ABSENT,
    "resourcenotfound": ABSENT,
    "notfound": ABSENT,
    "request_resourcenotfound": ABSENT,
    "featurenotfound": Failure(
        kind=NotFound, words="there is no such feature", hint="It may have become a part of AKS for everybody: leave it out of features."
    ),
    "invalidresourcenamespace": Failure(kind=NotFound, words="there is no such resource provider", hint=""),
    "subscriptionnotfound": Failure(
        kind=NotFound, words="the account that is signed in does not see this subscription", hint="See az account list."
    ),
    "readonlydisabledsubscription": DISABLED,
    "disallowedoperation": DISABLED,
    "resourcegroupquotaexceeded": FULL,
    "directory_quotaexceeded": FULL,
    "roleassignmentlimitexceeded": FULL,
    "scopelocked": LOCKED,
    "allocationfailed": CAPACITY,
    "overconstrainedallocationrequest": CAPACITY,
    "zonalallocationfailed": CAPACITY,
    "vmextensionprovisioningerror": Failure(
        kind=Unreachable,
        words="a node was made and did not become ready",
        hint="Run the same command again; if it goes on, look whether the network lets nodes reach Azure.",
    ),
    "invalidauthenticationtoken": TOKEN,
    "invalidauthenticationtokentenant": TOKEN,
    "expiredauthenticationtoken": TOKEN,
    "authenticationfailed": TOKEN,
    "internalservererror": SERVER,
    "internaloperationerror": SERVER,
    "serviceunavailable": SERVER,
    "gatewaytimeout": SERVER,
}
# Some codes mean many things; then a sentence decides. The first that fits counts.
SENTENCES = (
    (re.compile(r"not found in Active Directory tenant|does not exist in the directory", re.IGNORECASE), REPLICATING),
    (re.compile(r"\bquota\b", re.IGNORECASE), QUOTA),
    (
        re.compile(
            r"VM size of .{1,100} is not (allowed|available)|is not available in location|requested size .{1,100} not available",
            re.IGNORECASE,
        ),
        SIZE,
    ),
    (
        re.compile(r"(another|an?|ongoing) (\w+ )?operation.{0,60}in progress|in progress|being (created|updated|upgraded)", re.IGNORECASE),
        BUSY,
    ),
    (re.compile(r"being deleted|deprovisioning", re.IGNORECASE), DELETING),
    (re.compile(r"version .{1,60} is not supported", re.IGNORECASE), VERSION),
)
# Codes that only say that something within failed.
ENVELOPES = frozenset(
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
