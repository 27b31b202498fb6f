"""What hosts do for all of their guests: agents told how to behave, discs noticed, a way down without them."""

from __future__ import annotations

from .. import hosts, passthrough, poweroff, startup
from ..call import Call, Steps
from ..machine.host import HostMachine
from . import verbs_of

verb = verbs_of("host")

DISC_TYPES = ("local", "udev")
"""The storage whose disks are drives of the host itself."""


@verb("machine.guest_agents")
def apply_guest_agent_config(call: Call, host: str) -> str:
    """Tell the agents of a host's guests what the pool wants of them."""
    tell_agents(call, hosts.reached(call, host).machine)
    return ""


def tell_all_agents(call: Call) -> None:
    """Tell the agents of the guests on every host that answers; the others ask when they start."""
    for machine in call.pool.machines:
        if machine.xapi.mode in ("master", "member"):
            tell_agents(call, machine)


def tell_agents(call: Call, machine: HostMachine) -> None:
    """Tell the agents of the guests on one host."""
    old, machine.guest_agents = machine.guest_agents, dict(call.db.pool()["guest_agent_config"])
    hosts.note(call, machine, "guest_agents", old, machine.guest_agents)


@verb("VM.scheduled_to_be_resident_on", *passthrough.ALLOCATES)
def allocate_resources_for_vm(call: Call, host: str, vm: str, live: bool) -> str:
    """Keep a place for a VM on a host, and what it needs of the host's hardware."""
    there, row = call.db.get("host", host), call.db.get("VM", vm)
    passthrough.allocate(call.pool, row, there)
    call.db.write(row, scheduled_to_be_resident_on=host)
    return ""


@verb("machine.stays_disabled", "PBD.currently_attached", *startup.SHUTS_DOWN)
def prepare_for_poweroff(call: Call, host: str) -> Steps:
    """What a host does on its way down: its guests go elsewhere or are shut down, its storage is unplugged, and it stays
    disabled until it has booted again."""
    row = call.db.get("host", host)
    contact = hosts.contact(call.pool, row)
    yield from poweroff.leave(call, row)
    machine = contact.check()
    startup.shut_guests_down(call.pool, machine)
    for pbd in (call.db.get("PBD", ref) for ref in row["PBDs"]):
        call.db.write(pbd, currently_attached=False)
    hosts.keep_disabled(call, machine)
    return ""


@verb("VBD.empty", "VBD.VDI")
def notify(call: Call, ty: str, params: str) -> str:
    """Somebody put a disc into a drive (`inserted:DEVICE`): guests whose drive shows that of the host see it. Nothing else
    that is told changes anything."""
    what, _, device = params.partition(":")
    if (ty, what) != ("cdrom", "inserted"):
        return ""
    discs = [
        vdi
        for vdi in call.db.table("VDI").values()
        if vdi["location"] == device and call.db.get("SR", vdi["SR"])["type"] in DISC_TYPES
    ]
    for vbd in (call.db.get("VBD", ref) for vdi in discs[:1] if len(discs) == 1 for ref in vdi["VBDs"]):
        call.db.write(vbd, VDI=discs[0].ref, empty=False)
    return ""
