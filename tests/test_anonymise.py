"""Dumps in which nobody can be recognised, and which behave as before."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import xenctl
from mockserver import MockPool
from mockserver.anonymise import TOKEN, anonymise
from xenctl import database, datamodel, rehearsal
from xenctl.database import Database, parse_map, parse_set, write_map
from xenctl.datamodel import types as t
from xenctl.procedures import observe, rolling_upgrade
from xenctl.releases import next_release

DATA = Path(__file__).parent / "data"
DUMPS = {"4.0.1": DATA / "pool-4.0.1.xml", "4.1": DATA / "pool-4.1.0.xml"}
HIDDEN = ("name__label", "name_label", "name__description", "name_description", "hostname")
SHOWN_TABLES = ("SM", "role")
SEED = {"mac_seed": ""}
"""What of a map is no technical word: a uuid."""


@pytest.fixture(params=[*DUMPS, "8.2"])
def dump(request: pytest.FixtureRequest) -> Database:
    if request.param in DUMPS:
        return database.read_file(DUMPS[request.param])
    return MockPool.create(hosts=3, vms=12, release=request.param).store.dump()


def leaked(before: Database, after: Database) -> set[str]:
    """Names, descriptions, uuids, references and addresses of `before` that stand in `after`, and not in every dump."""
    out = database.write(after).decode()
    cells = [
        (table, column, text)
        for table in before.tables
        for row in before.rows(table)
        for column, text in row.cells.items()
    ]
    tokens = {found[0] for _, _, text in cells for found in TOKEN.finditer(text)}
    tokens |= {found[0] for text in before.manifest.values() for found in TOKEN.finditer(text)}
    names = {text for table, column, text in cells if column in HIDDEN and table not in SHOWN_TABLES and len(text) > 2}
    schema = " ".join(["255.255.0.0", *before.tables, *(column for _, column, _ in cells)])
    return {
        text for text in tokens | names if text not in schema and (text in out or database.protect(text, True) in out)
    }


def references(db: Database) -> list[tuple[str, int, str, Any]]:
    """By place, which rows every reference and set of references leads to, as numbers."""
    place = {ref: (name, n) for name, table in db.tables.items() for n, ref in enumerate(table.rows)}
    out = []
    for name in db.tables:
        columns = datamodel.load().classes[name].columns
        for number, row in enumerate(db.rows(name)):
            for column, text in row.cells.items():
                kind = columns[column].type if column in columns else None
                if isinstance(kind, t.Ref):
                    out.append((name, number, column, place.get(text, "nothing")))
                elif isinstance(kind, t.Set) and isinstance(kind.item, t.Ref):
                    out.append((name, number, column, [place.get(ref, "nothing") for ref in parse_set(text)]))
    return out


def test_nothing_of_the_original_is_left(dump: Database) -> None:
    """No name, description, uuid, reference, address, and not the pool's secret."""
    assert leaked(dump, dump), "the test would see it"
    out = anonymise(dump)
    assert leaked(dump, out) == set()
    assert out.manifest.get("pool_token", "-") != dump.manifest.get("pool_token", "")


def test_what_a_procedure_looks_at_is_kept(dump: Database) -> None:
    """Every reference leads where it led, in the same order; numbers, states, dates and kinds are as they were."""
    out = anonymise(dump)
    assert references(out) == references(dump)
    assert list(out.tables) == list(dump.tables)
    steady = (
        "power_state",
        "memory__static_max",
        "type",
        "device",
        "currently_attached",
        "capabilities",
        "shared",
        "mode",
    )
    for table in dump.tables:
        for before, after in zip(dump.rows(table), out.rows(table), strict=True):
            assert list(before.cells) == list(after.cells)
            for column in steady:
                assert before.cells.get(column) == after.cells.get(column)
    for before, after in zip(dump.rows("PBD"), out.rows("PBD"), strict=True):
        assert list(parse_map(before.cells["device_config"])) == list(parse_map(after.cells["device_config"]))
    for before, after in zip(dump.rows("host"), out.rows("host"), strict=True):
        was, now = (parse_map(row.cells["software_version"]) for row in (before, after))
        assert {**was, "hostname": ""} == {**now, "hostname": ""}


@pytest.mark.parametrize("name", ["4.0.1", "4.1"])
def test_a_rehearsal_of_it_goes_the_same_way(name: str) -> None:
    """The same steps on the same hosts and VMs in the same order, counted; and the same verdict."""
    dump = database.read_file(DUMPS[name])
    shapes, verdicts = [], []
    for db in (dump, anonymise(dump)):
        pool = MockPool.from_dump(db)
        with xenctl.connect(pool.url, "root", "secret", transport=pool.transport()) as session:
            facts = observe.observe(session)
            plan = rolling_upgrade.plan(session, next_release(facts.release).product_version)
        numbers = {uuid: n for n, uuid in enumerate([*pool.store.by_uuid])}
        steps = [(s.action, numbers.get(s.host), numbers.get(s.vm), numbers.get(s.to)) for s in plan.steps]
        shapes.append((steps, len(plan.problems), len(plan.warnings), len(plan.away), len(plan.downtime)))
        verdict = rehearsal.rehearse(db)
        verdicts.append((verdict.ok, verdict.simulated_s, [vm.migrations for vm in verdict.vms]))
    assert shapes[0] == shapes[1]
    assert len(shapes[0][0]) > 20
    assert verdicts[0] == verdicts[1]


def test_the_same_seed_gives_the_same_bytes_and_another_others(dump: Database) -> None:
    """What stands for a text does not follow from the text."""
    one, same, other = (database.write(anonymise(dump, seed=seed)) for seed in (1, 1, "another"))
    assert one == same
    assert one != other
    assert database.write(anonymise(dump)) != database.write(dump)


def test_the_same_text_becomes_the_same_everywhere() -> None:
    """In cells, sets, maps, records within texts, and between tables; what differed differs."""
    pool = MockPool.create(hosts=2, vms=2, release="8.2")
    vm, other = (v for v in pool.store.table("VM").values() if v["name_label"] in ("vm01", "vm02"))
    secret = "correct horse battery"
    record = write_map(
        {"uuid": vm["uuid"], "name_label": "vm01", "memory_static_max": "5", "PV_args": "host=db.example.com"}
    )
    xml = (
        f"<value><struct><member><name>uuid</name><value>{vm['uuid']}</value></member>"
        "<member><name>name_label</name><value>vm01</value></member>"
        "<member><name>VCPUs_max</name><value>3</value></member></struct></value>"
    )
    pool.store.write(
        vm,
        tags=["payroll", "42"],
        other_config={"owner": "Alice <alice@example.com>", "auto_poweron": "true"},
        snapshot_metadata=record,
        last_booted_record=xml,
        name_description="1234567",
    )
    pool.store.write(
        other, other_config={"see": vm.ref, "mac": "00:16:3E:aa:00:01", "v6": "2001:db8::17"}, tags=["payroll"]
    )
    pbd = next(iter(pool.store.table("PBD").values()))
    config = {"server": "filer.example.com", "serverpath": "/x", "password": "98765", "target": "192.0.2.7,10.1.1.1"}
    pool.store.write(pbd, device_config={**config, "cifspassword": secret})
    dump = pool.store.dump()
    out = anonymise(dump)
    text = database.write(out).decode()
    told = ("alice", "Alice", "example.com", "payroll", "correct", "98765", "2001:db8", "192.0.2.7", "1234567")
    for word in told:
        assert word not in text
    refs = dict(zip(dump.tables["VM"].rows, out.tables["VM"].rows, strict=True))
    one, two = out.row("VM", refs[vm.ref]).cells, out.row("VM", refs[other.ref]).cells
    assert parse_set(one["tags"])[0] == parse_set(two["tags"])[0] != parse_set(one["tags"])[1]
    assert next(iter(parse_map(two["other_config"]).values())) == refs[vm.ref]
    vif = next(row for row in out.rows("VIF") if row.cells["VM"] == refs[vm.ref])
    assert vif.cells["MAC"] in parse_map(two["other_config"]).values()
    assert parse_map(one["other_config"])["auto_poweron"] == "true"
    inner = parse_map(one["snapshot_metadata"])
    assert (inner["uuid"], inner["name_label"], inner["memory_static_max"]) == (one["uuid"], one["name__label"], "5")
    assert "example" not in inner["PV_args"]
    assert re.findall("<value>([^<]*)</value>", one["last_booted_record"]) == [one["uuid"], one["name__label"], "3"]


def test_addresses_of_one_network_stay_together() -> None:
    """Who was in the same network still is, and nobody has an address of the original."""
    pool = MockPool.create(hosts=3, vms=0, release="8.2")
    addresses = ["10.1.1.5", "10.1.1.9", "10.1.2.5"]
    for host, address in zip(pool.store.table("host").values(), addresses, strict=True):
        pool.store.write(host, address=address)
    out = [row.cells["address"].split(".") for row in anonymise(pool.store.dump()).rows("host")]
    assert out[0][:3] == out[1][:3] != out[2][:3]
    assert out[0][:2] == out[2][:2]
    assert all(int(part) < 256 for address in out for part in address)
    assert len({tuple(address) for address in out}) == 3


def test_what_stands_for_a_name_is_no_name_of_the_original() -> None:
    """A pool whose VMs are called `guest-1` and `host` gets other words."""
    pool = MockPool.create(hosts=1, vms=3, release="8.2")
    for vm, name in zip(list(pool.store.table("VM").values())[1:], ("guest-1", "host", "guest"), strict=True):
        pool.store.write(vm, name_label=name)
    assert not leaked(pool.store.dump(), anonymise(pool.store.dump()))
    names = [row.cells["name__label"] for row in anonymise(pool.store.dump()).rows("VM")]
    assert len(set(names)) == 4
    assert not {"guest-1", "host", "guest"} & set(names)


def test_what_storage_and_networks_go_by_is_kept(calls: Callable[..., Any]) -> None:
    """Keys that forbid or allow, schedules, properties of interfaces; what secrets and disks are called is hidden."""
    c = calls(release="8.2", hosts=2, vms=3)
    store = c.pool.store
    image = {"SR": next(iter(store.table("SR"))), "virtual_size": 1 << 20, "type": "user", "sharable": False}
    c("VDI.create", {"name_label": "payroll", "read_only": False, "other_config": {}, "sm_config": {}, **image})
    for table, keys in {
        "pool": ["allow_clone_suspended_vm"],
        "network": ["assume_network_is_shared", "is_host_internal_management_network"],
        "SR": ["indestructible", "xenserver_tools_sr"],
        "VM": ["default_template"],
    }.items():
        store.write(next(iter(store.table(table).values())), other_config=dict.fromkeys(keys, "true"))
    schedule = {"hour": "3", "min": "15", "days": "Monday,Friday"}
    options = {
        "frequency": "weekly",
        "schedule": schedule,
        "type": "snapshot",
        "retained_snapshots": 3,
        "enabled": True,
    }
    c("VMSS.create", {"name_label": "Every Friday", "name_description": "", **options})
    c("secret.create", {"value": "correct horse", "other_config": {}})
    sid = c.pool.directory.add("mallory", password="pw")
    c.pool.directory.connect(c.pool, "corp.example.com")
    c("subject.create", {"subject_identifier": sid, "other_config": {"subject-name": "mallory"}})
    dump = store.dump()
    out = anonymise(dump)
    for table, column in (
        *((table, "other_config") for table in ("pool", "network", "SR", "VM")),
        *(("VMSS", "schedule"), ("PIF", "properties"), ("SM", "features")),
    ):
        befores, afters = ([{**parse_map(row.cells[column]), **SEED} for row in db.rows(table)] for db in (dump, out))
        assert befores == afters
        assert any(before.keys() - SEED for before in befores)
    text = database.write(out).decode()
    assert not [name for name in ("Friday%", "Every", "correct", "mallory", sid, "corp", "payroll") if name in text]
    assert leaked(dump, out) == set()


def test_cells_that_nobody_understands_are_hidden() -> None:
    """Unknown tables and columns, and maps that are none."""
    db = database.read_file(DUMPS["4.1"])
    db.tables["widget"] = database.Table(
        "widget", {"OpaqueRef:w": database.Row("OpaqueRef:w", {"made_by": "Bob", "size": "7"})}
    )
    vm = next(iter(db.rows("VM")))
    vm.cells["other_config"], vm.cells["colour"], vm.cells["affinity"] = "Carol (", "Dave's", "OpaqueRef:Erin"
    out = anonymise(db)
    text = database.write(out).decode()
    assert not [name for name in ("Bob", "Carol", "Dave", "Erin") if name in text]
    assert next(iter(out.rows("widget"))).cells["size"] == "7"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mockserver", "anonymise", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_command_writes_an_anonymous_dump(tmp_path: Path) -> None:
    """Its owner's alone; the same as the function gives."""
    out = tmp_path / "out.xml"
    done = command(DUMPS["4.1"], out, "--seed", "7")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert out.read_bytes() == database.write(anonymise(database.read_file(DUMPS["4.1"]), seed="7"))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_the_command_says_what_cannot_be_used(tmp_path: Path) -> None:
    """A missing dump, the original as the target, a folder that is not there, and nothing is written."""
    dump = tmp_path / "pool.xml"
    dump.write_bytes(DUMPS["4.1"].read_bytes())
    link = tmp_path / "link.xml"
    link.symlink_to(dump)
    for arguments, said in (
        ((tmp_path / "none.xml", tmp_path / "out.xml"), "it cannot be read (No such file or directory)"),
        ((dump, link), "is the original itself: name another file"),
        ((dump, tmp_path / "no" / "out.xml"), "there is no folder"),
        ((dump,), "the following arguments are required: OUT; see --help"),
    ):
        done = command(*arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.xml", "pool.xml"]
    assert dump.read_bytes() == DUMPS["4.1"].read_bytes()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('<restrictions><restriction field="vcpus-max" max="16"/></restrictions>', True),
        ('<restrictions><restriction field="for Mr Miller"', False),
        ("ask Mr Miller", False),
        ("<a/> ask Mr Miller", False),
        ("<!-- ask Mr Miller --><a/>", False),
    ],
)
def test_recommendations_are_shown_only_where_they_are_xml(text: str, kept: bool) -> None:
    """What is none may be somebody's words, and is replaced whole."""
    dump = database.read_file(DUMPS["4.0.1"])
    vm = next(iter(dump.rows("VM")))
    vm.cells["recommendations"] = text
    (after,) = (row.cells["recommendations"] for row in anonymise(dump).rows("VM") if row.cells.get("recommendations"))
    assert (after == text) is kept
    assert "Miller" not in after
