"""Move blobs side by side; the first failure ends the others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kubenclave.image.oci.documents import Descriptor

# What browsers and container runtimes open side by side to one server.
PARALLEL = 4

_Result = TypeVar("_Result")


class Stopped(Exception):  # noqa: N818 - it is no failure of its own
    """Report that another blob's failure ended this one."""


def side_by_side(blobs: Iterable[Descriptor], work: Callable[[Descriptor, Callable[[], bool]], _Result]) -> list[_Result]:
    """Do something with each blob, the largest first, so that none is left alone at the end.

    Args:
        blobs: The blobs.
        work: Is given a blob and what says whether to give up, upon which it raises ``Stopped``.

    Raises:
        BaseException: What ended the first that failed.
    """
    stop = threading.Event()
    failures: list[BaseException] = []

    def one(blob: Descriptor) -> _Result:
        try:
            return work(blob, stop.is_set)
        except BaseException as exc:
            stop.set()
            if not isinstance(exc, Stopped):
                failures.append(exc)
            raise

    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="blobs") as pool:
        futures = [pool.submit(one, blob) for blob in sorted(blobs, key=lambda blob: -blob.size_bytes)]
        try:
            return [future.result() for future in futures]
        finally:
            # On an interrupt, too: what runs ends at its next piece, what waits does not begin.
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if failures:
                raise failures[0]
