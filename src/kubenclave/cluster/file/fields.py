"""What does not fit the types of ``spec.py``, field by field and in words. Pure.

msgspec is the judge of every single value; it stops at the first that is wrong and names patterns, where a person wants them all and the
rule.
"""

from __future__ import annotations

import difflib
import types
import typing
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.cluster.file.yaml_document import Path

_SHOWN_CHARACTERS = 40
_KINDS: dict[type, str] = {str: "text", bool: "a truth value", int: "a whole number", list: "a list", dict: "a mapping of names to values"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Say what is wrong with the part at a path. The path of a field that is missing or unknown ends in its name."""

    path: Path
    what: str


def faults(value: object, kind: object, *, path: Path = (), rule: str = "") -> Iterator[Fault]:
    """Yield all that keeps plain values from being a value of a type, in the order of the text.

    Args:
        value: As JSON would hold it.
        kind: A struct of ``spec.py``, or the type of one of its fields.
        path: Where the value stands.
        rule: What is said of the type that this one is a part of.
    """
    bare, metas = _unwrapped(kind)
    rule = next((meta.description for meta in metas if meta.description), rule)
    if value is None and _is_optional(bare):
        return
    bare, inner = _unwrapped(_without_none(bare))
    rule = next((meta.description for meta in inner if meta.description), rule)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        yield from _struct(value, bare, path, rule)
    elif typing.get_origin(bare) is tuple:
        yield from _list(value, bare, (*metas, *inner), path, rule)
    elif typing.get_origin(bare) is dict:
        yield from _mapping(value, bare, (*metas, *inner), path, rule)
    else:
        yield from _single(value, bare, (*metas, *inner), path, rule)


def _struct(value: object, kind: type[msgspec.Struct], path: Path, rule: str) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield _unlike(value, dict, path, rule)
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, part in value.items():
        if name in fields:
            yield from faults(part, fields[name].type, path=(*path, name))
        else:
            yield Fault(path=(*path, name), what=_unknown(name, list(fields)))
    for name, field in fields.items():
        if field.required and name not in value:
            yield Fault(path=(*path, name), what="is missing")


def _list(value: object, kind: object, metas: tuple[msgspec.Meta, ...], path: Path, rule: str) -> Iterator[Fault]:
    if not isinstance(value, list):
        yield _unlike(value, list, path, rule)
        return
    yield from _count(len(value), metas, path)
    for place, part in enumerate(value):
        yield from faults(part, typing.get_args(kind)[0], path=(*path, place), rule=rule)


def _mapping(value: object, kind: object, metas: tuple[msgspec.Meta, ...], path: Path, rule: str) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield _unlike(value, dict, path, rule)
        return
    yield from _count(len(value), metas, path)
    key_kind, part_kind = typing.get_args(kind)
    for key, part in value.items():
        for fault in faults(key, key_kind, path=(*path, key), rule=rule):
            yield Fault(path=fault.path, what=f"the name {fault.what}")
        yield from faults(part, part_kind, path=(*path, key), rule=rule)


def _single(value: object, bare: object, metas: tuple[msgspec.Meta, ...], path: Path, rule: str) -> Iterator[Fault]:
    # One that wraps the bare type again in all that limits it.
    limited = bare
    for meta in metas:
        limited = typing.Annotated[limited, meta]
    try:
        msgspec.convert(value, limited)
    except msgspec.ValidationError:
        yield Fault(path=path, what=_why(value, bare, metas, rule))


def _why(value: object, bare: object, metas: tuple[msgspec.Meta, ...], rule: str) -> str:
    if isinstance(bare, type) and issubclass(bare, StrEnum):
        words = [str(member) for member in bare]
        near = difflib.get_close_matches(str(value), words, n=1)
        return f"{_shown(value)} is none of {', '.join(words)}" + (f"; {near[0]} is meant?" if near else "")
    if type(value) is not bare:
        return _unlike(value, bare, (), rule).what
    lowest = next((meta.ge for meta in metas if meta.ge is not None), None)
    highest = next((meta.le for meta in metas if meta.le is not None), None)
    if lowest is not None and highest is not None:
        return f"{_shown(value)} is not between {lowest} and {highest}"
    return f"{_shown(value)} does not fit" + (f". {rule}" if rule else "")


def _unlike(value: object, kind: object, path: Path, rule: str) -> Fault:
    found = _KINDS.get(type(value), "a number with a fraction")
    if isinstance(value, (bool, int, float, str)):
        found = f"{_shown(value)}, {found},"
    what = f"is {'empty' if value is None else found} where {_KINDS[kind] if isinstance(kind, type) else 'something else'} is wanted"
    if kind is str and isinstance(value, (bool, int, float)):
        what += "; write it in quotes"
    elif isinstance(value, str) and kind in {int, bool}:
        what += "; write it without quotes"
    return Fault(path=path, what=what + (f". {rule}" if rule else ""))


def _count(length: int, metas: tuple[msgspec.Meta, ...], path: Path) -> Iterator[Fault]:
    for meta in metas:
        if meta.min_length is not None and length < meta.min_length:
            yield Fault(path=path, what=f"has {length} entries and needs at least {meta.min_length}")
        if meta.max_length is not None and length > meta.max_length:
            yield Fault(path=path, what=f"has {length} entries, more than {meta.max_length}")


def _unknown(name: str, known: list[str]) -> str:
    folded = {field.lower(): field for field in known}
    near = difflib.get_close_matches(name[:_SHOWN_CHARACTERS].replace("_", "").replace("-", "").lower(), folded, n=1)
    return "is no field" + (f"; {folded[near[0]]} is meant?" if near else f"; the fields here are {', '.join(known)}")


def _shown(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _unwrapped(kind: object) -> tuple[object, tuple[msgspec.Meta, ...]]:
    if typing.get_origin(kind) is not typing.Annotated:
        return kind, ()
    bare, *extras = typing.get_args(kind)
    return bare, tuple(extra for extra in extras if isinstance(extra, msgspec.Meta))


def _is_optional(kind: object) -> bool:
    return typing.get_origin(kind) in {typing.Union, types.UnionType} and types.NoneType in typing.get_args(kind)


def _without_none(kind: object) -> object:
    if not _is_optional(kind):
        return kind
    return next(part for part in typing.get_args(kind) if part is not types.NoneType)
