"""What became of a pool in a run: each host and guest before and after, told by the journal, and so also of a run that was
killed and resumed.

Downtime is the time in which XenAPI shows a guest that ran at the start as not running, on the run's clock, at the
moments in which the run looked; the short stop of a live migration is not seen so. Bytes are the memory of guests
that were migrated: what went over the network was at least that."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from .estimate import Pace, down_for
from .journal import VERSIONS, Journal


@dataclass(frozen=True)
class HostCompared:
    """A host: its product version before, and after as far as the run knows."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class GuestCompared:
    """A guest: its power state and home before and after, how often it was moved, its memory as often in bytes, and the
    seconds that it was down."""

    name: str
    uuid: str
    state_before: str
    state_after: str
    host_before: str
    host_after: str
    migrations: int
    bytes: int
    downtime_s: float


@dataclass(frozen=True)
class Account:
    """The pool before and after a run, or as far as it has come. `bytes` is the sum over guests, None where the memory of
    some guest that moved is not known."""

    hosts: tuple[HostCompared, ...]
    vms: tuple[GuestCompared, ...]
    migrations: int
    bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        """The account as plain values."""
        return asdict(self)


def compare(journal: Journal) -> Account:
    """What the run in `journal` made of the pool so far."""
    first, plan, now = journal.first_plan, journal.plan, journal.now()
    upgraded = journal.get(VERSIONS, {})
    after, began = plan.expected(journal.finished()), {vm.uuid: vm for vm in first.vms}
    moves = Counter(timing.step.vm for timing in journal.timings() if timing.step.action == "migrate")
    shown = journal.shown()
    seen = {vm: state for vm, state, _ in shown}
    down = down_for((row for row in shown if row[0] in began and began[row[0]].state == "Running"), now)
    names = {**first.names, **plan.names, "": ""}
    guests = []
    for vm in plan.vms:
        count, at, before = moves[vm.uuid], after[vm.uuid], began.get(vm.uuid, vm)
        state = seen.get(vm.uuid, at.state)
        guests.append(
            GuestCompared(
                name=vm.name,
                uuid=vm.uuid,
                state_before=before.state,
                state_after=state,
                host_before=names[before.home or ""],
                host_after=names[at.host] if state == "Running" else "",
                migrations=count,
                bytes=count * plan.memory(vm.uuid),
                downtime_s=round(down.get(vm.uuid, 0.0), 3) if before.state == "Running" else 0.0,
            )
        )
    known = all(guest.bytes for guest in guests if guest.migrations)
    return Account(
        tuple(HostCompared(host.name, host.before, upgraded.get(host.uuid, host.before)) for host in first.hosts),
        tuple(guests),
        moves.total(),
        sum(guest.bytes for guest in guests) if known else None,
    )


def seconds_left(journal: Journal) -> float:
    """About how long the rest of the run takes, by what it took so far."""
    plan = journal.plan
    return Pace.of(plan, journal.timings()).steps(plan, journal.finished() + 1, len(plan.steps))
