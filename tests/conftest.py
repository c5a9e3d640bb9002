"""Where the tests find what was built before them; a test that needs something that is not there skips and says so."""

from __future__ import annotations

import os

from kubenclave.local import programs
from kubenclave.local.places import places


def pytest_configure():
    cache = places(os.environ).cache
    if programs.is_built(cache):
        os.environ.setdefault("KUBENCLAVE_K8S", str(programs.folder(cache) / programs.MULTICALL))
