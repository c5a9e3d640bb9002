"""Which Azure cluster a command is about: a cluster file, or flags for the guide's cluster. The same for every command."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path  # noqa: TC003 - the command line reads its options' types
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kubenclave.errors import NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubenclave.cluster.file.fields import Fault
    from kubenclave.cluster.spec import ClusterSpec

# An RSA key of 16,384 bits, the longest that OpenSSH makes, has 2.8 KiB.
_MAX_KEY_BYTES = 20_000
# The flags by the field of a cluster file that they fill.
_FLAGS: Mapping[str, str] = {
    "kubernetesVersion": "--kubernetes-version",
    "sshKey": "--ssh-key",
    "features": "--feature",
    "headers": "--header",
}
_POOL_FLAGS: Mapping[str, str] = {"vmSize": "--vm-size", "count": "--count"}


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ClusterName:
    """Which cluster is meant, for commands that need no more than its name."""

    file: Annotated[Path | None, Parameter(help="A cluster file. Without it, the cluster is named by --name and --group.")] = None
    name: Annotated[str | None, Parameter(help="The cluster's name.")] = field(default=None, kw_only=True)
    group: Annotated[str | None, Parameter(help="The resource group.")] = field(default=None, kw_only=True)
    subscription: Annotated[
        str | None, Parameter(help="The subscription's ID; also with a file, instead of the file's. The one signed in to without this.")
    ] = field(default=None, kw_only=True)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ClusterTarget(ClusterName):
    """Which cluster is meant and what it is to be: a file, or flags for one ordinary pool and one SGX pool."""

    location: Annotated[str | None, Parameter(help="The region: uksouth.")] = field(default=None, kw_only=True)
    vm_size: Annotated[str | None, Parameter(help="The SGX pool's VM size; Standard_DC2s_v3 by default.")] = field(
        default=None, kw_only=True
    )
    count: Annotated[int | None, Parameter(help="The SGX pool's nodes; 2 by default.")] = field(default=None, kw_only=True)
    kubernetes_version: Annotated[str | None, Parameter(help="1.35 or 1.35.3; Azure's default without this.")] = field(
        default=None, kw_only=True
    )
    identity: Annotated[str | None, Parameter(help="managed, which is the default, or service-principal, as in 2020.")] = field(
        default=None, kw_only=True
    )
    network: Annotated[str | None, Parameter(help="azure, which is the default, azure-overlay or kubenet.")] = field(
        default=None, kw_only=True
    )
    sgx: Annotated[str | None, Parameter(help="Who offers EPC: node-agent, which is the default, addon or none.")] = field(
        default=None, kw_only=True
    )
    quote_helper: Annotated[bool, Parameter(help="With --sgx addon: also AESM on the nodes.")] = field(default=False, kw_only=True)
    feature: Annotated[
        tuple[str, ...], Parameter(help="A preview feature to register first, namespace/name. Can be given again.", show_default=False)
    ] = field(default=(), kw_only=True)
    header: Annotated[
        tuple[str, ...], Parameter(help="A header of the creating request, NAME=VALUE. Can be given again.", show_default=False)
    ] = field(default=(), kw_only=True)
    ssh_key: Annotated[Path | None, Parameter(help="A file with a public key for the nodes' user azureuser.")] = field(
        default=None, kw_only=True
    )


def spec_of(target: ClusterTarget) -> ClusterSpec:
    """Return what the cluster is to be.

    Raises:
        UsageError: File and flags contradict each other, something is missing, or does not fit.
        NotFound: The file is not there.
    """
    if target.file is not None:
        return named(target)
    missing = [
        flag for flag, value in (("--name", target.name), ("--group", target.group), ("--location", target.location)) if value is None
    ]
    if missing:
        raise UsageError(
            f"no cluster is described: {', '.join(missing)} missing", "name a cluster file, or give --name, --group and --location"
        )
    from kubenclave.cluster.file.cluster_file import cluster_of  # noqa: PLC0415 - --help does not need it

    return cluster_of(_document(target), _told, hint="see --help; a cluster file can say more, docs/reference/cluster-file.md")


def named(target: ClusterName) -> ClusterSpec:
    """Return the cluster of a file, or one of which no more is known than its name.

    Raises:
        UsageError: File and flags contradict each other, or a name is missing or does not fit.
        NotFound: The file is not there.
    """
    if target.file is not None:
        _only_file(target)
        return _with_subscription(_read(target.file), target.subscription)
    if target.group is None or target.name is None:
        raise UsageError("no cluster is named", "name a cluster file, or give --name and --group")
    from kubenclave.cluster.spec import ClusterSpec, GroupName, Name  # noqa: PLC0415 - --help does not need it

    _fit(target.group, GroupName, "--group")
    _fit(target.name, Name, "--name")
    return _with_subscription(ClusterSpec(name=target.name, group=target.group, location="", pools=()), target.subscription)


def _only_file(target: ClusterName) -> None:
    """Refuse flags beside a file: whoever reads the file later would not see them."""
    given = [
        "--" + each.name.replace("_", "-")
        for each in fields(target)
        if each.name not in {"file", "subscription"} and getattr(target, each.name) != each.default
    ]
    if given:
        raise UsageError(f"{target.file} and {', '.join(given)} are given together", "write it into the file, or leave the file out")


def _read(path: Path) -> ClusterSpec:
    from kubenclave.cluster.file.cluster_file import read_cluster_file  # noqa: PLC0415

    return read_cluster_file(path)


def _with_subscription(spec: ClusterSpec, subscription: str | None) -> ClusterSpec:
    if subscription is None:
        return spec
    import msgspec  # noqa: PLC0415

    from kubenclave.cluster.spec import SubscriptionId  # noqa: PLC0415

    _fit(subscription, SubscriptionId, "--subscription")
    return msgspec.structs.replace(spec, subscription=subscription)


def _document(target: ClusterTarget) -> dict[str, object]:
    """Return what a cluster file with the same meaning would say."""
    from kubenclave.cluster.file import short_form  # noqa: PLC0415
    from kubenclave.cluster.spec import Sgx  # noqa: PLC0415

    given = {
        "name": target.name,
        "group": target.group,
        "location": target.location,
        "subscription": target.subscription,
        "kubernetesVersion": target.kubernetes_version,
        "identity": target.identity,
        "network": target.network,
        "features": list(target.feature),
        "headers": _headers(target.header),
        "sshKey": None if target.ssh_key is None else _public_key(target.ssh_key),
    }
    _fit(target.sgx or Sgx.NODE_AGENT.value, Sgx, "--sgx")
    return short_form.short_form(
        {name: value for name, value in given.items() if value is not None},
        vm_size=target.vm_size or short_form.DEFAULT_SGX_SIZE,
        count=short_form.DEFAULT_SGX_COUNT if target.count is None else target.count,
        sgx=Sgx(target.sgx or Sgx.NODE_AGENT),
        quote_helper=target.quote_helper,
    )


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, mark, value = text.partition("=")
        if not mark or name in found:
            raise UsageError(
                f"--header {text[:80]!r} " + ("is given twice" if mark else "has no ="), "write --header NAME=VALUE once for each name"
            )
        found[name] = value
    return found


def _public_key(path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(_MAX_KEY_BYTES + 1)
        if len(content) > _MAX_KEY_BYTES:
            raise UsageError(f"{path} is too large for a public key", "name the .pub file of a key")
        text = content.decode("ascii").strip()
    except FileNotFoundError as exc:
        raise NotFound(f"there is no file {path}", "make a key with ssh-keygen, and name its .pub file with --ssh-key") from exc
    except (OSError, ValueError) as exc:
        raise UsageError(f"{path} cannot be read as a public key", "name the .pub file of a key") from exc
    if "PRIVATE KEY" in text:
        raise UsageError(f"{path} holds a private key", "name the .pub file beside it with --ssh-key")
    return text


def _told(fault: Fault) -> str:
    from kubenclave.cluster.file.yaml_document import path_text  # noqa: PLC0415

    first, last = str(fault.path[0]), str(fault.path[-1])
    flag = _POOL_FLAGS.get(last) if first == "pools" else _FLAGS.get(first, f"--{first}")
    return f"{flag or path_text(fault.path)}: {fault.what}"


def _fit(value: str, kind: object, flag: str) -> None:
    from kubenclave.cluster.file.fields import faults  # noqa: PLC0415

    fault = next(faults(value, kind), None)
    if fault is not None:
        raise UsageError(f"{flag}: {fault.what}", "see --help")
