"""Read Kubernetes quantities exactly. Pure.

Source: apimachinery ``pkg/api/resource/quantity.go``, the grammar in the documentation of ``Quantity``.
"""

from __future__ import annotations

import re
from fractions import Fraction

from kubenclave.errors import Refused

# "No quantity may represent a number greater than 2^63-1 in magnitude" (quantity.go). Extended resources are int64 as well.
LARGEST_QUANTITY = 2**63 - 1
# 2^63 has 19 digits; the rest is room for a sign, a point, nine decimals and a suffix. Longer text is not a number somebody meant.
_LONGEST_TEXT = 40

_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_GRAMMAR = re.compile(
    # Three digits of exponent keep the arithmetic small; 10^999 is far beyond what can be held anyway.
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)(?:\.(?P<decimals>[0-9]*))?(?:(?P<suffix>[KMGTPE]i|[numkMGTPE]?)|[eE](?P<exponent>[+-]?[0-9]{1,3}))",
)


def parse_quantity(text: str) -> Fraction:
    """Return the exact value of a quantity such as ``10Mi``, ``1930m`` or ``1e3``.

    Raises:
        Refused: The text is not a quantity, or its magnitude is above 2^63-1.
    """
    match = _GRAMMAR.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
    if match is None or not (match["whole"] or match["decimals"]):
        raise Refused(f"{text[:_LONGEST_TEXT]!r} is not a Kubernetes quantity", "write a number with a unit such as 10Mi, 2Gi or 500m")
    decimals = match["decimals"] or ""
    value = Fraction(int((match["whole"] or "0") + decimals), 10 ** len(decimals)) * _scale(match["suffix"], match["exponent"])
    if value > LARGEST_QUANTITY:
        raise Refused(f"the quantity {text} is above 2^63-1, the most that Kubernetes can hold", "write a smaller number")
    return -value if match["sign"] == "-" else value


def _scale(suffix: str | None, exponent: str | None) -> Fraction:
    if exponent is not None:
        return Fraction(10) ** int(exponent)
    return Fraction(_BINARY[suffix]) if suffix in _BINARY else Fraction(10) ** _DECIMAL[suffix or ""]
