"""What a VM is given of a host's hardware, and where it can be had: graphics cards, PCI and USB devices.

A place is kept when a start chooses a host, and becomes real with the domain. A whole card (`passthrough`) or a virtual
function of one is a PCI device that the VM holds; parts of other cards are counted by their sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xenctl.errors import Failure

from . import functions, pifs, rules
from .busy import device_in_progress
from .call import refuse
from .checks import is_hvm
from .store import NULL

if TYPE_CHECKING:
    from .pool import MockPool
    from .store import Row, Store

WHOLE = "passthrough"
VIRTUAL_FUNCTIONS = frozenset({"mxgpu", "nvidia_sriov"})
"""The implementations of virtual graphics that are virtual functions of a card."""
GONE = frozenset({"gvt_g"})
"""Those that are no longer supported."""
GONE_SINCE = rules.NILE
AMD = "1002"
"""The maker of the cards whose own driver splits them."""
ALLOCATES = ("VGPU.scheduled_to_be_resident_on", "VGPU.PCI", "PCI.*", "VIF.reserved_pci")
"""What keeping a place may write."""
HOLDS = ("VGPU.resident_on", "VGPU.currently_attached", *ALLOCATES)
"""What taking it may write."""
WORST_FIRST = (
    "PGPU_INSUFFICIENT_CAPACITY_FOR_VGPU",
    "VGPU_TYPE_NOT_COMPATIBLE_WITH_RUNNING_TYPE",
    "VGPU_TYPE_NOT_ENABLED",
    "VGPU_TYPE_NOT_SUPPORTED",
)
"""Of the reasons of several cards, the one that is told."""


# --- cards


def implementation(store: Store, kind: str) -> str:
    """How a type of virtual graphics is made. Before there were types, cards were passed through whole."""
    row = store.find("VGPU_type", kind)
    return str(row.get("implementation", WHOLE)) if row is not None else WHOLE


def vgpus_of(store: Store, vm: Row) -> list[Row]:
    """The virtual graphics of a VM."""
    return store.rows("VGPU", vm.get("VGPUs", ()))


def scheduled_on(store: Store, pgpu: Row) -> list[Row]:
    """The virtual graphics that have a place on a card and are not there yet."""
    return [vgpu for vgpu in store.table("VGPU").values() if vgpu.get("scheduled_to_be_resident_on") == pgpu.ref]


def allocated_on(store: Store, pgpu: Row) -> list[Row]:
    """The virtual graphics that are on a card, or will be."""
    resident = [row for row in (store.find("VGPU", ref) for ref in pgpu.get("resident_VGPUs", ())) if row is not None]
    return [*resident, *scheduled_on(store, pgpu)]


def _type_refused(store: Store, pgpu: Row, kind: str) -> Failure | None:
    if "supported_VGPU_types" not in pgpu:
        return None
    for field, code in (("supported", "VGPU_TYPE_NOT_SUPPORTED"), ("enabled", "VGPU_TYPE_NOT_ENABLED")):
        types = pgpu[f"{field}_VGPU_types"]
        if kind not in types:
            return refuse(code, kind, *types)
    running = sorted({vgpu["type"] for vgpu in allocated_on(store, pgpu)})
    for other in running:
        row = store.find("VGPU_type", other)
        together = row.get("compatible_types_on_pgpu", [other]) if row is not None else []
        if kind not in together:
            return refuse("VGPU_TYPE_NOT_COMPATIBLE_WITH_RUNNING_TYPE", pgpu.ref, kind, ";".join(running))
    return None


def capacity(store: Store, pgpu: Row, kind: str, planned: int = 0) -> int | Failure:
    """How many more virtual graphics of a type fit on a card, besides `planned` ones of that type; else why none does."""
    refused = _type_refused(store, pgpu, kind)
    if refused is not None:
        return refused
    if implementation(store, kind) == WHOLE:
        card = store.find("PCI", pgpu["PCI"])
        taken = bool(scheduled_on(store, pgpu)) or (card is not None and bool(card["attached_VMs"]))
        left = 0 if taken or planned else 1
    else:
        size = store.get("VGPU_type", kind)["size"]
        used = sum(store.get("VGPU_type", vgpu["type"])["size"] for vgpu in allocated_on(store, pgpu))
        left = (pgpu["size"] - used - planned * size) // size if size else 0
    return left if left > 0 else refuse("PGPU_INSUFFICIENT_CAPACITY_FOR_VGPU", pgpu.ref, kind)


def group_capacity(store: Store, group: Row, kind: str) -> int | Failure:
    """The same for all cards of a group together."""
    found = [capacity(store, store.get("PGPU", ref), kind) for ref in group["PGPUs"]]
    left = sum(count for count in found if not isinstance(count, Failure))
    if left:
        return left
    reasons = sorted((r for r in found if isinstance(r, Failure)), key=lambda r: WORST_FIRST.index(r.code))
    return reasons[0] if reasons else refuse("GPU_GROUP_CONTAINS_NO_PGPUS", group.ref)


def _card_for(store: Store, vm: Row, vgpu: Row, host: Row, planned: list[Row]) -> Row:
    """The card of `host` that takes a virtual graphics: the fullest, or the emptiest where its group says so. `planned`
    are the cards that the VM's other ones take. Raises where there is none."""
    group = store.find("GPU_group", vgpu["GPU_group"])
    kind = vgpu.get("type", NULL)
    cards = (store.get("PGPU", ref) for ref in group["PGPUs"]) if group is not None else iter(())
    fitting: list[tuple[int, Row]] = []
    for card in cards:
        left = capacity(store, card, kind, planned.count(card)) if card["host"] == host.ref else 0
        if isinstance(left, int) and left:
            fitting.append((left, card))
    if not fitting:
        if implementation(store, kind) == WHOLE:
            raise refuse("VM_REQUIRES_GPU", vm.ref, vgpu["GPU_group"])
        raise refuse("VM_REQUIRES_VGPU", vm.ref, vgpu["GPU_group"], kind)
    breadth = group is not None and group.get("allocation_algorithm") == "breadth_first"
    return (max if breadth else min)(fitting, key=lambda found: found[0])[1]


# --- whether a host has what a VM needs


def assert_supported(store: Store, vm: Row) -> None:
    """Raise `VGPU_TYPE_NO_LONGER_SUPPORTED` for virtual graphics of a kind that the release knows and gives no more."""
    if store.release.order >= GONE_SINCE:
        for vgpu in vgpus_of(store, vm):
            kind = store.find("VGPU_type", vgpu["type"])
            if kind is not None and kind["implementation"] in GONE:
                raise refuse("VGPU_TYPE_NO_LONGER_SUPPORTED", f"{kind['vendor_name']}: {kind['model_name']}")


def assert_available(store: Store, vm: Row, host: Row) -> None:
    """Raise the first reason why a VM cannot have its hardware on `host`; what is its own already is not looked for."""
    vgpus = vgpus_of(store, vm)
    if any(implementation(store, vgpu.get("type", NULL)) in VIRTUAL_FUNCTIONS | {WHOLE} for vgpu in vgpus):
        _assert_iommu(host)
    if any(store.find("PGPU", vgpu.get("scheduled_to_be_resident_on", NULL)) is None for vgpu in vgpus):
        planned: list[Row] = []
        for vgpu in vgpus:
            planned.append(_card_for(store, vm, vgpu, host, planned))
    for vusb in (store.get("VUSB", ref) for ref in vm.get("VUSBs", ())):
        group = store.find("USB_group", vusb["USB_group"])
        devices = [store.get("PUSB", ref) for ref in group["PUSBs"][:1]] if group is not None else []
        if not any(device["host"] == host.ref for device in devices):
            raise refuse("OPERATION_NOT_ALLOWED", f"VUSB {vusb.ref} is not available on Host {host.ref}")
    wanted: dict[str, int] = {}
    for vif, card in _split_cards(store, vm, host):
        if store.find("PCI", vif["reserved_pci"]) is None:
            wanted[vif["network"]] = wanted.get(vif["network"], 0) + 1
            if len(functions.free(store, card)) < wanted[vif["network"]]:
                raise refuse("NETWORK_SRIOV_INSUFFICIENT_CAPACITY", vif["network"])


def _assert_iommu(host: Row) -> None:
    if host.get("chipset_info", {"iommu": "true"}).get("iommu") != "true":
        raise refuse("VM_REQUIRES_IOMMU", host.ref)


# --- keeping and taking a place


def allocate(pool: MockPool, vm: Row, host: Row) -> None:
    """Keep a place for all that a VM needs of a host's hardware. Raises where there is none, and keeps none then."""
    store, vgpus = pool.store, vgpus_of(pool.store, vm)
    if vgpus and not is_hvm(vm):
        raise refuse("FEATURE_REQUIRES_HVM", "vGPU- and GPU-passthrough needs HVM")
    try:
        for vgpu in vgpus:
            _allocate(pool, vm, host, vgpu)
        for vif, card in _split_cards(store, vm, host):
            store.write(vif, reserved_pci=_reserve(store, vm, card).ref)
    except Failure:
        release(store, vm)
        raise


def _allocate(pool: MockPool, vm: Row, host: Row, vgpu: Row) -> None:
    store = pool.store
    card = _card_for(store, vm, vgpu, host, [])
    made = implementation(store, vgpu.get("type", NULL))
    if "scheduled_to_be_resident_on" in vgpu:
        store.write(vgpu, scheduled_to_be_resident_on=card.ref)
    if made == WHOLE and "PCI" in vgpu:
        store.write(vgpu, PCI=card["PCI"])
    elif made in VIRTUAL_FUNCTIONS:
        pci = store.get("PCI", card["PCI"])
        functions.split(pool, pci)
        store.write(vgpu, PCI=_reserve(store, vm, pci).ref)


def _reserve(store: Store, vm: Row, pci: Row | None) -> Row:
    """Keep a virtual function of a card for a VM."""
    idle = functions.free(store, pci)
    if not idle:
        raise refuse("INTERNAL_ERROR", "No free virtual function found")
    store.write(idle[0], scheduled_to_be_attached_to=vm.ref)
    return idle[0]


def has_functions(store: Store) -> bool:
    """Whether there is a network of virtual functions. Most pools have none, and are not looked through for each VM."""
    return bool(store.table("network_sriov"))


def _split_cards(store: Store, vm: Row, host: Row) -> Iterator[tuple[Row, Row | None]]:
    """The VIFs of a VM that get a virtual function on `host`, and the network card that has it."""
    for vif in [store.find("VIF", ref) for ref in vm["VIFs"]] if has_functions(store) else ():
        network = store.find("network", vif["network"]) if vif is not None else None
        for pif in pifs.local(store, host.ref, network.ref)[:1] if network is not None else ():
            if vif is not None and pifs.on_sriov(store, pif):
                while (below := pifs.beneath(store, pif)) is not None:
                    pif = below
                yield vif, store.find("PCI", pif["PCI"])


def release(store: Store, vm: Row) -> None:
    """Give up the places that were kept and are not taken."""
    vgpus = vgpus_of(store, vm)
    if not vgpus and not has_functions(store):
        return
    for vgpu in vgpus:
        if vgpu.get("scheduled_to_be_resident_on", NULL) != NULL:
            store.write(vgpu, scheduled_to_be_resident_on=NULL, PCI=NULL)
    cards = store.table("PCI").values()
    waiting = [pci.ref for pci in cards if pci.get("scheduled_to_be_attached_to") == vm.ref]
    for ref in waiting:
        store.write(store.get("PCI", ref), scheduled_to_be_attached_to=NULL)
    for vif in [store.find("VIF", ref) for ref in vm["VIFs"]] if waiting else ():
        if vif is not None and vif["reserved_pci"] in waiting:
            store.write(vif, reserved_pci=NULL)


def take(store: Store, vm: Row, host: Row) -> None:
    """The VM's domain is there: it has its hardware, and what `other_config:pci` names of the host's devices."""
    if "PCI" not in store.tables:
        return
    whole, vgpus = [], vgpus_of(store, vm)
    for vgpu in vgpus:
        card = _card_kept(store, vm, vgpu, host)
        if card is not None and "scheduled_to_be_resident_on" in vgpu:
            store.write(vgpu, resident_on=card.ref, scheduled_to_be_resident_on=NULL)
        if card is not None and implementation(store, vgpu.get("type", NULL)) == WHOLE:
            whole.append(card["PCI"])
        store.write(vgpu, currently_attached=True)
    parts = [vgpu.get("PCI", NULL) for vgpu in vgpus]
    parts += [vif.get("reserved_pci", NULL) for vif in store.rows("VIF", vm["VIFs"])]
    for pci in store.rows("PCI", dict.fromkeys([*whole, *parts, *_named(store, vm, host)])):
        if vm.ref not in pci["attached_VMs"]:
            store.write(pci, attached_VMs=[vm.ref, *pci["attached_VMs"]])
        if pci.get("scheduled_to_be_attached_to", NULL) == vm.ref:
            store.write(pci, scheduled_to_be_attached_to=NULL)


def _named(store: Store, vm: Row, host: Row) -> list[str]:
    """The devices of a host that a VM's `other_config:pci` names."""
    named = [part.partition("/")[2] for part in vm["other_config"].get("pci", "").split(",")]
    own = (store.get("PCI", ref) for ref in (host["PCIs"] if any(named) else ()))
    return [pci.ref for pci in own if pci["pci_id"] in named]


def _card_kept(store: Store, vm: Row, vgpu: Row, host: Row) -> Row | None:
    """The card on which a place was kept, None where the VM is on it already. Before there were fields for it, one was
    looked for when the domain was there."""
    if "scheduled_to_be_resident_on" in vgpu:
        return store.find("PGPU", vgpu["scheduled_to_be_resident_on"])
    return None if vgpu["currently_attached"] and vm["attached_PCIs"] else _card_for(store, vm, vgpu, host, [])


def booted(store: Store, host: Row) -> None:
    """What was asked of a host's display and cards until the next boot has come to be."""
    if host.get("display") in AFTER_BOOT:
        store.write(host, display=AFTER_BOOT[host["display"]])
    for pgpu in [store.get("PGPU", ref) for ref in host.get("PGPUs", ())]:
        if pgpu.get("dom0_access") in AFTER_BOOT:
            store.write(pgpu, dom0_access=AFTER_BOOT[pgpu["dom0_access"]])


AFTER_BOOT = {"disable_on_reboot": "disabled", "enable_on_reboot": "enabled"}


# --- USB devices


def drop_group(store: Store, group: Row, virtual: str, physical: str) -> None:
    """Drop a group of devices, and with it the `virtual` ones in it, by class, that no guest has. Raises
    `..._CONTAINS_...` for one that a guest has, or where a `physical` device is in it."""
    members = [store.get(virtual, ref) for ref in group[f"{virtual}s"]]
    attached = [row.ref for row in members if row["currently_attached"]]
    for kind, inside in ((virtual, attached), (physical, group[f"{physical}s"])):
        if inside:
            raise refuse(f"{group.table.upper()}_CONTAINS_{kind}", *inside)
    for row in members:
        store.delete(row)
    store.delete(group)


def given_away(store: Store, sr: Row, path: str) -> bool:
    """Whether the device in the port called `path` is for VMs, and so no disk in the host's storage `sr`."""
    there = {store.get("PBD", ref)["host"] for ref in sr["PBDs"]}
    pusbs = store.table("PUSB").values() if path else ()
    return any(pusb["path"] == path and pusb["passthrough_enabled"] and pusb["host"] in there for pusb in pusbs)


def vusb_refused(store: Store, vusb: Row, operation: str) -> Failure | None:
    """The first reason why an operation may not be done to a virtual USB device; None where it may."""
    current, vm = vusb["current_operations"], store.get("VM", vusb["VM"])
    if current:
        return device_in_progress(store, vusb)
    if operation == "attach":
        return None
    if vm["power_state"] != "Running":
        return refuse("VM_BAD_POWER_STATE", vm.ref, "running", vm["power_state"].lower())
    if vusb["currently_attached"] == (operation == "plug"):
        state = "ATTACHED" if vusb["currently_attached"] else "DETACHED"
        return refuse(f"DEVICE_ALREADY_{state}", vusb.ref)
    for going in vm["current_operations"].values():
        if going in LEAVING:
            return refuse("OPERATION_NOT_ALLOWED", f"Current operation on VM:{vm.ref} is {going}")
    return None


VUSB_OPERATIONS = ("attach", "plug", "unplug")
LEAVING = ("clean_shutdown", "hard_shutdown", "suspend", "pause")
"""What goes on with a VM while no device is plugged or unplugged."""


def vusb_allowed_operations(store: Store, vusb: Row) -> list[str] | None:
    """What may be done to a virtual USB device now; None for one without a VM."""
    if store.find("VM", vusb["VM"]) is None:
        return None
    return [name for name in VUSB_OPERATIONS if vusb_refused(store, vusb, name) is None]
