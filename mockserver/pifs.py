"""Physical interfaces and what is built on them: what a PIF is, when it may be changed, and bringing it up and down.

Bonds, VLANs and tunnels each have a PIF of their own on top of others. Verbs of four classes share what is here; what they
move is moved in one go, since the control domain's network daemon does it as one step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import functions, rules
from .call import Call, refuse
from .network_rules import bonded, is_active, is_sriov, pifs_of, protected, ties, vifs_of
from .store import NULL, Row, Store, Write

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool
    from .startup import Xapi

VLAN_MAC = "fe:ff:ff:ff:ff:ff"
"""The MAC that every VLAN's PIF shows."""
DEFAULT_MTU = 1500
GRO = {"gro": "on"}
"""The properties of a fresh physical PIF."""
PROPERTIES = {"gro": ("on", "off")}

MOVES = ("currently_attached", "MTU", "MAC", "PCI.*", "network_sriov.*")
"""What bringing a PIF up or down may write, as verbs of class `PIF` declare it."""
MOVED = tuple(name if "." in name else f"PIF.{name}" for name in MOVES)
"""The same, as verbs of other classes declare it."""

NO_ADDRESS: dict[str, Any] = {"ip_configuration_mode": "None"}
IP_FIELDS: dict[str, Any] = {**NO_ADDRESS, "IP": "", "netmask": "", "gateway": "", "DNS": ""}
"""What a PIF without an address holds."""


# --- what a PIF is


def kind(store: Store, pif: Row) -> str:
    """What a PIF is: `tunnel`, `vlan`, `sriov`, `bond` or `physical`."""
    if pif.get("tunnel_access_PIF_of"):
        return "tunnel"
    if store.find("VLAN", pif.get("VLAN_master_of", NULL)) is not None or pif["VLAN"] >= 0:
        return "vlan"
    if pif.get("sriov_logical_PIF_of"):
        return "sriov"
    return "bond" if pif.get("bond_master_of") else "physical"


def beneath(store: Store, pif: Row) -> Row | None:
    """The PIF that a VLAN's, a tunnel's or an SR-IOV network's PIF stands on."""
    what = kind(store, pif)
    if what == "tunnel":
        return store.find("PIF", store.get("tunnel", pif["tunnel_access_PIF_of"][0])["transport_PIF"])
    if what == "vlan":
        vlan = store.find("VLAN", pif.get("VLAN_master_of", NULL))
        return store.find("PIF", vlan["tagged_PIF"]) if vlan is not None else None
    if what == "sriov":
        return store.find("PIF", store.get("network_sriov", pif["sriov_logical_PIF_of"][0])["physical_PIF"])
    return None


def on_sriov(store: Store, pif: Row) -> bool:
    """Whether a PIF is that of an SR-IOV network, or of a VLAN on one."""
    below = beneath(store, pif)
    return kind(store, pif) == "sriov" or (below is not None and kind(store, below) == "sriov")


def local(store: Store, host: str, network: str) -> list[Row]:
    """The PIFs by which `host` is on `network`: one at most, unless a dump says otherwise."""
    return [pif for pif in pifs_of(store, store.get("network", network)) if pif["host"] == host]


def physical_pifs(store: Store, host: Row) -> list[Row]:
    """The PIFs of a host that are network cards."""
    found = [pif for pif in (store.find("PIF", ref) for ref in host["PIFs"]) if pif is not None]
    return [pif for pif in found if pif.get("physical", pif["VLAN"] < 0)]


def management(store: Store, host: Row) -> Row | None:
    """The PIF that a host is managed by; 4.0 does not tell, there it is taken to be the first."""
    found = (store.find("PIF", ref) for ref in host["PIFs"])
    return next((pif for pif in found if pif is not None and pif.get("management", True)), None)


def vlans_on(store: Store, pif: Row) -> list[Row]:
    """The VLANs whose traffic a PIF carries."""
    return [row for row in (store.find("VLAN", ref) for ref in pif.get("VLAN_slave_of", ())) if row is not None]


def tunnels_on(store: Store, pif: Row) -> list[Row]:
    """The tunnels whose traffic a PIF carries."""
    return [
        row for row in (store.find("tunnel", ref) for ref in pif.get("tunnel_transport_PIF_of", ())) if row is not None
    ]


# --- when it may be changed


def assert_managed(store: Store, pif: Row) -> None:
    """Raise where somebody else manages a PIF, which there may be since 6.5."""
    if not pif.get("managed", True):
        raise refuse("PIF_UNMANAGED", pif.ref)


def assert_no_other(store: Store, host: str, network: str) -> None:
    """Raise where `host` is on `network` already."""
    there = local(store, host, network)
    if there:
        raise refuse("NETWORK_ALREADY_CONNECTED", host, there[0].ref)


def assert_not_in_bond(store: Store, pif: Row) -> None:
    """Neither a member of a bond, nor a bond itself."""
    if bonded(store, pif) or pif.get("bond_master_of"):
        raise refuse("PIF_ALREADY_BONDED", pif.ref)


def assert_no_vlans(store: Store, pif: Row) -> None:
    """Neither under a VLAN, nor one itself."""
    if vlans_on(store, pif) or pif["VLAN"] != -1:
        raise refuse("PIF_VLAN_STILL_EXISTS", pif.ref)


def assert_no_tunnels(store: Store, pif: Row) -> None:
    """Neither under a tunnel, nor one itself."""
    if tunnels_on(store, pif) or pif.get("tunnel_access_PIF_of"):
        raise refuse("PIF_TUNNEL_STILL_EXISTS", pif.ref)


def assert_not_management(store: Store, pif: Row) -> None:
    """Raise where a PIF is how its host is reached; up to 6.2 one that is down did not count."""
    counts = store.release.order >= rules.CREAM or pif.get("currently_attached", True)
    if counts and pif.get("management"):
        raise refuse("PIF_IS_MANAGEMENT_INTERFACE", pif.ref)


def assert_not_members_management(store: Store, pif: Row) -> None:
    """A member's management interface is how the master reaches it."""
    if pif["host"] != store.pool()["master"] and pif.get("currently_attached") and pif.get("management"):
        raise refuse("PIF_IS_MANAGEMENT_INTERFACE", pif.ref)


def assert_unprotected(store: Store, pif: Row) -> None:
    """While high availability or a redo log is on, what is attached stays as it is; up to 5.5 only the management
    interface did."""
    pool = store.pool()
    if store.release.order <= rules.GEORGE:
        if pool.get("ha_enabled") and pif.get("management"):
            raise refuse("HA_IS_ENABLED")
        return
    if pif.get("currently_attached") and pool.get("ha_enabled"):
        raise refuse("HA_IS_ENABLED")
    if pif.get("currently_attached") and pool.get("redo_log_enabled"):
        raise refuse("REDO_LOG_IS_ENABLED")


def assert_not_for_liveness(store: Store, pif: Row) -> None:
    """Up to 5.5 hosts under high availability kept the interfaces that they needed for it, whatever else was asked."""
    if store.release.order > rules.GEORGE or not store.pool().get("ha_enabled") or bonded(store, pif):
        return
    if pif.get("disallow_unplug") or pif.get("management"):
        raise refuse("PIF_DOES_NOT_ALLOW_UNPLUG", pif.ref)


def assert_no_sriov(store: Store, pif: Row) -> None:
    """Neither that of an SR-IOV network, nor the card under one."""
    if kind(store, pif) == "sriov":
        raise refuse("CANNOT_FORGET_SRIOV_LOGICAL", pif.ref)
    if pif.get("sriov_physical_PIF_of"):
        raise refuse("PIF_SRIOV_STILL_EXISTS", pif.ref)


def assert_no_clustering(store: Store, pif: Row) -> None:
    """Raise where an enabled cluster host uses a PIF."""
    for row in store.table("Cluster_host").values():
        if row["PIF"] == pif.ref and row["enabled"]:
            raise refuse("CLUSTERING_ENABLED", row.ref)


def assert_no_guests(store: Store, pif: Row) -> None:
    """Raise where a live guest on the PIF's host is connected to its network; since 7.0 one that starts counts, too."""
    for vif in vifs_of(store, store.get("network", pif["network"])):
        vm = store.find("VM", vif["VM"])
        if vm is None:
            continue
        starting = store.release.order >= rules.DUNDEE and "attach" in vif["current_operations"].values()
        if starting and pif["host"] in (vm["resident_on"], vm["scheduled_to_be_resident_on"]):
            raise refuse("VIF_IN_USE", pif["network"], vif.ref)
        live = vm["power_state"] in ("Running", "Paused")
        if vif["currently_attached"] and vm["resident_on"] == pif["host"] and live:
            raise refuse("VIF_IN_USE", pif["network"], vif.ref)


def assert_not_needed(store: Store, pif: Row) -> None:
    """Raise where a protected VM is connected to the network of a PIF that is, or is to be, unplugged."""
    pool = store.pool()
    if not pool.get("ha_enabled") or pool.get("ha_allow_overcommit"):
        return
    network = store.get("network", pif["network"])
    for vm in store.rows("VM", [vif["VM"] for vif in vifs_of(store, network)]):
        if protected(vm):
            raise ties(store, "HA_CONSTRAINT_VIOLATION_NETWORK_NOT_SHARED", network)


def primary_address(pif: Row) -> str:
    """The address by which a PIF is reached; empty where it has none."""
    if pif.get("primary_address_type") == "IPv6":
        routed = (text.partition("/")[0] for text in pif["IPv6"] if not text.lower().startswith("fe80"))
        return next(routed, "")
    return str(pif["IP"])


def assert_has_address(store: Store, host: str, network: Row) -> None:
    """Raise where `host` cannot be reached on `network`."""
    pif = next(iter(local(store, host, network.ref)), None)
    if pif is None:
        raise refuse("PIF_NOT_PRESENT", host, network.ref)
    if not pif["currently_attached"]:
        raise refuse("REQUIRED_PIF_IS_UNPLUGGED", pif.ref)
    if not primary_address(pif):
        raise refuse("INTERFACE_HAS_NO_IP", pif.ref)


def assert_can_unplug(call: Call, pif: Row) -> None:
    """Raise the first reason why a PIF, or a tunnel's PIF on it, cannot be detached from its network."""
    store = call.db
    assert_managed(store, pif)
    assert_unprotected(store, pif)
    if store.release.order <= rules.GEORGE:
        assert_not_members_management(store, pif)
        assert_not_for_liveness(store, pif)
    else:
        assert_not_management(store, pif)
    if store.get("host", pif["host"])["enabled"]:
        assert_not_needed(store, pif)
    assert_idle(store, pif)
    for access in carried_by(store, pif):
        assert_can_unplug(call, access)


def assert_idle(store: Store, pif: Row) -> None:
    """Raise where guests use a PIF's network, or the PIF must stay up."""
    assert_no_guests(store, pif)
    assert_may_go_down(pif)


def assert_may_go_down(pif: Row) -> None:
    """Raise for a PIF that must stay up."""
    if pif.get("disallow_unplug"):
        raise refuse("PIF_DOES_NOT_ALLOW_UNPLUG", pif.ref)


def carried_by(store: Store, pif: Row) -> list[Row]:
    """The access PIFs of the tunnels, and the PIFs of the SR-IOV networks, that go down with a PIF."""
    refs = [tunnel["access_PIF"] for tunnel in tunnels_on(store, pif)]
    refs += [store.get("network_sriov", ref)["logical_PIF"] for ref in pif.get("sriov_physical_PIF_of", ())]
    if kind(store, pif) == "sriov":
        refs += [vlan["untagged_PIF"] for vlan in vlans_on(store, pif)]
    return [found for found in (store.find("PIF", ref) for ref in refs) if found is not None]


def assert_sriov_mixes(store: Store, pif: Row, network: Row) -> None:
    """A VLAN's network holds VLANs on SR-IOV networks only, of the same kind of card, or none."""
    if not on_sriov(store, pif):
        if any(on_sriov(store, other) for other in pifs_of(store, network)):
            raise refuse("NETWORK_INCOMPATIBLE_WITH_VLAN_ON_BRIDGE", network.ref)
        return
    for other in pifs_of(store, network)[:1]:
        below = beneath(store, other)
        if kind(store, other) != "vlan" or below is None or kind(store, below) != "sriov":
            raise refuse("NETWORK_INCOMPATIBLE_WITH_VLAN_ON_SRIOV", network.ref)
        if _card(store, below) != _card(store, pif):
            raise refuse("NETWORK_HAS_INCOMPATIBLE_VLAN_ON_SRIOV_PIFS", pif.ref, network.ref)


def _card(store: Store, logical: Row) -> tuple[Any, Any]:
    card = _card_beneath(store, logical)
    return (card["vendor_id"], card["device_id"]) if card is not None else ("", "")


def assert_no_sriov_network(store: Store, network: Row, code: str) -> None:
    """Raise `code` for a network of virtual functions."""
    if is_sriov(store, network) or any(on_sriov(store, pif) for pif in pifs_of(store, network)):
        raise refuse(code, network.ref)


# --- up and down


def displaced(store: Store, pif: Row) -> list[Row]:
    """The PIFs that go down when one comes up: the members of a bond. Up to 5.6 FP1 they do so for a VLAN on the bond, too,
    and for a member its bond goes down with all VLANs on that."""
    then = store.release.order < rules.BOSTON
    lowest = (beneath(store, pif) if then and pif["VLAN"] != -1 else pif) or pif
    bonds = lowest.get("bond_master_of", ())[:1]
    if bonds:
        return store.rows("PIF", store.get("Bond", bonds[0])["slaves"])
    mine = store.find("Bond", pif.get("bond_slave_of", NULL)) if then and lowest is pif else None
    if mine is None:
        return []
    master = store.get("PIF", mine["master"])
    return [master, *store.rows("PIF", [vlan["untagged_PIF"] for vlan in vlans_on(store, master)])]


def assert_displaceable(store: Store, pif: Row, *, management: bool = False) -> None:
    """Raise where what goes down when a PIF comes up is in use, which was looked at up to 5.6 FP1. `management` says that
    the PIF is about to be the management interface, so that the old one may go down."""
    if store.release.order >= rules.BOSTON:
        return
    going = displaced(store, pif)
    for other in going:
        assert_may_go_down(other)
    for other in going:
        for there in () if management else local(store, other["host"], other["network"]):
            if there.get("management"):
                raise refuse("PIF_IS_MANAGEMENT_INTERFACE", there.ref)
        assert_no_guests(store, other)


def assert_not_bonded(call: Call, pif: Row) -> None:
    """Raise for a member of a bond, which since 6.0 cannot be up by itself; 6.0 names its network instead."""
    if bonded(call.db, pif) and call.at_least(rules.BOSTON):
        raise refuse("CANNOT_PLUG_BOND_SLAVE", pif.ref if call.at_least(rules.TAMPA) else pif["network"])


def bring_up(call: Call, pif: Row) -> None:
    """Attach a PIF to its network. The members of a bond go down with it, and since 8.1 give it their MAC."""
    store = call.db
    for other in displaced(store, pif):
        store.write(other, currently_attached=False)
    for ref in pif.get("bond_master_of", ())[:1]:
        bond = store.get("Bond", ref)
        primary = store.find("PIF", bond.get("primary_slave", NULL))
        if primary is not None and bond.get("auto_update_mac", False):
            store.write(pif, MAC=primary["MAC"])
    if kind(store, pif) == "sriov":
        _split(call, pif)
    store.write(pif, currently_attached=True)
    if pif["MTU"] < 0 and call.at_least(rules.COWLEY):
        store.write(pif, MTU=store.get("network", pif["network"]).get("MTU", DEFAULT_MTU))


def bring_down(call: Call, pif: Row) -> None:
    """Detach a PIF, and what it carries, from its network."""
    for other in carried_by(call.db, pif):
        bring_down(call, other)
    call.db.write(pif, currently_attached=False)
    card = _card_beneath(call.db, pif) if kind(call.db, pif) == "sriov" else None
    if card is not None:
        functions.unite(call.pool, card)


def _split(call: Call, logical: Row) -> None:
    """Let the card under an SR-IOV network have its virtual functions. Raises where it cannot have any."""
    store, card = call.db, _card_beneath(call.db, logical)
    if card is None or not functions.most(call.pool, card):
        raise refuse(
            "NETWORK_SRIOV_ENABLE_FAILED", logical.ref, "Fail to enable SR-IOV: the card has no virtual functions"
        )
    functions.split(call.pool, card)
    row = store.get("network_sriov", logical["sriov_logical_PIF_of"][0])
    store.write(row, configuration_mode="sysfs", requires_reboot=False)


def _card_beneath(store: Store, logical: Row) -> Row | None:
    physical = beneath(store, logical)
    return store.find("PCI", physical["PCI"]) if physical is not None else None


def new_bridge(pool: MockPool, xapi: Xapi) -> str:
    """A name that no network has, and that none had since the toolstack started."""
    taken = {network["bridge"] for network in pool.store.table("network").values()}
    while True:
        name = f"xapi{xapi.bridges}"
        xapi.bridges += 1
        if name not in taken:
            return name


def attach_network(call: Call, network: Row, host: str, *, force: bool = False) -> None:
    """Make a host ready for guests on `network`: its PIF there is brought up, where it has one that xapi manages; a network
    without one gets a bridge of its own.

    Raises `BRIDGE_NOT_AVAILABLE` where the network is somebody else's and the host has no such bridge,
    `CANNOT_PLUG_BOND_SLAVE` where the PIF is a member of a bond, and up to 5.6 FP1 what `assert_displaceable` does.
    """
    machine, bridge = call.pool.machine_of(call.db.get("host", host)), network["bridge"]
    there = local(call.db, host, network.ref)
    if not network.get("managed", True):
        if machine is None or bridge not in machine.bridges:
            raise refuse("BRIDGE_NOT_AVAILABLE", bridge)
        return
    if not there and machine is not None:
        set_bridges(call, machine, machine.bridges | {bridge})
    for pif in there:
        assert_displaceable(call.db, pif)
        if pif.get("managed", True) and (force or not pif.get("currently_attached", True)):
            assert_not_bonded(call, pif)
            bring_up(call, pif)


def set_bridges(call: Call, machine: HostMachine, bridges: frozenset[str]) -> None:
    """Let a machine have these bridges beside those of its PIFs."""
    old, machine.bridges = machine.bridges, bridges
    if old != bridges:
        call.db.on_write(Write("write", "machine", machine.uuid, "bridges", old, bridges, call.clock.now()))


# --- making and moving


def numbered(store: Store, host: str, prefix: str, is_one: Callable[[Row], bool]) -> str:
    """The first of `prefix0`, `prefix1`, ... that is the device of no PIF of `host` for which `is_one` holds."""
    taken = {pif["device"] for pif in store.table("PIF").values() if pif["host"] == host and is_one(pif)}
    return next(name for name in (f"{prefix}{n}" for n in range(len(taken) + 1)) if name not in taken)


def make(call: Call, *, device: str, network: str, host: str, MAC: str, MTU: int, VLAN: int = -1, **more: Any) -> Row:  # noqa: N803
    """A new PIF without an address, not attached."""
    fields: dict[str, Any] = {
        "uuid": call.pool.new_uuid(),
        "device": device,
        "device_name": device,
        "network": network,
        "host": host,
        "MAC": MAC,
        "MTU": MTU,
        "VLAN": VLAN,
        "physical": False,
        "currently_attached": False,
        "bond_slave_of": NULL,
        "VLAN_master_of": NULL,
        "management": False,
        "ipv6_configuration_mode": "None",
        "IPv6": [""],
        **IP_FIELDS,
        **more,
    }
    return call.db.create("PIF", call.pool.new_ref(), fields)


LINK = {"carrier": True, "speed": 1000, "duplex": True}
"""What a host's monitoring tells of whatever carries packets."""
CARD = {
    **LINK,
    "vendor_id": "8086",
    "vendor_name": "Intel Corporation",
    "device_id": "1521",
    "device_name": "I350 Gigabit Network Connection",
}
"""What it tells of a card."""


def make_metrics(pool: MockPool, store: Store, *, physical: bool = False) -> str:
    """Fresh metrics of a PIF, told at once what the host's monitoring tells soon; returns their reference."""
    seen = {"uuid": pool.new_uuid(), **(CARD if physical else LINK), "last_updated": pool.clock.stamp()}
    return store.create("PIF_metrics", pool.new_ref(), seen).ref


def ensure_metrics(pool: MockPool, host: Row) -> None:
    """Give the host's cards and bonds metrics where they have none, as its monitoring does; up to 5.5 these did not outlive
    a restart."""
    store = pool.store
    for pif in store.rows("PIF", host["PIFs"]):
        physical = pif.get("physical", True)
        if (physical or pif.get("bond_master_of")) and store.find("PIF_metrics", pif["metrics"]) is None:
            store.write(pif, metrics=make_metrics(pool, store, physical=physical))


def drop(call: Call, pif: Row) -> None:
    """Delete a PIF, and its metrics where no other PIF shows them."""
    metrics = call.db.find("PIF_metrics", pif["metrics"])
    shared = any(other["metrics"] == pif["metrics"] for other in call.db.table("PIF").values() if other is not pif)
    call.db.delete(pif)
    if metrics is not None and not shared:
        call.db.delete(metrics)


def address_type_on(call: Call, beneath: Row) -> str:
    """The primary type of address of what is built on a PIF: since XenServer 8 that PIF's, before always IPv4."""
    return str(beneath.get("primary_address_type", "IPv4")) if call.at_least(rules.NILE) else "IPv4"


def move_address(call: Call, source: Row, target: Row) -> None:
    """Give the IPv4 configuration of one PIF to another; up to 6.1 the first only had none any more, and kept the rest."""
    call.db.write(target, **{name: source[name] for name in IP_FIELDS})
    call.db.write(source, **(IP_FIELDS if call.at_least(rules.CLEARWATER) else NO_ADDRESS))


def move_management(call: Call, source: Row, target: Row) -> None:
    """Let the host be reached by another PIF; it keeps its address."""
    bring_up(call, target)
    call.db.write(source, management=False)
    call.db.write(target, management=True)


def move_vifs(call: Call, vifs: list[Row], network: Row, host: str) -> None:
    """Put VIFs on another network; guests that run are reconnected."""
    for vif in vifs:
        call.db.write(vif, network=network.ref)
        if is_active(call.db, vif):
            attach_network(call, network, host)
