"""Who is the master: role files that change, by agreement of all hosts or by the word of whoever stands before one.

A host whose role changes lights its toolstack's fuse and starts anew as what the file says. A new master is agreed on in
two phases: every host hears a proposal first and may refuse it, then all are told to commit.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from xenctl.values import format_datetime

from . import backups, pifs, rules
from .call import refuse
from .network_rules import bonded
from .startup import restart_later

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool
    from .store import Row, Store

PROPOSAL_LASTS = 600.0
"""Seconds after which a proposal that nobody committed is forgotten."""
CONFIGURED = {
    "IPv4": ("PIF_HAS_NO_NETWORK_CONFIGURATION", "ip_configuration_mode"),
    "IPv6": ("PIF_HAS_NO_V6_NETWORK_CONFIGURATION", "ipv6_configuration_mode"),
}
"""By type of address, the error for a PIF that has none, and the field that tells."""


def lead(machine: HostMachine) -> None:
    """Be master from the next start of the toolstack on."""
    machine.system.role = "master"
    restart_later(machine.pool, machine)


def follow(machine: HostMachine, address: str) -> None:
    """Be a member of the master at `address` from the next start of the toolstack on; one that is that already stays."""
    role = f"slave:{address}"
    if machine.system.role != role:
        machine.system.role = role
        restart_later(machine.pool, machine)


def armed(machine: HostMachine) -> bool:
    """Whether the host's own files say that high availability is on."""
    return machine.system.armed or machine.system.local.get("ha.armed") == "true"


def assert_manageable(store: Store, pif: Row) -> None:
    """Raise where a host cannot be reached by a PIF. Up to 7.2 the errors do not say which. 6.1 and 6.2 compare it with the
    PIF that the host is reached by, and look at nothing else where there is none."""
    release = store.release.order
    if release >= rules.BOSTON and bonded(store, pif):
        raise refuse("CANNOT_PLUG_BOND_SLAVE", pif.ref)
    kind = pif.get("primary_address_type", "IPv4")
    if rules.TAMPA <= release < rules.CREAM:
        now = pifs.management(store, store.get("host", pif["host"]))
        if now is None:
            return
        if now["primary_address_type"] != kind:
            raise refuse("PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE")
    code, field = CONFIGURED[kind]
    if pif.get(field, "None") == "None":
        raise refuse(code, *([pif.ref] if release >= rules.INVERNESS else []))


def resolve(pool: MockPool, name: str) -> str:
    """The address of a host that is named by its name or address."""
    found = next((m for m in pool.world.machines if name in (m.name, m.address)), None)
    return found.address if found is not None else name


# --- an agreement


def propose(machine: HostMachine, address: str) -> None:
    """Hear that the host at `address` is to be master. Raises `HA_ABORT_NEW_MASTER` while another is expected to be."""
    now, open_one = machine.clock.now(), machine.xapi.proposal
    if open_one is not None and open_one[0] != address and now - open_one[1] <= PROPOSAL_LASTS:
        whose, since = open_one
        at = format_datetime(datetime.fromtimestamp(since, timezone.utc))
        raise refuse(
            "HA_ABORT_NEW_MASTER",
            f"Already agreed to commit host address '{whose}' at {at} ('{now - since:f}' secs ago)",
        )
    machine.xapi.proposal = (address, now)


def commit(machine: HostMachine, address: str) -> None:
    """Take the host at `address` for master, as was proposed. Raises `HA_ABORT_NEW_MASTER` where it was not."""
    proposed = machine.xapi.proposal
    if proposed is None or proposed[0] != address:
        before = "never received a proposal" if proposed is None else f"previously received proposal for {proposed[0]}"
        raise refuse("HA_ABORT_NEW_MASTER", f"Received commit_new_master({address}) but {before}")
    if machine.address == address:
        lead(machine)
    else:
        follow(machine, address)


def abort(machine: HostMachine) -> None:
    """Forget what was proposed."""
    machine.xapi.proposal = None


def agree(pool: MockPool, hosts: list[HostMachine], new: HostMachine) -> None:
    """Have all of `hosts` take `new` for master, or none. Raises the first refusal."""
    done: list[HostMachine] = []
    try:
        for machine in hosts:
            propose(machine, new.address)
            done.append(machine)
    except BaseException:
        for machine in done:
            abort(machine)
        raise
    for machine in hosts:
        commit(machine, new.address)


# --- the database


def back_up(pool: MockPool, machine: HostMachine) -> None:
    """Have a host keep the database as it is now; the master has it anyway. Raises `RESTORE_INCOMPATIBLE_VERSION`."""
    if machine.xapi.mode == "master":
        return
    if not backups.accepts(pool, machine):
        raise refuse("RESTORE_INCOMPATIBLE_VERSION")
    backups.take(machine, pool.store.dump())


def backed_up(machine: HostMachine) -> int:
    """The generation of the database that a host keeps; 0 where it keeps none."""
    return machine.system.saved.generation if machine.system.saved is not None else 0


def owns(pool: MockPool, host: Row) -> HostMachine | None:
    """The machine at a host's address, if it runs and holds this pool's secret."""
    machine = pool.world.machine_at(host["address"])
    secret = pool.master.system.pool_secret
    return machine if machine is not None and machine.answers and machine.system.pool_secret == secret else None
