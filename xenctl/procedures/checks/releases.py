"""Checks of releases: which the hosts have, which is wanted, and what licences of each allow."""

from __future__ import annotations

from collections.abc import Iterator

from ...releases import XENSERVER, Release, accepts, path
from ...values import parse_datetime
from .finding import BLOCKS, EITHER, WARNS, Check, Found
from .guests import begins
from .survey import Situation

NO_END = "21000101T00:00:00Z"
"""The end of a licence that has none."""
FREE = ("free", "express")
"""The names of the edition that costs nothing."""
POOL_SIZE = 3
"""The hosts that a pool of the free edition may have from 7.3 to 8.2."""


def _target(at: Situation) -> Iterator[Found]:
    """Whether the installer of the target takes what is there."""
    source, target = at.source, at.target
    if target == source:
        why = f"the pool runs {source.name} already"
    elif target < source:
        why = f"{target.name} is older than the pool's {source.name}: an upgrade only goes forward"
    elif not accepts(target, source):
        why = f"the {target.name} installer does not upgrade {source.name}{_by_way_of(source, target)}"
    else:
        return
    yield _pool(at, why)


def _by_way_of(source: Release, target: Release) -> str:
    try:
        hops = path(source, target)[:-1]
    except ValueError:
        return ""
    return f"; go by way of {', '.join(hop.product_version for hop in hops)}"


def _mixed(at: Situation) -> Iterator[Found]:
    """Whether the versions of hosts are what an upgrade of this kind begins with."""
    hosts, master = at.facts.hosts.values(), at.facts.hosts[at.facts.master]
    if not at.half_done:
        if at.facts.upgrading or any(host.version != master.version for host in hosts):
            yield _pool(at, "versions are mixed already: an earlier upgrade was not finished; adopt it, or revert it")
        return
    for host in hosts:
        if host.release not in (at.source, at.target):
            expected = f"neither {at.source.product_version} nor {at.target.product_version}"
            yield Found("host", host.uuid, host.name, f"{host.name} runs {host.version}, which is {expected}")
    newer = [host.name for host in hosts if host.release > master.release]
    if newer:
        yield _pool(
            at, f"{', '.join(newer)} is newer than the master {master.name}: revert it, a pool goes on master first"
        )


def _unknown(at: Situation) -> Iterator[Found]:
    for host in at.facts.hosts.values():
        if host.version != host.release.product_version:
            said = host.version or "no version that it tells"
            why = f"{host.name} runs {said}, which is not known here; it is taken for {host.release.name}"
            yield Found("host", host.uuid, host.name, why)


def _licence_over(at: Situation) -> Iterator[Found]:
    """Up to 6.1 no VM starts or resumes on a host whose licence is over."""
    level = BLOCKS if begins(at) else WARNS
    for host, record in at.hosts():
        end = record.get("license_params", {}).get("expiry", "never")
        now = at.survey.now
        try:
            over = end not in ("never", NO_END) and parse_datetime(end).timestamp() <= now
        except ValueError:
            continue
        if over and host.release.version < (6, 2, 0):
            why = f"the licence of {host.name} ended on {end}: no guest starts or resumes there"
            yield Found("host", host.uuid, host.name, f"{why}; give it a new one", level=level)
        elif over:
            yield Found(
                *("host", host.uuid, host.name, f"the licence of {host.name} ended on {end}: features are gone"),
                level=WARNS,
            )


def _edition(at: Situation) -> Iterator[Found]:
    """What the licence would take away under the target that the run, or the pool, lives on."""
    if at.target.product_brand != XENSERVER:
        return
    for host, record in at.hosts():
        params = record.get("license_params", {})
        if params.get("restrict_pooling") == "true":
            why = f"{host.name} has a licence without pools; members may be refused after the upgrade"
            yield Found("host", host.uuid, host.name, why, level=WARNS)
        if params.get("restrict_xen_motion") == "true" and any(True for _ in at.up()):
            why = (
                f"{host.name} has a licence without live migration: no guest can leave it running; get another licence"
            )
            yield Found("host", host.uuid, host.name, why, level=BLOCKS)
    free = [host.name for host, record in at.hosts() if record.get("edition", "") in FREE]
    if free and at.crosses(7, 3) and len(at.facts.hosts) > POOL_SIZE:
        yield _pool(
            at,
            f"the free edition ({', '.join(free)}) has pools of {POOL_SIZE} hosts at most from 7.3 on, and this one has "
            f"{len(at.facts.hosts)}",
            level=WARNS,
        )
    if free and at.crosses(7, 3) and at.facts.ha_enabled:
        why = "the free edition has no high availability from 7.3 on: it cannot be switched on again"
        yield _pool(at, why, level=WARNS)


def _terms(at: Situation) -> Iterator[Found]:
    """From 8.4 on the vendor wants its terms of use accepted."""
    if at.target.product_brand != XENSERVER or not at.crosses(8, 4):
        return
    master = at.facts.hosts[at.facts.master]
    answer = at.ask.plugin(master.ref, "getEUA")
    where = f" ({answer.strip()[:80]})" if answer and answer.startswith("http") else ""
    yield _pool(at, f"{at.target.name} has terms of use{where}: whoever upgrades accepts them")


def _pool(at: Situation, why: str, *, level: str = "") -> Found:
    return Found("pool", at.facts.uuid, at.facts.name, why, level=level)


CHECKS = (
    Check(
        *("target", BLOCKS, "whether the installer of the target upgrades what is there"),
        *("choose another release; `xenctl plan-path` shows the way", _target),
    ),
    Check(
        *("versions-mixed", BLOCKS, "whether all hosts run one version, or those that a half done upgrade leaves"),
        *("finish the earlier upgrade with `upgrade adopt`, or revert it", _mixed),
    ),
    Check(
        *("version-unknown", WARNS, "hosts of a version that is in no table"),
        *("see whether the release that it is taken for is right", _unknown),
    ),
    Check(
        *("licence-over", EITHER, "licences that are over; up to 6.1 nothing starts or resumes then"),
        *("apply a licence that is in force", _licence_over),
    ),
    Check(
        *("edition", EITHER, "what the edition takes away: pools, live migration, the number of hosts in a pool"),
        *("get a licence that has it, before the upgrade or right after", _edition),
    ),
    Check(
        *("terms-of-use", WARNS, "terms of use of the target that have to be accepted"),
        *("read and accept them", _terms),
    ),
)
