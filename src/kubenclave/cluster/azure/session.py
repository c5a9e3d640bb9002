"""One visit to Azure: which cloud, signed in as whom, in which subscription, and the SDKs' clients for it.

Sources: ``GET /metadata/endpoints`` (ARM, api-version 2022-09-01) names the sign-in service and Graph of a cloud that is not the public
one; the public cloud's addresses are published constants.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from azure.core import PipelineClient
from azure.core.rest import HttpRequest, HttpResponse

from kubenclave.cluster.azure.failures import telling
from kubenclave.cluster.azure.patience import OPENING_SECONDS, WORKING_SECONDS, Patience
from kubenclave.cluster.azure.reply import children, entries, text
from kubenclave.cluster.azure.tokens import Tokens, credential_for, public_credential
from kubenclave.cluster.azure.transport import Transport, policies
from kubenclave.cluster.facts import Subscription
from kubenclave.errors import NotFound, Unreachable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from azure.mgmt.authorization.v2022_04_01 import AuthorizationManagementClient
    from azure.mgmt.compute import ComputeManagementClient
    from azure.mgmt.containerservice import ContainerServiceClient
    from azure.mgmt.resource.features import FeatureClient
    from azure.mgmt.resource.resources import ResourceManagementClient
    from azure.mgmt.resource.subscriptions import SubscriptionClient

Service: TypeAlias = PipelineClient[HttpRequest, HttpResponse]

PUBLIC_ARM = "https://management.azure.com"
_ENDPOINTS_VERSION = "2022-09-01"
_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MAX_SUBSCRIPTIONS = 1000  # one tenant has more only by special agreement; nobody chooses from a longer list


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSettings:
    """Say which cloud is meant.

    Attributes:
        arm_endpoint: The URL of its resource manager; empty for the public cloud.
        ca_file: The authority that signed its certificates; None for the system's.
        subscription: The subscription's ID; None for ``AZURE_SUBSCRIPTION_ID``, or the only one that is enabled.
    """

    arm_endpoint: str = ""
    ca_file: Path | None = None
    subscription: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """Hold the addresses of a cloud, without a slash at the end; ``audience`` is what a token for its resource manager is for."""

    name: str
    arm: str
    login: str
    graph: str
    audience: str


PUBLIC = Cloud(
    name="AzureCloud",
    arm=PUBLIC_ARM,
    login="https://login.microsoftonline.com",
    graph="https://graph.microsoft.com",
    audience=PUBLIC_ARM,
)


class Session:
    """Hold the clients of one subscription, each made when it is first used: some cost time to import.

    Attributes:
        cloud: Where this is.
        subscription: As Azure describes it.
    """

    def __init__(self, cloud: Cloud, tokens: Tokens, transport: Transport, subscription: Subscription) -> None:
        self.cloud = cloud
        self.subscription = subscription
        self._tokens = tokens
        self._transport = transport

    @property
    def subscription_id(self) -> str:
        """Return the subscription's ID."""
        return self.subscription.id

    @property
    def tenant_id(self) -> str:
        """Return the ID of the subscription's tenant."""
        return self.subscription.tenant

    @cached_property
    def containers(self) -> ContainerServiceClient:
        """Return the client of AKS."""
        from azure.mgmt.containerservice import ContainerServiceClient  # noqa: PLC0415 - 60 ms

        return ContainerServiceClient(self._tokens, self.subscription_id, **self._options())

    @cached_property
    def resources(self) -> ResourceManagementClient:
        """Return the client of groups and providers."""
        from azure.mgmt.resource.resources import ResourceManagementClient  # noqa: PLC0415 - 40 ms

        return ResourceManagementClient(self._tokens, self.subscription_id, **self._options())

    @cached_property
    def compute(self) -> ComputeManagementClient:
        """Return the client of VM sizes and quotas."""
        from azure.mgmt.compute import ComputeManagementClient  # noqa: PLC0415 - 130 ms

        return ComputeManagementClient(self._tokens, self.subscription_id, **self._options())

    @cached_property
    def features(self) -> FeatureClient:
        """Return the client of preview features."""
        from azure.mgmt.resource.features import FeatureClient  # noqa: PLC0415 - 30 ms

        return FeatureClient(self._tokens, self.subscription_id, **self._options())

    @cached_property
    def authorization(self) -> AuthorizationManagementClient:
        """Return the client of role assignments and permissions."""
        from azure.mgmt.authorization.v2022_04_01 import AuthorizationManagementClient  # noqa: PLC0415 - 50 ms

        return AuthorizationManagementClient(self._tokens, self.subscription_id, **self._options())

    @cached_property
    def subscriptions(self) -> SubscriptionClient:
        """Return the client of subscriptions and locations."""
        from azure.mgmt.resource.subscriptions import SubscriptionClient  # noqa: PLC0415 - 50 ms

        return SubscriptionClient(self._tokens, **self._options())

    @cached_property
    def arm(self) -> Service:
        """Return a client for what the resource manager answers and no SDK asks; used as ``graph`` is."""
        return PipelineClient(
            self.cloud.arm, policies=_options(self.cloud, self._tokens, self._transport)["policies"], transport=self._transport
        )

    @cached_property
    def graph(self) -> Service:
        """Return a client of Microsoft Graph: ``graph.send_request(HttpRequest("GET", graph.format_url("/v1.0/applications")))``."""
        scope = f"{self.cloud.graph}/.default"
        return PipelineClient(
            self.cloud.graph,
            policies=policies(self._transport.patience, self._tokens, scope, self.cloud.graph, repeat_posts=False),
            transport=self._transport,
        )

    def resource_manager_token(self) -> str:
        """Return the token for the resource manager, which tells who is signed in.

        Raises:
            ClientAuthenticationError: The sign-in was refused.
        """
        return self._tokens.get_token(f"{self.cloud.audience}/.default").token

    def _options(self) -> dict[str, Any]:
        return _options(self.cloud, self._tokens, self._transport)


@contextmanager
def open_session(settings: CloudSettings) -> Iterator[Session]:
    """Reach a cloud and sign in, until the block ends.

    Raises:
        UsageError: The endpoint is no https URL, or which subscription is meant is not clear.
        Unreachable: The cloud or its sign-in service did not answer.
        Refused: Nobody is signed in, or the sign-in was refused.
        NotFound: The subscription or the authority's file is not there.
    """
    _quiet()
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise NotFound(f"There is no file {settings.ca_file} with the cloud's certificate authority.", "Check --ca-file.")
    patience = Patience(OPENING_SECONDS)
    with Transport(patience, settings.ca_file) as transport:
        cloud = find_cloud(settings.arm_endpoint, transport)
        make = public_credential if cloud == PUBLIC else partial(credential_for, cloud.login, settings.ca_file)
        tokens = Tokens(make, patience)
        try:
            session = Session(cloud, tokens, transport, _subscription(settings, cloud, tokens, transport))
            patience.seconds = WORKING_SECONDS
            yield session
        finally:
            patience.end()
            transport.close()
            tokens.close()


def find_cloud(arm_endpoint: str, transport: Transport) -> Cloud:
    """Return a cloud's addresses, as its resource manager tells them.

    Raises:
        UsageError: The endpoint is no https URL.
        Unreachable: It did not answer as a resource manager does.
    """
    arm = arm_endpoint.rstrip("/")
    if arm in {"", PUBLIC_ARM}:
        return PUBLIC
    if not _is_base(arm):
        raise UsageError(
            f"The resource manager's endpoint {arm_endpoint!r} is no https URL.", "Write it as https://host or https://host:port."
        )
    client: Service = PipelineClient(arm, policies=policies(transport.patience, None, "", arm), transport=transport)
    with telling(f"asking {arm} for its endpoints"):
        answer = client.send_request(HttpRequest("GET", f"{arm}/metadata/endpoints?api-version={_ENDPOINTS_VERSION}"))
        answer.raise_for_status()
        found = answer.json()
    login = text(found, "authentication", "loginEndpoint").rstrip("/")
    graph = text(found, "microsoftGraphResourceId").rstrip("/")
    audience = next((each for each in children(found, "authentication", "audiences") if isinstance(each, str)), "").rstrip("/")
    if not (_is_base(login) and _is_base(graph) and _is_base(audience)):
        raise Unreachable(
            f"{arm} does not say where its sign-in service and its Graph are.",
            "Check that --arm-endpoint (KUBENCLAVE_ARM_ENDPOINT) is the address of a resource manager.",
        )
    return Cloud(name=text(found, "name") or "another cloud", arm=arm, login=login, graph=graph, audience=audience)


def choose(wanted: str | None, found: tuple[Subscription, ...]) -> Subscription:
    """Return the subscription that is meant. Pure.

    Raises:
        NotFound: The one that was named is not there, or there is none at all.
        UsageError: Several are enabled and none was named; the hint lists them.
    """
    if wanted is not None:
        named = next((each for each in found if each.id.lower() == wanted.lower()), None)
        if named is None:
            raise NotFound(f"Subscription {wanted} is not among those of the account that is signed in.", "See az account list.")
        return named
    enabled = [each for each in found if each.state == "Enabled"]
    if len(enabled) == 1:
        return enabled[0]
    if not enabled:
        raise NotFound("The account that is signed in has no enabled subscription.", "Sign in to another: az login --tenant TENANT")
    listed = ", ".join(f"{each.id} ({each.name})" for each in enabled[:20])
    raise UsageError(
        f"{len(enabled)} subscriptions are enabled, and none was named.", f"Name one in the cluster file or AZURE_SUBSCRIPTION_ID: {listed}"
    )


def _subscription(settings: CloudSettings, cloud: Cloud, tokens: Tokens, transport: Transport) -> Subscription:
    from azure.mgmt.resource.subscriptions import SubscriptionClient  # noqa: PLC0415 - 50 ms

    wanted = settings.subscription or os.environ.get("AZURE_SUBSCRIPTION_ID") or None
    if wanted is not None and not _GUID.fullmatch(wanted):
        raise UsageError(f"The subscription {wanted!r} is no subscription's ID.", "It has the form of a GUID: az account list shows it.")
    client = SubscriptionClient(tokens, **_options(cloud, tokens, transport))
    with telling("listing the subscriptions"):
        found = entries(client.subscriptions.list(), most=_MAX_SUBSCRIPTIONS)
    return choose(wanted, tuple(_described(each) for each in found))


def _described(entry: object) -> Subscription:
    return Subscription(
        id=text(entry, "subscriptionId"), name=text(entry, "displayName"), tenant=text(entry, "tenantId"), state=text(entry, "state")
    )


def _options(cloud: Cloud, tokens: Tokens, transport: Transport) -> dict[str, Any]:
    # Keyword arguments that all of the SDKs' clients share; they are untyped there.
    return {
        "base_url": cloud.arm,
        "credential_scopes": [f"{cloud.audience}/.default"],
        "policies": policies(transport.patience, tokens, f"{cloud.audience}/.default", cloud.arm),
        "transport": transport,
    }


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
        usable = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return (
        parts.scheme == "https" and bool(parts.hostname) and usable and "@" not in parts.netloc and not parts.query and not parts.fragment
    )


def _quiet() -> None:
    """Keep the SDKs from writing requests, headers and long advice to the terminal: what failed is told in one sentence by us."""
    for name in ("azure", "msal", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
