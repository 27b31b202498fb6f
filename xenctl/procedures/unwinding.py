"""The sequence of steps that takes an upgrade back, played through on a board, with the time that guests are down.

Orders of members are tried, and the one that costs least downtime is taken: a guest stays up as long as a new host is left
that has room for it, best on the master, which goes last. Small guests are kept first, since that keeps most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

from .acts.shutting import HARD
from .before import Before, Since
from .observe import PoolFacts, VMFacts
from .placement import Board, go_home, needs
from .plan import Step
from .sequence import eject

TRIED = 5
"""Up to so many members every order is tried."""
ESTIMATES: Mapping[str, float] = {
    "halt": 60.0,
    "restore-host": 1200.0,
    "return": 90.0,
    "power-down": 60.0,
    "start": 15.0,
    "equal": 30.0,
    "resume": 60.0,
    "suspend": 60.0,
}
"""About how many seconds a step takes; what is not here takes few."""
FEW, RATE = 5.0, 100e6
"""The seconds of any other step, and the bytes of memory a second at which a guest moves."""


@dataclass(frozen=True)
class Choices:
    """What is known and wanted: `unmoved` vouches for guests on hosts of the old release, `shutting` are the arguments of a
    shutdown (`policy`, `timeout`, `limit`)."""

    before: Before
    since: Since
    unmoved: bool
    shutting: Mapping[str, Any]


@dataclass
class Played:
    """What playing gave. `states` and `homes` are what guests are in the end; `why` says of those that are shut down why,
    `downtime` for how many seconds, about."""

    order: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    downtime: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    no_return: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def play(pool: PoolFacts, choices: Choices) -> Played:
    """The steps that take the pool back, in the order of members that costs least downtime."""
    new = [uuid for uuid, host in pool.hosts.items() if host.live and host.version != choices.before.source]
    members = [uuid for uuid in new if uuid != pool.master]
    games = (_Game(pool, choices, order).play() for order in _orders(pool, members))
    return min(games, key=lambda played: (len(played.problems), sum(played.downtime.values()), len(played.steps)))


def _orders(pool: PoolFacts, members: Sequence[str]) -> Iterator[list[str]]:
    """The orders of members to try: all of few; of many by name, emptiest first and fullest first."""
    by_name = sorted(members, key=lambda uuid: pool.hosts[uuid].name)
    if len(members) <= TRIED:
        yield from map(list, permutations(by_name))
        return
    guests = {uuid: sum(vm.host == uuid for vm in pool.vms.values()) for uuid in members}
    yield by_name
    yield sorted(by_name, key=guests.__getitem__)
    yield sorted(by_name, key=guests.__getitem__, reverse=True)


class _Game:
    """A way back that is being played through."""

    def __init__(self, pool: PoolFacts, choices: Choices, members: list[str]) -> None:
        self.pool, self.before, self.since, self.choices = pool, choices.before, choices.since, choices
        self.members, self.board, self.played = members, Board.of(pool), Played()
        self.back = pool.hosts[pool.master].version != self.before.source
        self.clock = 0.0
        self.down: dict[str, float] = {}
        self.deferred: list[VMFacts] = []
        self.afresh: set[str] = set()
        """Suspended guests whose saved state does not cross releases."""
        self.empty: set[str] = set()
        """The drives that discs are taken out of on the way."""

    def play(self) -> Played:
        """Play from the first step to the last."""
        played, pool = self.played, self.pool
        for uuid, vm in pool.vms.items():
            played.states[uuid] = self._final(vm)
            home = (self.before.homes or {}).get(uuid, "" if self.before.state(uuid) else vm.host)
            if home in pool.hosts:
                played.homes[uuid] = home
        self._add(Step("claim"))
        for uuid, facts in pool.hosts.items():
            if facts.live and not facts.enabled:
                self._add(Step("enable", host=uuid, reason="a host that returns waits until all are"))
        if self.back:
            self._wake()
        for host in [uuid for uuid, facts in pool.hosts.items() if not facts.live]:
            self._missing(host)
        for host in self.members:
            self._member(host)
        if self.back:
            self._master()
        self._tail()
        return played

    def _final(self, vm: VMFacts) -> str:
        """What a guest is in the end: as it was, but that one that somebody started since goes on running."""
        was = self.before.state(vm.uuid) or vm.state
        if was == "Halted" and vm.state == "Running":
            return "Running"
        if was == "Suspended" and vm.state not in ("Running", "Suspended"):
            return vm.state
        return was

    def _add(self, step: Step) -> None:
        memory = self.pool.vms[step.vm].memory if step.action == "migrate" else 0
        self.clock += ESTIMATES.get(step.action, FEW) + memory / RATE
        self.played.steps.append(step)

    def _name(self, host: str) -> str:
        return self.pool.hosts[host].name

    # --- guests go down

    def _power_down(self, host: str, reasons: Mapping[str, str]) -> None:
        """Shut guests down before `host` goes back; `reasons` says why, by uuid."""
        if not reasons:
            return
        vms = self.pool.vms
        for uuid in reasons:
            if vms[uuid].stuck and vms[uuid].state == "Running" and self.choices.shutting["policy"] != HARD:
                self.played.problems.append(
                    f"{vms[uuid].name} has to be shut down and cannot do so cleanly: {vms[uuid].stuck}; shut it down "
                    "yourself, or choose the policy hard"
                )
            elif vms[uuid].state == "Paused":
                self.played.problems.append(f"{vms[uuid].name} is paused and has to be shut down: unpause it first")
            if vms[uuid].host:
                self.down[uuid] = self.clock
                self.played.why[uuid] = reasons[uuid]
            if uuid in self.board.where:
                self.board.remove(vms[uuid])
        ran = [[uuid, vms[uuid].host] for uuid in reasons if vms[uuid].host]
        self._add(
            Step(
                "power-down",
                host=host,
                args={**self.choices.shutting, "vms": list(reasons), "count": len(reasons), "from": ran},
            )
        )

    def _wake(self) -> None:
        """Resume what is suspended on a new host and shut it down: what a newer release has saved no older one reads."""
        new = [*self.members, self.pool.master]
        for vm in self.pool.vms.values():
            if vm.state != "Suspended" or self._untouched(vm.uuid):
                continue
            self.afresh.add(vm.uuid)
            if vm.stuck:
                self.played.warnings.append(f"{vm.name} is suspended and {vm.stuck}")
                continue
            self.played.why[vm.uuid] = "it is suspended, and its saved state does not cross releases: it starts afresh"
            host = self.board.best(needs(vm), new)
            if host is None:
                self.deferred.append(vm)
            else:
                self._resume(vm, host)

    def _untouched(self, uuid: str) -> bool:
        """Whether a guest is suspended still as the master's old database has it."""
        kept = (self.before.kept or {}).get(uuid)
        if self.pool.vms[uuid].state != "Suspended":
            return False
        return kept is not None and kept[0] == "Suspended" and (not self.since.compared or uuid in self.since.images)

    def _resume(self, vm: VMFacts, host: str) -> None:
        self._add(Step("resume", vm=vm.uuid, to=host, reason="no guest may stay suspended on a newer host"))
        self._power_down(host, {vm.uuid: self.played.why[vm.uuid]})

    # --- hosts go back

    def _restore(self, host: str) -> None:
        release = self.before.source
        self._add(Step("restore-host", host=host, release=release))
        self._add(Step("return", host=host, release=release))
        self.played.order.append(host)

    def _missing(self, host: str) -> None:
        """A host that is away: its upgrade failed half way, or it is newer than its master."""
        left = [vm.name for vm in self.pool.vms.values() if vm.host == host]
        if left:
            self.played.problems.append(
                f"{self._name(host)} is away, and {', '.join(left)} ran there: recover it first (xenctl recover)"
            )
        self._add(Step("turn", host=host))
        self._restore(host)

    def _member(self, host: str) -> None:
        """Empty a member, as far as other new hosts have room, and restore it."""
        self._add(Step("turn", host=host))
        self._add(Step("disable", host=host, reason="no guest is to come while it is emptied"))
        left = [self.pool.master, *reversed(self.members[self.members.index(host) + 1 :])] if self.back else []
        stopped: dict[str, str] = {}
        for vm in sorted(self.board.on(host), key=lambda vm: (vm.memory, vm.name)):
            to = self._goes_to(vm, left)
            if to is None:
                stopped[vm.uuid] = f"{self._name(host)} goes back, and no other new host can take it"
                continue
            self._take_out(vm, to)
            self.board.move(vm, to)
            self._add(Step("migrate", host=host, vm=vm.uuid, to=to, reason=f"{self._name(host)} goes back"))
        self._power_down(host, stopped)
        self._add(Step("halt", host=host))
        self._restore(host)
        self.played.no_return.append(
            f"once {self._name(host)} is restored, its {self.pool.hosts[host].version} is gone: going forward again is "
            "another upgrade"
        )

    def _goes_to(self, vm: VMFacts, hosts: Sequence[str]) -> str | None:
        """The first of `hosts` that takes a running guest; one that sees its discs, if there is, since they can be taken
        out. None if none."""
        if vm.stuck or vm.state != "Running":
            return None
        kept = tuple(disc for disc in vm.discs if disc.vbd not in self.empty)
        for moved in (needs(replace(vm, discs=kept)), vm):
            to = next((host for host in hosts if self.board.takes(moved, host)), None)
            if to is not None:
                return to
        return None

    def _take_out(self, vm: VMFacts, to: str) -> None:
        """Take the discs out of a guest's drives that the host does not see that it moves to."""
        for disc in vm.discs:
            if disc.vbd not in self.empty and disc.sr not in self.pool.hosts[to].storage:
                self._add(eject(vm, disc))
                self.empty.add(disc.vbd)

    def _master(self) -> None:
        """Shut down what the master's old database would end, and restore it."""
        master = self.pool.master
        self._add(Step("turn", host=master))
        stopped = {vm.uuid: f"{self._name(master)} goes back, and no new host is left" for vm in self.board.on(master)}
        for uuid in self.board.where:
            if uuid not in stopped and (why := self._misplaced(self.pool.vms[uuid])):
                stopped[uuid] = why
        self._power_down(master, stopped)
        for vm in self.deferred:
            if not self.board.takes(needs(vm), master):
                self.played.problems.append(
                    f"{vm.name} is suspended and has to be resumed, and no new host has what it takes; shut it down by "
                    "force, or make room"
                )
            self._resume(vm, master)
        self._add(Step("disable", host=master, reason="no guest is to come while it is emptied"))
        self._add(Step("halt", host=master))
        self._restore(master)
        self._add(Step("claim", reason="the old database has the upgrade's mark"))
        self.played.no_return.append(
            f"once {self._name(master)} is restored, what changed in the pool since its upgrade is lost"
        )

    def _misplaced(self, vm: VMFacts) -> str:
        """Why the master's old database would end a guest that runs on an old host; empty where it leaves it alone."""
        if vm.uuid in self.since.made:
            return "it was made since, and the master's old database does not know it: it is lost"
        if self.choices.unmoved:
            return ""
        if self.before.kept is None:
            return "nobody knows whether the master's old database has it there"
        if self.before.kept.get(vm.uuid) == (vm.state, vm.host):
            return ""
        return "the master's old database has it somewhere else, or halted"

    # --- when versions are equal

    def _tail(self) -> None:
        """Bring everything back to what it was."""
        played, before, pool = self.played, self.before, self.pool
        lost = self.since.made if self.back else frozenset()
        self._add(Step("equal", release=before.source))
        if self.back:
            self._discard()
        wanted = [vm for vm in pool.vms.values() if vm.uuid not in lost and self._starts(vm)]
        later = [vm for vm in sorted(wanted, key=lambda vm: (vm.order, vm.name)) if not self._start_at_home(vm)]
        moves, away = go_home(self.board, played.homes)
        for move in moves:
            self._add(Step("migrate", host=move.source, vm=move.vm, to=move.target, reason=move.reason))
        for vm in later:
            self._start_anywhere(vm, away)
        played.away = away
        played.warnings += [f"{pool.vms[uuid].name} ends away from home" for uuid in away]
        self._discs(lost)
        for uuid, state in played.states.items():
            if state == "Suspended" and uuid in self.board.where and uuid not in lost:
                self._add(Step("suspend", vm=uuid, reason="it was suspended before"))
        for step in before.mends:
            self._add(step)
        self._tell_downtime(lost)
        if self.back:
            self._add(Step("forget-upgrade"))
        self._add(Step("verify-reverted", args={"lost": sorted(lost)}))
        self._add(Step("release"))

    def _discard(self) -> None:
        """Guests that the old database has suspended, and whose image is gone."""
        for uuid, (state, _) in (self.before.kept or {}).items():
            if state == "Suspended" and uuid in self.pool.vms and not self._untouched(uuid):
                self._add(Step("discard", vm=uuid))

    def _starts(self, vm: VMFacts) -> bool:
        """Whether a guest is down and is to be started."""
        if vm.uuid in self.board.where:
            return False
        final = self.played.states[vm.uuid]
        return final == "Running" or (final == "Suspended" and (vm.uuid in self.afresh or vm.uuid in self.down))

    def _start(self, vm: VMFacts, host: str) -> None:
        """Bring a guest up that is down; one that was suspended since, too, unless an old database has forgotten that."""
        self.board.place(vm, host)
        saved = vm.state == "Suspended" and vm.uuid not in self.afresh
        self._add(Step("resume" if saved else "start", host=host, vm=vm.uuid, to=host, reason="it ran before"))
        if vm.uuid in self.down:
            self.played.downtime[vm.uuid] = self.clock - self.down[vm.uuid]

    def _start_at_home(self, vm: VMFacts) -> bool:
        home = self.played.homes.get(vm.uuid)
        if home is None or not self.board.takes(vm, home):
            return False
        self._start(vm, home)
        return True

    def _start_anywhere(self, vm: VMFacts, away: list[str]) -> None:
        home = self.played.homes.get(vm.uuid, "")
        host = self.board.best(vm, self.pool.hosts, home)
        if host is None:
            self.played.warnings.append(f"{vm.name} ran before, and no host has room for it: it stays down")
            self.played.states[vm.uuid] = "Halted"
            return
        self._start(vm, host)
        if host != home and home:
            away.append(vm.uuid)

    def _discs(self, lost: Iterable[str]) -> None:
        """Put discs back into the drives that they were in, as far as they are seen there."""
        known = self.before.discs
        if self.before.states is None:
            known = tuple((vm.uuid, disc.vbd, disc.vdi) for vm in self.pool.vms.values() for disc in vm.discs)
        for uuid, vbd, vdi in known:
            if uuid not in self.pool.vms or uuid in lost:
                continue
            vm, at = self.pool.vms[uuid], self.board.where.get(uuid)
            sr = next((disc.sr for disc in vm.discs if (disc.vbd, disc.vdi) == (vbd, vdi)), "")
            if at is None or not sr or sr in self.pool.hosts[at].storage:
                self._add(Step("insert", vm=uuid, vbd=vbd, vdi=vdi))
            else:
                self.played.warnings.append(
                    f"the CD of {vm.name} is not put back: its host does not reach the storage that it is on"
                )

    def _tell_downtime(self, lost: Iterable[str]) -> None:
        """Add to the reasons of guests that are shut down how long they are."""
        why = self.played.why
        for uuid in why:
            if uuid in lost:
                why[uuid] += "; it does not come back"
            elif uuid in self.played.downtime:
                why[uuid] += f"; down for about {max(1, round(self.played.downtime[uuid] / 60))} minutes"
            elif self.played.states[uuid] == "Halted":
                why[uuid] += "; it stays down"


__all__ = ["Choices", "Played", "play"]
