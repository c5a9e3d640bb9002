"""The figures that our images are shown beside.

Source: the guide "Leveraging Confidential Computing on Kubernetes on Azure" (2.0 draft, July 2020), module 2, its listing of
``docker images``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GuideFigures:
    """Hold the guide's image sizes, uncompressed as ``docker images`` shows them."""

    multi_stage_bytes: int
    single_stage_bytes: int
    remark: str


GUIDE_FIGURES = GuideFigures(
    multi_stage_bytes=16_600_000,
    single_stage_bytes=1_430_000_000,
    remark="the guide's, 2020: Open Enclave's hello world, another application with other libraries, so not like for like",
)
