"""Savepoints of a whole pool: its database, clock, machines, disks, sessions, random source, and who watches it.

A savepoint is a place in the pool's journal (see `journal`, which tells what is recorded and how), so taking one costs
nothing, and a rollback costs what was changed since.

What cannot be taken back is a verb or a transfer that has gone on: Python cannot copy a function that waits. So no savepoint
is taken while one is under way, and a rollback ends those that began since. Their callers, in other threads, lose the
connection. A call that only waits for events does nothing meanwhile: it is no obstacle, and a rollback ends it as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .call import Call, Steps
    from .pool import MockPool
    from .store import Write


class SavepointError(Exception):
    """A savepoint that cannot be taken or used now; says why, and what to do."""


@dataclass(eq=False)
class Going:
    """What is under way: a call whose verb waits, or a transfer. `end` ends it as if it had never begun; `thread` is the one
    that waits with it, None for a task; `idle` says that nothing is done meanwhile but to wait for events."""

    label: str
    end: Callable[[], None]
    thread: int | None = None
    idle: bool = False

    @classmethod
    def of(cls, call: Call, steps: Steps, thread: int | None = None) -> Going:
        """A call with its verb."""

        def end() -> None:
            call.ended, call.task = True, ""
            steps.close()

        return cls(call.label, end, thread)


@dataclass(eq=False)
class Savepoint:
    """A state of a pool that can be returned to. As a context manager it returns to it at the end of the block, and is gone
    then."""

    pool: MockPool
    place: int
    mark: object
    outer: Savepoint | None
    writes: dict[MockPool, list[Write]]
    guard: Any
    gone: bool = False

    def rollback(self) -> None:
        """Have the pool be as it was. Raises `SavepointError`."""
        self.pool.rollback(self)

    def release(self) -> None:
        """Forget this savepoint and keep what was changed. Raises `SavepointError`."""
        self.pool.release(self)

    def __enter__(self) -> Savepoint:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.gone:
            self.pool.rollback(self)
            self.pool.release(self)


def take(pool: MockPool) -> Savepoint:
    """A savepoint of `pool` as it is now. Raises `SavepointError` while a verb is under way."""
    check_idle(pool, "take a savepoint")
    for one in pool.world.pools:
        one.freshen()
    journal = pool.journal
    outer = pool.newest_savepoint
    if journal.entries is None:
        journal.entries = []
    journal.mark = object()
    point = Savepoint(pool, len(journal.entries), journal.mark, outer, _writes(pool), pool.guard)
    pool.newest_savepoint = point
    return point


def _writes(pool: MockPool) -> dict[MockPool, list[Write]]:
    """What was written in each pool and not yet held against its invariants."""
    return {one: list(one.writes) for one in {pool, *pool.world.pools}}


def roll_back(pool: MockPool, to: Savepoint) -> None:
    """Take back what was changed since `to`."""
    _check(pool, to, "roll back to")
    _between_calls(pool, "roll back")
    if pool.guard != to.guard:
        raise SavepointError("cannot roll back: the pool was put on sockets or taken off them since; do that first")
    states = [(machine, machine.state) for machine in pool.world.machines]
    for going in list(pool.going.values()):
        with suppress(
            Exception
        ):  # what it does to tidy up is taken back with the rest, and so is what goes wrong there
            going.end()
    pool.going.clear()
    pool.journal.undo(to.place)
    for one, writes in to.writes.items():
        one.writes[:] = writes
        one.upkeep.forget()
    _forget_inner(pool, to)
    pool.journal.mark = to.mark
    for machine, state in states:
        if machine.state != state:
            pool.on_machine(machine)
    pool.on_rollback()


def release(pool: MockPool, what: Savepoint) -> None:
    """Forget `what` and those taken after it."""
    _check(pool, what, "release")
    _forget_inner(pool, what)
    what.gone, pool.newest_savepoint = True, what.outer
    journal = pool.journal
    if what.outer is None:
        journal.entries = journal.mark = None
    else:
        journal.mark = what.outer.mark


def _check(pool: MockPool, point: Savepoint, act: str) -> None:
    if point.pool.world is not pool.world:
        raise SavepointError(f"cannot {act} this savepoint: it is of another pool")
    if point.gone:
        raise SavepointError(
            f"cannot {act} this savepoint: it is gone, since it was released, or the pool was taken back to before it; "
            "take a new one"
        )


def check_idle(pool: MockPool, act: str) -> None:
    """Raise `SavepointError` while a verb is under way."""
    _between_calls(pool, act)
    busy = [going for going in pool.going.values() if not going.idle]
    if busy:
        names = ", ".join(sorted({going.label for going in busy}))
        raise SavepointError(f"cannot {act} while {names} goes on: let it end first, or cancel its task")


def check_unserved(pool: MockPool, act: str) -> None:
    """Raise `SavepointError` in the middle of a call, and while hosts are served on sockets: the places are bound then."""
    _between_calls(pool, act)
    if pool.guard is not nullcontext:
        raise SavepointError(f"cannot {act} while the hosts are served on sockets: do it before they are")


def _between_calls(pool: MockPool, act: str) -> None:
    """Raise while somebody on this thread's stack is in the middle of a call."""
    mine = [going.label for going in pool.going.values() if going.thread == get_ident()]
    mine += [one.actor.name for one in pool.world.pools if one.actor is not None]
    if mine:
        raise SavepointError(f"cannot {act} in the middle of {mine[0]}: wait until the call has returned")


def _forget_inner(pool: MockPool, point: Savepoint) -> None:
    while pool.newest_savepoint is not point:
        assert pool.newest_savepoint is not None
        pool.newest_savepoint.gone = True
        pool.newest_savepoint = pool.newest_savepoint.outer
