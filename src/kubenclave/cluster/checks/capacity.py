"""Whether Azure has the nodes: sizes offered, quotas of families and of the region, retirements with their dates. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING

from kubenclave.cluster.findings import Finding
from kubenclave.cluster.sizes import Standing, VmSize, known_size, standing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubenclave.cluster.facts import Found, FoundPool, Offer, Quota
    from kubenclave.cluster.spec import ClusterSpec, Pool

REGION, SPOT = "cores", "lowprioritycores"
_NAMES = {REGION: "the region's total", SPOT: "the region's total of spot vCPUs"}
# A notice about what is not a confidential VM size (azure-compute-docs retired-sizes-list.md).
_DV2_ENDS = date(2028, 5, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Say how many vCPUs more are wanted of a quota: now, and when every pool has scaled as far as it may."""

    now: int
    most: int


def capacity_findings(spec: ClusterSpec, offer: Offer, found: Found, *, today: date) -> Iterator[Finding]:
    """Yield what is the matter with the nodes."""
    if offer.sizes:
        for pool in spec.pools:
            yield from _offered(pool, spec, offer, _there(pool, found))
    elif not offer.locations or spec.location in offer.locations:
        yield Finding(
            about="pools",
            what=f"Which VM sizes {spec.location} offers is not known.",
            evidence="Azure lists none: the account may not ask, or Microsoft.Compute is not registered yet",
            fix="Run plan again after the registration, or have someone ask who may read the subscription.",
            blocks=False,
        )
    for name, demand in sorted(demands(spec, offer, found).items()):
        yield from _quota(spec.location, name, demand, offer.quotas.get(name))
    yield from _retirements(spec, today)


def demands(spec: ClusterSpec, offer: Offer, found: Found) -> dict[str, Demand]:
    """Return the vCPUs asked for beyond those that the cluster's own pools use already, by quota in small letters.

    Spot nodes count against the region's spot quota and nothing else. A size of unknown vCPUs or family is left out.
    """
    sums: dict[str, Demand] = {}
    for pool in spec.pools:
        vcpus, family = _size(pool, offer)
        have = _there(pool, found)
        used = have.count if have is not None else 0
        most = pool.autoscale.max if pool.autoscale is not None else pool.count
        # Where the autoscaler rules, the file's count is only where a new pool starts.
        now = pool.count if have is None or pool.autoscale is None else max(pool.autoscale.min, used)
        more, at_most = max(0, now - used) * vcpus, max(0, max(most, now) - used) * vcpus
        for name in (SPOT,) if pool.spot else (family, REGION):
            if name and at_most:
                before = sums.get(name, Demand(now=0, most=0))
                sums[name] = Demand(now=before.now + more, most=before.most + at_most)
    return sums


def _offered(pool: Pool, spec: ClusterSpec, offer: Offer, have: FoundPool | None) -> Iterator[Finding]:
    size = offer.sizes.get(pool.vm_size.lower())
    about, source = f"pools[{pool.name}].vmSize", f"the resource SKUs of {spec.location}"
    if size is None:
        near = get_close_matches(pool.vm_size.lower(), offer.sizes, n=3)
        names = " or ".join(offer.sizes[each].name for each in near)
        yield Finding(
            about=about,
            what=f"{spec.location} has no VM size {pool.vm_size}.",
            evidence=f"it is not among {source}",
            fix=f"Did you mean {names}?" if near else "Choose another size or region.",
            blocks=have is None,
        )
    elif size.restriction:
        yield Finding(
            about=about,
            what=f"{size.name} is not to be had for this subscription in {spec.location}.",
            evidence=f"{source}: restricted, {size.restriction}",
            fix="Choose another size or region, or ask Azure's support for access to this one.",
            blocks=have is None,
        )
    elif pool.spot and size.spot is False:
        yield Finding(
            about=f"pools[{pool.name}].spot",
            what=f"{size.name} is not to be had as a spot node in {spec.location}.",
            evidence=f"{source}: LowPriorityCapable is False",
            fix="Leave spot out, or choose another size.",
            blocks=have is None,
        )


def _quota(location: str, name: str, demand: Demand, quota: Quota | None) -> Iterator[Finding]:
    words = _NAMES.get(name, f"the family {name}")
    if quota is None:
        yield Finding(
            about=f"quota {name}",
            what=f"The quota of {words} in {location} is not known.",
            evidence="it is not among the usages of the region",
            fix=f"See that it allows {demand.now} vCPUs more: portal, Quotas.",
            blocks=False,
        )
        return
    for more, blocks in ((demand.now, True), (demand.most, False)):
        if more and quota.used + more > quota.limit:
            when = "" if blocks else " once the pools have scaled up"
            yield Finding(
                about=f"quota {name}",
                what=f"The quota of {words} in {location} does not reach for {more} vCPUs more{when}.",
                evidence=f"usages of {location}: {quota.used} of {quota.limit} vCPUs are used",
                fix=f"Ask for at least {quota.used + more} (portal: Quotas), take fewer or smaller nodes, or another region.",
                blocks=blocks,
            )
            return


def _retirements(spec: ClusterSpec, today: date) -> Iterator[Finding]:
    seen: dict[str, tuple[VmSize, list[str]]] = {}
    for pool in spec.pools:
        size = known_size(pool.vm_size)
        if size is not None and size.retires_on is not None:
            seen.setdefault(size.series, (size, []))[1].append(pool.name)
        if pool.vm_size.lower().removeprefix("standard_d").removesuffix("_v2").isdecimal():
            yield Finding(
                about=f"pools[{pool.name}].vmSize",
                what=f"The series Dv2 {'ended' if today >= _DV2_ENDS else 'ends'} on {_DV2_ENDS}.",
                evidence="azure-compute-docs retired-sizes-list.md",
                fix="Take a current series, such as Dsv5.",
                blocks=False,
            )
    for size, pools in seen.values():
        yield _retirement(size, pools, today)


def _retirement(size: VmSize, pools: list[str], today: date) -> Finding:
    state = standing(size, today=today)
    successors = ", ".join(size.successors)
    what = f"The series {size.series} {'was retired' if state is Standing.RETIRED else 'will be retired'} on {size.retires_on}"
    if state is Standing.CLOSED_TO_NEW:
        what += f"; since {size.closed_to_new_on} new subscriptions do not get it"
    return Finding(
        about=", ".join(f"pools[{name}].vmSize" for name in pools),
        what=f"{what}.",
        evidence=f"{size.source}; whether this subscription is new to it, Azure does not say",
        fix=f"Its notice names as successors: {successors}." if successors else "No successor is named.",
        blocks=False,
    )


def _size(pool: Pool, offer: Offer) -> tuple[int, str]:
    """Return a size's vCPUs and quota family as Azure says, or as the table does where Azure is silent."""
    offered, known = offer.sizes.get(pool.vm_size.lower()), known_size(pool.vm_size)
    vcpus = (offered.vcpus if offered is not None else 0) or (known.cores if known is not None else 0)
    family = (offered.family if offered is not None else "") or (known.quota_family or "" if known is not None else "")
    return vcpus, family.lower()


def _there(pool: Pool, found: Found) -> FoundPool | None:
    """Return the pool as it is there, with the same size: one of another size is made anew."""
    pools = found.cluster.pools if found.cluster is not None else ()
    return next((each for each in pools if each.name == pool.name and each.vm_size.lower() == pool.vm_size.lower()), None)
