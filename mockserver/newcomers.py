"""What a member makes in the database when it starts, where it is not there: the rest of a host that has just joined.

Joining writes down the host, its cards and its storage. Its processors, its control domain and its connections to shared
storage follow here, then bonds and VLANs as the master has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from xenctl import datamodel
from xenctl.errors import Failure

from . import passwords, rules, subtasks
from .call import Call, Steps, continue_later
from .store import Row

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool

DOM0_MEMORY = 512 << 20
HELLO = "pool.hello"
"""The message on whose behalf a starting member writes to the master's database."""


def ensure(pool: MockPool, machine: HostMachine, host: Row) -> None:
    """Have the rows that `host` cannot do without."""
    store, seen = pool.store, machine.hardware
    store.write(host, **{name: value for name, value in seen.fields.items() if not host.get(name)})
    if "host_cpu" in store.tables and not any(cpu["host"] == host.ref for cpu in store.table("host_cpu").values()):
        for fields in seen.processors:
            store.create("host_cpu", pool.new_ref(), {"uuid": pool.new_uuid(), "host": host.ref, **fields})
    if machine.system.control_domain_uuid not in store.by_uuid:
        add_control_domain(pool, host, uuid=machine.system.control_domain_uuid)
        add_consoles(pool, host)
    call = _call(pool, machine)
    for sr, config in _unconnected(call, host):
        fields = {"uuid": pool.new_uuid(), "host": host.ref, "SR": sr.ref, "currently_attached": False}
        store.create("PBD", pool.new_ref(), {**fields, "device_config": passwords.duplicated(call, config)})


def add_control_domain(pool: MockPool, host: Row, *, uuid: str) -> None:
    """The row of a host's own domain."""
    metrics = {"uuid": pool.new_uuid(), "VCPUs_number": 4, "memory_actual": DOM0_MEMORY, "current_domain_type": "pv"}
    sizes = dict.fromkeys(("static_max", "static_min", "dynamic_max", "dynamic_min", "target"), DOM0_MEMORY)
    fields: dict[str, Any] = {
        "uuid": uuid,
        "name_label": f"Control domain on host: {host['name_label']}",
        "is_control_domain": True,
        "domain_type": "pv",
        "power_state": "Running",
        "resident_on": host.ref,
        "affinity": host.ref,
        "domid": 0,
        "VCPUs_max": 4,
        "VCPUs_at_startup": 4,
        "metrics": pool.store.create("VM_metrics", pool.new_ref(), metrics).ref,
        **{f"memory_{name}": size for name, size in sizes.items()},
    }
    pool.store.write(host, control_domain=pool.store.create("VM", pool.new_ref(), fields).ref)


def add_consoles(pool: MockPool, host: Row) -> None:
    """The consoles of a host's own domain: its screen, since 6.2 text as well."""
    vms = pool.store.table("VM").values()
    vm = next(vm for vm in vms if vm["is_control_domain"] and vm["resident_on"] == host.ref)
    location = f"https://{host['address']}/console?ref={vm.ref}"
    for protocol in ("rfb", "vt100") if pool.store.release.order >= rules.CLEARWATER else ("rfb",):
        ref, uuid = pool.new_ref(), pool.new_uuid()
        pool.store.create("console", ref, {"uuid": uuid, "protocol": protocol, "location": location, "VM": vm.ref})


def _unconnected(call: Call, host: Row) -> Iterator[tuple[Row, dict[str, str]]]:
    """The shared storage that a host has no connection to, and how the master is connected to it."""
    db = call.db
    pbds = {(pbd["host"], pbd["SR"]): pbd for pbd in db.table("PBD").values()}
    for sr in db.table("SR").values():
        masters = pbds.get((db.pool()["master"], sr.ref))
        if sr["shared"] and masters is not None and (host.ref, sr.ref) not in pbds:
            yield sr, {key: value for key, value in masters["device_config"].items() if key != "SRmaster"}


def network_as_master(pool: MockPool, machine: HostMachine, host: Row) -> None:
    """Begin to make the bonds and VLANs that the master has and this host lacks, on cards of the same names."""
    if pool.store.release.order < rules.MIDNIGHT_RIDE:
        return
    call = _call(pool, machine)
    if _missing(call, host):
        continue_later(call, _networked(call, host), lambda result, error: None)


def _networked(call: Call, host: Row) -> Steps:
    """Best effort: what cannot be made here is left out."""
    tried = set[str]()
    while missing := [piece for piece in _missing(call, host) if piece[1] not in tried]:
        method, network, *_ = missing[0]
        tried.add(network)
        with suppress(Failure):
            yield from subtasks.run(call, method, *missing[0][2])


def _missing(call: Call, host: Row) -> list[tuple[str, str, tuple[Any, ...]]]:
    """The bonds, then the VLANs, to make: the message that makes one, its network, and the arguments."""
    db, master = call.db, call.db.pool()["master"]
    out: list[tuple[str, str, tuple[Any, ...]]] = []
    mine = {pif["device"]: pif for pif in db.table("PIF").values() if pif["host"] == host.ref and pif["VLAN"] < 0}
    there = {pif["network"]: pif for pif in db.table("PIF").values() if pif["host"] == host.ref}
    for bond in db.table("Bond").values():
        made = db.get("PIF", bond["master"])
        slaves = [mine[d].ref for d in (db.get("PIF", ref)["device"] for ref in bond["slaves"]) if d in mine]
        if made["host"] == master and made["network"] not in there and len(slaves) > 1:
            more = (slaves, "", bond.get("mode", ""), dict(bond.get("properties", {})))
            out.append(("Bond.create", made["network"], (made["network"], *more)))
    for vlan in db.table("VLAN").values():
        tagged, made = db.get("PIF", vlan["tagged_PIF"]), db.get("PIF", vlan["untagged_PIF"])
        base = there.get(tagged["network"])
        if made["host"] == master and made["network"] not in there and base is not None:
            out.append(("VLAN.create", made["network"], (base.ref, vlan["tag"], made["network"])))
    return out


def _call(pool: MockPool, machine: HostMachine) -> Call:
    message = datamodel.load().classes["pool"].messages["hello"]
    return Call(pool, machine, message, HELLO, inner=True)
