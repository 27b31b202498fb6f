"""What xapi believes: the one writer, relations, generations, upgrades and restarts of the database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mockserver.store import NULL, Row, Store, Write, to_text
from xenctl import datamodel
from xenctl.errors import Failure
from xenctl.releases import find

NEAR = {
    ends: (other.class_name, other.field)
    for ends, other in datamodel.load().relations.items()
    if other.side in ("ref", "first")
}


def ref(number: int) -> str:
    return f"OpaqueRef:{number}"


def store_of(release: str = "8.2") -> tuple[Store, list[Write]]:
    store, writes = Store(find(release)), list[Write]()
    store.on_write = writes.append
    return store, writes


def asymmetries(store: Store) -> Iterator[str]:
    """Where one end of a relation does not know of the other."""
    for (table, field), (other_table, other_field) in NEAR.items():
        far: dict[str, set[str]] = {}
        for row in store.table(table).values():
            value = row.get(field, NULL)
            for target in value if isinstance(value, list) else [value]:
                far.setdefault(target, set()).add(row.ref)
        for row in store.table(other_table).values():
            if other_field in row and (
                set(row[other_field]) != far.get(row.ref, set()) or len(set(row[other_field])) != len(row[other_field])
            ):
                yield f"{other_table}.{other_field} of {row.ref} is {row[other_field]}, not {far.get(row.ref)}"


class Random(RuleBasedStateMachine):
    """Creates, writes and deletes at random: every relation stays the same from both ends."""

    rows = Bundle("rows")
    TABLES = ("VM", "VBD", "VDI", "SR", "PBD", "host", "VIF", "network", "PCI", "pool_update")

    def __init__(self) -> None:
        super().__init__()
        self.store, self.number = Store(find("XCP-ng 8.3")), 0

    def some(self, data: Any, table: str) -> str:
        there = [NULL, "OpaqueRef:gone", *self.store.table(table)]
        return data.draw(st.sampled_from(there))

    def values(self, data: Any, table: str) -> dict[str, Any]:
        out = {}
        for (name, field), (other, _) in NEAR.items():
            if name == table and field in self.store.shape(table).fields and data.draw(st.booleans()):
                one = self.some(data, other)
                many = isinstance(self.store.shape(table).fields[field].type, datamodel.Set)
                out[field] = sorted({one, self.some(data, other)} - {NULL}) if many else one
        return out

    @rule(target=rows, table=st.sampled_from(TABLES), data=st.data())
    def create(self, table: str, data: Any) -> Row:
        self.number += 1
        uuid = f"uuid-{self.number}"
        return self.store.create(table, ref(self.number), {"uuid": uuid, **self.values(data, table)})

    @rule(row=rows, data=st.data())
    def write(self, row: Row, data: Any) -> None:
        if self.store.find(row.table, row.ref) is row:
            self.store.write(row, **self.values(data, row.table))

    @rule(row=consumes(rows))
    def delete(self, row: Row) -> None:
        self.store.delete(row)

    @rule()
    def restart(self) -> None:
        self.store.restart()

    @invariant()
    def both_ends_agree(self) -> None:
        assert list(asymmetries(self.store)) == []

    @invariant()
    def every_row_is_found(self) -> None:
        rows = [row for table in self.store.tables.values() for row in table.rows.values()]
        assert self.store.by_uuid == {row["uuid"]: (row.table, row.ref) for row in rows}
        for name, table in self.store.tables.items():
            changed = list(self.store.changes(name, -1))
            assert sorted(row.ref for row in changed) == sorted(table.rows)
            assert [row.modified for row in changed] == sorted((r.modified for r in changed), reverse=True)

    def teardown(self) -> None:
        """A load of the dump gives the same."""
        again = Store.load(self.store.dump(), self.store.release)
        assert again.dump().tables.keys() == self.store.dump().tables.keys()
        assert list(asymmetries(again)) == []
        assert {ref: dict(row) for ref, row in again.table("VBD").items()} == {
            ref: {**row, **self.store.shape("VBD").empty} for ref, row in self.store.table("VBD").items()
        }


TestRandom = Random.TestCase
TestRandom.settings = settings(max_examples=25, stateful_step_count=25)


def test_a_new_row_has_the_defaults_of_its_release() -> None:
    """Fields that are left out get their default; fields that the release lacks are passed over."""
    store, _ = store_of("4.0.1")
    one = store.create("VM", ref(1), {"uuid": "u1", "name_label": "a", "suspend_SR": "OpaqueRef:x"})
    two = store.create("VM", ref(2), {"uuid": "u2"})
    assert one["name_label"] == "a"
    assert (one["domid"], one["resident_on"], one["other_config"]) == (two["domid"], NULL, {})
    assert "suspend_SR" not in one


def test_a_change_stamps_row_and_generation() -> None:
    """A change has the current generation, which then goes up by one; a value that stays changes nothing."""
    store, writes = store_of()
    row = store.create("VM", ref(1), {"uuid": "u"})
    before = store.generation
    store.write(row, name_label="new")
    assert (row.modified, row.created, store.generation) == (before, before - 1, before + 1)
    assert [(w.kind, w.field, w.old, w.new) for w in writes[-1:]] == [("write", "name_label", "", "new")]
    store.write(row, name_label="new")
    assert store.generation == before + 1


def test_the_other_end_has_the_stamp_of_the_change_it_follows_from() -> None:
    """Creating, moving and deleting a child stamps its parents with that very change, so that no listener misses it."""
    store, writes = store_of()
    one = store.create("VM", ref(1), {"uuid": "u1"})
    two = store.create("VM", ref(2), {"uuid": "u2"})
    seen = store.generation
    vbd = store.create("VBD", ref(3), {"uuid": "u3", "VM": ref(1)})
    assert (one["VBDs"], one.modified) == ([ref(3)], seen)
    del writes[:]
    store.write(vbd, VM=ref(2))
    assert (one["VBDs"], two["VBDs"]) == ([], [ref(3)])
    assert one.modified == two.modified == vbd.modified == seen + 1
    assert [(w.table, w.ref) for w in writes] == [("VM", ref(1)), ("VBD", ref(3)), ("VM", ref(2))]
    del writes[:]
    store.delete(vbd)
    assert (two["VBDs"], two.modified) == ([], seen + 2)
    assert [(w.kind, w.table) for w in writes] == [("delete", "VBD"), ("write", "VM")]
    assert [row.ref for row in store.changes("VM", seen + 1)] == [ref(2)]


def test_references_to_a_deleted_row_stay() -> None:
    """As in xapi, nobody tidies up who points at a row that is gone."""
    store, _ = store_of()
    store.create("VM", ref(1), {"uuid": "u1"})
    vbd = store.create("VBD", ref(2), {"uuid": "u2", "VM": ref(1)})
    store.delete(store.get("VM", ref(1)))
    assert vbd["VM"] == ref(1)


def test_a_deleted_row_cannot_be_written() -> None:
    """Who still holds it is told that the handle is invalid; deleting it again does nothing."""
    store, _ = store_of()
    row = store.create("VM", ref(1), {"uuid": "u"})
    store.delete(row)
    generation = store.generation
    with pytest.raises(Failure, match="HANDLE_INVALID"):
        store.write(row, name_label="x")
    store.delete(row)
    assert store.generation == generation


def test_rows_are_changed_by_the_store_alone() -> None:
    """A change past the one writer would make no event and could not be taken back: every way is refused."""
    store, _ = store_of()
    row = store.create("VM", ref(1), {"uuid": "u", "name_label": "a"})
    for change in (
        lambda: row.__setitem__("name_label", "b"),
        lambda: row.update(name_label="b"),
        lambda: row.pop("name_label"),
        row.clear,
    ):
        with pytest.raises(
            TypeError, match=r"rows are changed by the store alone: pool\.store\.write\(row, field=value\)"
        ):
            change()
    assert row["name_label"] == "a"


def test_the_computed_end_of_a_relation_is_never_written() -> None:
    """It follows from the other end; whoever writes it has a bug."""
    store, _ = store_of()
    row = store.create("VM", ref(1), {"uuid": "u", "VBDs": ["OpaqueRef:stray"]})
    assert row["VBDs"] == []
    with pytest.raises(ValueError, match=r"VM\.VBDs follows from the other end"):
        store.write(row, VBDs=["OpaqueRef:stray"])


def test_references_and_uuids_are_unique_in_the_whole_database() -> None:
    """A second object of the same uuid is an internal error that names it."""
    store, _ = store_of()
    store.create("VM", ref(1), {"uuid": "u"})
    for table, again in (("VDI", ref(2)), ("VM", ref(1))):
        with pytest.raises(Failure) as caught:
            store.create(table, again, {"uuid": "u"})
        text = f"duplicate objects in database: tbl='{table}'; object_ref='{again}'; uuid='u'"
        assert caught.value.details == ["INTERNAL_ERROR", text]


def test_a_place_that_is_kept_for_a_vm_is_known_by_its_host() -> None:
    """Until the VM goes elsewhere, nowhere, or away."""
    store, _ = store_of()
    vm = store.create("VM", ref(1), {"uuid": "u"})
    for host in ("OpaqueRef:a", "OpaqueRef:b"):
        store.write(vm, scheduled_to_be_resident_on=host)
        assert {place: list(vms) for place, vms in store.reserved.items() if vms} == {host: [ref(1)]}
    store.delete(vm)
    assert not any(store.reserved.values())


def test_only_the_newest_deletions_are_remembered() -> None:
    """When a table's list would reach 512 it is cut to its newest half."""
    store, _ = store_of()
    for number in range(512):
        store.delete(store.create("VM", ref(number), {"uuid": f"u{number}"}))
    deleted = store.tables["VM"].deleted
    assert (len(deleted), deleted[0][2], deleted[-1][2]) == (257, ref(255), ref(511))


def test_rows_are_found_by_many_references() -> None:
    """In their order; those that lead nowhere, and tables that the release lacks, give none."""
    store, _ = store_of("4.0.1")
    first, second = (store.create("VM", ref(number), {"uuid": str(number)}) for number in (1, 2))
    assert store.rows("VM", [ref(2), NULL, ref(3), ref(1)]) == [second, first]
    assert store.rows("VM", []) == store.rows("VUSB", [ref(1)]) == []


def test_an_upgrade_adds_tables_and_columns() -> None:
    """Rows get the defaults of the new release; what they had stays."""
    store, _ = store_of("4.0.1")
    vm = store.create("VM", ref(1), {"uuid": "u", "name_label": "kept"})
    assert "pool_patch" not in store.tables
    store.upgrade(find("8.2"))
    assert "pool_patch" in store.tables
    assert (vm["name_label"], vm["suspend_SR"], vm["order"], vm["tags"]) == ("kept", NULL, 0, [])
    assert list(store.record(vm)) == [
        n for n, f in store.model.classes["VM"].fields.items() if n in store.shape("VM").visible and not f.hidden
    ]


def test_a_restart_empties_what_is_not_persistent() -> None:
    """Tasks, sessions and operations are gone; every row counts as created now, and nothing as deleted."""
    store, _ = store_of("8.2")
    vm = store.create("VM", ref(1), {"uuid": "u1", "name_label": "kept"})
    store.write(vm, current_operations={"OpaqueRef:t": "start"}, allowed_operations=["start"])
    metrics = store.create("VM_metrics", ref(2), {"uuid": "u2", "memory_actual": 5, "VCPUs_number": 2})
    store.create("task", ref(3), {"uuid": "u3"})
    store.create("session", ref(4), {"uuid": "u4"})
    store.delete(store.create("VDI", ref(5), {"uuid": "u5"}))
    before = store.generation
    store.restart()
    assert (store.table("task"), store.table("session")) == ({}, {})
    assert (vm["name_label"], vm["current_operations"], vm["allowed_operations"]) == ("kept", {}, [])
    assert (metrics["memory_actual"], metrics["VCPUs_number"]) == (0, 2)
    assert vm.created == vm.modified == metrics.created >= before
    assert not store.tables["VDI"].deleted


def test_up_to_5_5_the_metrics_of_hosts_did_not_outlive_a_restart() -> None:
    """A host's memory is then known from elsewhere."""
    for release, kept in (("4.0.1", 0), ("5.5", 0), ("5.6", 1)):
        store, _ = store_of(release)
        store.create("host_metrics", ref(1), {"uuid": "u"})
        store.restart()
        assert len(store.table("host_metrics")) == kept, release


@given(
    st.lists(st.text(alphabet="ab '\\\"()\n", max_size=5)),
    st.dictionaries(st.text("k '", min_size=1, max_size=3), st.text()),
)
def test_values_and_their_text_agree(members: list[str], pairs: dict[str, str]) -> None:
    """A set or map that is dumped is read as it was."""
    from mockserver.store import from_text
    from xenctl.datamodel import parse

    assert from_text(parse("string set"), to_text(members)) == members
    assert from_text(parse("(string -> string) map"), to_text(pairs)) == pairs


def test_a_map_has_no_empty_key() -> None:
    """Its text could not be read again: the write is refused, and so is the row."""
    store, writes = store_of()
    row = store.create("VM", ref(1), {"uuid": "u"})
    writes.clear()
    for act in (
        lambda: store.write(row, platform={"": "x"}),
        lambda: store.create("VM", ref(2), {"uuid": "v", "platform": {"": "x"}}),
    ):
        with pytest.raises(Failure) as caught:
            act()
        assert caught.value.details == ["INTERNAL_ERROR", "Db_exn.Empty_key_in_map"]
    assert (row["platform"], store.find("VM", ref(2)), writes) == ({}, None, [])


def test_whole_numbers_have_64_bits() -> None:
    """Beyond that they go round, as xapi's do, so that everything can be sent."""
    store, _ = store_of()
    row = store.create("VM", ref(1), {"uuid": "u", "memory_target": 1 << 63})
    assert row["memory_target"] == -(1 << 63)
    store.write(row, memory_target=(1 << 64) + 5)
    assert row["memory_target"] == 5
