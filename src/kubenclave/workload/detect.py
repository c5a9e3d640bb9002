"""Decide which EPC dialect to speak to a cluster, from what its nodes offer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubenclave.errors import NotFound, Refused
from kubenclave.workload.dialects import GUIDE_DIALECT, Dialect, dialect_of, dialects
from kubenclave.workload.epc import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubenclave.kube import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One dialect as a cluster offers it: how many nodes do, and the most that one of them can give."""

    dialect: Dialect
    nodes: int
    largest_node: str
    largest_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The dialect chosen and the reason, as a sentence."""

    dialect: Dialect
    reason: str


def offers_of(nodes: Sequence[Node]) -> tuple[Offer, ...]:
    """Return the dialects that at least one node can give some of, in order of preference."""
    return tuple(offer for dialect in dialects() if (offer := _offer(dialect, nodes)))


def choose(nodes: Sequence[Node], epc_bytes: int, wanted: str | None = None) -> Choice:
    """Choose the dialect for an amount of EPC.

    Args:
        nodes: The cluster's nodes.
        epc_bytes: What one pod asks for.
        wanted: The name of the only dialect that will do, or None for the best one offered.

    Raises:
        UsageError: There is no dialect of the wanted name.
        NotFound: No node offers EPC, or none in the wanted dialect.
        Refused: No node is large enough: such a pod would stay Pending for ever.
    """
    asked = dialect_of(wanted) if wanted else None
    offers = [offer for offer in offers_of(nodes) if asked is None or offer.dialect == asked]
    if not offers:
        raise _nothing_offered(nodes, asked)
    fitting = [offer for offer in offers if offer.dialect.units(epc_bytes) * offer.dialect.unit_bytes <= offer.largest_bytes]
    if not fitting:
        best = max(offers, key=lambda offer: offer.largest_bytes)
        raise Refused(
            f"{size(epc_bytes)} of EPC are asked for, but the largest node, {best.largest_node}, has {size(best.largest_bytes)}",
            "ask for less, or add a node with more EPC",
        )
    chosen = fitting[0]
    return Choice(dialect=chosen.dialect, reason=_reason(chosen, fitting, asked))


def dialect_for(node: Node) -> Dialect:
    """Return the dialect to prepare a node for: what it offers already, else the guide's, which is the node agent's own."""
    offered = offers_of([node])
    return offered[0].dialect if offered else dialect_of(GUIDE_DIALECT)


def _offer(dialect: Dialect, nodes: Sequence[Node]) -> Offer | None:
    giving = [node for node in nodes if node.allocatable.get(dialect.resource, 0) > 0]
    if not giving:
        return None
    largest = max(giving, key=lambda node: node.allocatable[dialect.resource])
    return Offer(
        dialect=dialect,
        nodes=len(giving),
        largest_node=largest.name,
        largest_bytes=largest.allocatable[dialect.resource] * dialect.unit_bytes,
    )


def _reason(chosen: Offer, fitting: Sequence[Offer], asked: Dialect | None) -> str:
    who = f"{chosen.nodes} node{'' if chosen.nodes == 1 else 's'}"
    if asked:
        return f"{chosen.dialect.resource} was asked for, and {who} offer{'s' if chosen.nodes == 1 else ''} it"
    others = [offer.dialect.name for offer in fitting if offer is not chosen]
    if others:
        return f"{chosen.dialect.resource} comes before {', '.join(others)}, which the cluster offers too; --dialect chooses another"
    return f"{chosen.dialect.resource} is what the cluster offers, on {who}"


def _nothing_offered(nodes: Sequence[Node], asked: Dialect | None) -> NotFound:
    known = [asked] if asked else dialects()
    silent = [(node.name, dialect.resource) for node in nodes for dialect in known if dialect.resource in node.capacity]
    if silent:
        name, resource = silent[0]
        return NotFound(
            f"node {name} knows {resource} but has none to give now", "see whether the node agent on it runs: its pod and its log"
        )
    if asked and (others := offers_of(nodes)):
        offered = ", ".join(f"{offer.dialect.name} ({offer.dialect.resource})" for offer in others)
        return NotFound(
            f"no node offers {asked.resource}; the cluster offers {offered}", "leave --dialect out, or name one that is offered"
        )
    return NotFound(
        f"none of the cluster's {len(nodes)} nodes offers EPC",
        "prepare an SGX node with kubenclave node prepare NODE, and install the node agent, which offers its EPC",
    )
