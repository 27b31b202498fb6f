"""What follows from the data model for every class: getters, setters, records, queries, on old and new releases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mockserver import MockPool, classes
from mockserver.call import methods
from mockserver.store import Row
from xenctl import datamodel
from xenctl.datamodel import Message
from xenctl.datamodel import types as t
from xenctl.releases import has_removed, serves

Make = Callable[..., Any]
MODEL = datamodel.load()


def filled(release: str) -> MockPool:
    """A pool with at least one object of every class that has a table."""
    pool = MockPool.create(hosts=2, vms=7, release=release)
    for name in pool.store.tables:
        if not pool.store.table(name):
            now = pool.clock.stamp()
            fields = {"uuid": pool.new_uuid(), "created": now, "last_active": now}
            pool.store.create(name, pool.new_ref(), fields)
    return pool


@pytest.fixture(params=["4.0.1", "8.2"])
def c(request: pytest.FixtureRequest, calls: Make) -> Any:
    caller = calls(hosts=1)
    caller.pool = filled(request.param)
    return caller.again()


def messages(c: Any, *kinds: str) -> Iterator[Message]:
    """The messages that follow from the data model: roles are in no table, and nobody may make or destroy consoles."""
    release = c.pool.store.release
    for message in methods(release).values():
        unlike = message.class_name == "role" or message.wire_name in ("console.create", "console.destroy")
        if message.kind in kinds and not has_removed(release, message) and not unlike:
            yield message


def some(c: Any, table: str) -> Row:
    rows: dict[str, Row] = c.pool.store.table(table)
    return rows[min(rows)]


# --- reading


def test_every_getter_of_every_object_answers(c: Any) -> None:
    """With the value that is in the record."""
    count = 0
    for message in messages(c, "get"):
        for ref, row in c.pool.store.table(message.class_name).items():
            assert c(message.wire_name, ref) == row[message.field], message.wire_name
            count += 1
    assert count > 1000


def test_a_record_has_the_fields_of_its_release_in_order(c: Any) -> None:
    """Hidden ones never, removed ones still."""
    for message in messages(c, "get_record"):
        cls = MODEL.classes[message.class_name]
        expected = [n for n, f in cls.fields.items() if not f.hidden and serves(c.pool.store.release, f)]
        row = some(c, cls.name)
        record = c(message.wire_name, row.ref)
        assert list(record) == expected, cls.name
        assert record == {name: row[name] for name in expected}


def test_the_lists_of_a_class_agree(c: Any) -> None:
    """References come in descending order, alone and with records."""
    for message in messages(c, "get_all"):
        name = message.class_name
        refs = c(f"{name}.get_all")
        assert refs == sorted(c.pool.store.table(name), reverse=True)
        records = c(f"{name}.get_all_records")
        assert list(records) == refs
        assert list(c(f"{name}.get_all_records_where", "true")) == refs
        assert c(f"{name}.get_all_where", "true") == refs
        assert c(f"{name}.get_all_where", "false") == []
        assert all(records[ref] == c(f"{name}.get_record", ref) for ref in refs if ref != c.session)


def test_objects_are_found_by_uuid_and_name(c: Any) -> None:
    """A uuid of another class is as unknown as one of none; a name that nobody has is an empty answer."""
    host = c.host("host1")["uuid"]
    for message in messages(c, "get_by_uuid"):
        name, row = message.class_name, some(c, message.class_name)
        assert c(message.wire_name, row["uuid"]) == row.ref
        assert c.refused(message.wire_name, "none") == ["UUID_INVALID", name, "none"]
        if name != "host":
            assert c.refused(message.wire_name, host) == ["UUID_INVALID", name, host]
    for message in messages(c, "get_by_name_label"):
        row = some(c, message.class_name)
        c.pool.store.write(row, name_label="of its own")
        assert c(message.wire_name, "of its own") == [row.ref]
        assert c(message.wire_name, "Of its own") == []
    assert "pool.get_by_name_label" not in methods(c.pool.store.release)


def test_a_handle_that_is_none_is_refused_everywhere(c: Any) -> None:
    """With the class and the handle; one of another class is none here."""
    host = c.host("host1").ref
    values: dict[str, Any] = {"string": "", "int": 0, "float": 0.0, "bool": False, "datetime": "20080101T00:00:00Z"}

    def value(kind: t.Type) -> Any:
        if isinstance(kind, t.Scalar):
            return values[kind.name]
        if isinstance(kind, t.Enum):
            return MODEL.enums[kind.name][0]
        return [] if isinstance(kind, t.Set) else {} if isinstance(kind, t.Map) else ""

    kinds = ("get", "set", "add", "remove", "add_to", "remove_from", "get_record", "destroy")
    for message in messages(c, *kinds):
        for handle in ("none", host):
            if message.class_name == "host" and handle == host:
                continue
            args = [handle, *(value(param.type) for param in message.params[1:])]
            assert c.refused(message.wire_name, *args) == ["HANDLE_INVALID", message.class_name, handle], (
                message.wire_name
            )


# --- writing


def other(kind: t.Type, old: Any) -> Any:
    """A value of a type that differs from `old`, in wire form."""
    if isinstance(kind, t.Set):
        return [*old, other(kind.item, "")]
    if isinstance(kind, t.Map):
        return {**old, "a key": other(kind.item, "")}
    if isinstance(kind, t.Enum):
        return next(value for value in MODEL.enums[kind.name] if value != old)
    if isinstance(kind, t.Ref):
        return "OpaqueRef:other"
    assert isinstance(kind, t.Scalar)
    if kind.name in ("int", "float"):
        return (old or 0) + (1 if kind.name == "int" else 0.5)
    return {"string": f"{old}, changed", "bool": not old, "datetime": "20300101T00:00:00Z"}[kind.name]


def changes(c: Any, act: Callable[[], Any]) -> int:
    """How many changes of the database `act` makes."""
    before = c.pool.store.generation
    assert act() == ""
    return int(c.pool.store.generation - before)


LISTED = {"VM.set_is_a_template"}
"""The setters from which follows what may be done, so that a list may change, too."""


def test_every_setter_sets(c: Any) -> None:
    """A new value is one change; the same value again is none. What has a verb of its own is tested elsewhere."""
    count = 0
    classes.load()
    for message in [message for message in messages(c, "set") if message.wire_name not in classes.VERBS]:
        row = some(c, message.class_name)
        value = other(message.params[1].type, row[message.field])
        wanted = (1, 2) if message.wire_name in LISTED else (1,)
        assert changes(c, lambda m=message, r=row, v=value: c(m.wire_name, r.ref, v)) in wanted, message.wire_name
        assert c(f"{message.class_name}.get_{message.field}", row.ref) == value
        assert changes(c, lambda m=message, r=row, v=value: c(m.wire_name, r.ref, v)) == 0, message.wire_name
        count += 1
    assert count > 20


def test_a_change_is_one_event(calls: Make) -> None:
    """Also of a field that listeners do not see; none where nothing changes."""
    c = calls(release="8.2", vms=1)
    vm = c.vm("vm01").ref
    token = c("event.from", ["*"], "", 0)["token"]
    c("event.register", ["*"])
    c("VM.set_name_label", vm, "new")
    c("VM.set_name_label", vm, "new")
    assert [(e["operation"], e["ref"]) for e in c("event.from", ["*"], token, 0)["events"]] == [("mod", vm)]
    assert [(e["operation"], e["ref"]) for e in c("event.next")] == [("mod", vm)]


def test_sets_take_and_give_up_members(c: Any) -> None:
    """A new one comes first; one that is there, or not there, changes nothing."""
    for message in messages(c, "add"):
        name, row = message.class_name, some(c, message.class_name)
        c(f"{name}.set_{message.field}", row.ref, ["x"])
        assert changes(c, lambda m=message, r=row: c(m.wire_name, r.ref, "y")) == 1
        assert row[message.field] == ["y", "x"]
        assert changes(c, lambda m=message, r=row: c(m.wire_name, r.ref, "x")) == 0
        remove = f"{name}.remove_{message.field}"
        assert changes(c, lambda r=row, m=remove: c(m, r.ref, "x")) == 1
        assert changes(c, lambda r=row, m=remove: c(m, r.ref, "x")) == 0
        assert row[message.field] == ["y"]


def test_maps_take_and_give_up_pairs(c: Any) -> None:
    """A key that is there is refused, even with the same value, by its column; removing one that is not is no change."""
    count = 0
    for message in messages(c, "add_to"):
        name, field, row = message.class_name, message.field, some(c, message.class_name)
        column = MODEL.classes[name].fields[field].column
        value = other(message.params[2].type, "")
        c(f"{name}.set_{field}", row.ref, {})
        assert changes(c, lambda m=message, r=row, v=value: c(m.wire_name, r.ref, "k", v)) == 1
        assert row[field] == {"k": value}
        assert c.refused(message.wire_name, row.ref, "k", value) == ["MAP_DUPLICATE_KEY", name, column, row.ref, "k"]
        assert c.refused(message.wire_name, row.ref, "", value)[0] == "INTERNAL_ERROR"
        remove = f"{name}.remove_from_{field}"
        assert changes(c, lambda r=row, m=remove: c(m, r.ref, "k")) == 1
        assert changes(c, lambda r=row, m=remove: c(m, r.ref, "k")) == 0
        count += 1
    assert count > 10


def test_a_column_that_is_set_off_is_named_so(calls: Make) -> None:
    """The error of a duplicate key tells the database's name of the field."""
    c = calls(release="8.2", vms=1)
    vm = c.vm("vm01").ref
    c("VM.add_to_HVM_boot_params", vm, "order", "dc")
    details = ["MAP_DUPLICATE_KEY", "VM", "HVM__boot_params", vm, "order"]
    assert c.refused("VM.add_to_HVM_boot_params", vm, "order", "dc") == details


@pytest.mark.parametrize("field", ["other_config", "platform", "blocked_operations"])
def test_explicit_messages_of_fields_work_like_the_others(calls: Make, field: str) -> None:
    """Those of VM that upstream wrote by hand."""
    c = calls(release="8.2", vms=1)
    vm, key = c.vm("vm01"), "clean_shutdown"
    c(f"VM.set_{field}", vm.ref, {})
    c(f"VM.add_to_{field}", vm.ref, key, "v")
    assert vm[field] == {key: "v"}
    assert c.refused(f"VM.add_to_{field}", vm.ref, key, "v") == ["MAP_DUPLICATE_KEY", "VM", field, vm.ref, key]
    c(f"VM.remove_from_{field}", vm.ref, key)
    assert vm[field] == {}


def test_every_implicit_constructor_makes_an_object(calls: Make) -> None:
    """With the members that are given, and the release's defaults for the others."""
    c = calls(release="XCP-ng 8.3", vms=1)
    values = {"string": "text", "int": 7, "float": 0.5, "bool": True, "datetime": "20300101T00:00:00Z"}
    made = 0
    for message in messages(c, "create"):
        if c.pool.verb(message).writes is not None:
            continue
        record, shape = {}, c.pool.store.shape(message.class_name)
        for name, field in shape.fields.items():
            if field.in_constructor and field.default is datamodel.MISSING:
                kind = field.type
                record[name] = (
                    values[kind.name]
                    if isinstance(kind, t.Scalar)
                    else other(kind, {} if isinstance(kind, t.Map) else [])
                )
        ref = c(message.wire_name, record)
        found = c(f"{message.class_name}.get_record", ref)
        assert {name: found[name] for name in record if name in found} == {
            n: v for n, v in record.items() if n in found
        }
        assert c(f"{message.class_name}.get_by_uuid", found["uuid"]) == ref
        if record:
            missing = dict(list(record.items())[1:])
            text = f'Server_helpers.Dispatcher_FieldNotFound("{next(iter(record))}")'
            assert c.refused(message.wire_name, missing) == ["INTERNAL_ERROR", text]
        c(f"{message.class_name}.destroy", ref)
        assert c.refused(f"{message.class_name}.get_record", ref)[0] == "HANDLE_INVALID"
        made += 1
    assert made >= 3


# --- the query language


@pytest.fixture(scope="module")
def vms() -> Any:
    """A function from a query to the names of the VMs that it finds."""
    pool = MockPool.create(hosts=1, vms=12, release="8.2")
    session = pool.dispatch("session.login_with_password", ["root", "secret"])

    def find(query: str) -> set[str]:
        records = pool.dispatch("VM.get_all_records_where", [session, query])
        assert set(pool.dispatch("VM.get_all_where", [session, query])) == set(records)
        return {record["name_label"] for record in records.values() if not record["is_control_domain"]}

    return find


NAMES = {f"vm{n:02d}" for n in range(1, 13)}
HALTED = {"vm04", "vm08", "vm11"}
RUNNING = NAMES - HALTED - {"vm06"}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ('field "power_state"="Halted"', HALTED),
        ('"Halted" = field "power_state"', HALTED),
        ('field "name__label"="vm01" or field "name__label"="vm02"', {"vm01", "vm02"}),
        ('field "is_a_template"="false" and field "power_state"="Running"', RUNNING),
        ('not field "power_state"="Running"', NAMES - RUNNING),
        # not binds looser than and: it takes all that follows
        ('not field "power_state"="Running" and field "name__label"="vm01"', NAMES - {"vm01"}),
        ('(not field "power_state"="Running") and field "name__label"="vm04"', {"vm04"}),
        # and and or are equal and go from left to right
        ('true or true and field "power_state"="Halted"', HALTED),
        ('field "power_state"="Halted" and false or true', NAMES),
        ("true and not false or true", set()),
        ('not not field "power_state"="Halted"', HALTED),
        ("( ( true ) )", NAMES),
        ('"a"="a"', NAMES),
        ('"a"="A"', set()),
        ('field\t"power_state"\n=\n"Halted"', HALTED),
        ('field "memory__static_max"="1"', set()),
        ('field "other_config"="()"', set()),
        ('field "suspend_VDI"="OpaqueRef:NULL" and field "power_state"="Suspended"', set()),
    ],
)
def test_a_query_finds_what_it_says(vms: Any, query: str, found: set[str]) -> None:
    """Plain equality of texts as the database holds them, columns by their own names."""
    assert vms(query) == found


@pytest.mark.parametrize(
    "query",
    [
        "",
        "field",
        'field "power_state"',
        '"a"=',
        '"a"="b" and',
        "(true",
        "true)",
        "true true",
        "TRUE",
        "power_state='Running'",
        'field power_state="x"',
        '"unclosed',
        'field "a"<>"b"',
        "nothing",
        "true\rtrue",
        "and true",
    ],
)
def test_a_query_that_cannot_be_read_is_an_invalid_value(calls: Make, query: str) -> None:
    """With the query and what was wrong."""
    c = calls(release="8.2")
    for method in ("VM.get_all_where", "host.get_all_records_where"):
        code, text, reason = c.refused(method, query)
        assert (code, text) == ("INVALID_VALUE", query)
        assert reason


def test_a_field_that_is_none_matters_only_where_it_is_looked_at(calls: Make) -> None:
    """API names are not column names; a class without objects does not notice."""
    c = calls(release="8.2", hosts=1)
    assert c.refused("VM.get_all_where", 'field "name_label"="x"') == [
        "INTERNAL_ERROR",
        "missing field",
        "name_label",
        "",
    ]
    assert len(c("VM.get_all_where", 'true or field "nothing"="x"')) == 1
    assert c("VLAN.get_all_where", 'field "nothing"="x"') == []


def test_queries_reach_hidden_columns_and_references(calls: Make) -> None:
    """Which records do not show."""
    c = calls(release="8.2", hosts=2)
    host = c.host("host1")
    assert c("host.get_all_where", f'field "_ref"="{host.ref}"') == [host.ref]
    assert len(c("host.get_all_where", f'field "boot_free_mem"="{host["boot_free_mem"]}"')) == 2
    assert c("PBD.get_all_where", f'field "host"="{host.ref}"') == sorted(host["PBDs"], reverse=True)
