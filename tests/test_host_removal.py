"""Hosts that are lost: declared dead, dropped, switched on from afar; toolstacks that start anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Make = Callable[..., Any]


def lost(calls: Make) -> tuple[Any, Any]:
    """A pool whose second host lost its power, which the master has found out."""
    c = calls(release="8.2", hosts=2, vms=6)
    host = c.host("host2")
    c.pool.hands.power_off("host2")
    c.until(lambda: not c("host_metrics.get_live", host["metrics"]))
    return c, host


def test_a_dead_hosts_guests_can_start_elsewhere(calls: Make) -> None:
    """They are believed to be off, and the host takes no VMs; a host that lives cannot be declared dead."""
    c, host = lost(calls)
    guests = [vm for vm in c.pool.store.table("VM").values() if vm["resident_on"] == host.ref and vm["domid"] > 0]
    assert guests
    assert c.refused("host.declare_dead", c.host("host1").ref) == ["HOST_IS_LIVE", c.host("host1").ref]
    assert c.refused("host.destroy", host.ref) == ["HOST_HAS_RESIDENT_VMS", host.ref]
    c("host.declare_dead", host.ref)
    assert not host["enabled"]
    assert {vm["power_state"] for vm in guests} == {"Halted"}
    c("VM.start", guests[0].ref, False, False)
    assert guests[0]["resident_on"] == c.host("host1").ref


def test_a_dropped_host_leaves_nothing_behind(calls: Make) -> None:
    """Neither its own rows nor references to it; disks and guests stay."""
    c, host = lost(calls)
    c("host.declare_dead", host.ref)
    vms, vdis = len(c("VM.get_all")), len(c("VDI.get_all"))
    c("host.destroy", host.ref)
    store = c.pool.store
    assert c("host.get_all") == [c.host("host1").ref]
    assert (len(c("VM.get_all")), len(c("VDI.get_all"))) == (vms - 1, vdis)
    for table in store.tables:
        for row in store.table(table).values():
            values = [value for value in row.values() if isinstance(value, (str, list))]
            assert host.ref not in values and not any(host.ref in v for v in values if isinstance(v, list)), table
    assert not [
        pif for pif in store.table("PIF_metrics") if pif not in {p["metrics"] for p in store.table("PIF").values()}
    ]


def test_a_host_is_switched_on_from_afar(calls: Make) -> None:
    """Where a way is set for it, and it is off; then it comes back to the pool."""
    c, host = lost(calls)
    assert c.refused("host.power_on", c.host("host1").ref) == ["HOST_IS_LIVE", c.host("host1").ref]
    assert c.refused("host.power_on", host.ref) == ["HOST_POWER_ON_MODE_DISABLED"]
    c("host.set_power_on_mode", host.ref, "wake-on-lan", {})
    c("host.power_on", host.ref)
    assert host["current_operations"] == {}
    c.until(lambda: c("host_metrics.get_live", host["metrics"]))
    assert c.pool.machine("host2").state == "running"


def test_a_toolstack_starts_anew_and_guests_go_on(calls: Make) -> None:
    """The call returns before; the domains are the same afterwards."""
    c = calls(release="8.2", hosts=2, vms=4)
    machine = c.pool.machine("host2")
    before, xapi = dict(machine.domains), machine.xapi
    c("host.restart_agent", c.host("host2").ref)
    assert machine.xapi is xapi
    c.until(lambda: machine.xapi is not xapi and machine.xapi.complete)
    assert dict(machine.domains) == before and before
    assert c.unharmed()
