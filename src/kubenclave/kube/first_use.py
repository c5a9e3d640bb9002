"""Let threads decode the API's objects safely: have each kind's decoder built by one thread alone.

msgspec 0.22 builds the decoder of a Struct when it is first used, and a second thread that uses the half-built one crashes the
interpreter (seen as segmentation faults with CPython 3.11). Once built it is safe for all.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec
from lightkube.core.decoders import decode_list
from lightkube.models import meta_v1

if TYPE_CHECKING:
    from lightkube.core.resource import Resource

# Held while a decoder may be built for the first time.
LOCK = threading.Lock()
_built: set[type[Resource]] = set()


def prepare(*kinds: type[Resource]) -> None:
    """Build the decoders for objects and lists of some kinds, and for the API's error status."""
    with LOCK:
        for kind in kinds:
            if kind not in _built:
                decode_list(b'{"items": []}', kind)
                msgspec.json.decode(b"{}", type=meta_v1.Status)
                _built.add(kind)
