"""Merge the kubeconfig that Azure hands out into a user's own, as ``az aks get-credentials`` does. Pure but for ``write``.

What Azure answers is read with distrust, and what the user's file holds is kept: entries of other clusters, and fields that nobody here
knows. Comments are lost, as they are with ``az`` and ``kubectl config``.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

import yaml

from kubenclave.errors import HostUnfit, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

Node: TypeAlias = "dict[str, object]"

# A kubeconfig of a hundred clusters with their certificates takes half of this; the same bound as where one is read for use.
LARGEST_BYTES = 1 << 20
_DEEPEST = 50  # an exec plugin's extensions are at a tenth of it
_SECTIONS = ("clusters", "users", "contexts")
# Fields that name files. AKS sends what they would hold; from elsewhere they could make a client send a file to a stranger.
_FILES = frozenset({"certificate-authority", "client-certificate", "client-key", "tokenFile", "token-file"})
_WEAK = {
    "insecure-skip-tls-verify": "does not check the server's certificate",
    "proxy-url": "goes through a proxy that Azure's answer names",
}
_ADMIN_USER, _ADMIN_SUFFIX = "clusterAdmin", "-admin"
# The program by which AKS clusters with Entra ID sign in; az hands out no other.
_KNOWN_PROGRAMS = ("kubelogin",)


class _Loader(yaml.SafeLoader):
    """Read as texts what would not be written again as it was: times, numbers to other bases, and words such as ``on``."""


_REREAD = {
    "tag:yaml.org,2002:timestamp": None,
    "tag:yaml.org,2002:bool": re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"),
    "tag:yaml.org,2002:int": re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, _REREAD.get(tag, pattern)) for tag, pattern in resolvers if _REREAD.get(tag, pattern) is not None]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Write what is mentioned twice twice: anchors are read by few."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the base class's signature
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Hold a merged kubeconfig.

    Attributes:
        context: Its current context: that of the cluster.
        runs: The programs that signing in to the cluster would run.
        remarks: What a person should know of it, one sentence each.
    """

    text: str
    context: str
    runs: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def handed_out(raw: bytes) -> Node:
    """Return the kubeconfig of an answer of Azure, with the context of an administrator named as such.

    Raises:
        Refused: It is none, or has no use: no https server, or entries that do not belong together.
    """
    found = _parsed(raw, "What Azure handed out")
    entries = {section: _entries(found, section, "What Azure handed out") for section in _SECTIONS}
    if not all(entries.values()):
        raise Refused(f"What Azure handed out lacks {' and '.join(name for name in _SECTIONS if not entries[name])}.", _NOT_AZURE)
    for cluster in entries["clusters"].values():
        server = _section(cluster, "cluster").get("server")
        if not isinstance(server, str) or not _is_https(server):
            raise Refused(f"What Azure handed out names the server {str(server)[:200]!r}, which is no https address.", _NOT_AZURE)
    for entry in (*entries["clusters"].values(), *entries["users"].values()):
        named = sorted(_FILES & (_section(entry, "cluster").keys() | _section(entry, "user").keys()))
        if named:
            raise Refused(f"What Azure handed out names a file of this machine ({named[0]}), to be sent or trusted.", _NOT_AZURE)
    for name, entry in entries["contexts"].items():
        context = _section(entry, "context")
        if context.get("cluster") not in entries["clusters"] or context.get("user") not in entries["users"]:
            raise Refused(f"The context {name!r} that Azure handed out names a cluster or user that is not in it.", _NOT_AZURE)
        if str(context["user"]).startswith(_ADMIN_USER) and not name.endswith(_ADMIN_SUFFIX):
            entry["name"] = name + _ADMIN_SUFFIX
    contexts = entries["contexts"]
    current = contexts.get(str(found.get("current-context"))) or next(iter(contexts.values()))
    found["current-context"] = current["name"]
    return found


def merge(existing: bytes | None, handed: Node, *, overwrite: bool) -> Merged:
    """Return a kubeconfig with the entries of another one in it, whose context becomes the current one.

    Args:
        existing: The user's own; None where there is none.
        handed: What ``handed_out`` returned.
        overwrite: Whether an entry of the same name and another content is replaced.

    Raises:
        Refused: The user's own is no kubeconfig, or has such an entry and it is not to be replaced.
    """
    merged = _parsed(existing, "The kubeconfig") if existing is not None and existing.strip() else _empty()
    for section in _SECTIONS:
        have = _entries(merged, section, "The kubeconfig")
        new = _entries(handed, section, "What Azure handed out")
        differing = sorted(name for name, entry in new.items() if name in have and have[name] != entry)
        if differing and not overwrite:
            raise Refused(
                f"The kubeconfig has another entry {differing[0]!r} among its {section} already.",
                "Replace it with --overwrite-existing, or write to another file with --kubeconfig.",
            )
        merged[section] = [*[new.pop(name, entry) for name, entry in have.items()], *new.values()]
    merged["current-context"] = context = str(handed["current-context"])
    text = yaml.dump(merged, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True)
    return Merged(text=text, context=context, runs=tuple(_programs(handed)), remarks=tuple(_remarks(handed)))


def read(path: Path) -> tuple[bytes | None, tuple[str, ...]]:
    """Return what a kubeconfig file holds, None where there is none, and remarks about its owner and permissions.

    Raises:
        Refused: It is too large, no ordinary file, or another user's.
        HostUnfit: It cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None, ()
    except OSError as exc:
        raise HostUnfit(
            f"The kubeconfig {path} cannot be read: {exc.strerror}.", "See its permissions, or name another with --kubeconfig."
        ) from exc
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"{path} is no ordinary file.", "Name another with --kubeconfig.")
        if status.st_uid != os.geteuid():
            raise Refused(f"The kubeconfig {path} belongs to another user.", "Name a file of yours with --kubeconfig.")
        text = file.read(LARGEST_BYTES + 1)
    if len(text) > LARGEST_BYTES:
        raise Refused(f"{path} is larger than {LARGEST_BYTES} bytes and so no kubeconfig.", "Name another with --kubeconfig.")
    loose = status.st_mode & 0o077
    return text, (f"{path} could be used by others (mode {status.st_mode & 0o777:o}); it is for its owner only now.",) if loose else ()


def write(path: Path, text: str) -> None:
    """Write a kubeconfig with mode 0600, whole or not at all; a link keeps pointing at its file.

    Raises:
        HostUnfit: The folder cannot be written to.
    """
    target = path.resolve()
    partial = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # made with mode 0600 and O_EXCL
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(target)
    except OSError as exc:
        with suppress(OSError):
            Path(partial).unlink()
        raise HostUnfit(
            f"The kubeconfig {path} cannot be written: {exc.strerror}.", "Free space there, or name another with --kubeconfig."
        ) from exc


_NOT_AZURE = "This is not Azure's answer."


def _empty() -> Node:
    return {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": [], "current-context": "", "preferences": {}}


def _parsed(raw: bytes, what: str) -> Node:
    if len(raw) > LARGEST_BYTES:
        raise Refused(f"{what} is larger than {LARGEST_BYTES} bytes and so no kubeconfig.", "")
    try:
        text = raw.decode("utf-8")
        _check_shape(text, what)
        found = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with one type less
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise Refused(f"{what} is no YAML: {type(exc).__name__}.", "") from exc
    if not isinstance(found, dict) or found.get("kind", "Config") != "Config":
        raise Refused(f"{what} is no kubeconfig.", "")
    return found


def _check_shape(text: str, what: str) -> None:
    """Refuse what would cost memory or the stack: aliases make a small text large, and depth is read by recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
            raise Refused(f"{what} has YAML aliases or is nested deeper than {_DEEPEST} levels, which no kubeconfig needs.", "")


def _entries(config: Node, section: str, what: str) -> dict[str, Node]:
    """Return a section's entries by name; of two with one name the first counts, as it does to kubectl."""
    found = config.get(section)
    if found is None:
        return {}
    if not isinstance(found, list) or not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in found):
        raise Refused(f"{what} has {section} that are no list of named entries.", "Mend it, or name another file with --kubeconfig.")
    entries: dict[str, Node] = {}
    for each in found:
        entries.setdefault(each["name"], each)
    return entries


def _section(entry: Node, name: str) -> Node:
    found = entry.get(name)
    return found if isinstance(found, dict) else {}


def _programs(handed: Node) -> Iterator[str]:
    for entry in _entries(handed, "users", "").values():
        user = _section(entry, "user")
        if "exec" in user:
            yield str(_section(user, "exec").get("command"))[:200]
        if "auth-provider" in user:
            yield f"the auth provider {str(_section(user, 'auth-provider').get('name'))[:200]}"


def _remarks(handed: Node) -> Iterator[str]:
    for program in _programs(handed):
        if program in _KNOWN_PROGRAMS:
            yield f"Signing in to this cluster takes the program {program} (az aks install-cli brings it)."
        else:
            yield f"Signing in to this cluster runs {program!r}, as Azure's answer says: look at it first."
    for entry in _entries(handed, "clusters", "").values():
        for name in sorted(_WEAK.keys() & _section(entry, "cluster").keys()):
            yield f"The connection to this cluster {_WEAK[name]} ({name})."


def _is_https(server: str) -> bool:
    try:
        parts = urlsplit(server)
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname)
