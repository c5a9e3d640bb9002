"""What an installation was told, and what of it stays when it is told something else. Pure."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kubenclave.errors import UsageError
from kubenclave.install.render import DEFAULT_IMAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.install.tolerations import Toleration

# As the agent reads it (kubenclave.node, --reserve); a test compares.
_SIZE = re.compile(r"(?P<number>[0-9]{1,19})(?P<unit>Ki|Mi|Gi)?")
_SHIFT = {None: 0, "Ki": 10, "Mi": 20, "Gi": 30}
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of an installation; None or, of a text, empty where nothing was said.

    Raises:
        UsageError: The reserve is not a size in whole pages.
    """

    mode: str = ""
    dialect: str = ""
    image: str = ""
    reserve: str = ""
    provision: bool | None = None
    aesm: bool | None = None
    legacy_paths: bool | None = None
    mapped: bool | None = None
    tolerations: tuple[Toleration, ...] | None = None

    def __post_init__(self) -> None:
        match = _SIZE.fullmatch(self.reserve or "0")
        if match is None or (int(match["number"]) << _SHIFT[match["unit"]]) % _PAGE_BYTES:
            raise UsageError(
                f"--reserve {self.reserve[:80]!r} is not a size in whole pages of {_PAGE_BYTES} bytes", "write it such as 2Mi or 512Ki"
            )

    @property
    def arguments(self) -> tuple[str, ...]:
        """The agent's further arguments: all but how EPC is offered, and what else it is shown."""
        switches = {"--provision": self.provision, "--aesm": self.aesm, "--legacy-paths": self.legacy_paths}
        return (*([f"--reserve={self.reserve}"] if self.reserve else []), *(word for word, wanted in switches.items() if wanted))

    @property
    def command(self) -> str:
        """The command line of such an installation."""
        offered = [f"--{name}={value}" for name, value in (("mode", self.mode), ("dialect", self.dialect)) if value]
        image = [f"--image={self.image}"] if self.image not in {"", DEFAULT_IMAGE} else []
        tolerations = [f"--toleration={toleration}" for toleration in self.tolerations or ()]
        mapped = ["--mapped"] if self.mapped else []
        return shlex.join(["kubenclave", "node", "install", *offered, *self.arguments, *mapped, *tolerations, *image])

    def over(self, installed: Options) -> Options:
        """Return these options, with what is installed in the places of those about which nothing was said."""
        same_offer = not (self.mode or self.dialect)
        return replace(
            self,
            mode=installed.mode if same_offer else self.mode,
            dialect=installed.dialect if same_offer else self.dialect,
            image=self.image or installed.image,
            reserve=self.reserve or installed.reserve,
            provision=_said(self.provision, installed.provision),
            aesm=_said(self.aesm, installed.aesm),
            legacy_paths=_said(self.legacy_paths, installed.legacy_paths),
            mapped=_said(self.mapped, installed.mapped),
            tolerations=installed.tolerations if self.tolerations is None else self.tolerations,
        )


def installed_options(arguments: Sequence[str], image: str, tolerations: tuple[Toleration, ...] = ()) -> Options:
    """Read the options of an installation from its agent's arguments and image, and what it tolerates besides the dialects' taints."""
    values = dict(word.removeprefix("--").split("=", 1) for word in arguments if word.startswith("--") and "=" in word)
    words = set(arguments)
    reserve = values.get("reserve", "")
    return Options(
        mode=values.get("mode", "device-plugin"),
        dialect=values.get("dialect", ""),
        image=image,
        reserve=reserve,
        provision="--provision" in words,
        aesm="--aesm" in words,
        legacy_paths="--legacy-paths" in words,
        mapped="--mapped" in words,
        tolerations=tolerations,
    )


def _said(wish: bool | None, installed: bool | None) -> bool | None:
    return installed if wish is None else wish
