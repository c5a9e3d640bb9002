"""What the demo saw: values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """State one fact, and where it was seen: the API, a program's log, containerd, a file."""

    what: str
    value: str
    seen_in: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Hold what one step of the guide showed. ``module`` is the guide's."""

    module: int
    title: str
    observations: tuple[Observation, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Give the size of one image, as a registry keeps it and as a node unpacks it."""

    what: str
    compressed_bytes: int
    uncompressed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """Hold the whole demo. ``simulated`` tells whether the SGX device was a stand-in."""

    cluster: str
    server: str
    kubernetes: str
    simulated: bool
    mrenclave: str
    steps: tuple[Step, ...]
    sizes: tuple[Size, ...]
    seconds: float
    left: str
