"""A trace: every call as a typed record, and the pool as it was after any of them.

    with Trace(pool) as trace:
        ...
        trace.at(7).record("VM", ref)
    for record in trace: print(record.number, record.host, record.method, record.error)

While nobody traces, a call pays one comparison. While somebody does, it pays for noting what is at hand anyway; records are
made, and secrets taken out of them, when they are read. Both the calls and the writes that are kept have a bound, and what
was dropped is told. What happens between calls (time passes, hosts go down and come back) is in the trace too.

The past is found by undoing writes backwards, from now to the end of the call asked for. That cannot go further back than
the writes that are kept, nor beyond the moment at which a master loaded its database, since loading writes nothing.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from xenctl.errors import Failure, TransportError

from . import call as path
from .store import Write
from .traced import LONGEST, Redactor, TraceRecord, keep, plain_write

if TYPE_CHECKING:
    from os import PathLike

    from .call import Asked, Wait
    from .faults import Arrival, Fault
    from .machine.host import HostMachine
    from .pool import MockPool

RECORDS = 1000
"""Records that a trace keeps unless told otherwise."""
WRITES_A_RECORD = 32
"""Writes that a trace keeps for each record that it keeps."""


class TraceError(Exception):
    """Something that a trace cannot tell; says why, and what to do."""


class Entry(NamedTuple):
    """What is noted of a record. `stretches` are its parts of the log of writes, `last` is where that ended with it."""

    kind: str
    number: int
    method: str
    host: str
    began: float
    ended: float
    generation: int
    last_generation: int
    last: int
    stretches: tuple[tuple[int, int], ...]
    arguments: tuple[Any, ...]
    result: Any = None
    error: tuple[str, ...] = ()
    lost: str = ""


class Trace:
    """Notes what happens in `pool` from `start` to `stop`, or within a `with` block. A pool has one trace at a time.

    `limit` is how many records are kept, the newest. Iterating gives the records, as
    `TraceRecord`s without secrets.
    """

    def __init__(self, pool: MockPool, *, limit: int = RECORDS) -> None:
        if limit < 1:
            raise ValueError(f"a trace keeps at least one record, not {limit}")
        self._pool, self.limit = pool, limit
        self.calls = 0
        """How many calls there were; the number of the last one."""
        self._entries: deque[tuple[Any, ...]] = deque(maxlen=limit)
        self._added = 0
        self._writes: deque[Write] = deque(maxlen=limit * WRITES_A_RECORD)
        self._written = 0
        self._stretch = 0
        """Where the writes begin that nobody has claimed yet."""
        self._current: list[tuple[int, int]] | None = None
        """The stretches of the call that is at work, None between calls."""
        self._cut: tuple[int, str] = (0, "the trace began")
        self._store, self._clock = pool.store, pool.clock
        self._redactor = Redactor(pool)

    def __enter__(self) -> Trace:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Note what happens from now on. Raises `TraceError` where the pool is traced already."""
        with self._pool.guard():
            if self._pool.trace is not None:
                raise TraceError("this pool is traced already: use that trace (pool.trace), or stop it first")
            self._pool.trace = self
            self.cut("the trace began")

    def stop(self) -> None:
        """Note nothing more; what was noted stays. The past can be seen no longer, as nobody notes what is written."""
        with self._pool.guard():
            if self._pool.trace is self:
                self._flush("the end")
                self._pool.trace = None

    @property
    def dropped(self) -> int:
        """How many records are not kept any more."""
        return self._added - len(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[TraceRecord]:
        return iter(self.tail())

    def tail(self, count: int | None = None) -> list[TraceRecord]:
        """The last `count` records, or all that are kept."""
        with self._pool.guard():
            self._flush("time")
            entries = self._noted()
            return [self._record(entry) for entry in entries[-count if count else 0 :]]

    def write(self, path: str | PathLike[str]) -> None:
        """Write what is kept to a file of JSON lines, to be read by `mockserver.traced.read`. Raises `OSError`."""
        from .traced import to_lines

        with open(path, "w", encoding="utf-8") as file:
            file.writelines(to_lines(self.tail(), dropped=self.dropped))

    def name_sessions(self, names: Mapping[str, str]) -> None:
        """Call sessions, by their names in another trace, as they are called there."""
        self._redactor.name(names)

    # --- noting

    def call(self, machine: HostMachine, method: str, params: list[Any], asked: Asked | None = None) -> Any:
        """Answer a call, and note it."""
        if self._stretch != self._written:
            self._flush("between calls")
        self.calls = number = self.calls + 1
        began, generation = self._clock.moment, self._store.generation
        stretches: list[tuple[int, int]] = []
        outer, self._current = self._current, stretches
        arguments = tuple(params)
        result: Any = None
        error: tuple[str, ...] = ()
        lost = ""
        try:
            answer = path.dispatch(self._pool, machine, method, params, asked=asked, traced=True)
            result = answer if type(answer) is str and len(answer) <= LONGEST else keep(answer)
            return answer
        except Failure as failure:
            error = tuple(failure.details)
            raise
        except TransportError as failure:
            lost = failure.message
            raise
        finally:
            written = self._written
            if self._stretch != written:
                self._claim(stretches)
            self._current = outer
            # A plain tuple that holds no list: this is done for each call, and Python's collector has nothing to look into.
            self._entries.append(
                (
                    "call",
                    number,
                    method,
                    machine.name,
                    began,
                    self._clock.moment,
                    generation,
                    self._store.generation,
                    written,
                    tuple(stretches) if stretches else (),
                    arguments,
                    result,
                    error,
                    lost,
                )
            )
            self._added += 1

    def waiting(self, wait: Wait) -> None:
        """Let a call wait: what is written meanwhile is not its own."""
        stretches, self._current = self._current, None
        if stretches is not None:
            self._claim(stretches)
        try:
            self._pool.waiter(wait)
        finally:
            self._flush("time")
            self._current = stretches

    def note(self, write: Write) -> None:
        """Something was written."""
        self._written += 1
        self._writes.append(plain_write(write) if write.kind == "create" else write)

    def settled(self, cause: str) -> None:
        """Something happened, be it a call or not."""
        if self._current is None and self._stretch != self._written:
            self._flush(cause)

    def struck(self, fault: Fault, arrival: Arrival) -> None:
        """A fault did something to a request."""
        self._flush("between calls")
        self._happened("fault", arrival.method, arrival.host, [], arrival.arguments, fault.kind)

    def cut(self, reason: str) -> None:
        """From here on the past cannot be reached, as something changed that no write tells of."""
        self._cut = (self._written, reason)
        self._store = self._pool.store

    def _claim(self, stretches: list[tuple[int, int]]) -> None:
        if self._stretch != self._written:
            stretches.append((self._stretch, self._written))
            self._stretch = self._written

    def _flush(self, cause: str) -> None:
        """Make a record of what was written since, by no call."""
        if self._stretch != self._written and self._current is None:
            stretches: list[tuple[int, int]] = []
            self._claim(stretches)
            self._happened("event", cause, "", stretches, (), "")

    def _happened(
        self, kind: str, method: str, host: str, stretches: list[tuple[int, int]], arguments: tuple[Any, ...], lost: str
    ) -> None:
        now, generation = self._pool.clock.now(), self._pool.store.generation
        place = self._written
        self._entries.append(
            Entry(
                kind,
                self.calls,
                method,
                host,
                now,
                now,
                generation,
                generation,
                place,
                tuple(stretches),
                arguments,
                lost=lost,
            )
        )
        self._added += 1

    # --- reading

    @property
    def _oldest(self) -> int:
        """The place of the oldest write that is kept."""
        return self._written - len(self._writes)

    def _between(self, first: int, last: int) -> list[Write]:
        start = self._oldest
        return list(itertools.islice(self._writes, max(0, first - start), max(0, last - start)))

    def _noted(self) -> list[Entry]:
        return [Entry._make(entry) for entry in self._entries]

    def _record(self, entry: Entry) -> TraceRecord:
        writes = [write for stretch in entry.stretches for write in self._between(*stretch)]
        missing = sum(last - first for first, last in entry.stretches) - len(writes)
        return self._redactor.record(entry, writes, missing)

    def at(self, number: int) -> View:
        """The pool as it was when call `number` had been answered; 0 is before the first.

        Raises `TraceError` for a call that is not in the trace (any more), and for one from which there is no way back.
        """
        with self._pool.guard():
            if not 0 <= number <= self.calls:
                raise TraceError(f"there is no call {number} in this trace: it has {self.calls}")
            entries = self._noted()
            ends = [entry for entry in entries if entry.number == number and entry.kind == "call"]
            if ends:
                return View(self, number, ends[0].last, ends[0].ended)
            if number == 0 and not self.dropped:
                return View(self, 0, 0, entries[0].began if entries else self._pool.clock.now())
            if self._current is not None and number == self.calls:
                raise TraceError(f"call {number} is not over yet")
            raise TraceError(
                f"call {number} is not kept any more: this trace has the last {self.limit} records, and dropped "
                f"{self.dropped}; begin it with a greater limit"
            )

    def undo(self, place: int, number: int, table: str) -> list[Write]:
        """The writes of `table` after `place`, newest first. Raises `TraceError` where they are not all there."""
        if self._pool.trace is not self:
            raise TraceError("this trace was stopped: the past is seen while it goes on")
        moment, reason = self._cut
        if place < moment:
            raise TraceError(f"the pool cannot be seen as it was after call {number}: since then {reason}")
        if place < self._oldest:
            raise TraceError(
                f"the pool cannot be seen as it was after call {number}: of the {self._written - place} writes since then "
                f"only {len(self._writes)} are kept; begin the trace with a greater limit"
            )
        return [write for write in reversed(self._between(place, self._written)) if write.table == table]

    @property
    def pool(self) -> MockPool:
        return self._pool


class View:
    """The pool's database as it was after call `number`, at `moment` (simulated seconds since the epoch).

    It holds nothing: each look undoes what was written since, so it lasts as long as the trace can go back that far.
    """

    def __init__(self, trace: Trace, number: int, place: int, moment: float) -> None:
        self._trace, self.number, self._place, self.moment = trace, number, place, moment
        trace.undo(place, number, "")

    def table(self, name: str) -> dict[str, dict[str, Any]]:
        """The rows of class `name` then, by reference. Raises `TraceError` where they cannot be told any more."""
        pool = self._trace.pool
        with pool.guard():
            rows = {ref: dict(row) for ref, row in pool.store.table(name).items()}
            for write in self._trace.undo(self._place, self.number, name):
                if write.kind == "create":
                    rows.pop(write.ref, None)
                elif write.kind == "delete":
                    rows[write.ref] = dict(write.old)
                elif write.field:
                    rows[write.ref][write.field] = write.old
            return rows

    def record(self, name: str, ref: str) -> dict[str, Any]:
        """One object then. Raises `KeyError` where there was none, and `TraceError` as `table` does."""
        return self.table(name)[ref]
