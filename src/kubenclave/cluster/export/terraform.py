"""The cluster as a Terraform configuration for the provider azurerm 5. Pure.

Source of names: the provider's documentation of ``azurerm_kubernetes_cluster`` and ``azurerm_kubernetes_cluster_node_pool``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubenclave.cluster.body import ADMIN_USER, cluster_body, dns_prefix, network_profile, pool_properties
from kubenclave.cluster.export import notes
from kubenclave.cluster.export.hcl import Block, Expression, Value, written
from kubenclave.cluster.spec import OWNER_TAG, Effect, Identity, Mode, Sgx, Taint
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.cluster.spec import ClusterSpec, Pool

# What the default node pool can be kept for, and nothing else: the provider knows it as only_critical_addons_enabled.
_CRITICAL_ADDONS = Taint(key="CriticalAddonsOnly", value="true", effect=Effect.NO_SCHEDULE)
_GROUP = "azurerm_resource_group.cluster"
_CLUSTER = "azurerm_kubernetes_cluster.cluster"
_ROLE = "azurerm_role_assignment.cluster"


def terraform_configuration(spec: ClusterSpec) -> str:
    """Return the configuration. A service principal, its object ID and its secret are variables of it.

    Raises:
        UsageError: No pool can be the provider's default node pool.
    """
    default = _default_pool(spec)
    blocks = [
        *_settings(spec),
        *(_variables() if spec.identity is Identity.SERVICE_PRINCIPAL else ()),
        Block(kind="resource", labels=("azurerm_resource_group", "cluster"), arguments=_group(spec)),
        *(_role() if spec.identity is Identity.SERVICE_PRINCIPAL else ()),
        _cluster(spec, default),
        *(_other_pool(spec, pool) for pool in spec.pools if pool is not default),
    ]
    said = (notes.title(spec), *notes.not_carried(spec), *notes.afterwards(spec))
    return "\n\n".join(["\n".join(f"# {note}" for note in said), *map(written, blocks)]) + "\n"


def _default_pool(spec: ClusterSpec) -> Pool:
    for pool in spec.pools:
        if pool.mode is Mode.SYSTEM and not pool.spot and pool.taints in {(), (_CRITICAL_ADDONS,)}:
            return pool
    raise UsageError(
        f"cluster {spec.name}: no pool can be azurerm's default node pool",
        f"give it a pool with mode System, without spot, and with no taint but {_CRITICAL_ADDONS.text()}",
    )


def _settings(spec: ClusterSpec) -> tuple[Block, ...]:
    # From version 5 the provider registers nothing unless told to.
    provider: dict[str, Value] = {"resource_providers_to_register": ["Microsoft.ContainerService"]}
    if spec.subscription is not None:
        provider["subscription_id"] = spec.subscription
    needed = Block(kind="required_providers", arguments={"azurerm": {"source": "hashicorp/azurerm", "version": "~> 5.0"}})
    return (
        Block(kind="terraform", arguments={}, blocks=(needed,)),
        Block(kind="provider", labels=("azurerm",), arguments=provider, blocks=(Block(kind="features", arguments={}),)),
    )


def _variables() -> tuple[Block, ...]:
    text = Expression("string")
    plain = {"client_id": "Application (client) ID of the service principal.", "object_id": "Object ID of the service principal."}
    secret: dict[str, Value] = {"description": "Secret of the service principal.", "type": text, "sensitive": True}
    return (
        *(
            Block(kind="variable", labels=(f"service_principal_{name}",), arguments={"description": said, "type": text})
            for name, said in plain.items()
        ),
        Block(kind="variable", labels=("service_principal_secret",), arguments=secret),
    )


def _group(spec: ClusterSpec) -> dict[str, Value]:
    return {"name": spec.group, "location": spec.location, "tags": {OWNER_TAG: spec.owner}}


def _role() -> tuple[Block, ...]:
    arguments: dict[str, Value] = {
        "scope": Expression(f"{_GROUP}.id"),
        "role_definition_name": "Contributor",
        "principal_id": Expression("var.service_principal_object_id"),
        "principal_type": "ServicePrincipal",
    }
    return (Block(kind="resource", labels=("azurerm_role_assignment", "cluster"), arguments=arguments),)


def _cluster(spec: ClusterSpec, default: Pool) -> Block:
    arguments: dict[str, Value] = {
        "name": spec.name,
        "resource_group_name": Expression(f"{_GROUP}.name"),
        "location": Expression(f"{_GROUP}.location"),
        "dns_prefix": dns_prefix(spec),
        "sku_tier": "Free",
        "role_based_access_control_enabled": True,
        # Version 5 of the provider would turn it on, which nobody asked for.
        "oidc_issuer_enabled": False,
    }
    if spec.kubernetes_version is not None:
        arguments["kubernetes_version"] = spec.kubernetes_version
    if spec.identity is Identity.SERVICE_PRINCIPAL:
        arguments["depends_on"] = [Expression(_ROLE)]
    arguments["tags"] = _tags(cluster_body(spec)["tags"])
    found = network_profile(spec.network)
    named = {"network_plugin": str(found["networkPlugin"])}
    if "networkPluginMode" in found:
        named["network_plugin_mode"] = str(found["networkPluginMode"])
    blocks = [Block(kind="default_node_pool", arguments=_default_arguments(spec, default)), _identity(spec)]
    blocks.append(Block(kind="network_profile", arguments=named))
    # Required from version 5; Manual: the pools are those that are named here.
    blocks.append(Block(kind="node_provisioning_profile", arguments={"mode": "Manual"}))
    if spec.sgx.by is Sgx.ADDON:
        blocks.append(Block(kind="confidential_computing", arguments={"sgx_quote_helper_enabled": spec.sgx.quote_helper}))
    if spec.ssh_key is not None:
        key = Block(kind="ssh_key", arguments={"key_data": spec.ssh_key})
        blocks.append(Block(kind="linux_profile", arguments={"admin_username": ADMIN_USER}, blocks=(key,)))
    return Block(kind="resource", labels=("azurerm_kubernetes_cluster", "cluster"), arguments=arguments, blocks=tuple(blocks))


def _identity(spec: ClusterSpec) -> Block:
    if spec.identity is Identity.MANAGED:
        return Block(kind="identity", arguments={"type": "SystemAssigned"})
    return Block(
        kind="service_principal",
        arguments={
            "client_id": Expression("var.service_principal_client_id"),
            "client_secret": Expression("var.service_principal_secret"),
        },
    )


def _default_arguments(spec: ClusterSpec, pool: Pool) -> dict[str, Value]:
    arguments = _pool_arguments(spec, pool)
    if pool.taints:
        arguments = {"only_critical_addons_enabled": True} | arguments
    return {"name": pool.name, "type": "VirtualMachineScaleSets"} | arguments


def _other_pool(spec: ClusterSpec, pool: Pool) -> Block:
    arguments: dict[str, Value] = {
        "name": pool.name,
        "kubernetes_cluster_id": Expression(f"{_CLUSTER}.id"),
        "mode": pool.mode.value,
    }
    if pool.spot:
        arguments |= {"priority": "Spot", "eviction_policy": "Delete", "spot_max_price": -1}
    if pool.taints:
        arguments["node_taints"] = [taint.text() for taint in pool.taints]
    arguments |= _pool_arguments(spec, pool)
    return Block(kind="resource", labels=("azurerm_kubernetes_cluster_node_pool", pool.name), arguments=arguments)


def _pool_arguments(spec: ClusterSpec, pool: Pool) -> dict[str, Value]:
    arguments: dict[str, Value] = {"vm_size": pool.vm_size, "os_sku": "Ubuntu", "node_count": pool.count}
    if pool.max_pods is not None:
        arguments["max_pods"] = pool.max_pods
    if pool.autoscale is not None:
        arguments |= {"auto_scaling_enabled": True, "min_count": pool.autoscale.min, "max_count": pool.autoscale.max}
    if pool.labels:
        arguments["node_labels"] = {**pool.labels}
    arguments["tags"] = _tags(pool_properties(spec, pool)["tags"])
    return arguments


def _tags(found: object) -> dict[str, Value]:
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
