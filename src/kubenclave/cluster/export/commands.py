"""The commands of the Azure CLI that make a cluster, as words of no shell yet. Pure.

``bash.py`` and ``powershell.py`` put them into scripts. Source of names: azure-cli 2.91, whose core has all of it: no extension is
needed, and none of the 2020 guide's preview features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kubenclave.cluster.body import ADMIN_USER, cluster_body, dns_prefix, network_profile, pool_properties
from kubenclave.cluster.spec import OWNER_TAG, Identity, Mode, Sgx
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.cluster.spec import ClusterSpec, Pool

PROVIDER = "Microsoft.ContainerService"
REGISTRATION_TRIES = 60
REGISTRATION_SECONDS = 10
# az reads this argument from its standard input: a secret that is given so stands in no process list.
FROM_STDIN = "@-"


@dataclass(frozen=True, slots=True)
class Given:
    """Hold a word with a value of the cluster file in it, which no shell and no reader of arguments may take for more than that."""

    text: str


@dataclass(frozen=True, slots=True)
class Variable:
    """Name a variable of the script, which is one word of the command."""

    name: str


Word: TypeAlias = "str | Given | Variable"
Words: TypeAlias = "tuple[Word, ...]"

SUBSCRIPTION, SCOPE, CLIENT_ID = Variable("subscription"), Variable("scope"), Variable("client_id")
_IN_SUBSCRIPTION: Words = ("--subscription", SUBSCRIPTION)
_QUIETLY: Words = ("--output", "none", "--only-show-errors")
_AS_TEXT: Words = ("--output", "tsv", "--only-show-errors")


def current_subscription() -> Words:
    """Ask for the subscription that is signed in to."""
    return ("account", "show", "--query", "id", *_AS_TEXT)


def register_feature(feature: str) -> Words:
    """Ask for a preview feature; Azure may take its time."""
    return ("feature", "register", *_feature(feature), *_IN_SUBSCRIPTION, *_QUIETLY)


def feature_state(feature: str) -> Words:
    """Ask whether a preview feature is there yet."""
    return ("feature", "show", *_feature(feature), *_IN_SUBSCRIPTION, "--query", "properties.state", *_AS_TEXT)


def register_provider() -> Words:
    """Register the resource provider, or tell it of new features; waits for it."""
    return ("provider", "register", "--namespace", PROVIDER, "--wait", *_IN_SUBSCRIPTION, *_QUIETLY)


def group_exists(spec: ClusterSpec) -> Words:
    """Ask whether the group is there: true or false."""
    return ("group", "exists", "--name", _group(spec), *_IN_SUBSCRIPTION, *_AS_TEXT)


def create_group(spec: ClusterSpec) -> Words:
    """Make the group, which bears the cluster's mark."""
    tag = _pairs({OWNER_TAG: spec.owner}, "tag")
    return (
        "group",
        "create",
        "--name",
        _group(spec),
        "--location",
        Given(spec.location),
        "--tags",
        *tag,
        *_IN_SUBSCRIPTION,
        *_QUIETLY,
    )


def group_id(spec: ClusterSpec) -> Words:
    """Ask for the group's ID: what the service principal gets a role on."""
    return ("group", "show", "--name", _group(spec), "--query", "id", *_IN_SUBSCRIPTION, *_AS_TEXT)


def cluster_names(spec: ClusterSpec) -> Words:
    """Ask for the names of the group's clusters, one a line."""
    return ("aks", "list", "--resource-group", _group(spec), "--query", "[].name", *_IN_SUBSCRIPTION, *_AS_TEXT)


def create_principal(spec: ClusterSpec) -> Words:
    """Make the service principal, or take the one of that name; prints its client ID and a new secret, one a line."""
    name = Given(f"kubenclave {spec.owner}")
    scope: Words = ("--role", "Contributor", "--scopes", SCOPE)
    return ("ad", "sp", "create-for-rbac", "--display-name", name, *scope, "--query", "[appId, password]", *_AS_TEXT)


def create_cluster(spec: ClusterSpec) -> Words:
    """Make the cluster with its first pool. With a service principal the secret is read from the standard input.

    Raises:
        UsageError: az has no words for something that the spec says.
    """
    first = first_pool(spec)
    plugin = network_profile(spec.network)
    words: list[Word] = ["aks", "create", *_of_cluster(spec), "--location", Given(spec.location), "--tier", "free"]
    words += ["--dns-name-prefix", Given(dns_prefix(spec)), "--network-plugin", str(plugin["networkPlugin"])]
    if "networkPluginMode" in plugin:
        words += ["--network-plugin-mode", str(plugin["networkPluginMode"])]
    if spec.kubernetes_version is not None:
        words += ["--kubernetes-version", Given(spec.kubernetes_version)]
    words += _identity(spec)
    words += ["--admin-username", ADMIN_USER, "--ssh-key-value", Given(spec.ssh_key)] if spec.ssh_key is not None else ["--no-ssh-key"]
    if spec.sgx.by is Sgx.ADDON:
        words += ["--enable-addons", "confcom", *(["--enable-sgxquotehelper"] if spec.sgx.quote_helper else [])]
    if spec.headers:
        words += ["--aks-custom-headers", _headers(spec)]
    words += ["--tags", *_pairs(_tags(cluster_body(spec)["tags"]), "tag"), "--nodepool-name", Given(first.name)]
    words += _sized(first)
    words += _marked(spec, first, labels="--nodepool-labels", taints="--nodepool-taints", tags="--nodepool-tags")
    return (*words, "--vm-set-type", "VirtualMachineScaleSets", "--yes", *_IN_SUBSCRIPTION, *_QUIETLY)


def pool_names(spec: ClusterSpec) -> Words:
    """Ask for the names of the cluster's pools, one a line."""
    return ("aks", "nodepool", "list", *_in_cluster(spec), "--query", "[].name", *_IN_SUBSCRIPTION, *_AS_TEXT)


def add_pool(spec: ClusterSpec, pool: Pool) -> Words:
    """Add a pool to the cluster.

    Raises:
        UsageError: az has no words for something that the spec says.
    """
    words: list[Word] = ["aks", "nodepool", "add", *_in_cluster(spec), "--nodepool-name", Given(pool.name), "--mode", pool.mode.value]
    words += _sized(pool)
    words += _marked(spec, pool, labels="--labels", taints="--node-taints", tags="--tags")
    if pool.spot:
        words += ["--priority", "Spot", "--eviction-policy", "Delete", "--spot-max-price", "-1"]
    return (*words, *_IN_SUBSCRIPTION, *_QUIETLY)


def credentials(spec: ClusterSpec) -> Words:
    """Merge the cluster's kubeconfig into the user's."""
    return ("aks", "get-credentials", *_of_cluster(spec), "--overwrite-existing", *_IN_SUBSCRIPTION, "--only-show-errors")


def first_pool(spec: ClusterSpec) -> Pool:
    """Return the pool that is made with the cluster.

    Raises:
        UsageError: No pool can be it.
    """
    for pool in spec.pools:
        if pool.mode is Mode.SYSTEM and not pool.spot:
            return pool
    raise UsageError(f"cluster {spec.name} has no pool to begin with", "give it a pool with mode System and without spot")


def other_pools(spec: ClusterSpec) -> tuple[Pool, ...]:
    """Return the pools that are added afterwards."""
    first = first_pool(spec)
    return tuple(pool for pool in spec.pools if pool is not first)


def grouped(words: Words) -> list[Words]:
    """Return the words as the lines of a long command: what is done, then each option with its values."""
    lines: list[Words] = [()]
    for word in words:
        if isinstance(word, str) and word.startswith("--"):
            lines.append(())
        lines[-1] += (word,)
    return lines


def reads_file(text: str) -> bool:
    """Say whether az would take a word, or what stands behind its first equals sign, for the name of a file to read."""
    _, equals, value = text.partition("=")
    return (value if equals else text).startswith("@")


def _group(spec: ClusterSpec) -> Given:
    return Given(_no_option(spec.group, "group"))


def _no_option(text: str, what: str) -> str:
    if text.startswith("-"):
        raise UsageError(f"{what}: az takes {text!r} for an option, as it begins with a hyphen", "rename it, or take another form")
    return text


def _feature(feature: str) -> Words:
    namespace, _, name = feature.partition("/")
    return ("--namespace", Given(namespace), "--name", Given(name))


def _of_cluster(spec: ClusterSpec) -> Words:
    return ("--resource-group", _group(spec), "--name", Given(spec.name))


def _in_cluster(spec: ClusterSpec) -> Words:
    return ("--resource-group", _group(spec), "--cluster-name", Given(spec.name))


def _identity(spec: ClusterSpec) -> Words:
    if spec.identity is Identity.SERVICE_PRINCIPAL:
        return ("--service-principal", CLIENT_ID, "--client-secret", FROM_STDIN)
    return ("--enable-managed-identity",)


def _sized(pool: Pool) -> list[Word]:
    words: list[Word] = ["--node-vm-size", Given(pool.vm_size), "--os-sku", "Ubuntu", "--node-count", str(pool.count)]
    if pool.autoscale is not None:
        bounds = ("--min-count", str(pool.autoscale.min), "--max-count", str(pool.autoscale.max))
        words += ["--enable-cluster-autoscaler", *bounds]
    if pool.max_pods is not None:
        words += ["--max-pods", str(pool.max_pods)]
    return words


def _marked(spec: ClusterSpec, pool: Pool, *, labels: str, taints: str, tags: str) -> list[Word]:
    words: list[Word] = []
    if pool.labels:
        words += [labels, *_pairs(pool.labels, f"label of pool {pool.name}")]
    if pool.taints:
        words += [taints, Given(",".join(_taint(pool, index) for index in range(len(pool.taints))))]
    return [*words, tags, *_pairs(_tags(pool_properties(spec, pool)["tags"]), "tag")]


def _taint(pool: Pool, index: int) -> str:
    taint = pool.taints[index]
    if not taint.value:
        raise UsageError(
            f"pools[{pool.name}].taints: az takes no taint without a value, and {taint.key} has none",
            "give it a value, such as true, or take another form",
        )
    return taint.text()


def _headers(spec: ClusterSpec) -> Given:
    for name, value in spec.headers.items():
        # az takes them apart at commas and equals signs, trims them, and refuses an empty one.
        if not value.strip() or value != value.strip() or set(value) & set(",="):
            raise UsageError(
                f"headers: az cannot send {name} with the value {value!r}",
                "leave out commas, equals signs and blanks at its ends, or use kubenclave cluster up",
            )
    return Given(_no_option(",".join(f"{name}={value}" for name, value in spec.headers.items()), "headers"))


def _pairs(found: dict[str, str], what: str) -> list[Given]:
    for name, value in found.items():
        if "=" in name:
            raise UsageError(f"{what} {name!r}: az ends its name at the first equals sign", "rename it, or take another form")
        if not (name + value).isprintable():
            raise UsageError(f"{what} {name!r} holds a control character, which no shell script should", "remove it, or take another form")
    return [Given(_no_option(f"{name}={value}", what)) for name, value in found.items()]


def _tags(found: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
