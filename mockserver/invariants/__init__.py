"""What must hold in a pool, checked by the fake after each call and each physical event while somebody watches.

An invariant names the tables it watches and is handed their writes, so that checking costs what changed, not what exists;
what it must know besides, it keeps beside the pool and changes with each write. It looks at the machines where it can, at
the database only for what xapi is to believe. What it finds broken goes into `pool.violations`; `pool.conclude()` asks
each what must hold at the end, and then looks at the whole pool. Every one has a saboteur in the tests.

`sound` are those that hold in every pool, whatever is done to it; `rolling_upgrade` and `revert` are those of these
procedures.

    base.py        what an invariant is, and a violation
    domains.py     what runs: belief and machines, disks, memory
    masters.py     who serves as master
    database.py    references, operations and events: what xapi's database promises
    upgrades.py    what an upgrade must not do
    reverts.py     what taking one back must not do
"""

from __future__ import annotations

from collections.abc import Iterable

from .base import Invariant, Violation
from .database import EventsTold, OperationsHaveTasks, ReferencesHold
from .domains import BeliefFollows, BeliefHolds, DataFollows, DataKept, MemoryFits, OneWriter
from .masters import OneMaster
from .reverts import AsBefore, OldDatabaseHolds, StopsAnnounced, WayBackOpen
from .upgrades import (
    BackupFirst,
    DiscsBack,
    DisksStill,
    GuestsRun,
    HaOff,
    HostsEnabled,
    MasterNewest,
    NoStepBack,
    OneHostOffline,
)

__all__ = ["AsBefore", "Invariant", "Violation", "revert", "rolling_upgrade", "sound"]


def sound() -> list[Invariant]:
    """The invariants that hold in every pool, whatever is done to it."""
    return [
        OneMaster(),
        DataFollows(),
        BeliefFollows(),
        OneWriter(),
        MemoryFits(),
        ReferencesHold(),
        OperationsHaveTasks(),
        EventsTold(),
    ]


def rolling_upgrade(
    may_stop: Iterable[str] = (), may_stay_away: Iterable[str] = (), may_stay_out: Iterable[str] = ()
) -> list[Invariant]:
    """The invariants of a rolling upgrade; what may stop, stay away or stay out is what the plan named beforehand."""
    return [
        OneHostOffline(),
        MasterNewest(),
        OneMaster(),
        NoStepBack(),
        BackupFirst(),
        HaOff(),
        DisksStill(),
        GuestsRun(may_stop, may_stay_away),
        DiscsBack(may_stay_out),
        HostsEnabled(),
        DataKept(),
        BeliefHolds(),
        OneWriter(),
        MemoryFits(),
        ReferencesHold(),
        OperationsHaveTasks(),
        EventsTold(),
    ]


def revert(
    before: AsBefore, may_stop: Iterable[str] = (), may_go: Iterable[str] = (), may_stay_away: Iterable[str] = ()
) -> list[Invariant]:
    """The invariants of taking an upgrade back to what `before` saw; what may stop, go or stay away is what the plan named
    beforehand. Guests that did not run before may stop in any case."""
    before.may_go.update(may_go)
    before.may_stay_away.update(may_stay_away)
    rested = {uuid for uuid, (_, state, _) in before.was["guests"].items() if state != "Running"}
    return [
        OneHostOffline(),
        MasterNewest(),
        NoStepBack(),
        HaOff(),
        before,
        OldDatabaseHolds(),
        WayBackOpen(),
        StopsAnnounced({*may_stop, *rested}),
        *sound(),
    ]
