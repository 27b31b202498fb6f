"""What xapi allows, as tables: power states for each operation, versions that may mix, and how both changed.

Each rule asks the release of the *master*, whose code decides for the pool. Sources: the public history of the toolstack
from June 2009 (5.5); what 4.0.1 and 4.1 did is taken to be what that code says of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from xenctl.datamodel import load
from xenctl.memory import needed
from xenctl.releases import Release, find

if TYPE_CHECKING:
    from xenctl.datamodel import Order

    from .store import Row, Store

ALWAYS = find("4.0.1").order
"""The first release there is."""
BOSTON = find("6.0.0").order
MIDNIGHT_RIDE = find("5.6.0").order
COWLEY = find("5.6.100").order
TAMPA = find("6.1.0").order
GEORGE = find("5.5.0").order
MIAMI = find("4.1.0").order
QUEBEC = find("8.1.0").order
STOCKHOLM = find("8.2.0").order
ELY = find("7.1.0").order
NILE = find("8.4.0").order

DUNDEE = find("7.0.0").order
CREAM = find("6.5.0").order
CLEARWATER = find("6.2.0").order
FALCON = find("7.2.0").order
INVERNESS = find("7.3.0").order
KOLKATA = find("7.5.0").order
LIMA = find("7.6.0").order

UNMANAGED_NETWORKS = load().order("24.29.0")
"""The toolstack's version since which networks may be of cards that xapi does not manage."""
MAKES_SUSPENDED = load().order("1.257.0")
"""From when on a VM may be made as a suspended one, with devices that are attached; it came after 8.2."""

_HALTED = ("Halted",)
_PAUSED = ("Paused",)
_RUNNING = ("Running",)
_SUSPENDED = ("Suspended",)
_LIVE = ("Paused", "Suspended", "Running")
_ANY = ("Halted", "Paused", "Suspended", "Running")

POWER_STATES: dict[str, tuple[str, ...]] = {
    "import": (),
    **dict.fromkeys(
        "changing_VCPUs changing_static_range changing_memory_limits changing_shadow_memory".split(), _HALTED
    ),
    **dict.fromkeys("changing_NVRAM make_into_template provision start start_on create_vtpm".split(), _HALTED),
    "unpause": _PAUSED,
    **dict.fromkeys("csvm resume resume_on".split(), _SUSPENDED),
    **dict.fromkeys(
        "awaiting_memory_live call_plugin clean_reboot clean_shutdown changing_memory_live".split(), _RUNNING
    ),
    **dict.fromkeys(
        "changing_shadow_memory_live changing_VCPUs_live data_source_op pause pool_migrate".split(), _RUNNING
    ),
    **dict.fromkeys("send_sysrq send_trigger snapshot_with_quiesce sysprep suspend".split(), _RUNNING),
    "changing_dynamic_range": ("Halted", "Running"),
    **dict.fromkeys("clone copy".split(), _HALTED),
    **dict.fromkeys("create_template destroy export".split(), ("Halted", "Suspended")),
    "hard_reboot": ("Paused", "Running"),
    **dict.fromkeys("checkpoint get_boot_record shutdown hard_shutdown".split(), _LIVE),
    "migrate_send": ("Halted", "Suspended", "Running"),
    **dict.fromkeys("assert_operation_valid metadata_export power_state_reset revert reverting snapshot".split(), _ANY),
    **dict.fromkeys("update_allowed_operations query_services".split(), _ANY),
}
"""The power states in which an operation is legal, in the order in which the error lists them."""

POWER_STATES_UNTIL: dict[str, tuple[Order, tuple[str, ...]]] = {
    "destroy": (BOSTON, _HALTED),
    "clone": (TAMPA, ("Halted", "Suspended")),
    "copy": (TAMPA, ("Halted", "Suspended")),
    "hard_reboot": (MIDNIGHT_RIDE, _LIVE),
    "migrate_send": (DUNDEE, _RUNNING),
}
"""Where earlier releases differed: the first that had the above, and what was legal before."""

ADVERTISED_THEN = frozenset(
    "snapshot copy clone start start_on pause unpause clean_shutdown hard_shutdown clean_reboot hard_reboot suspend resume "
    "resume_on export destroy provision changing_VCPUs_live pool_migrate make_into_template".split()
)
"""The operations that `VM.allowed_operations` might list up to 5.5."""

NEVER_ADVERTISED = frozenset(
    "create_template power_state_reset csvm get_boot_record send_sysrq send_trigger query_services shutdown call_plugin "
    "changing_memory_live awaiting_memory_live changing_memory_limits changing_shadow_memory_live changing_VCPUs "
    "assert_operation_valid data_source_op update_allowed_operations import reverting".split()
)
"""Those that it never lists since, legal or not."""

CAME_WITH = {
    "metadata_export": find("5.6.0").order,
    "changing_dynamic_range": find("5.6.0").order,
    "changing_static_range": find("5.6.0").order,
    "changing_shadow_memory": find("5.6.0").order,
    "changing_NVRAM": find("8.0.0").order,
    "create_vtpm": NILE,
}
"""When operations came that no message is named after."""

TEMPLATE_OPERATIONS: dict[str, Order] = {
    **dict.fromkeys("clone copy export provision".split(), ALWAYS),
    **dict.fromkeys(
        "changing_dynamic_range changing_static_range changing_memory_limits metadata_export".split(), MIDNIGHT_RIDE
    ),
    "changing_VCPUs": COWLEY,
    "changing_shadow_memory": TAMPA,
    "changing_NVRAM": CAME_WITH["changing_NVRAM"],
}
"""What may be done to templates, and since when."""
OWN_TEMPLATE_OPERATIONS: dict[str, Order] = {"destroy": ALWAYS, "migrate_send": DUNDEE}
"""What else may be done to those that did not come with the product, and since when."""
SNAPSHOT_OPERATIONS = frozenset("revert clone copy export destroy hard_shutdown metadata_export".split())
DOM0_OPERATIONS: dict[str, Order] = {
    **dict.fromkeys("data_source_op changing_memory_live awaiting_memory_live".split(), ALWAYS),
    **dict.fromkeys("metadata_export changing_dynamic_range".split(), MIDNIGHT_RIDE),
    "start": TAMPA,
    **dict.fromkeys("changing_memory_limits changing_static_range changing_VCPUs destroy".split(), ELY),
    "start_on": FALCON,
}
"""What may be done to control domains, and since when."""

SPELLED: dict[str, str] = {
    "assert_operation_valid": "assertoperationvalid",
    "data_source_op": "data_sources_op",
    **dict.fromkeys(
        "changing_VCPUs changing_memory_limits query_services create_template".split(), "(unknown operation)"
    ),
}
"""The operations that errors spell in another way than the data model."""

TOGETHER = (
    frozenset({"clone", "copy", "export"}),
    frozenset({"snapshot", "checkpoint"}),
    frozenset({"get_boot_record"}),
)
"""Operations that may go on at the same time as others of their group."""

DURING: tuple[tuple[str, str, Order, Order | None], ...] = (
    ("snapshot_with_quiesce", "snapshot", MIDNIGHT_RIDE, None),
    ("reverting", "hard_shutdown", MIDNIGHT_RIDE, DUNDEE),
    *(("migrate_send", name, TAMPA, None) for name in ("metadata_export", "clean_shutdown", "clean_reboot")),
    *(("migrate_send", name, TAMPA, DUNDEE) for name in ("hard_shutdown", "hard_reboot")),
    *(("migrate_send", name, TAMPA, NILE) for name in ("start", "start_on")),
    ("clean_shutdown", "hard_shutdown", CLEARWATER, DUNDEE),
    ("clean_reboot", "hard_reboot", CLEARWATER, DUNDEE),
)
"""Pairs of the one operation that goes on and another that may begin, since which release and until which. From 7.0 on
force may break into nearly everything."""

_REBOOT_INTERRUPTS = frozenset("clean_shutdown clean_reboot pool_migrate call_plugin suspend".split())
INTERRUPTS: tuple[tuple[Order, dict[str, frozenset[str]]], ...] = (
    (
        STOCKHOLM,  # by an update, as in XenServer 8
        {
            "hard_shutdown": _REBOOT_INTERRUPTS | {"hard_reboot", "shutdown"},
            "hard_reboot": _REBOOT_INTERRUPTS,
        },
    ),
    (
        DUNDEE,
        {"hard_shutdown": _REBOOT_INTERRUPTS | {"hard_reboot"}, "hard_reboot": _REBOOT_INTERRUPTS},
    ),
    (
        CLEARWATER,
        {"hard_shutdown": frozenset({"clean_shutdown"}), "hard_reboot": frozenset({"clean_reboot"})},
    ),
)
"""What an operation cancels before it begins, the latest releases first; nothing before 6.2."""

UPGRADE_OPERATIONS = frozenset(
    "assert_operation_valid changing_memory_live changing_shadow_memory_live changing_VCPUs_live clean_reboot "
    "clean_shutdown clone copy csvm destroy export get_boot_record hard_reboot hard_shutdown import "
    "make_into_template migrate_send migrate pause pool_migrate power_state_reset provision resume resume_on send_sysrq "
    "send_trigger start start_on suspend unpause update_allowed_operations".split()
)
"""What may be done to a VM while versions are mixed: advertised by every release, enforced since 7.3."""

HOST_UPGRADE_OPERATIONS = frozenset({"evacuate", "provision"})
"""What a host advertises, and notes as going on, while versions are mixed; the rest is not refused."""

PLACING = frozenset({"provision", "vm_resume", "vm_migrate"})
EMPTYING = frozenset({"evacuate", "reboot", "shutdown"})


def power_states(operation: str, release: Release) -> tuple[str, ...]:
    """The power states in which `operation` is legal on a pool whose master runs `release`."""
    since, before = POWER_STATES_UNTIL.get(operation, (ALWAYS, ()))
    return before if release.order < since else POWER_STATES[operation]


@cache
def during(release: Release) -> frozenset[tuple[str, str]]:
    """Pairs of the one operation that goes on and another that may begin."""
    return frozenset(
        (going, begins)
        for going, begins, since, until in DURING
        if since <= release.order and (until is None or release.order < until)
    )


def interrupts(release: Release, operation: str) -> frozenset[str]:
    """The operations that `operation` cancels before it begins."""
    return next((table[operation] for since, table in INTERRUPTS if since <= release.order), frozenset())


@cache
def advertised(release: Release) -> tuple[str, ...]:
    """The operations that `VM.allowed_operations` may list on a pool whose master runs `release`: none that came later."""
    model = load()
    messages = model.classes["VM"].messages
    out = []
    for name in model.enums["vm_operations"]:
        message = messages.get(name)
        since = model.order(message.since) if message is not None else CAME_WITH.get(name, release.order)
        if since <= release.order and (
            name in ADVERTISED_THEN if release.order <= GEORGE else name not in NEVER_ADVERTISED
        ):
            out.append(name)
    return tuple(out)


@cache
def advertised_by_hosts(release: Release) -> tuple[str, ...]:
    """The operations that `host.allowed_operations` may list."""
    model = load()
    messages = model.classes["host"].messages
    known = {name: messages[name] for name in ("evacuate", "power_on") if name in messages}
    out = [
        name
        for name in model.enums["host_allowed_operations"]
        if name not in known or model.order(known[name].since) <= release.order
    ]
    return tuple(name for name in out if release.order >= NILE or name not in ("apply_updates", "enable"))


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
    return (_numbers(software.get("product_version", "0.0.0")),)


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


def of_masters_version(store: Store, host: Row) -> bool:
    """Whether `host` has the version that the master has."""
    return versions(host, store.release) == versions(store.get("host", store.pool()["master"]), store.release)


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


def hardware_versions(release: Release) -> list[int]:
    """`host.virtual_hardware_platform_versions` of a host of `release`: 1 came with 6.5, 2 with 7.0."""
    return [0, *(version for version, since in ((1, CREAM), (2, DUNDEE)) if release.order >= since)]


# --- memory


def memory_for_vms(store: Store, host: Row) -> int:
    """Bytes of `host` that its VMs can have in all."""
    if store.release.order <= GEORGE:
        return int(host["boot_free_mem"])
    metrics = store.find("host_metrics", host["metrics"])
    return (int(metrics["memory_total"]) if metrics else 0) - int(host.get("memory_overhead", 0))


def memory_free(store: Store, host: Row, besides: str = "") -> int:
    """Bytes of `host` that are not taken by the VMs that are or will be on it, `besides` (a VM's reference) left out."""
    release, free = store.release, memory_for_vms(store, host)
    for vm in on_host(store, host):
        if vm.ref != besides:
            free -= needed(vm, release)
    return free


def on_host(store: Store, host: Row) -> Iterable[Row]:
    """The VMs that are resident on `host` or on their way to it."""
    here, coming = host["resident_VMs"], store.reserved.get(host.ref)
    return [store.get("VM", ref) for ref in (dict.fromkeys((*here, *coming)) if coming else here)]
