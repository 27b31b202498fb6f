"""Hosts: enabling, disabling, halting."""

from __future__ import annotations

from xenctl.values import Timestamp

from .. import rules
from ..call import Call, refuse
from ..store import Row
from . import verbs_of

verb = verbs_of("host")


@verb("enabled")
def disable(call: Call, host: str, auto_enable: bool) -> str:
    call.db.write(call.db.get("host", host), enabled=False)
    return ""


@verb("enabled")
def enable(call: Call, host: str) -> str:
    row = call.db.get("host", host)
    machine = call.pool.machine_of(row)
    if machine is None or machine.xapi.mode not in ("master", "member"):
        raise refuse("HOST_OFFLINE", host)
    call.db.write(row, enabled=True)
    return ""


@verb("host_metrics.live", "VM.*", "VBD.*", "VIF.*", "console.*")
def shutdown(call: Call, host: str) -> str:
    _halt(call, call.db.get("host", host), then_on=False)
    return ""


@verb("host_metrics.live", "VM.*", "VBD.*", "VIF.*", "console.*")
def reboot(call: Call, host: str) -> str:
    _halt(call, call.db.get("host", host), then_on=True)
    return ""


def _halt(call: Call, host: Row, *, then_on: bool) -> None:
    """The call returns at once; the operating system stops a little later."""
    if host["enabled"]:
        raise refuse("HOST_NOT_DISABLED")
    machine = call.pool.machine_of(host)
    if machine is None or machine.xapi.mode not in ("master", "member"):
        raise refuse("HOST_OFFLINE", host.ref)
    if call.db.release.order <= rules.GEORGE:
        running = [
            vm.ref
            for vm in (call.db.get("VM", ref) for ref in host["resident_VMs"])
            if not vm["is_control_domain"] and vm["power_state"] in ("Running", "Paused")
        ]
        if running:
            raise refuse("HOST_IN_USE", host.ref, "vm", running[0])
    call.clock.after(call.pool.durations.shutdown_delay, lambda: machine.shut_down(then_on))


@verb()
def get_servertime(call: Call, host: str) -> Timestamp:
    call.db.get("host", host)
    return call.clock.stamp()


@verb()
def is_in_emergency_mode(call: Call) -> bool:
    return call.machine.xapi.mode == "emergency"


@verb()
def compute_free_memory(call: Call, host: str) -> int:
    return rules.memory_free(call.db, call.db.get("host", host))
