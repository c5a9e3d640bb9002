"""Find the credentials for a registry where ``docker login`` leaves them: config.json and credential helpers.

Reads one file and runs the helper that it names. Sources: Docker's configuration file and docker-credential-helpers' protocol.
"""

from __future__ import annotations

import base64
import binascii
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kubenclave.errors import HostUnfit, UsageError
from kubenclave.image.sysroot import open_regular

if TYPE_CHECKING:
    from collections.abc import Mapping

# A file with credentials for some hundred registries has some ten KiB; one helper answers in less.
MAX_CONFIG_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024
# A helper may have to unlock a keychain or ask a cloud.
HELPER_SECONDS = 60
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# docker-credential-helpers: a username that says that the secret is an identity token.
_TOKEN_USER = "<token>"  # noqa: S105 - the protocol's word
_NOT_FOUND = "credentials not found"
_DOCKER_HUB = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Hold a user's name and password, or an identity token; neither is ever shown."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class _Auth(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _Config(msgspec.Struct, rename="camel"):
    auths: dict[str, _Auth] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


class _Answer(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


def config_path(environment: Mapping[str, str]) -> Path:
    """Return where Docker's configuration lies: below DOCKER_CONFIG or ~/.docker."""
    folder = environment.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path(environment.get("HOME", "/")) / ".docker") / "config.json"


def find_credentials(registry: str, environment: Mapping[str, str]) -> Credentials | None:
    """Return the credentials for a registry, None where there are none.

    Args:
        registry: Its host, with its port if it has one.
        environment: Tells where the configuration and the helpers are.

    Raises:
        UsageError: The configuration is damaged.
        HostUnfit: A helper that it names is not there or fails.
    """
    path = config_path(environment)
    if not path.exists():
        return None
    with open_regular(path.resolve()) as file:
        data = file.read(MAX_CONFIG_BYTES)
    try:
        config = msgspec.json.decode(data, type=_Config)
    except (ValueError, RecursionError) as exc:
        # The decoder's own words could hold a piece of the file.
        raise UsageError(f"{path} is no configuration of Docker.", "Log in again with docker login or skopeo login.") from exc
    for key in _keys(registry):
        helper = config.cred_helpers.get(key)
        if helper:
            return _ask(helper, key, environment)
    if config.creds_store:
        found = next((found for key in _keys(registry) if (found := _ask(config.creds_store, key, environment))), None)
        if found is not None:
            return found
    return next((found for key in _keys(registry) if (found := _stored(config.auths.get(key), path))), None)


def _keys(registry: str) -> tuple[str, ...]:
    if registry in _DOCKER_HUB:
        return _DOCKER_HUB
    # docker login writes the host; older ones wrote an address.
    return (registry, f"https://{registry}", f"https://{registry}/v1/", f"https://{registry}/v2/")


def _stored(auth: _Auth | None, path: Path) -> Credentials | None:
    if auth is None:
        return None
    if auth.identitytoken:
        return Credentials(identity_token=auth.identitytoken)
    if auth.username:
        return Credentials(username=auth.username, password=auth.password)
    if not auth.auth:
        return None
    try:
        username, colon, password = base64.b64decode(auth.auth, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise UsageError(f"{path} holds a login that cannot be read.", "Log in again with docker login or skopeo login.") from None
    return Credentials(username=username, password=password.rstrip("\0"))


def _ask(helper: str, key: str, environment: Mapping[str, str]) -> Credentials | None:
    """Ask ``docker-credential-HELPER get``, which reads a registry and answers in JSON."""
    program = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise UsageError(f"The credential helper {helper[:80]!r} has no fit name.", f"Correct it in {config_path(environment)}.")
    try:
        done = subprocess.run(
            [program, "get"], input=key.encode(), capture_output=True, env=dict(environment), timeout=HELPER_SECONDS, check=False
        )
    except FileNotFoundError as exc:
        raise HostUnfit(
            f"The credential helper {program} is not installed.", f"Install it or take it out of {config_path(environment)}."
        ) from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        # Its output could hold a secret, so nothing of it is told.
        raise HostUnfit(f"The credential helper {program} does not answer.", f"Try it: echo {key} | {program} get") from exc
    if done.returncode != 0 and _NOT_FOUND in (done.stdout + done.stderr).decode("utf-8", "replace"):
        return None
    failed = HostUnfit(f"The credential helper {program} fails (exit code {done.returncode}).", f"Try it: echo {key} | {program} get")
    if done.returncode != 0:
        raise failed
    try:
        answer = msgspec.json.decode(done.stdout[:MAX_ANSWER_BYTES], type=_Answer)
    except (ValueError, RecursionError):
        raise failed from None
    if answer.username == _TOKEN_USER:
        return Credentials(identity_token=answer.secret)
    return Credentials(username=answer.username, password=answer.secret)
