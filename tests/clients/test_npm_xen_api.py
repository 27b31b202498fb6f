"""npm's `xen-api`, the client of Xen Orchestra, works with the fake over sockets as with a pool."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import XenAPI

from mockserver import MockPool, PoolServer
from xenctl import database

Programs = Callable[..., Any]
Served = Callable[..., PoolServer]

MIB = 2**20
SIZE = 8 * MIB


@contextmanager
def official(server: PoolServer) -> Iterator[Any]:
    """Another client of the same pool: the official SDK."""
    session = XenAPI.Session(server.url, ignore_ssl=True)
    try:
        session.xenapi.login_with_password("root", "secret")
        yield session.xenapi
        session.xenapi.session.logout()
    finally:
        session("close")()


def within(seconds: float, holds: Callable[[], Any]) -> None:
    """Wait on the wall's clock for something that other threads bring about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def vm(pool: MockPool, name: str) -> Any:
    return next(row for row in pool.store.table("VM").values() if row["name_label"] == name)


# --- connecting


@pytest.mark.parametrize(
    ("release", "transport", "memory"),
    [
        ("8.4", "auto", int),
        ("8.2", "auto", int),
        ("7.0", "auto", int),
        ("8.2", "xml-rpc", str),
        ("6.0", "xml-rpc", str),
        ("4.0.1", "xml-rpc", str),
    ],
)
def test_it_connects_through_a_member(
    programs: Programs, served: Served, release: str, transport: str, memory: type
) -> None:
    """`HOST_IS_SLAVE` leads it to the master; whole numbers are numbers in JSON-RPC, which it finds by itself, and text in
    XML-RPC; it logs out, after which nobody waits for events any more and the program ends."""
    server = served(release=release)
    pool = server.pool
    machine = vm(pool, "vm01")
    program = programs("connect", server.url_of(pool.machine("host2")), {"transport": transport}, vm=machine["uuid"])
    assert program.hears() == "connected"
    seen = program.hears()
    session = seen.pop("session")
    assert seen == {
        "status": "connected",
        "pool": pool.store.pool()["name_label"],
        "hosts": ["host1", "host2", "host3"],
        "address": pool.master.address,
        "memory": memory(machine["memory_static_max"]),
    }
    assert program.hears() == "disconnected"
    program.ends()
    assert pool.store.find("session", session) is None


def test_hosts_before_7_0_answer_json_with_a_page(programs: Programs, served: Served) -> None:
    """They take it for XML-RPC that they cannot read, status 500. This release of the client looks at the status before it
    looks for another protocol, so for old hosts it has to be told which one they speak."""
    program = programs("connect", served(release="4.0.1").url, {"transport": "auto"})
    assert program.hears()["message"] == "unexpect statusCode 500"
    program.ends()


def test_a_wrong_password_is_told(programs: Programs, served: Served) -> None:
    """By the code, with its parameters."""
    program = programs("connect", served().url, {"auth": {"user": "root", "password": "wrong"}})
    told = program.hears()
    assert (told["code"], len(told["params"])) == ("SESSION_AUTHENTICATION_FAILED", 2)
    program.ends()


def test_tls_by_the_authoritys_file(programs: Programs, served: Served) -> None:
    """Through a member, whose certificate the same authority made."""
    server = served(tls=True)
    program = programs(
        "connect",
        server.url_of(server.pool.machine("host3")),
        environment={"NODE_EXTRA_CA_CERTS": server.cafile},
        vm=vm(server.pool, "vm01")["uuid"],
    )
    assert program.hears() == "connected"
    assert program.hears()["address"] == server.pool.master.address
    assert program.hears() == "disconnected"
    program.ends()


def test_tls_unauthorised(programs: Programs, served: Served) -> None:
    """Without the file it refuses to connect, unless it is told to look away."""
    server = served(tls=True)
    program = programs("connect", server.url)
    assert program.hears()["code"] in ("SELF_SIGNED_CERT_IN_CHAIN", "UNABLE_TO_VERIFY_LEAF_SIGNATURE")
    program.ends()
    program = programs("connect", server.url, {"allowUnauthorized": True}, vm=vm(server.pool, "vm01")["uuid"])
    assert program.hears() == "connected"


# --- records and events


def test_records_are_typed_and_written(programs: Programs, served: Served) -> None:
    """References lead to cached objects of other classes; fields, sets and maps are written; a barrier shows it."""
    server = served()
    store, row = server.pool.store, vm(server.pool, "vm01")
    program = programs("records", server.url, vm="vm01")
    disks = [store.get("VDI", v["VDI"]) for v in server.pool.vbds(row) if v["type"] == "Disk"]
    assert program.hears() == {
        "memory_static_max": row["memory_static_max"],
        "is_a_template": False,
        "snapshot_time": "19700101T00:00:00Z",
        "platform": dict(row["platform"]),
        "VBDs": list(row["VBDs"]),
        "resident_on": store.get("host", row["resident_on"])["name_label"],
        "disks": [disk["name_label"] for disk in disks],
        "sr": store.get("SR", disks[0]["SR"])["name_label"],
        "pool": store.pool()["name_label"],
    }
    written: dict[str, Any] = {
        "name_description": "written by another client",
        "other_config": {"one": "2", "two": "2"},
        "tags": ["kept"],
        "actions_after_crash": "destroy",
    }
    assert program.hears() == {**written, "asked": ["kept"], "again": True}
    program.ends()
    config = written.pop("other_config")
    assert {name: row[name] for name in written} == written
    assert config.items() <= row["other_config"].items()
    assert not [key for key in store.pool()["other_config"] if key.startswith("xo:barrier:")]


@pytest.mark.parametrize(("release", "transport"), [("8.2", "auto"), ("4.0.1", "xml-rpc")])
def test_it_sees_what_another_client_does(programs: Programs, served: Served, release: str, transport: str) -> None:
    """Objects that come, change and go are in its cache, by `event.from`; by `event.next` where hosts know no other."""
    server = served(release=release)
    program = programs("events", server.url, {"transport": transport})
    assert program.hears() == "ready"
    within(
        10, lambda: server._waiters
    )  # for events; the client registers for those of `event.next` only after it has looked
    with official(server) as api:
        new = create_network(api, "another")
        told = program.hears()
        assert (told["happened"], told["type"], told["name"]) == ("add", "network", "another")
        api.network.set_name_label(new, "renamed")
        told = program.hears()
        assert (told["happened"], told["type"], told["name"]) == ("update", "network", "renamed")
        (machine,) = api.VM.get_by_name_label("vm04")
        api.VM.start(machine, False, False)
        hears_until(program, happened="update", type="VM", name="vm04", state="Running")
        api.VM.hard_shutdown(machine)
        hears_until(program, happened="update", type="VM", name="vm04", state="Halted")
        api.network.destroy(new)
        hears_until(program, happened="remove", name="renamed")
        create_network(api, "over")
        hears_until(program, happened="add", type="network", name="over")
        program.ends()


def create_network(api: Any, name: str) -> str:
    fields = {"name_label": name, "name_description": "", "MTU": "1500", "other_config": {}, "tags": []}
    return str(api.network.create(fields))


def hears_until(program: Any, **wanted: str) -> None:
    """Listen until the program tells what is `wanted`."""
    while not wanted.items() <= program.hears().items():
        pass


def test_it_follows_a_master_that_went_away_and_came_back(programs: Programs, served: Served) -> None:
    """Its session is gone with the master: it logs in anew, and sees what happened meanwhile."""
    server = served()
    pool = server.pool
    program = programs("restart", server.url, {"eventPollDelay": 50}, vm="vm04")
    assert program.hears() == "ready"
    before = set(pool.store.table("session"))
    pool.hands.power_off("host1")
    assert program.hears() == "lost"
    pool.hands.power_on("host1")
    within(20, lambda: pool.machine("host1").xapi.complete)
    with official(server) as api:
        (machine,) = api.VM.get_by_name_label("vm04")
        api.VM.set_name_label(machine, "renamed meanwhile")
        assert program.hears() == {"same": True, "asked": "renamed meanwhile"}
        told = program.hears()
        assert told["result"] == ""
        assert told["session"] not in before
        assert api.VM.get_power_state(machine) == "Running"
    program.ends(quietly=False)
    assert "_watchEvents" in program.complaints()


# --- calls


def test_tasks_end_with_results_refusals_and_cancellation(programs: Programs, served: Served) -> None:
    """As promises: the clone's reference, nothing from a start, a code with parameters, `Cancel`."""
    server = served(time_scale=20.0)
    pool = server.pool
    disk = next(v["VDI"] for v in pool.vbds(vm(pool, "vm04")) if v["type"] == "Disk")
    program = programs("tasks", server.url, running="vm01", halted="vm04", disk=disk)
    copied = pool.store.get("VDI", program.hears()["result"])
    assert copied["name_label"] == pool.store.get("VDI", disk)["name_label"]
    assert copied.ref != disk
    assert program.hears() == {"result": ""}
    told = program.hears()
    assert (told["code"], told["params"]) == ("VM_BAD_POWER_STATE", [vm(pool, "vm04").ref, "halted", "running"])
    assert program.hears() == {"pending": "Async.VM.clean_shutdown", "operations": ["clean_shutdown"]}
    assert program.hears()["message"] == "task canceled"
    assert program.hears() == {"watched": {"unexpected": ""}}
    assert program.hears() == {"state": "Halted"}
    program.ends()


CALLS: list[tuple[str, ...]] = [
    ("VM.get_by_uuid", "no-such-uuid"),
    ("VM.get_record", "OpaqueRef:nothing"),
    ("VM.no_such_message",),
    ("VM.get_record",),
    ("VM.get_record", "OpaqueRef:NULL", "more"),
    ("VM.set_power_state", "OpaqueRef:NULL", "Running"),
    ("VM.set_actions_after_crash", "OpaqueRef:NULL", "nonsense"),
    ("SR.get_all_records_where", "field bad ="),
    ("network.create", "no record"),
]


@pytest.mark.parametrize("transport", ["auto", "xml-rpc"])
def test_refusals_are_those_that_the_official_sdk_gets(programs: Programs, served: Served, transport: str) -> None:
    """Code and parameters, for each kind of mistake, in either protocol."""
    server = served()
    program = programs("errors", server.url, {"transport": transport}, calls=CALLS)
    with official(server) as api:
        for method, *arguments in CALLS:
            told = program.hears()
            kind, message = method.split(".")
            with pytest.raises(XenAPI.Failure) as caught:
                getattr(getattr(api, kind), message)(*arguments)
            assert [told["code"], *told["params"]] == caught.value.details
    program.ends()


# --- resources


def blank(api: Any, sr: str) -> str:
    """A new disk of `SIZE` bytes in the storage repository called `sr`."""
    fields = {
        "name_label": "blank",
        "name_description": "",
        "SR": api.SR.get_by_name_label(sr)[0],
        "virtual_size": str(SIZE),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "tags": [],
    }
    return str(api.VDI.create(fields))


@pytest.fixture(params=[False, True], ids=["http", "https"])
def place(request: pytest.FixtureRequest, served: Served) -> PoolServer:
    """A pool of which a host has storage that the master does not see."""
    return served(tls=request.param)


def test_disks_go_up_and_down(programs: Programs, place: PoolServer, tmp_path: Path) -> None:
    """As one piece, as a stream (which asks first where to go), and as one of unknown length: it ends with its connection,
    so that the task fails when all is written, and the client lets that pass. Where another host has the storage, it is led
    there. The same bytes come back. A VHD says itself where it ends."""
    seed = 17
    content = random.Random(seed).randbytes(2 * MIB) + bytes(MIB)
    content += random.Random(seed + 1).randbytes(SIZE - len(content))
    (tmp_path / "content").write_bytes(content)
    shared = next(
        sr["name_label"] for sr in place.pool.store.table("SR").values() if sr["shared"] and sr["type"] == "nfs"
    )
    local = local_storage(place.pool, "host2")
    with official(place) as api:
        steps: list[dict[str, Any]] = []
        disks = {}
        for sr, ways in ((shared, ("buffer", "sized", "endless")), (local, ("sized", "endless"))):
            for how in ways:
                disks[sr, how] = vdi = blank(api, sr)
                asked = {"vdi": vdi, "format": "raw"}
                steps += [
                    {"put": "/import_raw_vdi/", "query": asked, "file": str(tmp_path / "content"), "how": how},
                    {"get": "/export_raw_vdi/", "query": asked, "file": str(tmp_path / f"{sr}-{how}")},
                ]
        as_vhd, copied = {"format": "vhd", "vdi": next(iter(disks.values()))}, blank(api, shared)
        steps += [
            {"get": "/export_raw_vdi/", "query": as_vhd, "file": str(tmp_path / "vhd")},
            {
                "put": "/import_raw_vdi/",
                "query": {**as_vhd, "vdi": copied},
                "file": str(tmp_path / "vhd"),
                "how": "endless",
            },
        ]
        program = programs("transfers", place.url, {"allowUnauthorized": True}, steps=steps)
        for (sr, how), vdi in disks.items():
            assert program.hears() == ({} if how == "endless" else {"result": vdi})
            assert program.hears() == {"status": 200, "type": "application/octet-stream", "result": ""}
            assert (tmp_path / f"{sr}-{how}").read_bytes() == content, (seed, sr, how)
        assert program.hears() == {"status": 200, "type": "application/vhd", "result": ""}
        assert program.hears() == {"result": copied}
        program.ends(quietly=False)
        assert program.complaints().count("code: 'VDI_IO_ERROR'") == 2
        assert digest(place.pool, copied) == digest(place.pool, as_vhd["vdi"])
        assert api.task.get_all() == []


def local_storage(pool: MockPool, host: str) -> str:
    """The name of storage that only `host` sees."""
    (ref,) = [row.ref for row in pool.store.table("host").values() if row["name_label"] == host]
    for sr in pool.store.table("SR").values():
        if not sr["shared"] and {pool.store.get("PBD", pbd)["host"] for pbd in sr["PBDs"]} == {ref}:
            return str(sr["name_label"])
    raise AssertionError(f"{host} has no storage of its own")


def test_virtual_machines_and_the_database(programs: Programs, place: PoolServer, tmp_path: Path) -> None:
    """An archive of a VM comes back as another one with the same bytes; the database is whole, and may be tried out."""
    pool = place.pool
    archive, dump = tmp_path / "vm.xva", tmp_path / "pool.xml"
    machine = vm(pool, "vm04")
    (disk,) = [pool.store.get("VDI", v["VDI"]) for v in pool.vbds(machine) if v["type"] == "Disk"]
    with pool.guard():
        pool.disk_of(disk.ref).write(5 * MIB, b"kept")
    steps = [
        {"get": "/export/", "query": {"ref": machine.ref, "use_compression": "false"}, "file": str(archive)},
        {"put": "/import/", "query": {"sr_id": disk["SR"]}, "file": str(archive), "how": "sized"},
        {"get": "/pool/xmldbdump", "query": {}, "file": str(dump)},
        {"put": "/pool/xmldbdump", "query": {"dry_run": "true"}, "file": str(dump), "how": "buffer"},
    ]
    program = programs("transfers", place.url, {"allowUnauthorized": True}, steps=steps)
    assert program.hears()["status"] == 200
    (new,) = program.hears()["result"]
    assert program.hears()["status"] == 200
    assert set(program.hears()) == {"result"}
    program.ends()
    others = [pool.store.get("VDI", v["VDI"]) for v in pool.vbds(pool.store.get("VM", new)) if v["type"] == "Disk"]
    assert [digest(pool, other.ref) for other in others] == [digest(pool, disk.ref)]
    found = database.read_file(str(dump))
    database.verify(found)
    assert len(list(found.rows("VM"))) == len(pool.store.table("VM"))


def digest(pool: MockPool, vdi: str) -> str:
    disk = pool.disk_of(vdi)
    assert disk is not None
    return disk.digest()
