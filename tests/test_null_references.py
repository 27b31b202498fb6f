"""References to nothing: `OpaqueRef:NULL` in whatever the fake makes; what a database had before stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool
from mockserver.store import NULL, Store
from xenctl import database, datamodel
from xenctl.datamodel import types as t
from xenctl.releases import find

Make = Callable[..., Any]
MODEL = datamodel.load()


def nameless(store: Store) -> set[str]:
    """The fields of references that hold the empty text in any row."""
    return {
        f"{name}.{field.name}"
        for name, table in store.tables.items()
        for field in store.shape(name).fields.values()
        if isinstance(field.type, t.Ref) and any(row[field.name] == "" for row in table.rows.values())
    }


@pytest.mark.parametrize("release", ["4.0.1", "5.0.0", "6.2", "7.0", "8.2", "8.4"])
def test_whatever_is_made_names_null_where_it_leads_nowhere(calls: Make, release: str) -> None:
    """Pools, tasks of calls and of clients, what calls make."""
    c = calls(hosts=2, vms=12, release=release)
    assert nameless(c.pool.store) == set()
    network = c("network.create", {"name_label": "new", "other_config": {}})
    c("pool.create_VLAN", "eth0", network, 7)
    c("VM.clone", c.vm("vm04").ref, "another")
    made = c.start("VM.start", c.vm("vm04").ref, False, False)
    assert made.get("subtask_of", NULL) == NULL
    assert c("task.get_record", c("task.create", "mine", "")).get("subtask_of", NULL) == NULL
    assert nameless(c.pool.store) == set()


def test_a_new_row_of_any_class_names_null() -> None:
    """Also one of which nothing is given."""
    store = Store(find("8.4"))
    for number, name in enumerate(store.tables):
        store.create(name, f"OpaqueRef:{number}", {"uuid": f"{number}"} if "uuid" in store.shape(name).fields else {})
    assert nameless(store) == set()


def test_what_a_database_lacked_gets_the_default_of_its_column() -> None:
    """xapi brings an old database up to date with the empty text, and a dump that says so goes on saying so."""
    pool = MockPool.create(hosts=1, vms=1, release="8.2")
    dump = database.read(database.write(pool.store.dump()))
    for row in dump.rows("VM"):
        if row.cells["is_control_domain"] == "false":
            row.cells["parent"] = ""
    loaded = MockPool.from_dump(dump)
    (vm,) = (row for row in loaded.store.table("VM").values() if not row["is_control_domain"])
    assert (vm["parent"], vm["snapshot_of"]) == ("", NULL)
    old = Store(find("4.0.1"))
    made = old.create("VM", "OpaqueRef:1", {"uuid": "1"})
    assert "parent" not in made
    old.upgrade(find("8.2"))
    assert (made["parent"], made["snapshot_of"]) == ("", "")
