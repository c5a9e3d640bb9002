"""Make text from outside safe to print: a log line or an API message must not drive the terminal.

Knows nothing but characters.
"""

from __future__ import annotations

_KEPT = "\n\t"


def printable(text: str) -> str:
    r"""Return the text with control, format and surrogate characters written out as ``\x1b``, ``\u202e`` and the like."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _KEPT else char.encode("unicode_escape").decode("ascii") for char in text)
