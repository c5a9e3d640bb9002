"""Read Azure's answers with distrust: whatever a place holds, a value of the wanted type comes out. Pure.

The SDKs' models are mappings over the JSON that was received and do not check it, so that they are read as such: by ARM's own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, cast

from kubenclave.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from azure.core.paging import ItemPaged

MAX_TEXT = 4096  # longer than any name, version, message or tag of Azure
MAX_PAGES = 200  # a region's sizes come in one; a subscription's resource groups in at most ten
_MAX_DIGITS = 18


def inside(node: object, *path: str) -> object:
    """Return what is at a path of names; None where a step is missing or is no mapping."""
    for name in path:
        if not isinstance(node, Mapping):
            return None
        node = node.get(name)
    return node


def text(node: object, *path: str) -> str:
    """Return a text, cut at MAX_TEXT; empty where there is none."""
    found = inside(node, *path)
    return found[:MAX_TEXT] if isinstance(found, str) else ""


def number(node: object, *path: str) -> int | None:
    """Return a whole number, also one that is written as text or with a fraction of zero; None where there is none."""
    found = inside(node, *path)
    if isinstance(found, str) and found.isascii() and found.isdecimal() and len(found) <= _MAX_DIGITS:
        return int(found)
    if isinstance(found, float) and found.is_integer():
        return int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def flag(node: object, *path: str) -> bool:
    """Return whether a place holds true, or the word for it, which is how AKS writes an add-on's settings."""
    found = inside(node, *path)
    return found is True or (isinstance(found, str) and found.lower() == "true")


def children(node: object, *path: str) -> Sequence[object]:
    """Return the elements of a list; empty where there is none."""
    found = inside(node, *path)
    return found if isinstance(found, list) else ()


def texts(node: object, *path: str) -> tuple[str, ...]:
    """Return the texts of a list, without what is none."""
    return tuple(each[:MAX_TEXT] for each in children(node, *path) if isinstance(each, str))


def words(node: object, *path: str) -> dict[str, str]:
    """Return a mapping of texts to texts, such as tags, without what is none."""
    found = inside(node, *path)
    if not isinstance(found, Mapping):
        return {}
    return {name[:MAX_TEXT]: value[:MAX_TEXT] for name, value in found.items() if isinstance(name, str) and isinstance(value, str)}


def entries(listed: Iterable[object], *, most: int) -> list[object]:
    """Return what a paged answer lists.

    Raises:
        Unreachable: It has more pages or entries than there can be: an answer without end, most likely.
    """
    found: list[object] = []
    # Some of the SDKs' lists are declared as no more than iterable; all of them are paged.
    for count, page in enumerate(cast("ItemPaged[object]", listed).by_page(), start=1):
        found.extend(islice(page, most + 1))
        if len(found) > most or count > MAX_PAGES:
            raise Unreachable(f"Azure lists more than {most} entries, or on more than {MAX_PAGES} pages.", "This cannot be Azure's answer.")
    return found
