"""What of a host's processors guests hold on to: what each release tells of them, notes of a boot, and compares.

Features are bits, in words of eight hexadecimal digits joined by dashes. Up to 6.5 there were four words, in an order of
their own, and a guest had those of the host that it was booted on. Since 7.0 there are more, apart for guests with hardware
virtualisation (`hvm`) and without (`pv`), and a guest is booted with what all hosts of its pool have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from xenctl.errors import Failure

from . import rules
from .call import refuse
from .checks import needs_virtualisation

if TYPE_CHECKING:
    from xenctl.datamodel import Order
    from xenctl.releases import Release

    from .store import Row, Store

Since = tuple[tuple["Order", tuple[str, ...]], ...]
"""What holds from a release on, oldest first."""
INTEL, AMD = "GenuineIntel", "AuthenticAMD"
OLD_WORDS = 4
"""The words of features as hosts told them up to 6.5."""

USUAL: Mapping[str, Mapping[str, str]] = {
    INTEL: {
        "cpu_count": "16",
        "socket_count": "2",
        "threads_per_core": "2",
        "nr_nodes": "2",
        "vendor": INTEL,
        "speed": "2333.000",
        "modelname": "Intel Xeon",
        "family": "6",
        "model": "23",
        "stepping": "6",
        "flags": "fpu de tsc msr pae mce cx8 apic sep mca cmov pat clflush mmx fxsr sse sse2 ht syscall nx lm pni",
        "features": "77fafbff-bfebfbff-00000121-2c100800",
        "features_pv": "1fc9cbf5-f6f83203-28100800-00000121-0000000f-d19f072b-00000000-00000000-00001000-8c000400",
        "features_hvm": "1fcbfbff-f7fa3223-2c100800-00000121-0000000f-d19f47ab-00000008-00000000-00001000-9c000400",
    },
    AMD: {
        "cpu_count": "16",
        "socket_count": "2",
        "threads_per_core": "1",
        "nr_nodes": "2",
        "vendor": AMD,
        "speed": "2300.000",
        "modelname": "AMD Opteron",
        "family": "16",
        "model": "9",
        "stepping": "1",
        "flags": "fpu de tsc msr pae mce cx8 apic sep mca cmov pat clflush mmx fxsr sse sse2 ht syscall nx lm pni svm",
        "features": "00802009-178bfbff-000837ff-efd3fbff",
        "features_pv": "1789cbf5-00802001-2fd1cbf5-000037f3-00000000-00000000-00000000-00000000-00000000-00000000",
        "features_hvm": "178bfbff-80802001-efd3fbff-000837ff-00000000-00000000-00000000-00000000-00000000-00000000",
    },
}
"""What hosts tell whose processors nobody described, by vendor."""

SAME_AS = {
    **dict.fromkeys(("features_after_reboot", "physical_features"), "features"),
    "features_pv_host": "features_pv",
    "features_hvm_host": "features_hvm",
}
"""Keys that say the same as another unless somebody says otherwise."""

_NAMED = ("cpu_count", "vendor", "speed", "modelname", "family", "model", "stepping", "flags")
_LEVELLED = (*_NAMED, "socket_count", "features", "features_pv", "features_hvm")
_POLICIES = ("features_pv_host", "features_hvm_host")
_TODAY = (*_NAMED, "socket_count", "features_pv", "features_hvm", *_POLICIES)
KEYS: Since = (
    (rules.MIDNIGHT_RIDE, (*_NAMED, "features", "features_after_reboot", "physical_features", "maskable")),
    (rules.CLEARWATER, (*_NAMED, "socket_count", "features", "features_after_reboot", "physical_features", "maskable")),
    (rules.DUNDEE, _LEVELLED),
    (rules.QUEBEC, (*_LEVELLED, *_POLICIES)),
    (rules.STOCKHOLM, _TODAY),
    (rules.NILE, (*_TODAY, "threads_per_core")),
)
"""The keys of `host.cpu_info` from each release on. Oldest first; before 5.6 hosts did not have the field."""

POOL_KEYS: Since = (
    (rules.DUNDEE, ("features_pv", "features_hvm")),
    (rules.QUEBEC, ("features_pv", "features_hvm", *_POLICIES)),
    (rules.STOCKHOLM, _POLICIES),
)
"""The features of `pool.cpu_info` from each release on; before 7.0 pools did not have the field."""

ASKED_SINCE = {
    "resume": rules.BOSTON,
    "pool_migrate": rules.BOSTON,
    "migrate_send": rules.TAMPA,
    "choose": rules.DUNDEE,
    "evacuate": rules.QUEBEC,
    "assert_can_boot_here": rules.QUEBEC,
    "recommend": rules.STOCKHOLM,
}
"""Who looks at processors, and since when."""

MASK = "cpuid_feature_mask"
"""The key of `pool.other_config` that says which features count, from 6.1 to 6.5."""

VENDOR = "VM last booted on a host which had a CPU from a different vendor."
FEATURES = "VM last booted on a CPU with features this host's CPU does not have."
UNTOLD = "Host does not have new leveling feature keys - not comparing VM's flags"


# --- features as words


@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[int, ...]:
    """The words of a text; none where it is no such text."""
    try:
        return tuple(int(word, 16) for word in text.split("-")) if text else ()
    except ValueError:
        return ()


def _text(words: Iterable[int]) -> str:
    return "-".join(f"{word:08x}" for word in words)


def _common(one: str, other: str) -> str:
    """What both have, as long as the longer of them; nothing told is no limit."""
    left, right = _words(one), _words(other)
    if not left or not right:
        return _text(left or right)
    size = max(len(left), len(right))
    pairs = zip(*(words + (0,) * (size - len(words)) for words in (left, right)), strict=True)
    return _text(a & b for a, b in pairs)


def _within(less: str, more: str, mask: str = "") -> bool:
    """Whether `more` has all that `less` has, of what `mask` leaves."""
    has, counts = _words(more), _words(mask)
    for place, word in enumerate(_words(less)):
        kept = word & counts[place] if place < len(counts) else word
        if kept & ~(has[place] if place < len(has) else 0):
            return False
    return True


def _in_todays_order(words: Sequence[int]) -> list[int]:
    """Four words of old, as the first four of today's."""
    return [words[1], words[0], words[3], words[2]]


# --- what is told


def _since(table: Since, release: Release) -> tuple[str, ...]:
    return next((keys for since, keys in reversed(table) if release.order >= since), ())


def described(release: Release, told: Mapping[str, str], seen: Sequence[Mapping[str, Any]] = ()) -> dict[str, str]:
    """`host.cpu_info` of a host of `release`: what was `told` of it before, what its processors' own rows say (`seen`), and
    what is usual. Features told by an older release become the first words of today's."""
    row = seen[0] if seen else {}
    known = {key: str(row[key]) for key in (*_NAMED, "features") if row.get(key)}
    if seen:
        known["cpu_count"] = str(len(seen))
    known.update(told)
    usual = USUAL.get(known.get("vendor", INTEL), USUAL[INTEL])
    out = {}
    for key in _since(KEYS, release):
        same = SAME_AS.get(key, key)
        value = known.get(key) or known.get(same) or usual.get(same, "full")
        if key.startswith(("features_pv", "features_hvm")) and not (known.get(key) or known.get(same)):
            value = _levelled(value, known.get("features", ""))
        out[key] = value
    return out


def _levelled(usual: str, old: str) -> str:
    """The usual features, without those that an older release said are not there."""
    first, words = _words(old), list(_words(usual))
    if len(first) == OLD_WORDS:
        words[:OLD_WORDS] = [a & b for a, b in zip(words, _in_todays_order(first), strict=False)]
    return _text(words)


def level(store: Store) -> None:
    """Write down what all hosts of the pool have in common, where pools have a place for it (since 7.0)."""
    pool, keys = store.pool(), _since(POOL_KEYS, store.release)
    if not keys:
        return
    out = {"vendor": "", "socket_count": "0", "cpu_count": "0", **dict.fromkeys(keys, "")}
    for host in store.table("host").values():
        info = host["cpu_info"]
        if any(key not in info for key in ("vendor", "socket_count", "cpu_count", *keys)):
            continue
        out["vendor"] = info["vendor"]
        for key in ("socket_count", "cpu_count"):
            out[key] = str(_number(out[key]) + _number(info[key]))
        virtualises = any("hvm" in capability for capability in host["capabilities"])
        for key in keys:
            if virtualises or "hvm" not in key:
                out[key] = _common(info[key], out[key])
    if pool["cpu_info"] != out:
        store.write(pool, cpu_info=out)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


# --- what a boot notes


def _kind(vm: Row) -> str:
    """Which features a guest sees: those with hardware virtualisation, or those without."""
    return "features_hvm" if needs_virtualisation(vm) else "features_pv"


def booted(store: Store, vm: Row, host: Row, seen: Sequence[Mapping[str, Any]] = ()) -> dict[str, str]:
    """`VM.last_boot_CPU_flags` of a guest that boots on `host`; `seen` are the rows of its processors, which tell where the
    host's own does not (before 5.6)."""
    info = host.get("cpu_info") or (seen[0] if seen else {})
    if store.release.order < rules.DUNDEE:
        return {key: info[key] for key in ("vendor", "features") if info.get(key)}
    shared, kind = store.pool()["cpu_info"], _kind(vm)
    told = shared if store.release.order < rules.STOCKHOLM and shared.get("vendor") else info
    found = shared.get(f"{kind}_host") or shared.get(kind) or info.get(kind)
    out = {"vendor": told.get("vendor"), "features": found}
    return {key: value for key, value in out.items() if value}


def arrived(store: Store, vm: Row, host: Row, *, resumed: bool) -> None:
    """Note the processor of the host that a guest came to where the release does: up to 6.0 of every one, up to 6.5 of the
    one it was resumed on. From 7.0 to 8.1 features that an older release had noted are made those of today."""
    flags, info = vm["last_boot_CPU_flags"], host.get("cpu_info") or {}
    order = store.release.order
    if order < rules.BOSTON or order >= rules.STOCKHOLM:
        return
    if order < rules.DUNDEE:
        if resumed or order < rules.TAMPA:
            store.write(vm, last_boot_CPU_flags=booted(store, vm, host))
        return
    words, has = _words(flags.get("features", "")), info.get(_kind(vm), "")
    if len(words) == OLD_WORDS and has:
        store.write(
            vm, last_boot_CPU_flags={"vendor": info.get("vendor", ""), "features": _levelled(has, _text(words))}
        )


# --- what is compared


def alike(mine: Mapping[str, str], theirs: Mapping[str, str], mask: str) -> bool:
    """Whether two hosts have processors of one maker, with the same features of those that `mask` leaves, if it is given."""

    def counts(told: Mapping[str, str]) -> tuple[str | None, tuple[int, ...]]:
        words = _words(told.get("features", ""))
        kept = tuple(a & b for a, b in zip(words, _words(mask), strict=False)) if _words(mask) else words
        return told.get("vendor"), kept

    return counts(mine) == counts(theirs)


def refused(store: Store, vm: Row, host: Row, asker: str) -> Failure | None:
    """Why a guest that is not halted cannot go on on `host`'s processors, as an error; None where it can, or where `asker`
    does not look at processors in this release."""
    if vm["power_state"] == "Halted" or store.release.order < ASKED_SINCE[asker]:
        return None
    why = _unlike(store, vm, host)
    return refuse("VM_INCOMPATIBLE_WITH_THIS_HOST", vm.ref, host.ref, why) if why else None


def assert_compatible(store: Store, vm: Row, host: Row, asker: str) -> None:
    """Raise `VM_INCOMPATIBLE_WITH_THIS_HOST` where `refused` says so."""
    error = refused(store, vm, host, asker)
    if error is not None:
        raise error


def _unlike(store: Store, vm: Row, host: Row) -> str:
    """How the processors of `host` differ from what the guest was booted with; empty where they do not. What the guest
    booted with counts only as far as it is told."""
    order, info, flags = store.release.order, host.get("cpu_info") or {}, vm["last_boot_CPU_flags"]
    key = _kind(vm) if order >= rules.DUNDEE else "features"
    if key not in info or "vendor" not in info:
        return UNTOLD if order >= rules.QUEBEC else ""
    if "vendor" in flags and flags["vendor"] != info["vendor"]:
        return VENDOR
    mine = flags.get("features", "")
    if rules.DUNDEE <= order < rules.STOCKHOLM and len(_words(mine)) == OLD_WORDS:
        key = "features"  # such hosts tell also what older ones would
    mask = store.pool()["other_config"].get(MASK, "") if rules.TAMPA <= order < rules.DUNDEE else ""
    return "" if _within(mine, info.get(key, mine), mask) else FEATURES
