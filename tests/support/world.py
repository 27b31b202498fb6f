"""A pool with one object of everything, and arguments for any message of it: what generated calls are made in and of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

from trials import FURNISHERS, GONE, HINTS, PREPARED, RECORD

from mockserver.store import Write
from xenctl import datamodel
from xenctl.datamodel import Message
from xenctl.datamodel import types as t
from xenctl.errors import Failure
from xenctl.releases import serves

Make = Callable[..., Any]
MODEL = datamodel.load()
NULL = "OpaqueRef:NULL"
CAPABILITIES = ("VDI_RESIZE_ONLINE", "SR_SUPPORTS_LOCAL_CACHING")
"""What plugins here can beside what those of the product can."""
SAGGING = {"network.attach_for_vm"}
"""What is tried while no PIF is attached."""


class World:
    """A pool with one object of everything that the tried messages are about."""

    def __init__(self, calls: Make, release: str) -> None:
        self.call = calls(hosts=2, vms=12, release=release)
        self.pool, self.vm, self.host = self.call.pool, self.call.vm, self.call.host
        self.written: list[tuple[str, Write]] = []
        self.furnish()
        for furnish in FURNISHERS:
            furnish(self)
        before = self.pool.store.on_write

        def note(write: Write) -> None:
            actor = self.pool.actor
            if actor is not None:
                self.written.append((actor.name, write))
            before(write)

        self.pool.store.on_write = note

    def __call__(self, method: str, *args: Any) -> Any:
        return self.call(method, *args)

    def try_(self, method: str, *args: Any) -> Any:
        try:
            return self(method, *args)
        except Failure:
            return NULL

    def add(self, table: str, **fields: Any) -> str:
        if table not in self.pool.store.tables:
            return NULL
        row = self.pool.store.create(table, self.pool.new_ref(), {"uuid": self.pool.new_uuid(), **fields})
        return str(row.ref)

    def network(self) -> str:
        return str(self("network.create", {"name_label": "new", "other_config": {}}))

    def furnish(self) -> None:
        """Cards, a VLAN, a bond, a tunnel, an appliance, patches, users, and guests whose agents can do all."""
        store, machine, host = self.pool.store, self.pool.machine("host1"), self.host("host1")
        machine.nics = (*machine.nics, *((f"eth{n}", f"00:16:3e:cc:00:0{n}") for n in range(1, 6)))
        for row in store.table("host").values():
            store.write(row, software_version={**row["software_version"], "network_backend": "openvswitch"})
        self.try_("PIF.scan", host.ref)
        pifs = {row["device"]: row.ref for row in store.table("PIF").values() if row["host"] == host.ref}
        machine.nics = (*machine.nics, ("eth8", "00:16:3e:cc:00:08"))
        if "eth1" in pifs:
            self.try_("VLAN.create", pifs["eth1"], 7, self.network())
            self.try_("Bond.create", self.network(), [pifs["eth2"], pifs["eth3"]], "", "lacp")
            self.try_("PIF.reconfigure_ip", pifs["eth4"], "DHCP", "", "", "", "")
            self.try_("tunnel.create", pifs["eth4"], self.network())
        self.network()
        for agent in store.table("VM_guest_metrics").values():
            able = dict.fromkeys(("feature-static-ip-setting", "feature-ts2", "feature-snapshot"), "1")
            store.write(agent, other={**agent["other"], **able})
        for vif in store.table("VIF").values():
            store.write(vif, ipv4_allowed=["10.9.0.7"], ipv6_allowed=["fd00::7"])
        appliance = self.add("VM_appliance", name_label="all")
        for name in ("vm01", "vm04"):
            store.write(self.vm(name), appliance=appliance)
        self.add("VMSS", type="snapshot", frequency="daily", schedule={"min": "0"})
        self.add("secret", value="hush")
        self.add("blob", mime_type="text/plain")
        self.add("network", name_label="for disks", purpose=["nbd"])
        self.add("host_crashdump", host=host.ref, filename="dump")
        vdi = self.add("VDI", SR=self.call.row("SR", "NFS virtual disk storage").ref, managed=True)
        self.pool.add_disk(store.get("VDI", vdi)["uuid"])
        self.furnish_storage(vdi)
        update = self.add("pool_update", name_label="u", vdi=vdi)
        patch = self.add("pool_patch", name_label="p", filename="/p", pool_update=update)
        self.add("pool_patch", name_label="old", filename="/q")
        self.add("host_patch", host=self.host("host2").ref, pool_patch=patch)
        self.task = self("task.create", "mine", "")
        self.try_("message.create", "X", 1, "VM", self.vm("vm01")["uuid"], "")
        self.pool.directory.add("first")
        self.pool.directory.add("second")
        if "external_auth_type" in host:
            self.pool.directory.connect(self.pool)
        self.try_("subject.create", {"subject_identifier": "S-1-5-21-1-2-3-1000", "other_config": {}})
        subjects = [*store.table("subject").values()]
        if subjects and "roles" in subjects[0]:
            self("subject.add_to_roles", subjects[0].ref, self("role.get_all")[0])

    def furnish_storage(self, vdi: str) -> None:
        """Storage of several kinds, one detached and one grown, a disk whose changes are tracked, its snapshot, what a guest
        left when it crashed; plugins that can cache, and resize disks in use, as none that we know can; and the session is
        that of the plugin which serves the guests' disks."""
        store, host = self.pool.store, self.pool.store.pool()["master"]
        guests = self.call.row("SR", "NFS virtual disk storage")
        for kind, shared in (("nfs", False), ("lvmoiscsi", True), ("iscsi", False)):
            sr = self.try_("SR.create", host, {"target": kind}, 1 << 40, kind, "", kind, "user", shared, {})
            if kind == "nfs" and sr != NULL:
                self("PBD.unplug", store.get("SR", sr)["PBDs"][0])
        self.pool.storage.sizes[guests["uuid"]] = guests["physical_size"] + (1 << 40)
        for plugin in store.table("SM").values():
            store.write(plugin, capabilities=[*plugin.get("capabilities", []), *CAPABILITIES])
            store.write(plugin, features={**plugin.get("features", {}), **dict.fromkeys(CAPABILITIES, 1)})
        self.try_("VDI.enable_cbt", vdi)
        self.try_("VDI.snapshot", vdi, {})
        dump = self.add("VDI", SR=guests.ref, managed=True, type="crashdump")
        self.add("crashdump", VM=self.vm("vm01").ref, VDI=dump)
        store.write(store.get("session", self.call.session), other_config={"_sm_session": guests.ref})

    def prepare(self, method: str) -> None:
        """Bring the pool to where `method` has something to do."""
        for step in PREPARED.get(method, ()):
            if step == GONE:
                self.lose_host()
                continue
            class_name, name = step.split(".")
            message = MODEL.classes[class_name].messages[name]
            if serves(self.pool.store.release, message):
                for args in islice(self.attempts(message), 60):
                    self.try_(step, *args)
        if method in SAGGING:
            for pif in self.pool.store.table("PIF").values():
                self.pool.store.write(pif, currently_attached=False)
        self.written.clear()

    def lose_host(self) -> None:
        """The second host loses its power, and the master has found out."""
        host = self.host("host2")
        metrics = self.pool.store.get("host_metrics", host["metrics"])
        self.pool.hands.power_off("host2")
        self.call.until(lambda: not metrics["live"])

    # --- arguments

    def values(self, message: Message, name: str, kind: t.Type) -> list[Any]:
        """Values for a parameter."""
        for key in (f"{message.wire_name}.{name}", name):
            if key in HINTS:
                return HINTS[key]
        if isinstance(kind, t.Ref):
            if kind.class_name == "message":
                return list(self("message.get_all"))
            if kind.class_name == "role":
                return list(self("role.get_all"))[:2]
            if kind.class_name == "session":
                return [self.call.session]
            return [*self.pool.store.table(kind.class_name), NULL]
        if isinstance(kind, t.Record):
            return list(islice(self.records(message, kind.class_name), 40))
        if isinstance(kind, t.Enum):
            return list(MODEL.enums[kind.name])
        if isinstance(kind, t.Set):
            singles = [[value] for value in self.values(message, "", kind.item)]
            return [*singles, []]
        if name == "dest":
            return [
                self.try_("host.migrate_receive", host, self.managed_by(host), {})
                for host in self.pool.store.table("host")
            ]
        if name == "vdi_map":
            return [{vdi.ref: vdi["SR"] for vdi in self.pool.store.table("VDI").values()}]
        if isinstance(kind, t.Map):
            return [{}]
        assert isinstance(kind, t.Scalar)
        samples: dict[str, list[Any]] = {
            "string": ["", "x", self.vm("vm01")["uuid"]],
            "int": [9, 1],
            "float": [0.5],
            "bool": [True, False],
            "datetime": ["20260101T00:00:00Z"],
        }
        return samples[kind.name]

    def managed_by(self, host: str) -> str:
        """The network on which a host is managed."""
        pifs = self.pool.store.table("PIF").values()
        return str(next(pif["network"] for pif in pifs if pif["host"] == host and pif["management"]))

    def records(self, message: Message, class_name: str) -> Iterator[dict[str, Any]]:
        """Records for a constructor."""
        shape, given = self.pool.store.shape(class_name), RECORD.get(class_name, {})
        choices = {
            name: [given[name]] if name in given else self.values(message, name, field.type)
            for name, field in shape.fields.items()
            if field.in_constructor and (name in given or field.default is datamodel.MISSING)
        }
        for values in product(*choices.values()):
            yield dict(zip(choices, values, strict=True))

    def attempts(self, message: Message) -> Iterator[tuple[Any, ...]]:
        """Arguments for a message, those that may be left off left off first."""
        needed = [param for param in message.params if not param.optional]
        known = [p for p in message.params if p.optional and MODEL.order(p.since) <= self.pool.store.release.order]
        for params in (needed, [*needed, *known]) if known else (needed,):
            yield from product(*(self.values(message, param.name, param.type) for param in params))
