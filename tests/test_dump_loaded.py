"""Pools loaded from dumps: what loading changes and what it does not, what is reported, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mockserver import MockPool
from mockserver.store import Store, empty_value, to_text
from xenctl import database
from xenctl.database import Database
from xenctl.errors import DatabaseError
from xenctl.releases import find, known

Make = Callable[..., Any]
DATA = Path(__file__).parent / "data"
DUMPS = {"4.0.1": DATA / "pool-4.0.1.xml", "4.1": DATA / "pool-4.1.0.xml"}
EMPTIED = {("VM_metrics", "memory__actual"), ("VM_metrics", "last_updated"), ("host_cpu", "utilisation")}
"""Columns that are not persistent, of those that the shared dumps fill."""
STARTED = {*EMPTIED, *((name, "allowed_operations") for name in ("VM", "VBD", "VDI", "SR", "VIF", "host"))}
STARTED |= {("host", "metrics"), ("PIF", "metrics"), ("", "generation_count")}
"""What a start of the pool writes beside: which operations are allowed, and metrics of hosts and cards, which were lost."""


@pytest.fixture(params=list(DUMPS))
def dump(request: pytest.FixtureRequest) -> Database:
    return database.read_file(DUMPS[request.param])


def release_of(dump: Database) -> Any:
    return find(dump.product_version or "")


def changed(before: Database, after: Database) -> set[tuple[str, str]]:
    return {(d.table, d.column) for d in database.differences(before, after)}


# --- what changes


def test_a_dump_that_is_loaded_and_written_has_the_same_content(dump: Database) -> None:
    """But for columns that are not persistent: they are emptied when xapi reads them. Order and form are kept too."""
    out = Store.load(dump, release_of(dump)).dump()
    assert changed(dump, out) == EMPTIED
    assert list(out.tables) == list(dump.tables)
    assert {name: list(table.rows) for name, table in out.tables.items()} == {
        n: list(t.rows) for n, t in dump.tables.items()
    }
    assert (out.form, out.manifest) == (dump.form, dump.manifest)
    blank = dump.copy()
    store = Store(release_of(dump))
    for table, column in EMPTIED:
        field = store.model.classes[table].columns[column]
        for row in blank.rows(table):
            row.cells[column] = to_text(empty_value(field.type))
    assert database.digest(blank) == database.digest(out)


def test_a_second_load_changes_nothing(dump: Database) -> None:
    """Load, write, load, write: the same bytes."""
    first = Store.load(dump, release_of(dump)).dump()
    second = Store.load(first, release_of(dump)).dump()
    assert database.write(first) == database.write(second)
    again = Store.load(database.read(database.write(second)), release_of(dump)).dump()
    assert database.write(again) == database.write(second)


def test_a_pool_that_was_started_differs_by_what_a_start_writes(dump: Database) -> None:
    """Allowed operations, the metrics of hosts and cards, and nothing else."""
    pool = MockPool.from_dump(dump)
    assert changed(dump, pool.store.dump()) <= STARTED
    assert ("VM", "allowed_operations") in changed(dump, pool.store.dump())


def test_what_nobody_wrote_keeps_its_spelling() -> None:
    """A number that another way of writing it would change; once it is set it is written as usual."""
    dump = database.read_file(DUMPS["4.1"])
    store = Store.load(dump, find("4.1"))
    vm = next(v for v in store.table("VM").values() if dump.row("VM", v.ref).cells["HVM__shadow_multiplier"] == "1.000")
    assert vm["HVM_shadow_multiplier"] == 1.0
    store.write(vm, name_label="touched")
    assert store.dump().row("VM", vm.ref).cells["HVM__shadow_multiplier"] == "1.000"
    store.write(vm, HVM_shadow_multiplier=2.0)
    assert store.dump().row("VM", vm.ref).cells["HVM__shadow_multiplier"] == "2"


@pytest.mark.parametrize("release", [release.name for release in known()])
def test_a_pool_of_every_release_survives_its_own_dump(release: str) -> None:
    """Made from counts, dumped, loaded: the same pool; every class of the release has its table."""
    pool = MockPool.create(hosts=2, vms=7, release=release)
    dump = database.read(database.write(pool.store.dump()))
    again = MockPool.from_dump(dump)
    assert {m.system.release for m in again.machines} == {find(release)}
    lost = ("PIF", "host") if find(release) < find("5.6") else ()
    assert again.reports == [f"table {name}: 2 references of metrics to no {name}_metrics" for name in lost]
    for table in ("host", "VM", "VBD", "VDI", "SR", "PBD", "VIF", "network", "pool"):
        there = pool.store.table(table)
        assert set(again.store.table(table)) == set(there)
        shape = again.store.shape(table)
        for ref, row in again.store.table(table).items():
            steady = {f: v for f, v in row.items() if f not in shape.empty and f != "metrics"}
            assert steady == {f: there[ref][f] for f in steady}, (table, row.get("name_label"))
    for empty in ("task", "session", "event"):
        assert dump.tables[empty].rows == {}
    assert [sorted(m.domains) for m in again.machines] == [sorted(m.domains) for m in pool.machines]


def test_a_pool_of_today_is_dumped_in_todays_form() -> None:
    """Tables and rows' columns in order of bytes, generations in rows, no identity in the manifest."""
    dump = MockPool.create(hosts=1, vms=1, release="8.2").store.dump()
    assert list(dump.tables) == sorted(dump.tables)
    assert list(dump.manifest) == ["schema_major_vsn", "schema_minor_vsn", "generation_count"]
    row = next(iter(dump.rows("VM")))
    assert list(row.cells) == sorted(row.cells)
    assert row.cells["_ref"] == row.ref
    assert row.ctime is not None
    assert row.mtime is not None
    assert row.ctime <= row.mtime < dump.generation
    assert (dump.form.every_space, dump.form.declaration) == (True, True)


def test_a_pool_of_old_is_dumped_with_its_identity() -> None:
    """The manifest names the master's machine, its role, the pool's secret and versions, up to 5.6 FP1."""
    pool = MockPool.create(hosts=2, vms=1, release="4.0.1")
    dump = pool.store.dump()
    assert list(dump.manifest) == list(database.read_file(DUMPS["4.0.1"]).manifest)
    system = pool.master.system
    assert dump.manifest["installation_uuid"] == system.installation_uuid
    assert dump.manifest["pool_token"] == system.pool_secret
    assert (dump.manifest["pool_conf"], dump.manifest["product_version"]) == ("master", "4.0.1")
    assert next(iter(dump.rows("VM"))).ctime is None


@pytest.mark.parametrize(("release", "identity"), [("4.1", True), ("5.6.100", True), ("6.0", False), ("7.3", False)])
def test_an_upgrade_brings_the_manifest_and_the_form_of_its_release(release: str, identity: bool) -> None:
    """Old columns stay, new ones have their defaults; the order of tables is that of the new release."""
    source = database.read_file(DUMPS["4.0.1"])
    store = Store.load(source, find("4.0.1"))
    store.upgrade(find(release))
    dump = store.dump()
    assert dump.schema == find(release).schema
    assert ("installation_uuid" in dump.manifest) is identity
    assert dump.form.generations is (release in ("6.0", "7.3"))
    assert dump.form.every_space is (release == "7.3")
    again = Store.load(database.read(database.write(dump)), find(release))
    assert database.differences(again.dump(), dump) == []
    kept = {ref: row.cells["name__label"] for ref, row in source.tables["VM"].rows.items()}
    assert {ref: row["name_label"] for ref, row in store.table("VM").items()} == kept


def test_the_secret_of_a_dump_is_the_pools() -> None:
    """Hosts know each other by it."""
    dump = database.read_file(DUMPS["4.0.1"])
    pool = MockPool.from_dump(dump)
    assert {m.system.pool_secret for m in pool.machines} == {dump.manifest["pool_token"]}


# --- what a loaded pool is like


def test_a_loaded_pool_runs(dump: Database) -> None:
    """Its guests where the dump says, its suspended ones with an image that can be resumed."""
    pool = MockPool.from_dump(dump)
    store = pool.store
    running = [
        vm for vm in store.table("VM").values() if vm["power_state"] == "Running" and not vm["is_control_domain"]
    ]
    assert running
    for vm in running:
        machine = pool.machine_of(store.get("host", vm["resident_on"]))
        assert machine is not None
        assert vm["uuid"] in machine.domains
    assert all(host["enabled"] for host in store.table("host").values())
    assert all(row["live"] for row in store.table("host_metrics").values())
    session = pool.dispatch("session.login_with_password", ["root", "secret"])
    suspended = [vm for vm in store.table("VM").values() if vm["power_state"] == "Suspended"]
    assert suspended
    for vm in suspended:
        pool.dispatch("VM.resume", [session, vm.ref, False, False])
        assert vm["power_state"] == "Running"


def test_a_start_that_was_under_way_is_over(calls: Make) -> None:
    """A dump taken meanwhile reserves a place for nobody."""
    c = calls(release="8.2", vms=4)
    c.start("VM.start_on", c.vm("vm04").ref, c.host("host2").ref, False, False)
    dump = c.pool.store.dump()
    assert dump.row("VM", c.vm("vm04").ref).cells["scheduled_to_be_resident_on"] == c.host("host2").ref
    pool = MockPool.from_dump(dump)
    vm = pool.store.get("VM", c.vm("vm04").ref)
    assert (vm["scheduled_to_be_resident_on"], vm["current_operations"]) == ("OpaqueRef:NULL", {})
    assert not any(pool.store.reserved.values())


# --- what is strange


def test_what_the_release_does_not_know_is_kept_and_reported() -> None:
    """Tables, columns and rows go through unchanged."""
    dump = database.read_file(DUMPS["4.0.1"])
    vm = next(iter(dump.rows("VM")))
    vm.cells["made_up"] = "kept as it is"
    dump.tables["Thing"] = database.Table(
        "Thing", {"OpaqueRef:t": database.Row("OpaqueRef:t", {"_ref": "OpaqueRef:t", "a": "b"})}
    )
    pool = MockPool.from_dump(dump)
    assert "table Thing: 1 rows of a table that XenServer 4.0.1 lacks; kept as they are" in pool.reports
    assert "table VM: column made_up, which XenServer 4.0.1 lacks, in 1 rows; kept as it is" in pool.reports
    out = pool.store.dump()
    assert out.tables["Thing"].rows["OpaqueRef:t"].cells == {"_ref": "OpaqueRef:t", "a": "b"}
    assert out.row("VM", vm.ref).cells["made_up"] == "kept as it is"


def test_what_a_later_release_knows_comes_to_life_with_it() -> None:
    """A column that the old release lacked is read when the new one has it, and so is a table."""
    dump = database.read_file(DUMPS["4.0.1"])
    vm = next(iter(dump.rows("VM")))
    vm.cells["tags"] = "('old' 'friend')"
    blob = {"_ref": "OpaqueRef:b", "uuid": "blob-uuid", "name__label": "a blob"}
    dump.tables["blob"] = database.Table("blob", {"OpaqueRef:b": database.Row("OpaqueRef:b", blob)})
    store = Store.load(dump, find("4.0.1"))
    assert store.find("blob", "OpaqueRef:b") is None
    store.upgrade(find("5.0"))
    assert store.get("VM", vm.ref)["tags"] == ["old", "friend"]
    assert store.get("blob", "OpaqueRef:b")["name_label"] == "a blob"
    assert store.by_uuid["blob-uuid"] == ("blob", "OpaqueRef:b")


def test_references_to_nothing_are_kept_and_reported() -> None:
    """Old dumps have many: the metrics of devices were never kept. The fake itself makes none."""
    dump = database.read_file(DUMPS["4.0.1"])
    pool = MockPool.from_dump(dump)
    assert "table VBD: 24 references of metrics to no VBD_metrics" in pool.reports
    vm = next(v for v in dump.rows("VM") if v.cells["guest_metrics"] != "OpaqueRef:NULL")
    vm.cells["affinity"] = "OpaqueRef:nowhere"
    assert "table VM: 1 references of affinity to no host" in Store.load(dump, find("4.0.1")).reports
    assert MockPool.from_dump(dump).store.dump().row("VM", vm.ref).cells["affinity"] == "OpaqueRef:nowhere"


@pytest.mark.parametrize(
    ("table", "column", "text", "reason"),
    [
        ("VM", "memory__static_max", "much", "not a int"),
        ("VM", "is_a_template", "yes", "not a bool: neither true nor false"),
        ("VM", "other_config", "((", "not a (string -> string) map"),
        ("VM", "PV__args", "fine", None),
        ("host", "capabilities", "('open'", "not a string set"),
        ("VM_guest_metrics", "last_updated", "2008-11-14T10:06:00Z", None),
    ],
)
def test_a_cell_that_does_not_fit_is_an_error_that_names_it(
    table: str, column: str, text: str, reason: str | None
) -> None:
    """Table, row and column; what xapi would read is read."""
    dump = database.read_file(DUMPS["4.1"])
    row = next(iter(dump.rows(table)))
    row.cells[column] = text
    if reason is None:
        assert MockPool.from_dump(dump).store.dump().row(table, row.ref).cells[column] == text
        return
    with pytest.raises(DatabaseError) as caught:
        MockPool.from_dump(dump)
    error = caught.value
    assert (error.table, error.row, error.column) == (table, row.ref, column)
    assert reason in str(error)
    assert "mend this cell" in str(error)


def test_a_cell_on_which_nothing_depends_is_kept_and_reported() -> None:
    """It is read as the default; whoever sets the field is believed."""
    dump = database.read_file(DUMPS["4.1"])
    row = next(iter(dump.rows("VM_guest_metrics")))
    row.cells["last_updated"] = "yesterday"
    store = Store.load(dump, find("4.1"))
    text = "table VM_guest_metrics: column last_updated holds no datetime in 1 rows; kept as it is"
    assert text in store.reports
    assert store.dump().row("VM_guest_metrics", row.ref).cells["last_updated"] == "yesterday"
    store.write(store.get("VM_guest_metrics", row.ref), last_updated="20090101T00:00:00Z")
    assert store.dump().row("VM_guest_metrics", row.ref).cells["last_updated"] == "20090101T00:00:00Z"


def test_rows_of_a_table_may_have_different_columns() -> None:
    """Each is taken in as it is: what it lacks has its default, what it spells in its own way stays, and so does what only
    some rows have."""
    dump = database.read_file(DUMPS["4.1"])
    first, second, third = list(dump.rows("VM"))[:3]
    del second.cells["name__description"]
    second.cells["strange"] = "kept"
    third.cells["memory__static_max"] = "0" + third.cells["memory__static_max"]
    first.cells["other_config"] = "( ('k' 'v') )"
    store = Store.load(dump, find("4.1"))
    rows = [store.get("VM", row.ref) for row in (first, second, third)]
    assert rows[0]["other_config"] == {"k": "v"}
    assert rows[1]["name_description"] == ""
    assert rows[2]["memory_static_max"] == int(third.cells["memory__static_max"])
    assert "table VM: column strange, which XenServer 4.1.0 lacks, in 1 rows; kept as it is" in store.reports
    out = store.dump()
    assert out.row("VM", second.ref).cells["strange"] == "kept"
    for row, column in ((first, "other_config"), (third, "memory__static_max")):
        assert out.row("VM", row.ref).cells[column] == row.cells[column]
    assert list(out.tables["VM"].rows) == list(dump.tables["VM"].rows)


def test_a_uuid_that_comes_twice_is_an_error() -> None:
    """It names the row that comes second."""
    dump = database.read_file(DUMPS["4.0.1"])
    first, second = list(dump.rows("VM"))[:2]
    second.cells["uuid"] = first.cells["uuid"]
    with pytest.raises(DatabaseError, match=f"the uuid {first.cells['uuid']} is used twice") as caught:
        MockPool.from_dump(dump)
    assert (caught.value.table, caught.value.row) == ("VM", second.ref)


def test_a_dump_that_is_no_pools_is_refused() -> None:
    """The stub of a mixed pool, and one whose master is nowhere."""
    with pytest.raises(DatabaseError, match="while its hosts' versions are mixed"):
        MockPool.from_dump(database.read(database.stub()))
    dump = database.read_file(DUMPS["4.0.1"])
    next(iter(dump.rows("pool"))).cells["master"] = "OpaqueRef:nobody"
    with pytest.raises(DatabaseError, match="no host OpaqueRef:nobody as the pool's master"):
        MockPool.from_dump(dump)
