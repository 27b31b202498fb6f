"""The database of a live pool, read through a session: as it is dumped where that is allowed, else put together.

Records show less than a database holds: columns that no record has get their defaults, as if an older xapi had dumped them.
That is enough for a fake to be made of it. What the two ways differ in is tested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenctl import database, datamodel
from xenctl.datamodel import types as t
from xenctl.errors import DatabaseError, Failure, ProtocolError
from xenctl.releases import has_removed, of_host, serves

from .arguments import unmarshal
from .columns import to_text
from .store import Store

if TYPE_CHECKING:
    from xenctl import Session
    from xenctl.releases import Release

PATH = "/pool/xmldbdump"
BUILT_IN = frozenset({"role"})
"""Classes whose objects hosts know by themselves: they are in records, but not in the database."""


def dump_of(session: Session) -> database.Database:
    """The database of the pool that `session` is logged in to. Raises what calls raise."""
    try:
        dump = database.read(session.fetch(PATH).read(), source="the dump that the master sent")
        database.verify(dump)
    except (ProtocolError, DatabaseError):  # not for this user, or the stub that a pool of mixed versions sends
        return from_records(session)
    return dump


def from_records(session: Session) -> database.Database:
    """A database made of the records of every class that the master serves and that is kept in the database."""
    hosts: dict[str, Any] = session.call("host.get_all_records")
    pools: dict[str, Any] = session.call("pool.get_all_records")
    metrics: dict[str, Any] = session.call("host_metrics.get_all_records")
    (pool,) = pools.values()
    for host in hosts.values():  # up to 5.5 the database kept a host's memory in a column that no record shows
        host["boot_free_mem"] = metrics.get(host["metrics"], {}).get("memory_total", "0")
    release = _release(hosts[pool["master"]])
    model, store = datamodel.load(), Store(release)
    major, minor = release.schema[:2]
    manifest = {"schema_major_vsn": str(major), "schema_minor_vsn": str(minor), "generation_count": "1"}
    out = database.Database(manifest, {}, database.Form.of((major, minor)))
    for name in sorted(store.tables):
        table = out.tables[name] = database.Table(name)
        cls = model.classes[name]
        if name in BUILT_IN or not store.persists(name):
            continue
        if not cls.get_all or has_removed(release, cls.messages["get_all"]):
            continue
        records = hosts if name == "host" else _records(session, release, name)
        for ref, record in sorted(records.items()):
            table.rows[ref] = _row(store, name, ref, record)
    return out


def _release(master: dict[str, Any]) -> Release:
    api = int(master["API_version_major"]), int(master["API_version_minor"])
    return of_host(master["software_version"], api)


def _records(session: Session, release: Release, name: str) -> dict[str, Any]:
    """The records of a class; one by one where the release had no message for all."""
    messages = datamodel.load().classes[name].messages
    if serves(release, messages["get_all_records"]):
        return dict(session.call(f"{name}.get_all_records"))
    found: dict[str, Any] = {}
    refs: list[str] = session.call(f"{name}.get_all")
    for ref in refs:
        try:
            found[ref] = session.call(f"{name}.get_record", [ref])
        except Failure as error:  # gone meanwhile
            if error.code != "HANDLE_INVALID":
                raise
    return found


def _row(store: Store, name: str, ref: str, record: dict[str, Any]) -> database.Row:
    """A row with a column for each field that the release knows, be it in the record or not."""
    cells = {"_ref": ref}
    shape = store.shape(name)
    for field, model_field in shape.fields.items():
        value = shape.defaults[field]
        if field in record:
            try:
                value = record[field] if isinstance(model_field.type, t.Enum) else _value(store, model_field, record)
            except Failure as error:
                text = f"the pool answered a value that is no {model_field.type}: {error.details[-1]}"
                raise DatabaseError(text, table=name, row=ref, column=model_field.column) from None
        cells[model_field.column] = to_text(value)
    return database.Row(ref, dict(sorted(cells.items())), 1, 1)


def _value(store: Store, field: datamodel.Field, record: dict[str, Any]) -> Any:
    return unmarshal(field.type, record[field.name], store.shape)
