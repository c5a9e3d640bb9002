"""Preview features and resource providers: asked for now, there later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.local.azure.catalogue import catalogue
from kubenclave.local.azure.context import S
from kubenclave.local.azure.values import Body, Rejected, Reply

if TYPE_CHECKING:
    from kubenclave.local.azure.context import Context

AKS = "Microsoft.ContainerService"
# The features that clients of SGX clusters were told to register; any other name is unknown, as it is to Azure.
FEATURES = (
    "Gen2VMPreview",
    "CustomNodeConfigPreview",
    "UseCustomizedContainerRuntime",
    "KataCcIsolationPreview",
    "AKS-PrometheusAddonPreview",
)
# Providers with their resource types. All but AKS's are registered from the beginning, as in a subscription that has seen use.
PROVIDERS = {
    AKS: ("managedClusters", "managedClusters/agentPools", "locations/operations", "locations/kubernetesVersions"),
    "Microsoft.Compute": ("virtualMachines", "virtualMachineScaleSets", "skus", "locations/usages"),
    "Microsoft.Network": ("virtualNetworks", "publicIPAddresses", "loadBalancers"),
    "Microsoft.Storage": ("storageAccounts",),
    "Microsoft.Authorization": ("roleAssignments", "roleDefinitions", "permissions"),
    "Microsoft.Features": ("features", "providers"),
    "Microsoft.Resources": ("resourceGroups", "subscriptions", "deployments"),
    "Microsoft.ManagedIdentity": ("userAssignedIdentities",),
    "Microsoft.OperationalInsights": ("workspaces",),
    "Microsoft.OperationsManagement": ("solutions",),
}
_API_VERSIONS = {AKS: ["2026-08-01", "2026-06-01", "2026-05-01"]}


def list_features(context: Context, where: dict[str, str]) -> Reply:
    """Answer every feature, of one provider where the path names it."""
    if where.get("namespace", AKS).lower() != AKS.lower():
        return Reply(status=200, body={"value": []})
    return Reply(status=200, body={"value": [_feature(context, name) for name in FEATURES]})


def get_feature(context: Context, where: dict[str, str]) -> Reply:
    """Answer one feature's state."""
    return Reply(status=200, body=_feature(context, _known(where)))


def register_feature(context: Context, where: dict[str, str]) -> Reply:
    """Ask for a feature; asking again changes nothing."""
    name = _known(where)
    context.state.features.setdefault(name, context.now)
    return Reply(status=200, body=_feature(context, name))


def unregister_feature(context: Context, where: dict[str, str]) -> Reply:
    """Give a feature back."""
    name = _known(where)
    context.state.features.pop(name, None)
    return Reply(status=200, body=_feature(context, name))


def list_providers(context: Context, _where: dict[str, str]) -> Reply:
    """Answer every provider."""
    return Reply(status=200, body={"value": [_provider(context, name) for name in PROVIDERS]})


def get_provider(context: Context, where: dict[str, str]) -> Reply:
    """Answer one provider's state."""
    return Reply(status=200, body=_provider(context, _namespace(where["namespace"])))


def register_provider(context: Context, where: dict[str, str]) -> Reply:
    """Register a provider; asking again changes nothing."""
    name = _namespace(where["namespace"])
    context.state.providers.setdefault(name, context.now)
    return Reply(status=200, body=_provider(context, name))


def unregister_provider(context: Context, where: dict[str, str]) -> Reply:
    """Take a registration back; this stand-in allows it for AKS only, and at once."""
    name = _namespace(where["namespace"])
    if name != AKS:
        raise Rejected(400, "BadRequest", f"simulated: {name} stays registered here.")
    context.state.providers.pop(name, None)
    return Reply(status=200, body=_provider(context, name))


def require_provider(context: Context) -> None:
    """Check that the subscription may use AKS.

    Raises:
        Rejected: 409, on which the SDKs register the provider by themselves.
    """
    if _provider_state(context, AKS) != "Registered":
        raise Rejected(
            409,
            "MissingSubscriptionRegistration",
            f"The subscription is not registered to use namespace '{AKS}'. See https://aka.ms/rps-not-found for how to register "
            "subscriptions.",
        )


def _known(where: dict[str, str]) -> str:
    found = next((name for name in FEATURES if name.lower() == where["name"].lower()), None)
    if where["namespace"].lower() != AKS.lower() or found is None:
        raise Rejected(404, "FeatureNotFound", f"The feature '{where['name']}' could not be found.")
    return found


def _namespace(name: str) -> str:
    found = next((known for known in PROVIDERS if known.lower() == name.lower()), None)
    if found is None:
        raise Rejected(404, "InvalidResourceNamespace", f"The resource namespace '{name}' is invalid.")
    return found


def _feature(context: Context, name: str) -> Body:
    asked, settings = context.state.features.get(name), context.state.settings
    if asked is None:
        state = "NotRegistered"
    elif name in settings.feature_never:
        state = "Pending"
    else:
        state = "Registered" if context.now >= asked + settings.registration_seconds else "Registering"
    return {
        "properties": {"state": state},
        "id": f"{S}/providers/Microsoft.Features/providers/{AKS}/features/{name}",
        "type": "Microsoft.Features/providers/features",
        "name": f"{AKS}/{name}",
    }


def _provider_state(context: Context, name: str) -> str:
    if name != AKS:
        return "Registered"
    asked = context.state.providers.get(name)
    if asked is None:
        return "NotRegistered"
    return "Registered" if context.now >= asked + context.state.settings.registration_seconds else "Registering"


def _provider(context: Context, name: str) -> Body:
    return {
        "id": f"{S}/providers/{name}",
        "namespace": name,
        "resourceTypes": [
            {
                "resourceType": kind,
                "locations": [*catalogue().locations.values()],
                "apiVersions": _API_VERSIONS.get(name, ["2024-11-01"]),
                "capabilities": "None",
            }
            for kind in PROVIDERS[name]
        ],
        "registrationState": _provider_state(context, name),
        "registrationPolicy": "RegistrationRequired",
    }
