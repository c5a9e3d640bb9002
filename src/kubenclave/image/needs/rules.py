"""Decide which libraries a file opens by name, from the words in it and the table of what enclave runtimes open.

Pure, but for reading the table that comes with this package (``runtime_libraries.toml``, where each row has its source).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from kubenclave.image.needs.words import Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Hold a row of the table; its comment says what each field means."""

    name: str
    purpose: str
    breaks: str
    found_by: str
    source: str
    imports: tuple[str, ...] = ()
    or_else: str | None = None
    only_with: str | None = None
    not_with: str | None = None
    optional: bool = False
    enclave: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Name what a file opens while it runs; any of ``names`` will do, the first is tried first."""

    names: tuple[str, ...]
    breaks: str
    optional: bool
    enclave: bool


@cache
def rules() -> tuple[Rule, ...]:
    """Return the table."""
    table = tomllib.loads(resources.files(__package__).joinpath("runtime_libraries.toml").read_text("utf-8"))
    return tuple(Rule(**{**row, "imports": tuple(row.get("imports", ()))}) for row in table["library"])


def opened(words: Words, *, is_program: bool, environment: Collection[str]) -> tuple[Opened, ...]:
    """Return what a file opens by name.

    Args:
        words: What stands in it.
        is_program: It is the program or part of it, not a library of the system, so that what it imports counts.
        environment: The names of the variables that the image sets.
    """
    wanted = [rule for rule in rules() if _is_wanted(rule, words, is_program=is_program, environment=environment)]
    names = {rule.name for rule in wanted}
    alternatives = {rule.or_else for rule in wanted if rule.or_else in names}
    return tuple(
        Opened(
            names=(rule.name, rule.or_else) if rule.or_else in names and rule.or_else else (rule.name,),
            breaks=rule.breaks,
            optional=rule.optional,
            enclave=rule.enclave,
        )
        for rule in wanted
        if rule.name not in alternatives
    )


def is_known(name: str) -> bool:
    """Say whether the table has a row for a library."""
    return any(rule.name == name for rule in rules())


def _is_wanted(rule: Rule, words: Words, *, is_program: bool, environment: Collection[str]) -> bool:
    if rule.only_with is not None and rule.only_with not in environment:
        return False
    if rule.not_with is not None and rule.not_with in environment:
        return False
    if rule.found_by == "import":
        return is_program and not words.imports.isdisjoint(rule.imports)
    return rule.name in words.libraries
