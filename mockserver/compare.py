"""What two pools, or two states of one, differ in: by table, object and field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xenctl.datamodel import types as t

if TYPE_CHECKING:
    from .pool import MockPool
    from .store import Row, Store

CLOCKS = frozenset({("pool", "other_config"), ("host", "other_config")})
"""Fields in which xapi writes times among other things; the keys are in `TIMES`."""
TIMES = frozenset({"boot_time", "agent_start_time"})
WIDTH = 60
"""Characters of a value that the text form shows."""


@dataclass(frozen=True)
class Change:
    """One field that differs. `kind` is `changed`, or `added` or `removed` for an object that only one side has (`field` is
    empty then). `name` is its name label, or what tells it best."""

    kind: str
    table: str
    ref: str
    uuid: str
    name: str
    field: str = ""
    before: Any = None
    after: Any = None

    def __str__(self) -> str:
        who = f"{self.table} {self.name or self.uuid or self.ref}"
        if self.kind != "changed":
            return f"{who} {self.kind}"
        return f"{who}: {self.field} {_short(self.before)} -> {_short(self.after)}"


@dataclass(frozen=True)
class Comparison:
    """All that differs, in order of table, object and field. True if anything does."""

    changes: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)

    def by_table(self) -> dict[str, tuple[Change, ...]]:
        """The changes of each table that has any."""
        tables = dict.fromkeys(change.table for change in self.changes)
        return {table: tuple(c for c in self.changes if c.table == table) for table in tables}

    def text(self, limit: int = 30) -> str:
        """A line for each change, `limit` at the most."""
        lines = [str(change) for change in self.changes[:limit]]
        left = len(self.changes) - len(lines)
        return "\n".join([*lines, *([f"... and {left} more"] if left > 0 else [])])

    __str__ = text


def compare(before: MockPool, after: MockPool, *, volatile: bool = True) -> Comparison:
    """What differs from `before` to `after`; objects are the same that have the same reference, else the same uuid.

    Without `volatile`, what changes by itself is passed over: tables and fields that do not outlive a restart (tasks,
    sessions, allowed operations), and times. The content of disks counts in any case, the clock never.
    """
    with before.guard(), after.guard():
        return Comparison(tuple(_changes(before, after, volatile)))


def _changes(before: MockPool, after: MockPool, volatile: bool) -> Iterator[Change]:
    old, new = before.store, after.store
    for table in sorted({*old.tables, *new.tables}):
        persistent = (table not in old.tables or old.persists(table)) and (
            table not in new.tables or new.persists(table)
        )
        if volatile or persistent:
            yield from _table(old, new, table, volatile)
    yield from _things("machine", _machines(before), _machines(after))
    yield from _things("disk", _disks(before), _disks(after))


def _table(old: Store, new: Store, table: str, volatile: bool) -> Iterator[Change]:
    was, now = old.table(table), new.table(table)
    refs = _paired(was, now)
    for ref in sorted(was):
        row = was[ref]
        other = now.get(refs.get(ref, ""))
        if other is None:
            yield _whole("removed", row)
            continue
        for field in sorted({*row, *other}):
            a, b = row.get(field), other.get(field)
            if a != b and (volatile or not _passes(old, new, table, field, a, b)):
                yield Change("changed", table, ref, row.get("uuid", ""), name_of(row), field, a, b)
    taken = set(refs.values())
    for ref in sorted(now):
        if ref not in taken:
            yield _whole("added", now[ref])


def _paired(was: Mapping[str, Row], now: Mapping[str, Row]) -> dict[str, str]:
    """The reference on the other side of each object that both have."""
    found = {ref: ref for ref in was if ref in now}
    by_uuid = {row["uuid"]: ref for ref, row in now.items() if row.get("uuid") and ref not in found}
    for ref, row in was.items():
        other = by_uuid.get(row.get("uuid", "")) if ref not in found else None
        if other is not None:
            found[ref] = other
    return found


def _passes(old: Store, new: Store, table: str, field: str, a: Any, b: Any) -> bool:
    """Whether a field is of those that change by themselves."""
    store = new if field in new.shape(table).fields else old
    known = store.shape(table).fields[field]
    if not known.persistent or known.type == t.Scalar("datetime"):
        return True
    if (table, field) in CLOCKS and isinstance(a, dict) and isinstance(b, dict):
        return _timeless(a) == _timeless(b)
    return False


def _timeless(pairs: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in pairs.items() if key not in TIMES}


def _whole(kind: str, row: Row) -> Change:
    return Change(kind, row.table, row.ref, row.get("uuid", ""), name_of(row))


def name_of(row: Row) -> str:
    """How a person calls an object: its name label, the device it is, or nothing."""
    return str(row.get("name_label") or row.get("userdevice") or row.get("device") or "")


def _machines(pool: MockPool) -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        machine.uuid: (
            machine.name,
            {
                "state": machine.state,
                "toolstack": machine.xapi.mode,
                "release": machine.system.release.name,
                "media": machine.media.name if machine.media else "",
                "prepared": machine.prepared.name if machine.prepared else "",
                "address": machine.address,
                "domains": sorted(machine.domains),
            },
        )
        for machine in pool.machines
    }


def _disks(pool: MockPool) -> dict[str, tuple[str, dict[str, Any]]]:
    """By uuid of its VDI, the digest of what each disk holds now."""
    for machine in pool.machines:
        for domain in machine.domains.values():
            domain.catch_up(pool.clock.now())
    return {uuid: ("", {"content": disk.digest()}) for uuid, disk in pool.disks.items()}


def _things(kind: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    for uuid in sorted({*was, *now}):
        if uuid not in was or uuid not in now:
            yield Change("removed" if uuid in was else "added", kind, "", uuid, (was.get(uuid) or now[uuid])[0])
            continue
        name, fields = was[uuid]
        for field, value in fields.items():
            other = now[uuid][1].get(field)
            if value != other:
                yield Change("changed", kind, "", uuid, name, field, value, other)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value else repr(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."
