"""Terraform's language, written as ``terraform fmt`` would leave it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
# Words that mean something else where a key is expected, or that Terraform reads as values.
_KEYWORDS = frozenset({"true", "false", "null", "for", "if", "in"})
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_INDENT = "  "


@dataclass(frozen=True, slots=True)
class Expression:
    """Hold text that Terraform evaluates, such as ``var.secret``."""

    text: str


Value: TypeAlias = "Expression | bool | int | str | Sequence[Value] | Mapping[str, Value]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Hold a block: its kind, its labels, its arguments in their order, and the blocks inside it."""

    kind: str
    labels: tuple[str, ...] = ()
    arguments: Mapping[str, Value]
    blocks: tuple[Block, ...] = ()


def written(block: Block, indent: str = "") -> str:
    """Return the block's text without a newline at its end: one-line arguments with aligned equals signs, the rest set apart."""
    head = indent + " ".join([block.kind, *map(_string, block.labels), "{"])
    inner = indent + _INDENT
    parts = _arguments(block.arguments, inner) + [written(each, inner) for each in block.blocks]
    return "\n".join([head, "\n\n".join(parts), indent + "}"]) if parts else head + "}"


def _arguments(arguments: Mapping[str, Value], indent: str) -> list[str]:
    """Return paragraphs: a run of one-line arguments is one, and so is each argument of several lines."""
    parts = []
    for long, run in groupby(arguments.items(), key=lambda pair: isinstance(pair[1], Mapping) and bool(pair[1])):
        pairs = [(name, _value(value, indent)) for name, value in run]
        parts += [_aligned([pair], indent) for pair in pairs] if long else [_aligned(pairs, indent)]
    return parts


def _aligned(pairs: Sequence[tuple[str, str]], indent: str) -> str:
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{indent}{name:{width}} = {value}" for name, value in pairs)


def _value(value: Value, indent: str) -> str:
    if isinstance(value, Expression):
        return value.text
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return _map(value, indent)
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(item, indent) for item in value) + "]"
    return str(value)


def _map(value: Mapping[str, Value], indent: str) -> str:
    inner = indent + _INDENT
    pairs = [(_key(name), _value(item, inner)) for name, item in value.items()]
    return "\n".join(["{", _aligned(pairs, inner), indent + "}"]) if pairs else "{}"


def _key(text: str) -> str:
    return text if _IDENTIFIER.fullmatch(text) and text not in _KEYWORDS else _string(text)


def _string(text: str) -> str:
    return '"' + "".join(map(_escaped, text)).replace("${", "$${").replace("%{", "%%{") + '"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - what \u holds
