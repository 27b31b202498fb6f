"""The messages of a pool: files beside the database, so neither tables nor dumps hold them, and no restart loses them.

Making or dropping one takes a generation of the database, which the second half of an event token counts by.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xenctl.errors import Failure
from xenctl.releases import find

from .journal import Kept, KeptIndex, KeptRows
from .store import Row, Store, Write

if TYPE_CHECKING:
    from .pool import MockPool

PRIORITIES_SINCE = find("6.2.0").order
PRIORITIES_THEN: dict[str, int] = {
    **dict.fromkeys(("HA_HOST_FAILED", "HA_STATEFILE_LOST"), 10),
    "IP_CONFIGURED_PIF_CAN_UNPLUG": 5,
    **dict.fromkeys(("HA_HOST_WAS_FENCED", "HA_PROTECTED_VM_RESTART_FAILED", "HA_POOL_OVERCOMMITTED"), 1),
    **dict.fromkeys(("HA_POOL_DROP_IN_PLAN_EXISTS_FOR", "VM_STARTED", "VM_SHUTDOWN", "VM_REBOOTED"), 1),
    **dict.fromkeys(("VM_SUSPENDED", "VM_RESUMED", "VM_CLONED"), 1),
}
LIMIT = 10_000
"""How many messages are kept; the oldest go."""


class MessageStore(Kept):
    """The messages that a pool keeps. `log` holds whether a message was made, and the message, in order."""

    def __init__(self) -> None:
        self._kept: dict[str, Row] = KeptRows()
        self._uuids: dict[str, str] = KeptIndex()
        self._log: list[tuple[bool, int, Row]] = []

    # --- reading

    def newest_first(self) -> Iterator[Row]:
        """Every message, the last made first."""
        return reversed(self._kept.values())

    def get(self, ref: str) -> Row:
        """One message. Raises `HANDLE_INVALID`."""
        row = self._kept.get(ref)
        if row is None:
            raise Failure(["HANDLE_INVALID", "message", ref])
        return row

    def by_uuid(self, uuid: str) -> str | None:
        """The reference of the message with a uuid, if there is one."""
        return self._uuids.get(uuid)

    def about(self, uuid: str) -> list[Row]:
        """The messages about one object, newest first."""
        return [row for row in self.newest_first() if row["obj_uuid"] == uuid]

    @property
    def generation(self) -> int:
        """The generation of the last change, 0 before the first."""
        return self._log[-1][1] if self._log else 0

    def since(self, generation: int) -> tuple[list[tuple[int, Row]], list[tuple[int, Row]]]:
        """What was dropped and what was made after a generation and is still there, oldest first."""
        dropped: list[tuple[int, Row]] = []
        for made, at, row in reversed(self._log):
            if at <= generation:
                break
            if not made:
                dropped.append((at, row))
        fresh: list[tuple[int, Row]] = []
        for row in self.newest_first():
            if row.created <= generation:
                break
            fresh.append((row.created, row))
        return dropped[::-1], fresh[::-1]

    # --- writing

    def add(self, store: Store, ref: str, fields: dict[str, Any]) -> Row:
        """Keep a new message."""
        row = Row("message", ref, fields)
        row.created = row.modified = store.next_generation()
        self._kept[ref] = row
        self._uuids[fields["uuid"]] = ref
        self._log.append((True, row.created, row))
        store.on_write(Write("create", "message", ref, "", None, row, store.clock.moment))
        if len(self._kept) > LIMIT:
            self.drop(store, next(iter(self._kept.values())))
        return row

    def drop(self, store: Store, row: Row) -> None:
        """Delete a message."""
        del self._kept[row.ref], self._uuids[row["uuid"]]
        self._log.append((False, store.next_generation(), row))
        store.on_write(Write("delete", "message", row.ref, old=row, at=store.clock.moment))


def post(pool: MockPool, name: str, *, priority: int, cls: str, uuid: str, body: str) -> Row:
    """Tell operators something about the object of class `cls` that has a uuid, in a message. Up to 6.1 messages had other
    priorities."""
    then = pool.store.release.order < PRIORITIES_SINCE
    fields = {
        "uuid": pool.new_uuid(),
        "name": name,
        "priority": PRIORITIES_THEN.get(name, priority) if then else priority,
        "cls": cls,
        "obj_uuid": uuid,
        "timestamp": pool.clock.stamp(),
        "body": body,
    }
    return pool.messages.add(pool.store, pool.new_ref(), fields)
