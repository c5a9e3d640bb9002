"""One YAML document as plain values, with the line where each of them stands. Pure, and bounded: the text may be anyone's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import yaml

from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Path: TypeAlias = "tuple[str | int, ...]"

# A cluster file is four levels deep.
_MAX_DEPTH = 16
# The longest value of a cluster file is an SSH key of 16 KiB.
_MAX_SCALAR_CHARACTERS = 20_000
# YAML has numbers of any length; no field takes one of more than 64 bits, and Python does not even print the very long.
_INTEGER_END = 1 << 63
_TAG = "tag:yaml.org,2002:"
_MAP, _SEQUENCE, _TEXT = _TAG + "map", _TAG + "seq", _TAG + "str"
_SIMPLE = frozenset(_TAG + kind for kind in ("bool", "int", "float", "null"))


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlDocument:
    """Hold what a document says, as JSON would hold it, and the line of each part, counted from 1.

    Attributes:
        value: dict with text as keys, list, str, int, float, bool or None.
        lines: By path; the part under a key stands on its key's line. The whole is the empty path.
    """

    value: object
    lines: Mapping[Path, int]


def path_text(path: Path) -> str:
    """Return a path as one writes it: ``pools[1].vmSize``, ``labels["example.com/a"]``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isidentifier():
            text += f".{step}" if text else step
        else:
            text += f'["{step[:80]}"]'
    return text


def parse(text: str, source: str) -> YamlDocument:
    """Return the one document of a YAML text.

    Aliases, merge keys, keys that stand twice, keys that are no text and values that JSON has not (dates, sets, objects) are refused: a
    cluster file needs none of them, and each means something else to another reader.

    Args:
        text: The document; its size is the caller's to bound.
        source: Where it is from, for messages.

    Raises:
        UsageError: It is no such document; the message begins with ``source:line:``.
    """
    return _Reader(source).read(text)


class _Loader(yaml.SafeLoader):
    """Build the tree of nodes, without aliases and not deeper than is bearable."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self._refuse("an alias (*name) is not read here, write the value itself")
        if self._depth == _MAX_DEPTH:
            self._refuse(f"nothing is nested deeper than {_MAX_DEPTH} levels here")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def _refuse(self, what: str) -> NoReturn:
        mark: yaml.error.Mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # its stub has no types
        raise yaml.composer.ComposerError(None, None, what, mark)


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source
        self._lines: dict[Path, int] = {}

    def read(self, text: str) -> YamlDocument:
        try:
            loader = _Loader(text)
            try:
                node = loader.get_single_node()
                if node is None:
                    self._refuse(1, "the file is empty")
                self._lines[()] = node.start_mark.line + 1
                return YamlDocument(value=self._value(loader, node, ()), lines=self._lines)
            finally:
                loader.dispose()
        except yaml.reader.ReaderError as exc:
            position = exc.position if isinstance(exc.position, int) else 0
            self._refuse(text.count("\n", 0, position) + 1, "a character stands here that YAML does not allow", exc)
        except yaml.MarkedYAMLError as exc:
            line = exc.problem_mark.line + 1 if exc.problem_mark is not None else 1
            words = ", ".join(part for part in (exc.context, exc.problem) if part)
            self._refuse(line, f"this is not read: {' '.join(words.split())[:300]}", exc)

    def _value(self, loader: _Loader, node: yaml.Node, path: Path) -> object:
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return {key: self._value(loader, value, (*path, key)) for key, value in self._entries(node, path)}
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE:
            return [self._item(loader, item, (*path, place)) for place, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and len(node.value) > _MAX_SCALAR_CHARACTERS:
            self._refuse(node.start_mark.line + 1, f"a value of {len(node.value)} characters is too long", path=path)
        if isinstance(node, yaml.ScalarNode) and node.tag == _TEXT:
            return self._whole(node, path)
        if isinstance(node, yaml.ScalarNode) and node.tag in _SIMPLE:
            return self._simple(loader, node, path)
        kind = node.tag.removeprefix(_TAG)[:40]
        return self._refuse(
            node.start_mark.line + 1, f"YAML takes this for a value of the kind {kind!r}; write it in quotes if it is text", path=path
        )

    def _entries(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not (isinstance(key, yaml.ScalarNode) and key.tag == _TEXT):
                shown = repr(key.value[:40]) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
                self._refuse(line, f"the key {shown} is no text to YAML; write it in quotes", path=path)
            self._whole(key, path)
            if key.value in seen:
                self._refuse(line, f"{key.value[:80]!r} stands here again, after line {seen[key.value]}", path=path)
            seen[key.value] = line
            self._lines[(*path, key.value)] = line
            yield key.value, value

    def _whole(self, node: yaml.ScalarNode, path: Path) -> str:
        text = str(node.value)
        if any("\ud800" <= char <= "\udfff" for char in text):
            self._refuse(node.start_mark.line + 1, "an escape stands here for half a character", path=path)
        return text

    def _item(self, loader: _Loader, node: yaml.Node, path: Path) -> object:
        self._lines[path] = node.start_mark.line + 1
        return self._value(loader, node, path)

    def _simple(self, loader: _Loader, node: yaml.ScalarNode, path: Path) -> bool | int | float | None:
        try:
            value: bool | int | float | None = loader.construct_object(node)
        except (ValueError, LookupError, OverflowError, yaml.YAMLError) as exc:
            self._refuse(node.start_mark.line + 1, f"{node.value[:40]!r} is not the number or word it is marked as", exc, path=path)
        if isinstance(value, int) and abs(value) >= _INTEGER_END:
            self._refuse(node.start_mark.line + 1, f"{node.value[:40]!r} is a number of more than 64 bits", path=path)
        # To JSON, 2.0 is the integer 2.
        return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _INTEGER_END else value

    def _refuse(self, line: int, what: str, cause: Exception | None = None, *, path: Path = ()) -> NoReturn:
        where = f"{self._source}:{line}: " + (f"{path_text(path)}: " if path else "")
        raise UsageError(where + what, "mend the file; docs/reference/cluster-file.md shows how one looks") from cause
