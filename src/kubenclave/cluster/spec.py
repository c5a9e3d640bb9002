"""What a cluster is to be: the values that a cluster file says. Pure; the file's own reading is in ``file.py``.

The types carry their limits, so that the published JSON schema and the checks are one thing. Sources of the limits: the ARM schema of
``Microsoft.ContainerService`` 2026-05-01, and the naming rules for resource groups and AKS.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

# What the marks of ownership are called, on everything that carries tags.
OWNER_TAG = "kubenclave-cluster"
# msgspec looks for a match anywhere, so every pattern is anchored at both ends. The end is written so that it means the same to Python,
# whose ``$`` also matches before a last newline, and to readers of the published schema.
_CLUSTER_NAME = r"^[a-zA-Z0-9]([-_a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$(?!\n)"
_GROUP_NAME = r"^[-A-Za-z0-9_.()]{0,89}[-A-Za-z0-9_()]$(?!\n)"
_LOCATION = r"^[a-z][a-z0-9]{1,63}$(?!\n)"
_POOL_NAME = r"^[a-z][a-z0-9]{0,11}$(?!\n)"
_SIZE_NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$(?!\n)"
_VERSION = r"^[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,3})?$(?!\n)"
_GUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$(?!\n)"
_FEATURE = r"^[A-Za-z0-9.]{1,90}/[A-Za-z0-9._-]{1,90}$(?!\n)"
_LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$(?!\n)"
_LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$(?!\n)"
_HEADER_NAME = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$(?!\n)"
_HEADER_VALUE = r"^[ -~]{0,1024}$(?!\n)"
_SSH_KEY = r"^(ssh-rsa|ssh-ed25519|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/=]{32,16384}( [ -~]{0,255})?$(?!\n)"

Name = Annotated[
    str, Meta(pattern=_CLUSTER_NAME, description="1 to 63 letters, digits, hyphens and underscores; a letter or digit first and last.")
]
GroupName = Annotated[
    str,
    Meta(
        pattern=_GROUP_NAME,
        max_length=90,
        description="The resource group; made if it is not there. 1 to 90 letters, digits and any of -_.(), the last no dot.",
    ),
]
Location = Annotated[str, Meta(pattern=_LOCATION, description="The region, as Azure names it in programs: uksouth.")]
SubscriptionId = Annotated[str, Meta(pattern=_GUID, description="Its ID, a GUID; the one that is signed in to, where it is left out.")]
PoolName = Annotated[str, Meta(pattern=_POOL_NAME, description="1 to 12 small letters and digits, a letter first.")]
Count = Annotated[int, Meta(ge=0, le=1000, description="Nodes. A System pool has at least 1.")]
LabelKey = Annotated[
    str,
    Meta(pattern=_LABEL_KEY, description="At most 63 letters, digits and any of -_., a prefix such as example.com/ before it if wanted."),
]
LabelValue = Annotated[
    str,
    Meta(pattern=_LABEL_VALUE, description="At most 63 letters, digits and any of -_.; a letter or digit first and last; may be empty."),
]
Labels = dict[LabelKey, LabelValue]
Tags = dict[
    Annotated[str, Meta(pattern=r"^[^<>%&\\?/]{1,512}$(?!\n)", description="1 to 512 characters, none of them <>%&\\?/.")],
    Annotated[str, Meta(max_length=256, description="At most 256 characters.")],
]


class Identity(StrEnum):
    """Who the cluster is to Azure."""

    MANAGED = "managed"
    SERVICE_PRINCIPAL = "service-principal"


class Network(StrEnum):
    """How pods get their addresses: the network plugin and its mode."""

    AZURE = "azure"
    AZURE_OVERLAY = "azure-overlay"
    KUBENET = "kubenet"


class Mode(StrEnum):
    """Whether a pool may run the system's own pods."""

    SYSTEM = "System"
    USER = "User"


class Sgx(StrEnum):
    """Who makes EPC a resource: AKS's add-on ``confcom``, this project's node agent, or nobody."""

    ADDON = "addon"
    NODE_AGENT = "node-agent"
    NONE = "none"


class Effect(StrEnum):
    """What a taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class _Value(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    pass


class Taint(_Value, frozen=True, kw_only=True):
    """Keep pods off a pool that do not tolerate it."""

    key: LabelKey
    value: LabelValue = ""
    effect: Effect = Effect.NO_SCHEDULE

    def text(self) -> str:
        """Return it as Azure and kubectl write it: ``key=value:effect``."""
        return f"{self.key}={self.value}:{self.effect}"


class Autoscale(_Value, frozen=True, kw_only=True):
    """The bounds between which the cluster autoscaler keeps a pool."""

    min: Annotated[int, Meta(ge=0, le=1000, description="The fewest nodes; 0 in User pools only.")]
    max: Annotated[int, Meta(ge=1, le=1000, description="The most nodes.")]


class Pool(_Value, frozen=True, kw_only=True):
    """One node pool: nodes of one VM size.

    With ``autoscale``, ``count`` is where it starts; a running pool's count is then the autoscaler's, not the file's.
    """

    name: PoolName
    vm_size: Annotated[str, Meta(pattern=_SIZE_NAME, description="As Azure spells it: Standard_DC2s_v3.")]
    count: Count = 1
    mode: Mode = Mode.USER
    autoscale: Autoscale | None = None
    labels: Labels = msgspec.field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    spot: Annotated[bool, Meta(description="Cheap nodes that Azure may take back at any time; User pools only.")] = False
    max_pods: (
        Annotated[int, Meta(ge=10, le=250, description="Pods on one node; Azure's default for the network where it is left out.")] | None
    ) = None


class SgxOptions(_Value, frozen=True, kw_only=True):
    """How EPC becomes a resource of the cluster."""

    by: Sgx = Sgx.NODE_AGENT
    quote_helper: Annotated[bool, Meta(description="With the add-on: also AESM on every node, for out-of-process quotes.")] = False


class ClusterSpec(_Value, frozen=True, kw_only=True):
    """A whole cluster, as it is to be."""

    name: Name
    group: GroupName
    location: Location
    pools: Annotated[tuple[Pool, ...], Meta(min_length=1, max_length=100)]
    subscription: SubscriptionId | None = None
    kubernetes_version: Annotated[str, Meta(pattern=_VERSION, description="1.35 or 1.35.3; Azure's default where left out.")] | None = None
    identity: Identity = Identity.MANAGED
    network: Network = Network.AZURE
    sgx: SgxOptions = SgxOptions()
    features: Annotated[
        tuple[Annotated[str, Meta(pattern=_FEATURE, description="A namespace, a slash and a name, as Azure spells them.")], ...],
        Meta(max_length=20, description="Preview features to register first: Microsoft.ContainerService/Name."),
    ] = ()
    headers: Annotated[
        dict[
            Annotated[str, Meta(pattern=_HEADER_NAME, description="1 to 64 characters of an HTTP header's name.")],
            Annotated[str, Meta(pattern=_HEADER_VALUE, description="At most 1,024 printable ASCII characters.")],
        ],
        Meta(max_length=20, description="Headers sent with the request that makes the cluster."),
    ] = msgspec.field(default_factory=dict)
    ssh_key: (
        Annotated[
            str, Meta(pattern=_SSH_KEY, description="A public key for the nodes' user azureuser, as a file like id_ed25519.pub holds it.")
        ]
        | None
    ) = None
    tags: Tags = msgspec.field(default_factory=dict)

    @property
    def marked_tags(self) -> dict[str, str]:
        """Return the tags of everything that is made for this cluster: the file's, and the mark."""
        return {**self.tags, OWNER_TAG: self.owner}

    @property
    def owner(self) -> str:
        """Return the value of OWNER_TAG on everything that is made for this cluster: ``group/name`` in small letters."""
        return owner(self.group, self.name)


def owner(group: str, name: str) -> str:
    """Return the mark of what belongs to a cluster. Azure's names do not tell small letters from capitals; neither does this."""
    return f"{group}/{name}".lower()
