"""Decide in which way EPC is offered, one way at a time on a node, and say why it is this one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kubenclave.errors import UsageError
from kubenclave.node.dialect import DIALECTS, Dialect, Mode, dialect_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The way EPC is offered.

    Attributes:
        mode: The way.
        dialect: The names it is offered under; None with claims (DRA), which have names of their own.
        reason: Why this way, in words.
    """

    mode: Mode
    dialect: Dialect | None
    reason: Reason

    @property
    def dialect_name(self) -> str:
        """The dialect's name; empty with claims."""
        return self.dialect.name if self.dialect else ""


class Reason(Enum):
    """Why a way was chosen; the words are a label of a metric as well."""

    CONFIGURED = "configured by --mode"
    DIALECT = "the mode of the dialect configured by --dialect"


def choose(mode: str | None, dialect: str | None) -> Choice:
    """Choose from what the command line says.

    Raises:
        UsageError: Neither is said, or the dialect is not one of the mode's.
    """
    if mode is None and dialect is None:
        raise UsageError(
            "neither a mode nor a dialect is given", hint="say how to offer EPC: --mode=device-plugin, extended-resource or dra"
        )
    named = dialect_named(dialect) if dialect else None
    if mode is None:
        return Choice(mode=named.mode, dialect=named, reason=Reason.DIALECT)  # type: ignore[union-attr]  # one of both is there
    chosen = Mode(mode)
    own = [known for known in DIALECTS if known.mode is chosen]
    if named is not None and named not in own:
        others = ", ".join(known.name for known in own) or "none"
        raise UsageError(f"mode {mode} does not offer the dialect {named.name}", hint=f"its dialects: {others}")
    return Choice(mode=chosen, dialect=named or (own[0] if own else None), reason=Reason.CONFIGURED)
