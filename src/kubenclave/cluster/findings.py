"""What a check found: one sentence of each kind, and whether it stands in the way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Say one thing that a check found out.

    Attributes:
        about: The part of the cluster file or of Azure it is about: ``pools[sgx].vmSize``, ``quota standardDCSv3Family``.
        what: What is the matter.
        evidence: What was read, and where: a reply of Azure, a table with its source.
        fix: What to do.
        blocks: Whether the cluster cannot be made as long as it stands.
    """

    about: str
    what: str
    evidence: str
    fix: str
    blocks: bool
