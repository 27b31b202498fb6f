"""What a failed test is told of its pool: the last calls, and what is different from when it began.

A test that passes pays for a line in a bounded log with each call, and for nothing else: texts are made, and secrets taken
out of them, when somebody asks. The state at the beginning is not kept either. A pool made from the same counts and seed is
the same pool, so it is made again, to be compared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xenctl.errors import Failure, TransportError

from . import call as path
from .compare import Comparison, compare
from .garbage import COMPLETED
from .trace import Entry
from .traced import Redactor, keep

if TYPE_CHECKING:
    from .call import Asked
    from .faults import Arrival, Fault
    from .machine.host import HostMachine
    from .pool import MockPool

CALLS = 20
"""Calls that are told of."""
CHANGES = 30
"""Differences that are told of."""
WIDTH = 200
"""Characters of a line."""


class CallLog:
    """The last calls that `pool` answered or a fault struck, from `pool.log = CallLog(pool)` on."""

    def __init__(self, pool: MockPool, *, limit: int = CALLS) -> None:
        self._pool = pool
        self._calls: deque[list[Any]] = deque(maxlen=limit)
        self._count = 0
        self._began = pool.clock.now()

    def call(self, machine: HostMachine, method: str, params: list[Any], asked: Asked | None = None) -> Any:
        """Answer a call, and note it."""
        noted = [self._pool.clock.now(), machine.name, method, tuple(params), None, (), ""]
        self._calls.append(noted)
        self._count += 1
        try:
            answer = path.dispatch(self._pool, machine, method, params, asked=asked, logged=True)
        except Failure as failure:
            noted[5] = tuple(failure.details)
            raise
        except TransportError as failure:
            noted[6] = failure.message
            raise
        noted[4] = keep(answer)
        return answer

    def struck(self, fault: Fault, arrival: Arrival) -> None:
        """A fault did something to a request."""
        self._calls.append(
            [self._pool.clock.now(), arrival.host, arrival.method, arrival.arguments, None, (), f"fault {fault.kind}"]
        )
        self._count += 1

    def lines(self) -> Iterator[str]:
        """A line for each call that is kept, with the seconds since the log began, after one that counts them."""
        redactor = Redactor(self._pool)
        kept = len(self._calls)
        yield f"the last {kept} of {self._count} calls" if kept < self._count else f"{_count(kept, 'call')}"
        for at, host, method, arguments, result, error, lost in list(self._calls):
            entry = Entry("call", 0, method, host, at, at, 0, 0, 0, (), arguments, result, error, lost)
            record = redactor.record(entry, [], 0)
            yield _shortened(f"+{at - self._began:g} s {record.text()}")


def changed(pool: MockPool, **options: Any) -> Comparison:
    """What is different in `pool`, without secrets, from one that `MockPool.create(**options)` has just made."""
    new = type(pool).create(**options)
    addresses = {machine.uuid: machine.address for machine in pool.machines}
    new.world.readdress({machine.uuid: addresses.get(machine.uuid, machine.address) for machine in new.machines})
    redactor = Redactor(pool)
    found = compare(new, pool, volatile=False)
    return Comparison(
        tuple(
            replace(
                change,
                before=redactor.value(change.table, change.field, change.before),
                after=redactor.value(change.table, change.field, change.after),
            )
            for change in found.changes
        )
    )


def sections(pool: MockPool, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The parts of a report on `pool`, made with `options`, each with its title; only those that say something."""
    with pool.guard():
        if pool.log is not None:
            yield "calls", "\n".join(pool.log.lines())
        going = [
            f"{row['name_label']}: {row['progress']:.0%} done"
            for row in pool.store.table("task").values()
            if row["status"] not in COMPLETED
        ]
        if going:
            yield "tasks that go on", "\n".join(going)
        unused = [str(fault) for fault in pool.faults.unused()]
        if unused:
            yield "faults that never struck", "\n".join(unused)
        differences = changed(pool, **options)
        if differences:
            yield "changes since the test began", differences.text(CHANGES)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _shortened(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."
