"""The cluster as a Bicep file for ``az deployment group create``, from the same tree as the ARM template. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from kubenclave.cluster.export.template import API_VERSION, RESOURCE_TYPE, Parameter, Tree, template

if TYPE_CHECKING:
    from kubenclave.cluster.spec import ClusterSpec

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORDS = frozenset({"true", "false", "null", "if", "for"})
# A backslash, and a dollar that would begin an interpolation, by their code points: parsers other than the compiler are lost where
# backslashes meet a quote or each other.
_ESCAPES = {"\\": "\\u{5c}", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_INDENT = "  "


def bicep_file(spec: ClusterSpec) -> str:
    """Return the Bicep file. A service principal and its secret are parameters of it."""
    found = template(spec)
    lines = [f"// {note}" for note in found.notes]
    lines += ["", "targetScope = 'resourceGroup'", "", f"metadata resourceGroup = {_string(spec.group)}", ""]
    for parameter in found.parameters:
        lines.append(f"@description({_string(parameter.description)})")
        if parameter.secret:
            lines.append("@secure()")
        lines += [f"param {parameter.name} string", ""]
    lines.append(f"resource cluster '{RESOURCE_TYPE}@{API_VERSION}' = {_value(found.resource, '')}")
    return "\n".join(lines) + "\n"


def _value(value: Tree, indent: str) -> str:
    if isinstance(value, Parameter):
        return value.name
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return _bracketed("{}", (f"{_key(key)}: {_value(item, indent + _INDENT)}" for key, item in value.items()), indent)
    if isinstance(value, Sequence):
        return _bracketed("[]", (_value(item, indent + _INDENT) for item in value), indent)
    return "null" if value is None else str(value).lower()


def _bracketed(brackets: str, items: Iterator[str], indent: str) -> str:
    lines = [f"{indent}{_INDENT}{item}" for item in items]
    return "\n".join([brackets[0], *lines, indent + brackets[1]]) if lines else brackets


def _key(text: str) -> str:
    return text if _IDENTIFIER.fullmatch(text) and text not in _KEYWORDS else _string(text)


def _string(text: str) -> str:
    return "'" + "".join(map(_escaped, text)).replace("${", "\\u{24}{") + "'"


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    return char if char.isprintable() else f"\\u{{{ord(char):x}}}"
