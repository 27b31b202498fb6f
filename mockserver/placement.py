"""Where a VM may run: whether a host can take it, which host a start chooses, and where the guests of a host can go."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from xenctl import memory
from xenctl.errors import Failure

from . import binpack, checks, hosts, leaving, network_rules, passthrough, processors, rules
from .call import Call, refuse
from .store import Row, Store

if TYPE_CHECKING:
    from .pool import MockPool


def assert_can_boot_here(
    pool: MockPool, vm: Row, host: Row, *, enough_memory: bool = True, with_storage: bool = True, asker: str = ""
) -> None:
    """Raise the first reason why `vm` cannot run on `host`; without `enough_memory` that it has no room counts for
    nothing, without `with_storage` that it does not reach the disks. Processors are looked at for an `asker`, one of
    `processors.ASKED_SINCE`."""
    _assert_bootable(pool.store, vm)
    _assert_fits(pool.store, vm, host, Needs.of(pool.store, vm, with_storage=with_storage), asker)
    if enough_memory:
        assert_memory(pool, vm, host)
    assert_enough_pcpus(pool.store, vm, host)


class Needs(NamedTuple):
    """What a VM needs to reach, wherever it runs: its storage and networks, each with the hosts that reach it."""

    storage: tuple[tuple[str, set[str]], ...]
    networks: tuple[tuple[str, set[str]], ...]

    @classmethod
    def of(cls, store: Store, vm: Row, *, with_storage: bool = True) -> Needs:
        """The needs of `vm`, those of its disks left out where they do not count."""
        storage = []
        for sr in required_srs(store, vm) if with_storage else ():
            pbds = store.rows("PBD", store.get("SR", sr)["PBDs"])
            storage.append((sr, {pbd["host"] for pbd in pbds if pbd["currently_attached"]}))
        networks = store.rows("network", [vif["network"] for vif in store.rows("VIF", vm["VIFs"])])
        wired = [(n.ref, {pif["host"] for pif in store.rows("PIF", n["PIFs"])}) for n in networks if n["PIFs"]]
        return cls(tuple(storage), tuple(wired))


def _assert_fits(store: Store, vm: Row, host: Row, needs: Needs, asker: str = "") -> None:
    """Raise the first reason why `vm` cannot run on `host`, numbers apart."""
    if not hosts.live(store, host):
        raise refuse("HOST_NOT_LIVE")
    if not host["enabled"] and not vm["is_control_domain"]:
        raise refuse("HOST_DISABLED", host.ref)
    assert_platform_known(vm, host)
    if asker and vm["power_state"] != "Halted":
        processors.assert_compatible(store, vm, host, asker)
    _assert_reaches(vm, host, needs)
    for network, reaching in needs.networks:
        if host.ref not in reaching:
            raise refuse("VM_REQUIRES_NETWORK", vm.ref, network)
    passthrough.assert_available(store, vm, host)
    if checks.needs_virtualisation(vm) and not any("hvm" in capability for capability in host["capabilities"]):
        raise refuse("VM_HVM_REQUIRED", vm.ref)


def _assert_reaches(vm: Row, host: Row, needs: Needs) -> None:
    for sr, reaching in needs.storage:
        if host.ref not in reaching:
            raise refuse("VM_REQUIRES_SR", vm.ref, sr)


def assert_reaches_storage(store: Store, vm: Row, host: Row) -> None:
    """Raise `VM_REQUIRES_SR` where `host` has not plugged all storage of `vm`."""
    _assert_reaches(vm, host, Needs.of(store, vm))


def assert_platform_known(vm: Row, host: Row) -> None:
    """Raise where a host does not emulate the hardware platform that a VM expects, by its version; every host does 0."""
    version = vm.get("hardware_platform_version", 0)
    if version and version not in host["virtual_hardware_platform_versions"]:
        known = "; ".join(map(str, host["virtual_hardware_platform_versions"]))
        code = "VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION"
        raise refuse(code, host.ref, f"[{known}]", vm.ref, version)


def _assert_bootable(store: Store, vm: Row) -> None:
    """Raise for settings with which no host would start a VM."""
    passthrough.assert_supported(store, vm)
    most, first, crash = vm["VCPUs_max"], vm["VCPUs_at_startup"], vm["actions_after_crash"]
    if most < 1:
        raise refuse("INVALID_VALUE", "VCPUs_max", most)
    if first < 1:
        raise refuse("INVALID_VALUE", "VCPUs-at-startup", first)
    if first > most:
        raise refuse("VALUE_NOT_SUPPORTED", "VCPUs-at-startup", first, "value greater than VCPUs-max")
    if vm["memory_static_max"] < vm["memory_static_min"] or vm["memory_dynamic_max"] < vm["memory_dynamic_min"]:
        raise refuse("MEMORY_CONSTRAINT_VIOLATION")
    if float(vm.get("HVM_shadow_multiplier", 1.0)) < 1.0:
        raise refuse("INVALID_VALUE", "HVM_shadow_multiplier", ocaml_float(vm["HVM_shadow_multiplier"]))
    if crash == "rename_restart" or (crash.startswith("coredump") and checks.is_hvm(vm)):
        raise refuse("VALUE_NOT_SUPPORTED", "VM.actions_after_crash", crash, _UNSUPPORTED[crash == "rename_restart"])


_UNSUPPORTED = {
    True: "option would leak a domain; VMs and not domains are managed by this API",
    False: "cannot invoke a coredump of an HVM, PVH or PV-in-PVH domain",
}


def ocaml_float(number: float) -> str:
    """A number as xapi's errors spell it: with a point even if nothing follows."""
    text = f"{number:.12g}"
    return text if any(sign in text for sign in ".en") else f"{text}."


def assert_enough_pcpus(store: Store, vm: Row, host: Row) -> None:
    """Raise where a VM has more virtual processors than the host has real ones, since 7.1."""
    count = (host.get("cpu_info") or {}).get("cpu_count", "")
    if store.release.order < rules.ELY or not count.isdigit() or vm["VCPUs_max"] <= int(count):
        return
    if vm["platform"].get("vcpu-unrestricted", "") not in ("true", "1"):
        raise refuse("HOST_NOT_ENOUGH_PCPUS", vm["VCPUs_max"], count)


def assert_memory(pool: MockPool, vm: Row, host: Row) -> None:
    """Raise `HOST_NOT_ENOUGH_FREE_MEMORY` where `host` has no room for `vm`; up to 5.5 what is available came first."""
    store, release = pool.store, pool.store.release
    needed, free = memory.needed(vm, release), rules.memory_free(store, host, besides=vm.ref)
    if needed > free:
        order = (free, needed) if release.order <= rules.GEORGE else (needed, free)
        raise refuse("HOST_NOT_ENOUGH_FREE_MEMORY", *order)


def required_srs(store: Store, vm: Row, *, image: bool = True) -> Iterable[str]:
    """The storage repositories that `vm` needs to run: those of its disks, CDs, and, with `image`, its suspend image."""
    vdis = [vbd["VDI"] for vbd in store.rows("VBD", vm["VBDs"]) if not vbd["empty"]]
    if image and vm["power_state"] == "Suspended":
        vdis.append(vm["suspend_VDI"])
    known = store.table("SR")
    return dict.fromkeys([row["SR"] for row in store.rows("VDI", vdis) if row["SR"] in known])


def assert_stays(call: Call, host: Row) -> None:
    """Raise for a host that is being emptied, on which no VM is started since 6.2."""
    if call.at_least(rules.CLEARWATER) and "evacuate" in host["current_operations"].values():
        raise refuse("HOST_EVACUATE_IN_PROGRESS", host.ref)


def assert_seen(call: Call, vm: Row, *more: str, image: bool = True) -> None:
    """Raise `NO_HOSTS_AVAILABLE` unless some live host has all storage of `vm` plugged, and `more`; without `image` that of
    its suspend image does not count."""
    needed, store = {*required_srs(call.db, vm, image=image), *more}, call.db
    if not any(hosts.sees(store, host, needed) for host in store.table("host").values()):
        raise refuse("NO_HOSTS_AVAILABLE")


def choose_host(pool: MockPool, vm: Row) -> Row:
    """The host on which a start or resume puts `vm`: its affinity if it can, else the one with most memory free. Raises
    `NO_HOSTS_AVAILABLE`. Since 5.6 a host that lacks nothing but memory is chosen where no other is left."""
    store = pool.store
    chosen = store.find("host", vm["scheduled_to_be_resident_on"])
    if chosen is not None:
        return chosen
    fitting = _fitting(store, vm)
    free = {host.ref: rules.memory_free(store, host, besides=vm.ref) for host in fitting}
    needed = memory.needed(vm, store.release)
    possible = [host for host in fitting if free[host.ref] >= needed]
    if not possible and store.release.order > rules.GEORGE:
        possible = fitting
    if not possible:
        raise refuse("NO_HOSTS_AVAILABLE")
    home = [host for host in possible if host.ref == vm["affinity"]]
    return home[0] if home else max(possible, key=lambda host: free[host.ref])


def _fitting(store: Store, vm: Row) -> list[Row]:
    """The hosts that could run `vm` if they had room."""
    try:
        _assert_bootable(store, vm)
    except Failure:
        return []
    needs = Needs.of(store, vm)
    return [host for host in store.table("host").values() if _can_take(store, vm, host, needs)]


def fitting(pool: MockPool, vm: Row, *, asker: str = "choose") -> list[Row]:
    """The hosts that could run `vm`, and have room for it."""
    out = []
    for host in filter(partial(_takes_guests, pool.store), pool.store.table("host").values()):
        with suppress(Failure):
            assert_can_boot_here(pool, vm, host, asker=asker)
            out.append(host)
    return out


def _takes_guests(store: Store, host: Row) -> bool:
    return "evacuate" not in host["current_operations"].values() and not rules.placing_refused(store, host)


def _can_take(store: Store, vm: Row, host: Row, needs: Needs) -> bool:
    if not _takes_guests(store, host):
        return False
    try:
        _assert_fits(store, vm, host, needs, "choose")
        assert_enough_pcpus(store, vm, host)
    except Failure:
        return False
    return True


def host_named(call: Call, ref: str) -> Row:
    """The host that a call names to start or resume a VM on; since 6.0 its version is looked at before everything else."""
    host = call.db.get("host", ref)
    if rules.placing_refused(call.db, host):
        raise refuse("NOT_SUPPORTED_DURING_UPGRADE")
    return host


# --- emptying a host


def evacuation_targets(store: Store, host: Row) -> list[Row]:
    """The hosts that may take the guests of `host`: up to 5.6 those of the master's version, since then those not older."""
    others = [h for h in store.table("host").values() if h is not host and h["enabled"]]
    if store.release.order >= rules.BOSTON:
        return [h for h in others if rules.at_least(h, host, store.release)]
    master = store.get("host", store.pool()["master"])
    version = master["software_version"].get("product_version")
    return [h for h in others if h["software_version"].get("product_version") == version]


_UNPROTECTED = {False: "HOST_NOT_ENOUGH_FREE_MEMORY", True: "HOST_EVACUATE_VM_NOT_HA_PROTECTED"}
"""What is said of guests that high availability does not protect: something of its own only in releases that came after
XenServer 8 (the toolstack's history of June 2026)."""


def evacuation(pool: MockPool, host: Row, *, protected_only: bool = True) -> dict[str, Row | Failure]:
    """What would become of each guest of `host`: the host it goes to, or the error that keeps it.

    Since 5.6 it must be able to run on every host that may take guests, not only on the one that memory alone chooses. With
    high availability only guests that it protects may leave, unless that is asked for without `protected_only`.
    """
    store = pool.store
    guests = hosts.guests_of(store, host)
    targets = evacuation_targets(store, host)
    if not targets:
        code = "NO_HOSTS_AVAILABLE" if store.release.order >= rules.BOSTON else "HOST_NOT_ENOUGH_FREE_MEMORY"
        return {vm.ref: refuse(code, vm.ref) for vm in guests}
    plan: dict[str, Row | Failure] = {}
    movable: list[Row] = []
    for vm in guests:
        if protected_only and store.pool().get("ha_enabled") and not network_rules.protected(vm):
            plan[vm.ref] = refuse(_UNPROTECTED[store.release.order > rules.NILE], vm.ref)
        elif (unfit := _first_unfit(pool, vm, targets)) is not None:
            plan[vm.ref] = unfit
        else:
            movable.append(vm)
    for vm in guests:
        refused = leaving.refused(store, vm)
        if refused is not None:
            plan[vm.ref] = refused
    places = packed(store, movable, targets)
    for vm in movable:
        if vm.ref not in places:
            plan[vm.ref] = refuse("HOST_NOT_ENOUGH_FREE_MEMORY", vm.ref)
        elif vm.ref not in plan:
            target = store.get("host", places[vm.ref])
            unfit = _first_unfit(pool, vm, [target], whenever=True)
            plan[vm.ref] = target if unfit is None else unfit
    return plan


def _first_unfit(pool: MockPool, vm: Row, targets: Iterable[Row], *, whenever: bool = False) -> Failure | None:
    """Why a guest that leaves its host could not run on the first of `targets` on which it could not, memory apart; up to
    5.5 they are asked about only when they were chosen."""
    try:
        for target in targets if whenever or pool.store.release.order > rules.GEORGE else ():
            assert_can_boot_here(pool, vm, target, enough_memory=False, asker="evacuate")
    except Failure as error:
        return error
    return None


def packed(store: Store, vms: Iterable[Row], targets: Iterable[Row]) -> dict[str, str]:
    """Where VMs fit, by their memory alone: references of hosts by those of VMs. Those that fit nowhere are left out."""
    sizes = {vm.ref: memory.needed(vm, store.release) for vm in vms}
    return binpack.pack(sizes, {target.ref: rules.memory_free(store, target) for target in targets})
