"""What is to be done, as values: one step at one resource, why, and which steps it comes after. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Kind(StrEnum):
    """Name what a step is about, in the words shown to people."""

    PROVIDER = "provider"
    FEATURE = "feature"
    GROUP = "group"
    APPLICATION = "application"
    PRINCIPAL = "service principal"
    SECRET = "secret"  # noqa: S105 - the word, not one
    ROLE = "role assignment"
    CLUSTER = "cluster"
    POOL = "pool"


class Verb(StrEnum):
    """Name what is done to it.

    WAIT does nothing but wait until Azure has ended what it is at; what follows is planned anew then. ADOPT and KEEP do nothing and are
    there to be shown: what is taken up as it is, and why something stays.
    """

    REGISTER = "register"
    CREATE = "create"
    WAIT = "wait"
    UPDATE = "update"
    DELETE = "delete"
    ADOPT = "adopt"
    KEEP = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Hold one step.

    Attributes:
        name: Of the resource: ``Microsoft.ContainerService``, a group's, a pool's.
        reason: Why, in a few words.
        changes: What becomes different, one phrase each.
        after: Keys of the steps that have to be done before; some may not be in the plan.
    """

    kind: Kind
    verb: Verb
    name: str
    reason: str
    changes: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return what other steps name it by; also how it is told to people."""
        return f"{self.verb} {self.kind} {self.name}"

    @property
    def is_remark(self) -> bool:
        """Say whether there is nothing to do about it: it is shown, and never carried out."""
        return self.verb in {Verb.ADOPT, Verb.KEEP}


def after_all(steps: Iterable[Step]) -> tuple[str, ...]:
    """Return the keys of steps, for a step that comes after all of them."""
    return tuple(step.key for step in steps)
