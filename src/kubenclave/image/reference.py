"""Read an image's name as container runtimes do.

Pure. Source: the grammar of the distribution project (reference.go); short names mean Docker Hub, as containerd and the kubelet take them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kubenclave.errors import UsageError

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_REFERENCE = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Of the repository without tag (reference.go, RepositoryNameTotalLengthMax).
MAX_REPOSITORY_CHARACTERS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Hold an image's full name: ``registry/repository:tag``."""

    registry: str
    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Hold what names an image in a registry: by tag, by digest, or by both, where the digest counts."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """Name the repository."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        return f"{self.name}{f':{self.tag}' if self.tag else ''}{f'@{self.digest}' if self.digest else ''}"


def parse_remote(text: str) -> Remote:
    """Read a name such as ``registry.example/team/hello:1.0`` or ``registry.example/team/hello@sha256:...``.

    Raises:
        UsageError: It is not the name of an image.
    """
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise UsageError(f"{digest[:80]!r} is no digest.", "Write it as in hello@sha256:, followed by 64 hexadecimal digits.")
    reference = parse_reference(name)
    tagged = ":" in name.rpartition("/")[2]
    tag = reference.tag if tagged or not at else None
    return Remote(registry=reference.registry, repository=reference.repository, tag=tag, digest=digest or None)


def parse_reference(text: str) -> Reference:
    """Read a name such as ``hello``, ``me/hello:1.0`` or ``registry.example:5000/team/hello:1.0``; without a tag it is ``latest``.

    Raises:
        UsageError: It is not the name of an image, or names one by digest, which only a registry can.
    """
    if "@" in text:
        raise UsageError(f"{text!r} names an image by digest, which is known only when it is built.", "Give a name and a tag.")
    match = _REFERENCE.fullmatch(text) if len(text) <= 2 * MAX_REPOSITORY_CHARACTERS else None
    if match is None:
        raise UsageError(f"{text[:80]!r} is no image name.", "Use lower-case letters and digits, as in registry.example/team/hello:1.0.")
    host, path, tag = match["host"], match["path"], match["tag"] or "latest"
    # The first part is a registry only if it cannot be a user's name (reference.go, splitDockerDomain).
    if host is not None and host != "localhost" and not re.search(r"[.:A-Z]", host):
        host, path = None, f"{host}/{path}"
    registry = host or "docker.io"
    if registry == "docker.io" and "/" not in path:
        path = f"library/{path}"
    if len(registry) + 1 + len(path) > MAX_REPOSITORY_CHARACTERS:
        raise UsageError(f"The image name is longer than {MAX_REPOSITORY_CHARACTERS} characters.", "Shorten it.")
    return Reference(registry=registry, repository=path, tag=tag)
