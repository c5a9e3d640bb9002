"""Read what the node agent says in its metrics. Pure.

Source: the Prometheus text format 0.0.4 (prometheus/docs, exposition_formats.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Names of the agent's metrics; a test compares them with the agent's own.
PREFIX = "kubenclave_"
TOTAL = "kubenclave_epc_total_bytes"
OFFERED = "kubenclave_epc_offered_bytes"
POD_HELD = "kubenclave_epc_pod_bytes"
POD_MAPPED = "kubenclave_epc_mapped_bytes"
SIMULATED = "kubenclave_simulated"

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>[^ \t]+)(?:[ \t]+-?[0-9]+)?")
_LABEL = re.compile(r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)="(?P<value>(?:[^"\\]|\\.)*)",?')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One value of a metric."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """What an agent sees on its node, in bytes: all EPC, what it offers of it, what each pod (namespace/name) was given and has mapped."""

    total_bytes: int
    offered_bytes: int
    simulated: bool
    held: Mapping[str, int]
    mapped: Mapping[str, int]


def agent_view(text: str) -> AgentView | None:
    """Return what an agent's metrics say; None where they say nothing of EPC."""
    found = list(samples(text))
    if not any(sample.name == TOTAL for sample in found):
        return None
    return AgentView(
        total_bytes=sum(int(sample.value) for sample in found if sample.name == TOTAL),
        offered_bytes=sum(int(sample.value) for sample in found if sample.name == OFFERED),
        simulated=any(sample.name == SIMULATED and sample.value == 1 for sample in found),
        held=_by_pod(found, POD_HELD),
        mapped=_by_pod(found, POD_MAPPED),
    )


def _by_pod(found: Sequence[Sample], name: str) -> dict[str, int]:
    summed: dict[str, int] = {}
    for sample in found:
        if sample.name == name:
            pod = f"{sample.labels.get('namespace', '')}/{sample.labels.get('pod', '')}"
            summed[pod] = summed.get(pod, 0) + int(sample.value)
    return summed


def samples(text: str) -> Iterator[Sample]:
    """Yield the agent's own values; what is no sample of its is passed over."""
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line.strip()) if line.startswith(PREFIX) else None
        if match is None:
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        labels = {label["name"]: _ESCAPED.sub(_unescaped, label["value"]) for label in _LABEL.finditer(match["labels"] or "")}
        yield Sample(name=match["name"], labels=labels, value=value)


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
