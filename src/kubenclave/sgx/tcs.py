"""The thread control structure: the page through which one thread at a time enters an enclave (SDM volume 3D, TCS)."""

from __future__ import annotations

import struct
from typing import Final

TCS: Final = struct.Struct("<QQQIIQQQQII")
"""STATE, FLAGS, OSSA, CSSA, NSSA, OENTRY, AEP, OFSBASE, OGSBASE, FSLIMIT, GSLIMIT; the rest of the page is zero."""
UNLIMITED: Final = 0xFFFF_FFFF
"""FSLIMIT and GSLIMIT that limit nothing."""
OFFSETS_OF_ADDRESSES: Final = (16, 48, 56)
"""Where OSSA, OFSBASE and OGSBASE stand: the fields that depend on where a TCS lies."""
