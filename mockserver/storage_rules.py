"""Whether an operation may be done to a storage repository or a disk: the checks of the eras of xapi, in its order.

A list of checks is one era; the first that finds a reason to refuse wins. `allowed_operations` comes from the same lists,
so what is listed is what is not refused. What a disk's checks look at again and again is gathered once, in `DiskState`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from xenctl.datamodel import load
from xenctl.releases import Release

from . import rules
from .busy import in_progress
from .call import refuse
from .storage_drivers import capabilities, is_tools_sr

if TYPE_CHECKING:
    from xenctl.errors import Failure

    from .store import Row, Store


# --- storage repositories

SR_OPERATIONS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys("scan destroy forget plug unplug vdi_create vdi_destroy vdi_resize vdi_clone".split(), ()),
    **dict.fromkeys("vdi_snapshot vdi_introduce update".split(), ()),
    **dict.fromkeys(("pbd_create", "pbd_destroy"), rules.TAMPA),
    "vdi_mirror": rules.ELY,
    **dict.fromkeys("vdi_enable_cbt vdi_disable_cbt vdi_data_destroy vdi_list_changed_blocks".split(), rules.INVERNESS),
    "vdi_set_on_boot": rules.INVERNESS,
    "vdi_revert": load().order("26.16.0"),
}
"""The operations that are checked and may be listed in `SR.allowed_operations`, and when each came."""

NOT_DURING_UPGRADE = frozenset(
    "vdi_mirror vdi_enable_cbt vdi_disable_cbt vdi_data_destroy vdi_list_changed_blocks vdi_set_on_boot vdi_revert".split()
)
"""What may not be done to storage while versions are mixed, since 7.6."""

SR_NEEDS: dict[str, str] = {
    "vdi_create": "VDI_CREATE",
    "vdi_destroy": "VDI_DELETE",
    "vdi_resize": "VDI_RESIZE",
    "vdi_introduce": "VDI_INTRODUCE",
    "vdi_mirror": "VDI_MIRROR",
    **dict.fromkeys(
        "vdi_enable_cbt vdi_disable_cbt vdi_data_destroy vdi_list_changed_blocks".split(), "VDI_CONFIG_CBT"
    ),
    "vdi_set_on_boot": "VDI_RESET_ON_BOOT",
    "update": "SR_UPDATE",
    "vdi_revert": "VDI_REVERT",
    "vdi_snapshot": "VDI_SNAPSHOT",
}
"""The capability that an operation on storage needs. A clone needs none: xapi can copy by itself."""

SRCheck = Callable[["Store", "Row", str], "Failure | None"]


def pbds_of(store: Store, sr: Row) -> list[Row]:
    """The rows of the connections of `sr` that exist."""
    return store.rows("PBD", sr["PBDs"])


def is_plugged(store: Store, sr: Row) -> bool:
    """Whether any host has `sr` plugged."""
    pbds = store.table("PBD")
    return any(ref in pbds and pbds[ref]["currently_attached"] for ref in sr["PBDs"])


def spelled(operation: str) -> str:
    """An operation on storage as errors name it."""
    kind, _, name = operation.partition("_")
    return f"{kind.upper()}.{name}" if kind in ("vdi", "pbd") and name else operation


def _sr_upgrading(store: Store, sr: Row, operation: str) -> Failure | None:
    refused = operation in NOT_DURING_UPGRADE and store.release.order >= rules.LIMA and rules.upgrading(store)
    return refuse("NOT_SUPPORTED_DURING_UPGRADE") if refused else None


def _sr_capability(store: Store, sr: Row, operation: str) -> Failure | None:
    needed = SR_NEEDS.get(operation)
    if needed is None or (
        needed in capabilities(store, sr["type"]) and not (needed in ("VDI_CREATE", "VDI_DELETE") and is_tools_sr(sr))
    ):
        return None
    return refuse("SR_OPERATION_NOT_SUPPORTED", sr.ref)


def _sr_attached(store: Store, sr: Row, operation: str) -> Failure | None:
    if operation in ("destroy", "forget") and is_plugged(store, sr):
        return refuse("SR_HAS_PBD", sr.ref)
    return None


def _sr_unconnected(store: Store, sr: Row, operation: str) -> Failure | None:
    return refuse("SR_HAS_NO_PBDS", sr.ref) if operation == "destroy" and not pbds_of(store, sr) else None


def _sr_filled(store: Store, sr: Row, operation: str) -> Failure | None:
    """Storage with disks is not destroyed; since 6.2 those that it keeps for itself do not count."""
    if operation == "destroy":
        vdis, every = store.rows("VDI", sr["VDIs"]), store.release.order < rules.CLEARWATER
        if any(every or (vdi["managed"] and vdi["type"] != "rrd") for vdi in vdis):
            return refuse("SR_NOT_EMPTY")
    return None


def _sr_busy(store: Store, sr: Row, operation: str) -> Failure | None:
    for task, going in sr["current_operations"].items():
        if operation != "plug" or going != "plug":
            return in_progress(store, "SR", sr.ref, spelled(going), task)
    return None


def _sr_busy_then(store: Store, sr: Row, operation: str) -> Failure | None:
    for task, going in sr["current_operations"].items():
        return in_progress(store, "SR", sr.ref, spelled(going), task)
    return None


SR_CHECKS: tuple[SRCheck, ...] = (
    *(_sr_upgrading, _sr_capability, _sr_attached, _sr_unconnected, _sr_filled, _sr_busy),
)
SR_CHECKS_THEN: tuple[SRCheck, ...] = (_sr_capability, _sr_busy_then)
"""What releases up to 6.0 checked."""


def sr_refused(store: Store, sr: Row, operation: str) -> Failure | None:
    """The first reason why `operation` may not be done to `sr`, as an error; None where it may."""
    for check in SR_CHECKS if store.release.order >= rules.TAMPA else SR_CHECKS_THEN:
        refused = check(store, sr, operation)
        if refused is not None:
            return refused
    return None


@cache
def sr_operations(release: Release) -> tuple[str, ...]:
    """The operations that `SR.allowed_operations` may list."""
    return tuple(name for name, since in SR_OPERATIONS.items() if since <= release.order)


def sr_allowed_operations(store: Store, sr: Row) -> list[str]:
    """What may be done to a storage repository now."""
    return [name for name in sr_operations(store.release) if sr_refused(store, sr, name) is None]


# --- disks

VDI_ADVERTISED: dict[str, tuple[int, ...]] = {
    **dict.fromkeys("clone destroy resize update generate_config resize_online".split(), ()),
    **dict.fromkeys(("snapshot", "copy"), rules.MIDNIGHT_RIDE),
    "forget": rules.CLEARWATER,
}
"""The operations that `VDI.allowed_operations` may list, and when each came; the others it never lists."""

VDI_UPGRADE_OPERATIONS = frozenset(
    "clone copy resize resize_online snapshot destroy forget update force_unlock generate_config blocked".split()
)
"""What may be done to a disk while versions are mixed, enforced since 7.3."""

VDI_NEEDS: dict[str, str] = {
    "snapshot": "VDI_SNAPSHOT",
    "destroy": "VDI_DELETE",
    "resize": "VDI_RESIZE",
    "resize_online": "VDI_RESIZE_ONLINE",
    "update": "VDI_UPDATE",
    "generate_config": "VDI_GENERATE_CONFIG",
    **dict.fromkeys(("clone", "revert_to", "revert_from"), "VDI_CLONE"),
    "mirror": "VDI_MIRROR",
    **dict.fromkeys(("enable_cbt", "disable_cbt", "data_destroy", "list_changed_blocks"), "VDI_CONFIG_CBT"),
    "set_on_boot": "VDI_RESET_ON_BOOT",
}
"""The capability that an operation on a disk needs."""
NEEDED_SINCE = {"clone": rules.TAMPA, "snapshot": rules.INVERNESS}
"""Before these releases the operation was not looked at for what it needs."""

LIVE = frozenset("snapshot resize_online blocked clone revert_to mirror enable_cbt disable_cbt data_destroy".split())
"""What may be done to a disk that is in use."""
NOT_TO_CBT_METADATA = frozenset(
    "clone copy disable_cbt enable_cbt mirror resize resize_online snapshot revert_to revert_from set_on_boot".split()
)
OF_HA = ("ha_statefile", "redo_log")
OF_HA_THEN = ("ha_statefile", "metadata")
"""What high availability needed up to 5.6 FP1; since 7.0 it is these that are kept while it is switched on or off."""

TYPES_SPELLED: dict[str, str] = {
    **{name: name.capitalize() for name in ("system", "user", "ephemeral", "suspend", "crashdump", "metadata")},
    "ha_statefile": "HA statefile",
    "redo_log": "Redo log",
    "rrd": "rrd",
    "pvs_cache": "PVS cache",
    "cbt_metadata": "CBT metadata",
}
"""The types of disks as errors name them."""


def users(store: Store, vdi: Row) -> tuple[list[Row], Row | None]:
    """The block devices that use a disk, and one that is being changed."""
    active, changing = [], None
    for vbd in store.rows("VBD", vdi["VBDs"]):
        if vbd["currently_attached"] or vbd["reserved"]:
            active.append(vbd)
        if vbd["current_operations"] and changing is None:
            changing = vbd
    return active, changing


class DiskState(NamedTuple):
    """A disk and what its checks look at: its storage with what that can do, the block devices that use it, and one that
    is being changed."""

    store: Store
    vdi: Row
    sr: Row
    can: frozenset[str]
    active: list[Row]
    changing: Row | None

    @classmethod
    def of(cls, store: Store, vdi: Row) -> DiskState:
        sr, (active, changing) = store.get("SR", vdi["SR"]), users(store, vdi)
        return cls(store, vdi, sr, capabilities(store, sr["type"]), active, changing)

    @property
    def ref(self) -> str:
        return self.vdi.ref

    @property
    def order(self) -> tuple[int, ...]:
        """Where the pool's release stands among all."""
        return self.store.release.order


VDICheck = Callable[[DiskState, str], "Failure | None"]


def _vdi_upgrading(at: DiskState, operation: str) -> Failure | None:
    store = at.store
    refused = operation not in VDI_UPGRADE_OPERATIONS and rules.upgrading(store)
    return refuse("NOT_SUPPORTED_DURING_UPGRADE") if refused else None


def _vdi_busy(at: DiskState, operation: str) -> Failure | None:
    """One thing at a time; but copies have let others in since 6.5, and mirrors a destroy since 7.1."""
    going, order = at.vdi["current_operations"], at.order
    if not going or (operation == "destroy" and "mirror" in going.values() and order >= rules.ELY):
        return None
    for task, name in going.items():
        if name != "copy" or order < rules.CREAM:
            return in_progress(at.store, "VDI", at.ref, name, task)
    return None


def _vdi_unreachable(at: DiskState, operation: str) -> Failure | None:
    if operation == "resize" and at.order >= rules.TAMPA and not is_plugged(at.store, at.sr):
        return refuse("SR_HAS_NO_PBDS", at.sr.ref)
    return None


def _vdi_in_use(at: DiskState, operation: str) -> Failure | None:
    if not at.active or operation in LIVE:
        return None
    if operation == "copy" and at.order >= rules.CLEARWATER and all(vbd["mode"] != "RW" for vbd in at.active):
        return None
    if operation == "list_changed_blocks" and all(_of_snapshot(at.store, vbd) for vbd in at.active):
        return None
    return vdi_in_use(at.store, at.ref, operation)


def vdi_in_use(store: Store, vdi: str, operation: str) -> Failure:
    """The error for a disk that is in use; since 6.1 it names the operation."""
    return refuse("VDI_IN_USE", vdi, *([operation] if store.release.order >= rules.TAMPA else []))


def _of_snapshot(store: Store, vbd: Row) -> bool:
    vm = store.find("VM", vbd["VM"])
    return vm is not None and bool(vm.get("is_a_snapshot"))


def _vdi_in_use_then(at: DiskState, operation: str) -> Failure | None:
    """A clone of a disk in use was possible only where a suspended VM was the user and the pool allowed that."""
    if operation == "clone" and at.active:
        allowed = at.store.pool()["other_config"].get("allow_clone_suspended_vm") == "true"
        users = (at.store.find("VM", vbd["VM"]) for vbd in at.active)
        if allowed and all(vm is not None and vm["power_state"] == "Suspended" for vm in users):
            return None
        return vdi_in_use(at.store, at.ref, operation)
    return _vdi_in_use(at, operation)


def _vdi_changing(at: DiskState, operation: str) -> Failure | None:
    if at.changing is None or operation == "data_destroy":
        return None
    task, name = next(iter(at.changing["current_operations"].items()))
    return in_progress(at.store, "VDI", at.ref, name, task)


def _vdi_capability(at: DiskState, operation: str) -> Failure | None:
    needed = VDI_NEEDS.get(operation)
    if needed is None or needed in at.can or at.order < NEEDED_SINCE.get(operation, rules.ALWAYS):
        return None
    return refuse("SR_OPERATION_NOT_SUPPORTED", at.sr.ref)


def _vdi_cbt(at: DiskState, operation: str) -> Failure | None:
    if at.vdi["type"] == "cbt_metadata" and operation in NOT_TO_CBT_METADATA:
        return wrong_type(at.vdi)
    if at.vdi.get("cbt_enabled") and operation in ("mirror", "set_on_boot"):
        return refuse("VDI_CBT_ENABLED", at.ref)
    return None


def wrong_type(vdi: Row) -> Failure:
    """The error for a disk of a type that will not do."""
    return refuse("VDI_INCOMPATIBLE_TYPE", vdi.ref, TYPES_SPELLED[vdi["type"]])


def _of_ha(at: DiskState) -> Failure | None:
    """A statefile or redo log stays as it is while high availability needs it."""
    return _of_ha_on(at) or _of_ha_switching(at)


def _of_ha_on(at: DiskState) -> Failure | None:
    types = OF_HA if at.order >= rules.BOSTON else OF_HA_THEN
    return refuse("HA_IS_ENABLED") if at.vdi["type"] in types and at.store.pool().get("ha_enabled") else None


def _of_ha_switching(at: DiskState) -> Failure | None:
    if at.vdi["type"] in OF_HA_THEN and at.order >= rules.DUNDEE:
        going = at.store.pool().get("current_operations", {}).values()
        for operation, code in (("ha_enable", "HA_ENABLE_IN_PROGRESS"), ("ha_disable", "HA_DISABLE_IN_PROGRESS")):
            if operation in going:
                return refuse(code)
    return None


def _resetting(at: DiskState) -> Failure | None:
    reset = at.vdi.get("on_boot") == "reset"
    return refuse("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION") if reset else None


def _destroy(at: DiskState) -> Failure | None:
    if at.sr["type"] == "udev":
        return refuse("VDI_IS_A_PHYSICAL_DEVICE", at.ref)
    if is_tools_sr(at.sr):
        return refuse("SR_OPERATION_NOT_SUPPORTED", at.sr.ref)
    return refuse("VDI_HAS_RRDS", at.ref) if at.vdi["type"] == "rrd" else _of_ha(at)


def _forget(at: DiskState) -> Failure | None:
    return _of_ha_on(at) or (refuse("VDI_HAS_RRDS", at.ref) if at.vdi["type"] == "rrd" else None)


def _data_destroy(at: DiskState) -> Failure | None:
    if not at.vdi.get("is_a_snapshot"):
        return refuse("OPERATION_NOT_ALLOWED", f"VDI is not a snapshot: {at.ref}")
    return _destroy(at) if at.vdi.get("cbt_enabled") else refuse("VDI_NO_CBT_METADATA", at.ref)


def _snapshot(at: DiskState) -> Failure | None:
    if at.vdi["sharable"]:
        return refuse("VDI_IS_SHARABLE", at.ref)
    copied = "copy" in at.vdi["current_operations"].values() and at.order >= rules.DUNDEE
    text = "Snapshot operation not allowed during copy."
    return _resetting(at) or (refuse("OPERATION_NOT_ALLOWED", text) if copied else None)


def _copy(at: DiskState) -> Failure | None:
    text = "VDI containing HA statefile or redo log cannot be copied (check the VDI's allowed operations)."
    resetting = _resetting(at) if at.order >= rules.STOCKHOLM else None
    return resetting or (refuse("OPERATION_NOT_ALLOWED", text) if at.vdi["type"] in OF_HA else None)


def _change_cbt(at: DiskState) -> Failure | None:
    if at.vdi.get("is_a_snapshot"):
        return refuse("OPERATION_NOT_ALLOWED", f"VDI is a snapshot: {at.ref}")
    return _resetting(at) if at.vdi["type"] in ("user", "system") else wrong_type(at.vdi)


def _revert_to(at: DiskState) -> Failure | None:
    return None if at.vdi.get("is_a_snapshot") else refuse("REVERT_ONLY_ALLOWED_ON_SNAPSHOT")


OWN_RULES: dict[str, tuple[Callable[[DiskState], Failure | None], tuple[int, ...]]] = {
    "destroy": (_destroy, rules.ALWAYS),
    "revert_from": (_destroy, rules.ALWAYS),
    "forget": (_forget, rules.CLEARWATER),
    "data_destroy": (_data_destroy, rules.ALWAYS),
    "resize": (_of_ha_on, rules.ALWAYS),
    "resize_online": (_of_ha_on, rules.ALWAYS),
    "snapshot": (_snapshot, rules.MIDNIGHT_RIDE),
    "copy": (_copy, rules.TAMPA),
    "enable_cbt": (_change_cbt, rules.ALWAYS),
    "disable_cbt": (_change_cbt, rules.ALWAYS),
    "revert_to": (_revert_to, rules.ALWAYS),
}
"""What an operation asks besides what all ask, and since when."""


def _vdi_own(at: DiskState, operation: str) -> Failure | None:
    rule, since = OWN_RULES.get(operation, (None, rules.ALWAYS))
    return rule(at) if rule is not None and at.order >= since else None


VDI_CHECKS: tuple[tuple[tuple[int, ...], tuple[VDICheck, ...]], ...] = (
    (
        rules.INVERNESS,
        (_vdi_upgrading, _vdi_busy, _vdi_unreachable, _vdi_in_use, _vdi_changing, _vdi_capability, _vdi_cbt, _vdi_own),
    ),
    (
        rules.MIDNIGHT_RIDE,
        (_vdi_busy, _vdi_unreachable, _vdi_in_use, _vdi_changing, _vdi_own, _vdi_capability),
    ),
    (rules.ALWAYS, (_vdi_busy, _vdi_in_use_then, _vdi_changing, _vdi_own, _vdi_capability)),
)
"""What was checked in which order, and since when."""


def vdi_refused(store: Store, vdi: Row, operation: str) -> Failure | None:
    """The first reason why `operation` may not be done to a disk, as an error; None where it may."""
    return _first(DiskState.of(store, vdi), operation)


def _first(at: DiskState, operation: str) -> Failure | None:
    for check in next(checks for since, checks in VDI_CHECKS if since <= at.order):
        refused = check(at, operation)
        if refused is not None:
            return refused
    return None


@cache
def vdi_operations(release: Release) -> tuple[str, ...]:
    """The operations that `VDI.allowed_operations` may list."""
    return tuple(name for name, since in VDI_ADVERTISED.items() if since <= release.order)


def vdi_allowed_operations(store: Store, vdi: Row) -> list[str] | None:
    """What may be done to a disk now; None for one whose storage is not in the database."""
    if store.find("SR", vdi["SR"]) is None:
        return None
    at = DiskState.of(store, vdi)
    return [name for name in vdi_operations(store.release) if _first(at, name) is None]
