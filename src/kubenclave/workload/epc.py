"""Read how much EPC an application asks for. Pure."""

from __future__ import annotations

import re

from kubenclave.errors import KubenclaveError, UsageError
from kubenclave.kube import parse_quantity

# Decimal units are left out on purpose: 10M is 10,000,000 bytes to Kubernetes, and hardly what somebody meant.
_FORM = re.compile(r"[0-9]+(\.[0-9]+)?(Ki|Mi|Gi)?")
_HINT = "write bytes, or a number with Ki, Mi or Gi, such as 10Mi"


def parse_epc(text: str) -> int:
    """Return bytes of EPC from text such as ``10Mi``, ``1.5Gi`` or ``4194304``.

    Raises:
        UsageError: The text is not a size, not a whole number of bytes, zero, or above 2^63-1.
    """
    if _FORM.fullmatch(text) is None:
        raise UsageError(f"{text[:40]!r} is not an amount of EPC", _HINT)
    try:
        epc_bytes = parse_quantity(text)
    except KubenclaveError as exc:
        raise UsageError(exc.what, _HINT) from exc
    if epc_bytes.denominator != 1:
        raise UsageError(f"{text} of EPC is not a whole number of bytes", _HINT)
    if epc_bytes < 1:
        raise UsageError("an enclave needs some EPC, but none is asked for", _HINT)
    return int(epc_bytes)


def size(epc_bytes: int) -> str:
    """Return bytes for a sentence: in MiB where that is exact, else as bytes."""
    return f"{epc_bytes >> 20} MiB" if epc_bytes % (1 << 20) == 0 else f"{epc_bytes} bytes"
