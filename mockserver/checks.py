"""Whether an operation may be done to a VM or to one of its block devices: checks that several verbs share, in xapi's order.

There is one list of checks; the first that finds a reason to refuse wins. `operation` holds a VM for the time of
an operation: it is checked, and shown in `current_operations`, from which follows what is allowed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING

from xenctl.datamodel import load
from xenctl.errors import Failure

from . import rules, vm_rules
from .busy import in_progress, vm_in_progress
from .call import Call, Steps, Wait, cancel, refuse
from .holding import Marked, assert_free
from .store import Row, Store

if TYPE_CHECKING:
    from xenctl.datamodel import Order
    from xenctl.releases import Release

Check = Callable[[Store, Row, str, bool], "Failure | None"]
OF_CONTROL_DOMAINS = ("changing_VCPUs", "changing_static_range", "changing_memory_limits")
"""What may be done to a control domain while it runs, since 7.1."""
PATIENCE = 1200.0
"""Simulated seconds that an operation waits for those it cancelled."""


def operation_refused(store: Store, vm: Row, operation: str, *, strict: bool = True) -> Failure | None:
    """The first reason why `operation` may not be done to `vm`, as an error; None where it may."""
    for check in _checks(operation):
        refused = check(store, vm, operation, strict)
        if refused is not None:
            return refused
    return None


def spelled(operation: str) -> str:
    """An operation as errors name it."""
    return rules.SPELLED.get(operation, operation)


def _blocked(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    reasons = vm.get("blocked_operations", {})
    return refuse("OPERATION_BLOCKED", vm.ref, reasons[operation]) if operation in reasons else None


def _power_state(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """Up to 5.6 that of a busy VM counted for nothing."""
    if vm["current_operations"] and store.release.order < rules.BOSTON:
        return None
    legal = _power_states(store, vm, operation)
    if vm["power_state"] in legal:
        return None
    expected = ", ".join(state.lower() for state in legal)
    return refuse("VM_BAD_POWER_STATE", vm.ref, expected, vm["power_state"].lower())


def _power_states(store: Store, vm: Row, operation: str) -> tuple[str, ...]:
    """The power states in which `operation` may be done to this VM."""
    order = store.release.order
    if operation in OF_CONTROL_DOMAINS and vm["is_control_domain"] and order >= rules.ELY:
        return "Halted", "Running"
    if operation in ("clone", "copy") and order >= rules.TAMPA and _clones_suspended(store, vm):
        return "Halted", "Suspended"
    return rules.power_states(operation, store.release)


def _clones_suspended(store: Store, vm: Row) -> bool:
    return bool(vm.get("is_a_snapshot")) or store.pool()["other_config"].get("allow_clone_suspended_vm") == "true"


def _busy(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    return _in_progress(store, vm) if vm["current_operations"] and not _beside(store, vm, operation) else None


def _beside(store: Store, vm: Row, operation: str) -> bool:
    """Whether `operation` may begin beside those that go on."""
    names = list(vm["current_operations"].values())
    going = set(names)
    if _together(going, operation) or (len(names) == 1 and (names[0], operation) in rules.during(store.release)):
        return True
    if store.release.order < rules.DUNDEE:
        return False
    if operation == "hard_shutdown":
        return "hard_shutdown" not in going
    return operation == "hard_reboot" and not going & {"hard_shutdown", "hard_reboot"}


def _in_progress(store: Store, vm: Row) -> Failure:
    """The error for a VM that is busy: its operations, and the tasks that do them."""
    tasks, names = list(vm["current_operations"]), [spelled(name) for name in vm["current_operations"].values()]
    if len(tasks) == 1:
        return vm_in_progress(store, vm.ref, names[0], tasks[0])
    return vm_in_progress(store, vm.ref, f"{{{','.join(names)}}}", f"{{{','.join(tasks)}}}")


def _together(going: set[str], operation: str) -> bool:
    return any(operation in group and going <= group for group in rules.TOGETHER)


def is_default_template(vm: Row) -> bool:
    """Whether a template came with the product."""
    return bool(vm.get("is_default_template")) or vm["other_config"].get("default_template") == "true"


def _template(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """Up to 5.5 the error did not say what was to be done."""
    if not vm["is_a_template"] or vm.get("is_a_snapshot"):
        return None
    order = store.release.order
    since = rules.TEMPLATE_OPERATIONS.get(operation)
    if since is not None and since <= order:
        return None
    since = rules.OWN_TEMPLATE_OPERATIONS.get(operation)
    if since is not None and since <= order and not is_default_template(vm):
        return None
    return refuse("VM_IS_TEMPLATE", vm.ref, *([] if order <= rules.GEORGE else [spelled(operation)]))


def _snapshot(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    if not vm.get("is_a_snapshot") or operation in rules.SNAPSHOT_OPERATIONS:
        return None
    return refuse("VM_IS_SNAPSHOT", vm.ref, spelled(operation))


def _provision(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    if operation == "provision" and not vm["is_a_template"]:
        return refuse("PROVISION_ONLY_ALLOWED_ON_TEMPLATE")
    return None


def _revert(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    if operation == "revert" and not vm.get("is_a_snapshot"):
        return refuse("REVERT_ONLY_ALLOWED_ON_SNAPSHOT")
    return None


def _control_domain(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    if not vm["is_control_domain"]:
        return None
    order, since = store.release.order, rules.DOM0_OPERATIONS.get(operation)
    if order >= rules.ELY and vm_rules.is_domain_zero(vm) and operation in ("changing_VCPUs", "destroy"):
        return refuse("OPERATION_NOT_ALLOWED", "This operation is not allowed on dom0")
    if since is not None and since <= order:
        return None
    return refuse("OPERATION_NOT_ALLOWED", _ON_CONTROL_DOMAINS[order >= rules.ELY])


_ON_CONTROL_DOMAINS = {
    False: "Operations on domain 0 are not allowed",
    True: "This operation is not allowed on a control domain",
}
"""How control domains are left alone, up to 7.0 and since."""


DRIVERS = frozenset("clean_shutdown clean_reboot changing_VCPUs_live".split())
"""What a guest with hardware virtualisation does only with drivers."""
NEEDS_DRIVERS: tuple[tuple[Order, frozenset[str]], ...] = (
    (rules.CREAM, DRIVERS),
    (rules.TAMPA, DRIVERS | vm_rules.MOVES_MEMORY),
    (rules.BOSTON, frozenset({"suspend", "checkpoint", "pool_migrate"})),
    (rules.MIDNIGHT_RIDE, DRIVERS | {"suspend", "checkpoint", "pool_migrate"}),
    (rules.ALWAYS, DRIVERS | {"suspend", "pool_migrate"}),
)
"""The operations for which a guest was asked for drivers before 7.0, by release, the latest first."""
NEEDS_GUEST = vm_rules.MOVES_MEMORY | DRIVERS
"""The operations that a guest must do its part in."""
SAYS_WHY = load().order("25.24.0")
"""From when on a guest may say why it must not be suspended, and paused ones are looked at, too."""
SHUTS_DOWN = {"clean_shutdown": "feature-poweroff", "clean_reboot": "feature-reboot"}
LACKING = {**dict.fromkeys(SHUTS_DOWN, "_SHUTDOWN"), "changing_VCPUs_live": "_VCPU_HOTPLUG"}
"""How the error for a feature that a guest lacks ended in 7.0, by operation; `_SUSPEND` for any other."""


def _features(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """What the guest must support: since 7.0 by the features that it names, before by its drivers."""
    if store.release.order < rules.DUNDEE:
        return _drivers_lacking(store, vm, operation)
    told = store.release.order >= SAYS_WHY
    live = vm["power_state"] in ("Running", "Paused") if told else vm["power_state"] == "Running"
    agent = store.find("VM_guest_metrics", vm["guest_metrics"])
    other = agent["other"] if agent is not None else {}
    if told and live and operation in vm_rules.MOVES_MEMORY and "data-cant-suspend-reason" in other:
        return refuse("VM_NON_SUSPENDABLE", vm.ref, other["data-cant-suspend-reason"])
    if not live or not is_hvm(vm) or drivers(agent) is not None:
        return None
    lacks = (
        (strict and operation in vm_rules.MOVES_MEMORY and other.get("feature-suspend") != "1")
        or (strict and operation in SHUTS_DOWN and not _hears(other, operation))
        or (operation == "changing_VCPUs_live" and other.get("feature-vcpu-hotplug") != "1")
    )
    which = LACKING.get(operation, "_SUSPEND") if store.release.order < rules.ELY else ""
    return refuse(f"VM_LACKS_FEATURE{which}", vm.ref) if lacks else None


def deaf(store: Store, vm: Row) -> bool:
    """Whether nothing in a guest hears that it is to shut down, whatever it does and whatever else forbids it."""
    agent = store.find("VM_guest_metrics", vm["guest_metrics"])
    return is_hvm(vm) and drivers(agent) is None and not _hears(agent["other"] if agent else {}, "clean_shutdown")


def _hears(other: Mapping[str, str], operation: str) -> bool:
    """Whether a guest names a feature that lets it shut down when it is told to."""
    return "1" in map(other.get, ("feature-shutdown", SHUTS_DOWN[operation]))


def is_hvm(vm: Row) -> bool:
    """Whether a VM runs with hardware virtualisation, so that it needs drivers to work with xapi."""
    domain_type = vm.get("domain_type", "unspecified")
    return bool(vm["HVM_boot_policy"]) if domain_type == "unspecified" else domain_type == "hvm"


def needs_virtualisation(vm: Row) -> bool:
    """Whether a VM runs only where the processor virtualises: it is fully virtual, or of a kind that uses that, too."""
    return is_hvm(vm) or vm.get("domain_type") in ("pvh", "pv_in_pvh")


def drivers(agent: Row | None) -> tuple[int, int] | None:
    """The version of a guest's drivers, where it reports one."""
    version = agent["PV_drivers_version"] if agent is not None else {}
    major, minor = version.get("major", ""), version.get("minor", "")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def drivers_refused(store: Store, vm: Row) -> Failure:
    """The error for a guest without drivers, or with too old ones: it names the guest, up to 5.6 of old ones its metrics."""
    agent = store.find("VM_guest_metrics", vm["guest_metrics"])
    version = drivers(agent)
    if agent is None or version is None:
        return refuse("VM_MISSING_PV_DRIVERS", vm.ref)
    whose = vm.ref if store.release.order >= rules.COWLEY else agent.ref
    return refuse("VM_OLD_PV_DRIVERS", whose, *version, agent["PV_drivers_version"].get("micro", "-1"))


def _drivers_lacking(store: Store, vm: Row, operation: str) -> Failure | None:
    """The error for a running guest whose drivers cannot do their part in an operation, before 7.0.

    Up to 5.6 drivers of version 3 could not move, guests without hardware virtualisation needed some for that, too, and
    Red Hat Enterprise Linux 3 was told apart. In 6.1 and 6.2 only a guest with it is asked, whatever the version, and since
    6.2 not for what its `platform:unrestricted_save` takes upon itself.
    """
    order = store.release.order
    needing = next(operations for since, operations in NEEDS_DRIVERS if since <= order)
    if operation not in needing or vm["power_state"] != "Running":
        return None
    moves = operation in vm_rules.MOVES_MEMORY
    if moves and order >= rules.CLEARWATER and vm_rules.is_true(vm["platform"].get(UNRESTRICTED, "")):
        return None
    agent = store.find("VM_guest_metrics", vm["guest_metrics"])
    version = drivers(agent)
    if is_hvm(vm) and version is None:
        if order <= rules.GEORGE:
            text = f"{operation} not possible for HVM domains (are PV drivers installed?)"
            return refuse("OPERATION_NOT_ALLOWED", text)
        return refuse("VM_MISSING_PV_DRIVERS", vm.ref)
    if order >= rules.BOSTON:
        return None
    several = operation == "changing_VCPUs_live" or int(vm["VCPUs_max"]) != 1
    if agent is not None and is_rhel3(agent) and several and operation in OF_RHEL3:
        return refuse("OPERATION_NOT_ALLOWED", f"{operation} not possible for SMP RHEL 3 linux guests")
    if not moves or (version is not None and version[0] >= OLDEST_THAT_MOVES):
        return None
    return drivers_refused(store, vm)


UNRESTRICTED = "unrestricted_save"
OF_RHEL3 = ("suspend", "pool_migrate", "changing_VCPUs_live")
OLDEST_THAT_MOVES = 4
"""The major version of the oldest drivers with which a guest could be saved or moved."""


def is_rhel3(agent: Row) -> bool:
    """Whether a guest runs Red Hat Enterprise Linux 3."""
    told = agent["os_version"]
    return (told.get("distro"), told.get("major")) == ("rhel", "3")


def _suspended_clone(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """Up to 6.0 whether a suspended VM may be cloned was asked late; since, that is a matter of power states."""
    if store.release.order >= rules.TAMPA or operation not in ("clone", "copy"):
        return None
    if vm["power_state"] == "Suspended" and not _clones_suspended(store, vm):
        return refuse("VM_BAD_POWER_STATE", vm.ref, "halted", "suspended")
    return None


ANY: frozenset[str] = frozenset()
"""For checks that look at every operation."""
CHECKS: tuple[tuple[Check, frozenset[str]], ...] = (
    (_blocked, ANY),
    (_power_state, ANY),
    (_busy, ANY),
    (_template, ANY),
    (_snapshot, ANY),
    (_provision, frozenset({"provision"})),
    (_revert, frozenset({"revert"})),
    (vm_rules.immobile, vm_rules.MOVES_MEMORY),
    (vm_rules.nested, frozenset({"changing_dynamic_range"})),
    (_control_domain, ANY),
    (_features, NEEDS_GUEST),
    (_suspended_clone, frozenset({"clone", "copy"})),
    (vm_rules.quiesce, frozenset({"snapshot_with_quiesce"})),
    (vm_rules.on_boot, vm_rules.COPIES_DISKS | {"pool_migrate"}),
    (vm_rules.pinned, vm_rules.MOVES_MEMORY | {"snapshot"}),
    (vm_rules.membership, frozenset({"make_into_template"})),
    (vm_rules.system_domain, frozenset({"query_services"})),
    (vm_rules.upgrading, ANY),
    (vm_rules.one_vtpm, frozenset({"create_vtpm"})),
)
"""In xapi's order, each with the operations that it looks at. What a release did not ask for yet, its check passes."""


@cache
def _checks(operation: str) -> tuple[Check, ...]:
    """The checks that look at one operation."""
    return tuple(check for check, operations in CHECKS if not operations or operation in operations)


# --- what is allowed


def allowed_operations(store: Store, vm: Row) -> list[str]:
    """What may be done to `vm` now."""
    names: Iterable[str] = rules.advertised(store.release)
    if rules.upgrading(store):
        names = [name for name in names if name in rules.UPGRADE_OPERATIONS]
    plausible = [name for name in names if _plausible(store, vm, name)]
    return [name for name in plausible if operation_refused(store, vm, name) is None]


def _plausible(store: Store, vm: Row, operation: str) -> bool:
    """Whether neither power state nor what goes on forbids an operation. It makes no error, since few are ever read."""
    current, legal = vm["current_operations"], vm["power_state"] in _power_states(store, vm, operation)
    if store.release.order < rules.BOSTON:
        return _beside(store, vm, operation) if current else legal
    return legal and (not current or _beside(store, vm, operation))


def operation(call: Call, vm: Row, name: str, *, strict: bool = True) -> Marked:
    """Hold `vm` for an operation. Raises what forbids it."""
    assert_free(call, vm, name, operation_refused if strict else _refused_at_all)
    return Marked(call, vm, name)


def _refused_at_all(store: Store, vm: Row, operation: str) -> Failure | None:
    return operation_refused(store, vm, operation, strict=False)


def interrupt(call: Call, vm: Row, name: str) -> Steps:
    """Cancel what `name` cancels before it begins, and wait until it is over."""
    cancelled = rules.interrupts(call.db.release, name)
    going = [task for task, op in vm["current_operations"].items() if op in cancelled]
    for task in going:
        if call.db.find("task", task) is not None:
            cancel(call.pool, task, call.task)
    if any(task in vm["current_operations"] for task in going):
        left = set(going)
        yield Wait(call.clock.now() + PATIENCE, lambda: not left & set(vm["current_operations"]), idle=False)


# --- block devices

IN_THE_WAY = ("clean_shutdown", "hard_shutdown", "suspend", "pause")
"""What goes on with a VM while none of its devices is plugged or unplugged."""
HARMLESS_TO_DISKS = ((rules.INVERNESS, ("mirror", "copy")), (rules.CREAM, ("copy",)), (rules.ALWAYS, ()))
"""What may be done to a disk while it is given to a VM, and since when."""

BESIDE: dict[str, tuple[str, ...]] = {"pause": ("pause", "unpause"), "unpause": ("pause", "unpause", "attach")}
"""The operations beside which another may begin on the same block device; any other goes alone."""


def vbd_refused(store: Store, vbd: Row, operation: str, *, full: bool = True) -> Failure | None:
    """The first reason why `operation` may not be done to a VBD. What other VBDs of its disk forbid is looked at only in a
    `full` check: `allowed_operations` leaves it out."""
    vm = store.get("VM", vbd["VM"])
    for refused in _vbd_reasons(store, vbd, vm, operation):
        return refused
    return _disk_refused(store, vbd, operation) if full else None


def _vbd_reasons(store: Store, vbd: Row, vm: Row, operation: str) -> Iterator[Failure]:
    attached, state, order = vbd["currently_attached"], vm["power_state"], store.release.order
    for task, going in vbd["current_operations"].items():
        if going not in BESIDE.get(operation, ()):
            yield in_progress(store, "VBD", vbd.ref, going, task)
    if operation in ("unplug", "unplug_force") and not vbd.get("unpluggable", True):
        yield refuse("VBD_NOT_UNPLUGGABLE", vbd.ref)
    if operation in ("insert", "eject") and vbd["type"] != "CD":
        yield refuse("VBD_NOT_REMOVABLE_MEDIA", vbd.ref)
    if operation == "eject" and vbd["empty"]:
        yield refuse("VBD_IS_EMPTY", vbd.ref)
    if operation == "insert" and not vbd["empty"]:
        yield refuse("VBD_NOT_EMPTY", vbd.ref)
    if operation in ("plug", "unplug", "unplug_force"):
        if state != "Running":
            yield refuse("VM_BAD_POWER_STATE", vm.ref, "running", state.lower())
        if operation == "plug" and (attached or vbd["reserved"]):
            yield refuse("DEVICE_ALREADY_ATTACHED", vbd.ref)
        if operation != "plug" and not (attached or vbd["reserved"]):
            yield refuse("DEVICE_ALREADY_DETACHED", vbd.ref)
    pausing = ("Running",) if order <= rules.GEORGE else ("Running", "Paused")
    if operation in ("pause", "unpause") and state not in pausing:
        yield refuse("VM_BAD_POWER_STATE", vm.ref, "running", state.lower())
    if operation in ("plug", "unplug"):
        yield from plugging_hindered(store, vm)
    if operation in ("plug", "unplug", "unplug_force") and is_hvm(vm):
        yield from hotplug_lacking(store, vm, "VBD")
        if vbd["type"] == "CD":
            text = "HVM CDROMs cannot be hotplugged/unplugged, only inserted or ejected"
            yield refuse("OPERATION_NOT_ALLOWED", text)
    if operation in ("insert", "eject") and state == "Suspended" and order >= rules.TAMPA:
        yield refuse("VM_BAD_POWER_STATE", vm.ref, "halted, running", "suspended")
    vdi = store.find("VDI", vbd["VDI"]) if not vbd["empty"] else None
    if vdi is not None and not vdi["managed"]:
        yield refuse("VDI_NOT_MANAGED", vbd.ref)
    if vdi is not None and operation in ("attach", "plug", "insert"):
        beside = next(operations for since, operations in HARMLESS_TO_DISKS if since <= order)
        for task, going in vdi["current_operations"].items():
            if going not in beside:
                yield in_progress(store, "VDI", vdi.ref, going, task, names=True)


def plugging_hindered(store: Store, vm: Row) -> Iterator[Failure]:
    """Why no device of a VM is plugged or unplugged now, as releases since 7.0 say: the VM goes to another power state."""
    for going in vm["current_operations"].values() if store.release.order >= rules.DUNDEE else ():
        if going in IN_THE_WAY:
            yield refuse("OPERATION_NOT_ALLOWED", f"Current operation on VM:{vm.ref} is {spelled(going)}")


def hotplug_lacking(store: Store, vm: Row, device: str) -> Iterator[Failure]:
    """Why a `VBD` or `VIF` of a running HVM guest cannot be plugged. Since 7.0 a guest says whether it can; before, and
    where it says nothing, the version of its drivers tells. Since 7.1 it is enough that there are some, and up to 6.1 they
    had to be up to date."""
    agent, order = store.find("VM_guest_metrics", vm["guest_metrics"]), store.release.order
    claim = agent.get(f"can_use_hotplug_{device.lower()}", "unspecified") if agent is not None else "unspecified"
    if claim == "no":
        yield refuse("OPERATION_NOT_ALLOWED", f"VM states it does not support {device} hotplug.")
    detected = order >= rules.ELY and agent is not None and agent.get("PV_drivers_detected", False)
    outdated = order < rules.CLEARWATER and agent is not None and not agent["PV_drivers_up_to_date"]
    if claim == "unspecified" and not detected and (drivers(agent) is None or outdated):
        yield drivers_refused(store, vm)


def _disk_refused(store: Store, vbd: Row, operation: str) -> Failure | None:
    """Why the disk behind a VBD cannot be given to its VM now: nobody else may write to it meanwhile. Up to 6.0 a writer
    did not mind readers, and control domains had no leave to share, but for what is attached to boot a VM."""
    vdi = store.find("VDI", vbd["VDI"])
    if vdi is None or vbd["currently_attached"] or operation not in ("attach", "plug", "insert"):
        return None
    then = store.release.order < rules.TAMPA
    others = [row for row in store.rows("VBD", vdi["VBDs"]) if row is not vbd]
    vm = store.find("VM", vbd["VM"])
    system = vm is not None and _is_system_domain(vm)
    active = [row for row in others if _uses_disk(row, then and system) and not _harmless(store, row, then)]
    written = any(row["mode"] == "RW" for row in active)
    needed = vbd["mode"] == "RW" and not then
    shares = vdi["sharable"] or (system and not then)
    if not shares and active and (written or needed):
        return refuse("VDI_IN_USE", vdi.ref)
    if vbd["mode"] == "RW" and vdi["read_only"]:
        return refuse("VDI_READONLY", vdi.ref)
    return None


def _uses_disk(vbd: Row, booting: bool) -> bool:
    """Whether a device uses its disk, or is about to; not where that is to boot its VM and a control domain looks in."""
    going = vbd["current_operations"].values()
    return bool(vbd["currently_attached"] or vbd["reserved"] or any(not booting or name != "attach" for name in going))


def _harmless(store: Store, vbd: Row, then: bool) -> bool:
    """Whether the VM behind a device uses nothing now, being suspended, or may share disks, being a system domain."""
    vm = store.find("VM", vbd["VM"])
    return vm is not None and (vm["power_state"] == "Suspended" or (not then and _is_system_domain(vm)))


def _is_system_domain(vm: Row) -> bool:
    return bool(vm["is_control_domain"]) or vm_rules.offers_services(vm)


def attachment_refused(store: Store, vm: Row) -> Failure | None:
    """The first reason why a disk of `vm` cannot be given to it."""
    for vbd in store.rows("VBD", vm["VBDs"]):
        refused = vbd_refused(store, vbd, "attach")
        if refused is not None:
            return refused
    return None


def vbd_operations(release: Release) -> Iterable[str]:
    """The operations that `VBD.allowed_operations` may list; pausing came with 4.1.1."""
    late = () if release.order <= rules.MIAMI else ("pause", "unpause")
    return ("attach", "eject", "insert", "plug", "unplug", "unplug_force", *late)


def vbd_allowed_operations(store: Store, vbd: Row) -> list[str] | None:
    """What may be done to a VBD now; None for one without a VM."""
    if store.find("VM", vbd["VM"]) is None:
        return None
    return [name for name in vbd_operations(store.release) if vbd_refused(store, vbd, name, full=False) is None]


def vbd_operation(call: Call, vbd: Row, name: str) -> Marked:
    """Hold a VBD for an operation. Raises what forbids it."""
    assert_free(call, vbd, name, vbd_refused)
    return Marked(call, vbd, name)


def assert_not_migrating(store: Store, vm: Row) -> None:
    """Raise for a VM that is on its way to another host: its devices must not change meanwhile."""
    for task, going in vm["current_operations"].items():
        if going in ("pool_migrate", "migrate_send"):
            raise in_progress(store, "VM", vm.ref, going, task)
