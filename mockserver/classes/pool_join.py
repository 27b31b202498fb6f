"""Joining: a host that is alone becomes a member of another pool, and brings what it has.

The call is made on the joining host. It logs in to the other pool's master over the network like any client, so what is
wrong with the address, the name or the password is told by the errors of that login.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xenctl.datamodel import load

from .. import backups, grafting, licence, membership, rules, subtasks, trust
from ..call import Call, Steps, dispatch, refuse
from ..homogeneous import OTHER_PRODUCT
from ..joining import Join, assert_possible
from ..startup import restart_later
from . import verbs_of
from .host_membership import create_row

if TYPE_CHECKING:
    from ..machine.host import HostMachine
    from ..store import Store

verb = verbs_of("pool")

BROUGHT = ("Certificate.*",) + tuple(
    f"{table}.*"
    for table in (
        *("host", "host_metrics", "SR", "PBD", "VDI", "network", "PIF", "PIF_metrics", "VLAN", "secret"),
        *("VM", "VM_metrics", "VM_guest_metrics", "VBD", "VIF"),
    )
)
"""What a joining host writes, in its own database and in the pool's."""


@verb(*BROUGHT)
def join(call: Call, master_address: str, master_username: str, master_password: str) -> Steps:
    return _join(call, master_address, master_username, master_password, forced=False)


@verb(*BROUGHT)
def join_force(call: Call, master_address: str, master_username: str, master_password: str) -> Steps:
    """The versions of the software and the makers of the CPUs are not compared."""
    return _join(call, master_address, master_username, master_password, forced=True)


def _join(call: Call, address: str, username: str, password: str, *, forced: bool) -> Steps:
    if licence.restricted(call, "Pooling"):
        raise refuse("LICENCE_RESTRICTION")
    master = _reached(call, address)
    ask = _session(master, username, password)
    try:
        me = call.db.get("host", call.db.pool()["master"])
        assert_possible(Join(call, me, master.pool.store, forced))
        secret = ask("pool.initial_auth")
        if call.db.release.order < rules.BOSTON and call.db.release.schema != master.pool.store.release.schema:
            raise refuse(OTHER_PRODUCT)  # it fetched the pool's database before anything else, and could not read it
        trusted = _exchanged(call, master, ask) if trust.has_types(master.pool.store) else {}
        _bring(call, master)
    finally:
        with suppress(Exception):
            ask("session.logout")
    for ref in me["PBDs"]:
        with suppress(Exception):
            yield from subtasks.run(call, "PBD.unplug", ref)
    machine = call.machine
    dump = master.pool.store.dump() if _keeps(machine, master) else None
    machine.next = replace(
        machine.system,
        role=f"slave:{master.address}",
        pool_secret=secret,
        pool=master.pool,
        database=None,
        saved=dump,
    )
    trust.change(machine.next, trusted)
    trust.bundle(machine.next)
    restart_later(call.pool, machine)
    return ""


def _exchanged(call: Call, master: HostMachine, ask: Callable[..., Any]) -> dict[str, bytes]:
    """Let the pool trust this host and whom it trusts; the files that the pool gives in return. Certificates of hosts are
    given where hosts check them: making them takes a library that is an extra."""
    out: dict[str, bytes] = {}
    store, system = master.pool.store, call.machine.system
    if store.pool().get("tls_verification_enabled"):
        mine = trust.own(call.pool, call.machine, "host_internal")
        given = ask("pool.exchange_certificates_on_join", system.installation_uuid, mine)
        if f"{master.system.installation_uuid}.pem" not in given:
            raise refuse("POOL_JOINING_MASTER_CERTIFICATE_NOT_IN_POOL_BUNDLE", master.system.installation_uuid)
        out.update({trust.POOL_FOLDER + name: text.encode() for name, text in given.items()})
    known = [row.ref for row in store.table(trust.TABLE).values() if row["type"] == "ca" and row["name"]]
    names = trust.names(system, trust.CA_FOLDER)
    own = {name: system.files[trust.CA_FOLDER + name].decode() for name in names if name.endswith(".pem")}
    if known or own:
        given = ask("pool.exchange_ca_certificates_on_join", own, known)
        out.update({trust.CA_FOLDER + name: text.encode() for name, text in given.items()})
    return out


def _keeps(machine: HostMachine, master: HostMachine) -> bool:
    """Whether the joining host takes the pool's database for its backup; where it cannot, it joins without one."""
    return backups.accepts(master.pool, machine)


def _reached(call: Call, address: str) -> HostMachine:
    """The machine that a name or an address leads to. Raises `JOINING_HOST_CONNECTION_FAILED`."""
    machine = call.pool.world.machine_at(membership.resolve(call.pool, address))
    if machine is None or not machine.answers:
        raise refuse("JOINING_HOST_CONNECTION_FAILED")
    return machine


def _session(master: HostMachine, username: str, password: str) -> Callable[..., Any]:
    """Log in to another pool; what calls it in that session."""

    def ask(method: str, *args: Any) -> Any:
        return dispatch(master.pool, master, method, [ref, *args])

    credentials = [username, password]
    ref = dispatch(master.pool, master, "session.login_with_password", credentials)
    return ask


def _bring(call: Call, master: HostMachine) -> None:
    """Write the host and what it has into the other pool's database, in its own verb's name."""
    pool, verb = master.pool, call.pool.verb(call.message)
    me = call.db.get("host", call.db.pool()["master"])
    known = pool.host_row(call.machine)

    def bring() -> None:
        fields = {name: me[name] for name in _told(pool.store) if name in me}
        row = known if known is not None else create_row(pool, me["uuid"], fields)
        pool.store.write(row, other_config=dict(me["other_config"]))
        grafting.Graft(call.db, pool, me, row).bring()

    pool.as_actor(verb, bring)
    pool.settle(f"{call.machine.name} joined")


def _told(store: Store) -> list[str]:
    """What a host of the pool's release is told of one that is to be made: the parameters of `host.create` that it knows."""
    model = load()
    params = model.classes["host"].messages["create"].params
    known = {param.name for param in params if model.order(param.since) <= store.release.order}
    return [name for name in grafting.HOST_FIELDS if name in known]


@verb()
def initial_auth(call: Call) -> str:
    """The secret that hosts of this pool know each other by."""
    return call.machine.system.pool_secret
