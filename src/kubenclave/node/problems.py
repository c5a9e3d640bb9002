"""Say each problem once, however often it is met, until it is over or becomes another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from kubenclave.errors import KubenclaveError

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Problems:
    """The problems of one repeated action, logged under one event name."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._last = ""

    def report(self, error: KubenclaveError) -> None:
        """Log the error, unless it is the one logged last."""
        if error.what != self._last:
            log.error(self._event, what=error.what, hint=error.hint)
        self._last = error.what

    def clear(self) -> None:
        """Note that the action succeeded; the same problem is news again."""
        self._last = ""
