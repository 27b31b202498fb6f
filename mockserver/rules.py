"""What xapi allows, as tables: power states for each operation, versions that may mix, and how both changed.

Each rule asks the release of the *master*, whose code decides for the pool. Sources: the public history of the toolstack
from June 2009 (5.5); what 4.0.1 and 4.1 did is taken to be what that code says of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from xenctl.memory import needed
from xenctl.releases import Release, find, parse_version

if TYPE_CHECKING:
    from .store import Row, Store

BOSTON = find("6.0.0").order
TAMPA = find("6.1.0").order
GEORGE = find("5.5.0").order
MIAMI = find("4.1.0").order
STOCKHOLM = find("8.2.0").order

_HALTED = ("Halted",)
_PAUSED = ("Paused",)
_RUNNING = ("Running",)
_SUSPENDED = ("Suspended",)
_LIVE = ("Paused", "Suspended", "Running")
_ANY = ("Halted", "Paused", "Suspended", "Running")

POWER_STATES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("start", "start_on", "provision", "make_into_template", "changing_VCPUs"), _HALTED),
    **dict.fromkeys(("changing_static_range", "changing_memory_limits", "changing_shadow_memory"), _HALTED),
    "unpause": _PAUSED,
    **dict.fromkeys(("resume", "resume_on"), _SUSPENDED),
    **dict.fromkeys(("clean_reboot", "clean_shutdown", "pause", "pool_migrate", "suspend", "send_sysrq"), _RUNNING),
    **dict.fromkeys(("changing_VCPUs_live", "send_trigger", "changing_memory_live", "data_source_op"), _RUNNING),
    "changing_dynamic_range": ("Halted", "Running"),
    **dict.fromkeys(("clone", "copy"), ("Halted",)),
    **dict.fromkeys(("create_template", "destroy", "export"), ("Halted", "Suspended")),
    "hard_reboot": ("Paused", "Running"),
    **dict.fromkeys(("checkpoint", "get_boot_record", "shutdown", "hard_shutdown"), _LIVE),
    "migrate_send": ("Halted", "Suspended", "Running"),
    **dict.fromkeys(("assert_operation_valid", "metadata_export", "power_state_reset", "revert", "snapshot"), _ANY),
    "update_allowed_operations": _ANY,
}
"""The power states in which an operation is legal, in the order in which the error lists them."""

POWER_STATES_THEN: dict[str, tuple[str, ...]] = {
    "destroy": _HALTED,
    "hard_reboot": _LIVE,
    "hard_shutdown": _LIVE,
}
"""Where releases up to 5.5 differed."""

ADVERTISED = (
    *("start", "start_on", "pause", "unpause", "clean_shutdown", "hard_shutdown", "clean_reboot", "hard_reboot"),
    *("suspend", "resume", "resume_on", "pool_migrate", "clone", "copy", "export", "destroy", "provision"),
    *("make_into_template", "changing_VCPUs_live"),
)
"""The operations that `VM.allowed_operations` may list here."""

TEMPLATE_OPERATIONS = frozenset({"clone", "copy", "export", "metadata_export", "provision", "destroy"})
DOM0_OPERATIONS = frozenset({"data_source_op", "changing_memory_live", "metadata_export", "changing_dynamic_range"})

UPGRADE_OPERATIONS = frozenset(
    "assert_operation_valid changing_memory_live changing_shadow_memory_live changing_VCPUs_live clean_reboot "
    "clean_shutdown clone copy csvm destroy export get_boot_record hard_reboot hard_shutdown import "
    "make_into_template migrate_send migrate pause pool_migrate power_state_reset provision resume resume_on send_sysrq "
    "send_trigger start start_on suspend unpause update_allowed_operations".split()
)
"""What may be done to a VM while versions are mixed: advertised by every release, enforced since 6.0."""

HOST_UPGRADE_OPERATIONS = ("evacuate", "provision")


def power_states(operation: str, release: Release) -> tuple[str, ...]:
    """The power states in which `operation` is legal on a pool whose master runs `release`."""
    if release.order <= GEORGE and operation in POWER_STATES_THEN:
        return POWER_STATES_THEN[operation]
    return POWER_STATES[operation]


# --- versions in one pool

KEY = "rolling_upgrade_in_progress"


def upgrading(store: Store) -> bool:
    """Whether xapi believes that versions are mixed: the key alone tells, whatever its value."""
    return KEY in store.pool()["other_config"]


def _numbers(text: str) -> tuple[int, ...]:
    """A version as xapi compares it: the integer parts of the first two dash-separated pieces."""
    return tuple(int(n) for piece in text.split("-")[:2] for n in piece.split(".") if n.isdigit())


def versions(host: Row, release: Release) -> tuple[tuple[int, ...], ...]:
    """What a master of `release` compares of a host to order versions: platform and xapi version since 6.1, the product
    version before."""
    software = host["software_version"]
    if release.order >= TAMPA:
        return _numbers(software.get("platform_version", "0.0.0")), _numbers(software.get("xapi", "0.0.0"))
    return (parse_version(software.get("product_version", "0.0.0")),)


def at_least(a: Row, b: Row, release: Release) -> bool:
    """Whether host `a` is of `b`'s version or a newer one, on every key."""
    return all(x >= y for x, y in zip(versions(a, release), versions(b, release), strict=True))


def mixed(store: Store) -> bool:
    """Whether some host's recorded version differs from the master's."""
    hosts = store.table("host")
    master = hosts.get(store.pool()["master"])
    if master is None:
        return False
    if store.release.order >= TAMPA:
        return any(versions(host, store.release) != versions(master, store.release) for host in hosts.values())
    own = master["software_version"].get("product_version")
    return any(host["software_version"].get("product_version") != own for host in hosts.values())


def highest(store: Store, host: Row) -> bool:
    """Whether no host of the pool is newer than `host`."""
    return all(at_least(host, other, store.release) for other in store.table("host").values())


def placing_refused(store: Store, host: Row) -> bool:
    """Whether a start or resume on `host` is refused because of its version: since 6.0, on any but the newest hosts."""
    return store.release.order >= BOSTON and upgrading(store) and not highest(store, host)


def migration_refused(store: Store, source: Row, target: Row) -> bool:
    """Whether a live migration is refused because of versions.

    4.0.1 knew no such rule; from 4.1 to 5.x a target of lower API version than the master's was refused; since 6.0 one
    older than the source.
    """
    if store.release.order < MIAMI:
        return False
    if store.release.order < BOSTON:
        master = store.get("host", store.pool()["master"])
        return _api(target) < _api(master)
    return upgrading(store) and not at_least(target, source, store.release)


def _api(host: Row) -> tuple[int, int]:
    return host["API_version_major"], host["API_version_minor"]


# --- what a host of a release says of itself

_BUILDS = {"4.0.1": "4249p", "4.1.0": "7843p", "5.0.0": "10918p", "5.5.0": "15119p", "5.6.0": "31188p"}


def software_version(release: Release) -> dict[str, str]:
    """`host.software_version` of a host of `release`, with the keys that its time had."""
    xapi = "1.1" if release.order <= MIAMI else "1.3" if release.order < STOCKHOLM else "1.20"
    out = {
        "product_version": release.product_version,
        "product_brand": release.product_brand,
        "build_number": _BUILDS.get(release.product_version, "0x"),
        "hostname": "localhost",
        "date": "2008-11-01",
        "xapi": xapi,
        "xen": "3.1.0" if release.order <= MIAMI else "3.3.1",
        "linux": "2.6.18",
    }
    if release.platform_version:
        out.update(platform_name="XCP", platform_version=release.platform_version)
    if release.order > GEORGE:
        out["network_backend"] = "bridge"
    if release.schema >= (5, 120):
        out["db_schema"] = f"{release.schema[0]}.{release.schema[1]}"
    return out


# --- memory


def memory_free(store: Store, host: Row, besides: str = "") -> int:
    """Bytes of `host` that are not taken by the VMs that are or will be on it, `besides` (a VM's reference) left out."""
    if store.release.order <= GEORGE:
        total = int(host["boot_free_mem"])
    else:
        metrics = store.find("host_metrics", host["metrics"])
        total = int(metrics["memory_total"]) if metrics else 0
        total -= int(host.get("memory_overhead", 0))
    return total - sum(needed(vm, store.release) for vm in on_host(store, host) if vm.ref != besides)


def on_host(store: Store, host: Row) -> Iterable[Row]:
    """The VMs that are resident on `host` or on their way to it."""
    coming = (vm for vm in store.reserved.get(host.ref, ()))
    return [store.get("VM", ref) for ref in dict.fromkeys((*host["resident_VMs"], *coming))]
