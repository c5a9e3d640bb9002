"""Read a kubeconfig file, never write one."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2
import msgspec
import yaml
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from kubenclave.errors import NotFound, Refused

if TYPE_CHECKING:
    from pathlib import Path

# A kubeconfig of a hundred clusters with their certificates takes half of this.
_LARGEST_KUBECONFIG_BYTES = 1 << 20


def read(path: Path, context: str | None) -> SingleConfig:
    """Return one context of a kubeconfig file, the current one when ``context`` is None.

    Raises:
        NotFound: There is no such file, or no such context in it.
        Refused: The file is not a kubeconfig, or cannot be read.
    """
    config = _parsed(path)
    name = context or config.current_context
    if not name or name not in config.contexts:
        known = ", ".join(sorted(config.contexts)) or "none"
        what = f"context {name!r} is not in {path}" if name else f"{path} has no current context"
        raise NotFound(f"{what}; it has: {known}", "name one of them with --context")
    try:
        chosen = config.get(name)
    except (ConfigError, KeyError) as exc:
        raise Refused(
            f"context {name!r} in {path} names a cluster or user that the file does not have: {exc}", "mend the kubeconfig"
        ) from exc
    if chosen is None:
        raise NotFound(f"context {name!r} is not in {path}", "name another one with --context")
    _check_server(chosen.cluster.server, path)
    # The HTTP layer insists on a user; a context may have none.
    return chosen if chosen.user is not None else chosen._replace(user=User())


def is_private(server: str) -> bool:
    """Say whether the server is a private or loopback address: no proxy leads there, whatever the environment names."""
    try:
        return ipaddress.ip_address(urlsplit(server).hostname or "").is_private
    except ValueError:
        return False


def _check_server(server: str, path: Path) -> None:
    try:
        url = httpx2.URL(server)
        usable = url.scheme in {"http", "https"} and url.host != ""
    except httpx2.InvalidURL:
        usable = False
    if not usable:
        raise Refused(f"{path} names the server {server[:200]!r}, which is no http or https address", "mend the kubeconfig")


def _parsed(path: Path) -> KubeConfig:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_KUBECONFIG_BYTES + 1)
    except FileNotFoundError as exc:
        raise NotFound(f"there is no kubeconfig {path}", "name the cluster's file with --kubeconfig") from exc
    except OSError as exc:
        raise Refused(f"the kubeconfig {path} cannot be read: {exc.strerror}", "see its permissions") from exc
    if len(text) > _LARGEST_KUBECONFIG_BYTES:
        raise Refused(
            f"{path} is larger than {_LARGEST_KUBECONFIG_BYTES} bytes and so no kubeconfig", "name another file with --kubeconfig"
        )
    try:
        return KubeConfig.from_dict(yaml.safe_load(text), fname=path)
    except (yaml.YAMLError, msgspec.MsgspecError, LookupError, TypeError, AttributeError, ValueError, RecursionError) as exc:
        detail = " ".join(str(exc).split())[:300]
        raise Refused(f"{path} is not a kubeconfig: {type(exc).__name__}: {detail}", "name another file with --kubeconfig") from exc
