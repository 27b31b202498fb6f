"""Licences: what a host's edition lets the pool do, how hosts come by one, and what becomes of it when it ends.

The master restricts what any of its hosts may not do; only what `pool.restrictions` says so about is restricted, so a
database that says nothing may do all. A host keeps its edition when its toolstack starts: it checks the licence out again,
lives on for 30 days where the server does not answer, and an edition that its release calls otherwise gets its new name.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from xenctl.errors import Failure
from xenctl.releases import Release
from xenctl.values import format_datetime, parse_datetime

from . import editions
from .editions import FEATURES, THERE_WHEN_UNKNOWN, Edition
from .rules import CLEARWATER, COWLEY, DUNDEE, NILE

if TYPE_CHECKING:
    from .call import Call
    from .pool import MockPool
    from .store import Row, Store

VENDOR_DEVICE_IS_FREE = NILE
GRACE = 30 * 86400.0
"""Seconds for which a host keeps an edition that it cannot check out."""
NEVER = "21000101T00:00:00Z"
"""The end of a licence that has none."""
CONNECT, NO_FEATURE = ("-15", "Cannot connect to license server system."), ("-5", "No such feature exists.")
"""What the licence servers' own library says where a check-out fails: its number and its words."""
DETAILS = "serialnumber productcode name company address1 address2 city state postalcode country".split()
UNLIMITED: Mapping[str, str] = {}
"""The details of a licence that is like any other and has no end."""
WRITES = ("host.edition", "host.license_params", "pool.restrictions")
"""What a verb writes that changes a host's licence."""


# --- what is allowed


def restricted(call: Call, feature: str) -> bool:
    """Whether the licence takes `feature` away, which is named as errors name it."""
    return _restricted(call.db, feature)


def _restricted(store: Store, feature: str) -> bool:
    found = FEATURES[feature]
    if "restrictions" in store.pool():
        return found.there(store.pool()["restrictions"]) is False
    return any(found.there(host["license_params"]) is False for host in store.table("host").values())


def assert_enabled(call: Call, feature: str) -> None:
    """Raise `LICENCE_RESTRICTION` where the licence takes `feature` away; since 7.0 the error names it."""
    assert_enabled_in(call.db, feature)


def assert_enabled_in(store: Store, feature: str) -> None:
    """The same, asked of a database."""
    if _restricted(store, feature):
        raise Failure(["LICENCE_RESTRICTION", *([feature] if store.release.order >= DUNDEE else [])])


def assert_has_vendor_device(call: Call) -> None:
    """Raise where the licence allows no VM with the device by which Windows finds its drivers. From 7.0 on; the toolstack's
    version 24.14 dropped it, and so XenServer 8 does not ask."""
    if DUNDEE <= call.db.release.order < VENDOR_DEVICE_IS_FREE:
        assert_enabled(call, "PCI_device_for_auto_update")


def expiry(host: Row) -> float | None:
    """When the licence of a host ends, in seconds since the epoch; None for never."""
    text = host["license_params"].get("expiry", "never")
    try:
        return None if text in ("never", NEVER) else parse_datetime(text).timestamp()
    except ValueError:
        return None


def assert_valid(pool: MockPool, host: Row) -> None:
    """Raise `LICENSE_EXPIRED` where no VM may run on `host` any more; up to 6.1, since then a licence that ends takes
    features away."""
    if pool.store.release.order < CLEARWATER and (end := expiry(host)) is not None and end <= pool.clock.now():
        raise Failure(["LICENSE_EXPIRED"])


# --- what is written


def described(
    release: Release, name: str, cpu: Mapping[str, str], details: Mapping[str, str] = UNLIMITED
) -> dict[str, str]:
    """The part of licence parameters that says what a licence is."""
    return {
        "sku_type": name,
        "version": release.product_version,
        **dict.fromkeys(DETAILS, ""),
        "sockets": cpu.get("socket_count", "1"),
        "expiry": NEVER,
        "grace": "no",
        "sku_marketing_name": f"{release.product_brand} {name}",
        **details,
    }


def write(
    pool: MockPool, host: Row, one: Edition, details: Mapping[str, str] = UNLIMITED, *, over: bool = False
) -> None:
    """Give a host an edition; `details` are parameters that differ from those of a licence without end. One that is `over`
    gives no more than the lowest edition, and no updates."""
    release = release_of(pool, host)
    lacks = one.lacks | _lost(release) if over else one.lacks
    params = described(release, one.name, host["cpu_info"], details)
    pool.store.write(host, edition=one.name)
    set_params(pool.store, host, {**params, **editions.restrictions(release, lacks)})


def _lost(release: Release) -> frozenset[str]:
    """What a host loses whose licence is over."""
    return editions.editions(release)[0].lacks | {"Updates"}


def set_params(store: Store, host: Row, params: dict[str, str]) -> None:
    """Write licence parameters, and what follows from them for the pool."""
    store.write(host, license_params=params)
    restrict_pool(store)


def restrict_pool(store: Store) -> None:
    """Work out `pool.restrictions`: what some host lacks, and of what xapi does not know whatever some host does not say."""
    if "restrictions" not in store.pool():
        return
    every = [host["license_params"] for host in store.table("host").values()]
    master = store.get("host", store.pool()["master"])["license_params"]
    core = {feature.key: feature for feature in editions.features(store.release) if feature.core}
    out = {}
    for key in [key for key in master if key.startswith("restrict_") and key not in core]:
        out[key] = "true" if any(params.get(key, "true") != "false" for params in every) else "false"
    for key, feature in core.items():
        unsaid = feature.name in THERE_WHEN_UNKNOWN
        has = [unsaid if (there := feature.there(params)) is None else there for params in every]
        out[key] = feature.text(there=all(has))
    store.write(store.pool(), restrictions=out)


def release_of(pool: MockPool, host: Row) -> Release:
    """The release whose licensing daemon serves `host`."""
    machine = pool.machine_of(host)
    return machine.system.release if machine is not None else pool.store.release


def stamp(moment: float | None) -> str:
    """The end of a licence as it is written."""
    return NEVER if moment is None else format_datetime(datetime.fromtimestamp(moment, timezone.utc))


# --- checking out


def apply(pool: MockPool, host: Row, name: str, *, force: bool = False) -> None:
    """Give `host` the edition called `name`, if it is free or its licence server has it.

    With `force` an edition that cannot be checked out is no error: the host goes on with it for the time of grace where it
    is its own, and takes the lowest where it is another. Raises `INVALID_EDITION`, `MISSING_CONNECTION_DETAILS`,
    `LICENSE_CHECKOUT_ERROR`.
    """
    release = release_of(pool, host)
    one = editions.edition(release, name)
    if one is None:
        raise Failure(["INVALID_EDITION", name])
    try:
        until = checked_out(pool, host, one) if one.paid else _unpaid(pool, host, one)
    except Failure:
        if not force:
            raise
        _without_server(pool, host, one)
        return
    write(pool, host, one, {"expiry": stamp(until)})


def _unpaid(pool: MockPool, host: Row, one: Edition) -> float | None:
    """The end of an edition that costs nothing: up to 6.1 it had to be activated within the time of grace."""
    if release_of(pool, host).order >= CLEARWATER:
        return None
    return expiry(host) if host["edition"] == one.name else pool.clock.now() + GRACE


def checked_out(pool: MockPool, host: Row, one: Edition) -> float | None:
    """The end of the licence that the host's server gives; one for the same edition under an older name counts."""
    given = {**pool.store.pool().get("license_server", {}), **host["license_server"]}
    if "address" not in given or not given.get("port", "").isdecimal():
        raise Failure(["MISSING_CONNECTION_DETAILS"])
    held = pool.licences.servers.get((given["address"], int(given["port"])))
    release = release_of(pool, host)
    if held is None:
        raise _not_checked_out(release, one, CONNECT)
    for name, until in held.items():
        if editions.renamed(release, name) == one and (until is None or until > pool.clock.now()):
            return until
    raise _not_checked_out(release, one, NO_FEATURE)


def _not_checked_out(release: Release, one: Edition, reason: tuple[str, str]) -> Failure:
    """Up to 5.6 FP1 the error named the edition."""
    return Failure(["LICENSE_CHECKOUT_ERROR", *([one.name] if release.order <= COWLEY else reason)])


def _without_server(pool: MockPool, host: Row, one: Edition) -> None:
    """What a host has whose own edition, or another, could not be checked out."""
    if host["edition"] != one.name:
        write(pool, host, editions.editions(release_of(pool, host))[0])
        return
    params, end = host["license_params"], expiry(host)
    if params.get("grace", "no") == "no" and (end is None or end > pool.clock.now()):
        write(pool, host, one, _grace(pool, "regular grace"))
    elif end is not None:
        over = end <= pool.clock.now() and release_of(pool, host).order >= CLEARWATER
        write(pool, host, one, {"expiry": stamp(end), "grace": params.get("grace", "no")}, over=over)


# --- in passing


def initialise(pool: MockPool, host: Row) -> None:
    """What a toolstack does about its licence when it starts."""
    release = release_of(pool, host)
    known = editions.editions(release)
    if not known or "edition" not in host:
        return
    pool.store.write(host, editions=[one.name for one in known])
    name = host["edition"]
    if not name:
        _from_product(pool, host)
        return
    if editions.edition(release, name) is None:
        one = editions.renamed(release, name)
        if one is None:
            return
        _rename(pool, host, one)
        return
    apply(pool, host, name, force=True)


def _from_product(pool: MockPool, host: Row) -> None:
    """The first start of a release with editions: a product that had to be paid for becomes an edition, with grace."""
    params = host["license_params"]
    known = editions.editions(release_of(pool, host))
    paid = next((one for one in known if one.name == "enterprise"), None)
    if paid is None or params.get("sku_type", "XE Express") == "XE Express":
        write(pool, host, known[0], {"expiry": params["expiry"]} if "expiry" in params else UNLIMITED)
    else:
        write(pool, host, paid, _grace(pool, "upgrade grace"))


def _rename(pool: MockPool, host: Row, one: Edition) -> None:
    """A new release calls the host's edition otherwise; a licence that is not at hand yet has its grace."""
    try:
        details = {"expiry": stamp(checked_out(pool, host, one) if one.paid else None)}
    except Failure:
        details = _grace(pool, "upgrade grace")
    write(pool, host, one, details)


def _grace(pool: MockPool, kind: str) -> dict[str, str]:
    """The parameters of a licence that was not checked out."""
    return {"expiry": stamp(pool.clock.now() + GRACE), "grace": kind}


def lapse(pool: MockPool) -> None:
    """Take features from the hosts whose licence has ended, since 6.2; once, as long as nobody applies another."""
    if pool.store.release.order < CLEARWATER:
        return
    for host in pool.store.table("host").values():
        end = expiry(host)
        if end is None or end > pool.clock.now():
            continue
        release = release_of(pool, host)
        one = editions.edition(release, host["edition"])
        if one is not None and _keeps(release, one, host):
            grace = host["license_params"].get("grace", "no")
            write(pool, host, one, {"expiry": stamp(end), "grace": grace}, over=True)


def _keeps(release: Release, one: Edition, host: Row) -> bool:
    """Whether a host still has what its edition gives."""
    lost = [feature for feature in editions.features(release) if feature.name in _lost(release) - one.lacks]
    return any(feature.there(host["license_params"]) for feature in lost)


def known_servers(pool: MockPool) -> None:
    """Put up the licence servers that the hosts of a pool say they use, with the licences that these hosts hold."""
    for host in pool.store.table("host").values():
        one = editions.edition(release_of(pool, host), host["edition"]) if host.get("edition") else None
        held = one is not None and one.paid and host["license_params"].get("grace", "no") == "no"
        given = host.get("license_server", {})
        if one is not None and held and "address" in given and given.get("port", "").isdecimal():
            pool.licences.add(given["address"], one.name, port=int(given["port"]), until=expiry(host))
