"""Which Azure a command speaks to, and what happens where its SDKs are not installed. The same for every command."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - the command line reads its options' types
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kubenclave.cli.progress import say
from kubenclave.errors import HostUnfit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.cluster.azure.session import Session
    from kubenclave.cluster.secrets import Store


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class CloudOptions:
    """Which cloud is meant; the public one without these."""

    arm_endpoint: Annotated[
        str, Parameter(help="Another cloud's resource manager: https://host:port.", env_var="KUBENCLAVE_ARM_ENDPOINT", show_default=False)
    ] = field(default="", kw_only=True)
    ca_file: Annotated[
        Path | None, Parameter(help="The authority that signed that cloud's certificates.", env_var="KUBENCLAVE_CA_FILE")
    ] = field(default=None, kw_only=True)


@contextmanager
def opened(cloud: CloudOptions, subscription: str | None) -> Iterator[Session]:
    """Reach the cloud, sign in, and say where that is on stderr.

    Raises:
        HostUnfit: The SDKs are not installed.
        KubenclaveError: The cloud does not answer, or refuses the sign-in.
    """
    with needs_sdks():
        from kubenclave.cluster.azure.session import CloudSettings, open_session  # noqa: PLC0415 - brings the SDKs
    with open_session(CloudSettings(arm_endpoint=cloud.arm_endpoint, ca_file=cloud.ca_file, subscription=subscription)) as session:
        say(f"subscription: {session.subscription.name} ({session.subscription_id}) on {session.cloud.name}, {session.cloud.arm}")
        yield session


@contextmanager
def needs_sdks() -> Iterator[None]:
    """Say in a sentence that the SDKs are not installed, where an import within the block fails for that.

    Raises:
        HostUnfit: They are not.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] not in {"azure", "msal", "requests"}:
            raise
        raise HostUnfit("The Azure SDKs are not installed.", "pip install 'kubenclave[azure]'") from exc


def secret_store() -> Store:
    """Return where service principals' secrets are kept on this machine."""
    from kubenclave.cluster import secrets  # noqa: PLC0415 - --help does not need it
    from kubenclave.local.places import places  # noqa: PLC0415

    return secrets.store(places(os.environ).state / "secrets")
