"""The sequence of steps of a rolling upgrade: what the planner found, with what belongs to it, as the steps of a plan.

It may begin anywhere: with every host old, or, where an upgrade was left half done, with some upgraded. What the pool
was like before anybody touched it is the `Baseline`; that is what guests and discs come back to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..releases import Release
from .hands import MEDIA
from .observe import Disc, PoolFacts, VMFacts
from .placement import Board, DoesNotFit
from .plan import Effort, Plan, Step
from .planner import NOWHERE, Act, Hop, Impossible, Solution, Turn, solve
from .planner.pieces import LEAVE, Pieces, Wishes, pieces
from .planner.wording import refusal, why_away


@dataclass(frozen=True)
class Baseline:
    """How the pool was before the upgrade: power states and homes by guest, and discs in drives as `(vm, vbd, vdi)`."""

    states: Mapping[str, str]
    homes: Mapping[str, str]
    discs: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, pool: PoolFacts) -> Baseline:
        """The pool as it is now."""
        return cls(
            {vm.uuid: vm.state for vm in pool.vms.values()},
            {vm.uuid: vm.host for vm in pool.vms.values() if vm.host},
            tuple((vm.uuid, disc.vbd, disc.vdi) for vm in pool.vms.values() for disc in vm.discs),
        )

    @classmethod
    def of_plan(cls, plan: Plan, pool: PoolFacts) -> Baseline:
        """What an earlier plan began with; the pool as it is now for guests that have come since."""
        now = cls.of(pool)
        inserts = tuple((step.vm, step.vbd, step.vdi) for step in plan.steps if step.action == "insert")
        drives, planned = {vbd for _, vbd, _ in inserts}, {vm.uuid: vm for vm in plan.vms}
        return cls(
            {**now.states, **{uuid: vm.state for uuid, vm in planned.items() if uuid in now.states}},
            {
                **{uuid: home for uuid, home in now.homes.items() if uuid not in planned},
                **{uuid: vm.home for uuid, vm in planned.items() if vm.home and uuid in now.states},
            },
            inserts + tuple(disc for disc in now.discs if disc[1] not in drives),
        )

    def within(self, pool: PoolFacts, without: Collection[str]) -> Baseline:
        """The same for a pool that goes on without some hosts, by uuid: nobody on them, nobody at home there."""
        gone = {uuid for uuid, vm in pool.vms.items() if vm.host in without}
        return Baseline(
            {uuid: state for uuid, state in self.states.items() if uuid not in gone},
            {uuid: home for uuid, home in self.homes.items() if uuid not in gone and home not in without},
            tuple(disc for disc in self.discs if disc[0] not in gone),
        )


@dataclass(frozen=True)
class Played:
    """What playing gave: the order of hosts, the steps, who is shut down and why, who stays away from home, and how
    many migrations it takes."""

    order: list[str]
    steps: tuple[Step, ...]
    downtime: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    away: tuple[str, ...] = ()
    effort: Effort | None = None


def find_sequence(
    pool: PoolFacts, target: Release, baseline: Baseline, wishes: Wishes | None = None, *, route: str = MEDIA
) -> Played:
    """The steps that bring every host to `target`, installed by `route`, with as few migrations as can be, guests treated as
    `wishes` says. Raises `DoesNotFit` with what is missing where there are none."""
    wished = wishes or Wishes()
    down = _fallen(pool, baseline)
    roused = _places(pool, target, baseline, down)
    try:
        return _Game(pool, target, baseline, wished, roused, down, route).play()
    except DoesNotFit:
        if not roused:
            raise
    return _Game(pool, target, baseline, wished, {}, down, route).play()


_BEGAN = {"Running": "it ran at the start", "Suspended": "it was suspended at the start, and its saved state is lost"}
"""Why a guest that is down is started, by what it was."""


def _fallen(pool: PoolFacts, baseline: Baseline) -> list[VMFacts]:
    """What ran or was suspended at the beginning and is down: guests that were shut down for a turn that never ended, or
    that went down with their host. A saved state is lost then; its guest is started afresh, and suspended at the end."""
    up = (pool.vms.get(uuid) for uuid, state in baseline.states.items() if state in _BEGAN)
    return [vm for vm in up if vm is not None and vm.state == "Halted"]


def _places(pool: PoolFacts, target: Release, baseline: Baseline, down: Iterable[VMFacts]) -> dict[str, str]:
    """Where guests that are down can be started before anything else: on an upgraded host, if there is one, else on one that
    is enabled. An upgraded host is enabled before; an old one that is not is about to go down."""
    new = [uuid for uuid, host in pool.hosts.items() if host.version == target.product_version]
    able = new or [uuid for uuid, host in pool.hosts.items() if host.enabled]
    board, out = Board.of(pool), {}
    for vm in down:
        home = baseline.homes.get(vm.uuid, "")
        host = board.best(vm, _with_device(vm, able, home), home)
        if host is not None:
            board.place(vm, host)
            out[vm.uuid] = host
    return out


def _with_device(vm: VMFacts, hosts: Iterable[str], home: str) -> list[str]:
    """Of `hosts`, those on which a guest that is down has what is passed through to it: its home alone, where it has such
    and that is known."""
    return [host for host in hosts if host == home or not (vm.tied and home)]


@dataclass
class _Game:
    """A sequence that is being played through. `roused` is where guests that are down are started at once; the others
    follow when a host is back that takes them."""

    pool: PoolFacts
    target: Release
    baseline: Baseline
    wishes: Wishes
    roused: Mapping[str, str]
    down: Sequence[VMFacts]
    route: str
    steps: list[Step] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def play(self) -> Played:
        """Play from the first step to the last. Raises `DoesNotFit`."""
        pool, homes = self.pool, self.baseline.homes
        self.pieces = pieces(pool, self.target, homes, self.wishes, self.roused)
        solved = _solved(pool, self.pieces)
        puzzle = self.pieces.puzzle
        self.late = [vm for vm in self.down if vm.uuid not in self.roused]
        self.where = {guest.uuid: guest.at for guest in puzzle.guests if guest.at != NOWHERE}
        number = {uuid: i for i, uuid in enumerate(self.pieces.hosts)}
        self.where |= {uuid: number[host] for uuid, host in self.pieces.at.items()}
        self.new = puzzle.new
        parts = _parted(solved.acts)
        order = [uuid for i, uuid in enumerate(self.pieces.hosts) if self.new >> i & 1]
        self._prepare()
        for moves, host in parts[:-1]:
            self._turn(host, moves)
            order.append(self.pieces.hosts[host])
        self.steps.append(Step("equal", release=self.target.product_version))
        self._moves(parts[-1][0], NOWHERE)
        away = self._end()
        bound = Effort(
            *(solved.cost.moves, solved.bound.moves, solved.cost.memory, solved.bound.memory),
            exact=solved.exact,
            return_home=self.wishes.return_home,
        )
        return Played(order, tuple(self.steps), self._downtime(), tuple(self.warnings), tuple(away), bound)

    # --- before the first host

    def _prepare(self) -> None:
        pool, hosts = self.pool, self.pieces.hosts
        for vm in pool.vms.values():
            if vm.state != "Suspended" and self.wishes.policy(vm) != LEAVE:
                self.steps += [eject(vm, disc) for disc in vm.discs]
        for number, uuid in enumerate(hosts):
            if self.new >> number & 1 and not pool.hosts[uuid].enabled:
                self.steps.append(Step("enable", host=uuid, reason="it is upgraded, and takes guests"))
        for uuid, why in self.pieces.resting.items():
            self.steps.append(Step("suspend", host=pool.vms[uuid].host, vm=uuid, reason=why))
        for uuid, host in self.roused.items():
            self.steps.append(self._start(uuid, host))
        for uuid, host in self.pieces.entering.items():
            self._resume(pool.vms[uuid], host)

    def _resume(self, vm: VMFacts, host: str) -> None:
        self.steps.append(Step("resume", vm=vm.uuid, to=host, reason="a suspended guest cannot cross releases"))
        self.steps += [eject(vm, disc) for disc in vm.discs]

    # --- a host's turn

    def _turn(self, number: int, moves: Sequence[Hop]) -> None:
        """Empty a host, install it, wait for it."""
        host, release = self.pieces.hosts[number], self.target.product_version
        begin = self._beginning(number, moves)
        self._moves(moves[:begin], number)
        self.steps.append(Step("turn", host=host))
        self.steps.append(Step("disable", host=host, reason="no guest is to come while it is emptied"))
        self._moves(moves[begin:], number)
        held = [(self.pool.vms[uuid], why) for uuid, why in self.pieces.held.items() if self.pieces.at[uuid] == host]
        held.sort(key=lambda pair: (pair[0].appliance, pair[0].order, -pair[0].memory, pair[0].name))
        self.steps += [Step("stop", host=host, vm=vm.uuid, reason=why) for vm, why in reversed(held)]
        by_hand = [Step("halt", host=host), Step("install", host=host, release=release)]
        by_itself = [Step("prepare", host=host, release=release), Step("boot-installer", host=host)]
        self.steps += by_hand if self.route == MEDIA else by_itself
        self.steps.append(Step("return", host=host, release=release))
        self.new |= 1 << number
        self.steps += [
            Step("start", host=host, vm=vm.uuid, to=host, reason="it was shut down for this turn") for vm, _ in held
        ]
        self._start_late(host)

    def _beginning(self, number: int, moves: Sequence[Hop]) -> int:
        """How many moves come before the turn: those of guests that go home to a host that is back, and whatever comes
        up to a move to the very host that is to be emptied."""
        homes, hosts = self.baseline.homes, self.pieces.hosts
        begin, leading = 0, True
        for i, move in enumerate(moves):
            home = homes.get(self.pieces.puzzle.guests[move.guest].uuid) == hosts[move.target]
            leading = leading and (move.source == NOWHERE or (home and move.source != number))
            if leading or move.target == number or move.source == NOWHERE:
                begin = i + 1
        return begin

    def _moves(self, moves: Iterable[Hop], turn: int) -> None:
        for move in moves:
            guest = self.pieces.puzzle.guests[move.guest]
            vm, to = self.pool.vms[guest.uuid], self.pieces.hosts[move.target]
            if move.source == NOWHERE:
                self._resume(vm, to)
            else:
                source, reason = self.pieces.hosts[move.source], self._reason(vm, move, turn)
                self.steps.append(Step("migrate", host=source, vm=vm.uuid, to=to, reason=reason))
            self.where[guest.uuid] = move.target

    def _reason(self, vm: VMFacts, move: Hop, turn: int) -> str:
        hosts, names = self.pieces.hosts, self.pieces.puzzle.names
        if self.wishes.return_home and self.baseline.homes.get(vm.uuid) == hosts[move.target]:
            return "home"
        if move.source == turn:
            return f"{names[turn]} is upgraded"
        if turn == NOWHERE:
            return "steps aside for a guest that goes home"
        return (
            f"makes room, so that {names[turn]} can be emptied"
            if self.new
            else "it could not leave later, or makes room"
        )

    def _start_late(self, host: str) -> None:
        """Start on a host that is back what fell there, or what it has room for at the end."""
        for vm in list(self.late):
            home = self.baseline.homes.get(vm.uuid)
            last = self.new == self.pieces.puzzle.whole
            able = [uuid for uuid in (host if home == host else "", *(self.pieces.hosts if last else ())) if uuid]
            found = self._board().best(vm, _with_device(vm, able, home or ""), home or "")
            if found is not None:
                self.late.remove(vm)
                self.where[vm.uuid] = self.pieces.hosts.index(found)
                self.steps.append(self._start(vm.uuid, found))

    def _start(self, vm: str, host: str) -> Step:
        """Start a guest that is down."""
        return Step("start", host=host, vm=vm, to=host, reason=_BEGAN[self.baseline.states[vm]])

    def _board(self) -> Board:
        """Who is where now. A host that is upgraded has less room where its control domain has grown."""
        board = Board(self.pool, guests={uuid: {} for uuid in self.pieces.hosts})
        board.free = {uuid: host.room - self.wishes.grows(uuid) for uuid, host in self.pool.hosts.items()}
        for uuid, number in self.where.items():
            board.place(self.pool.vms[uuid], self.pieces.hosts[number])
        return board

    # --- after the last host

    def _end(self) -> list[str]:
        """Give everything back; the guests that stay away from home."""
        pool, homes = self.pool, self.baseline.homes
        board = self._board()
        self.warnings += [f"{vm.name} is down, and no host has room to start it again" for vm in self.late]
        sleeping = [vm for vm in pool.vms.values() if vm.state == "Suspended" and vm.uuid not in board.where]
        waking = [vm for vm in sleeping if self.baseline.states.get(vm.uuid) == "Running"]
        for vm in [*(pool.vms[uuid] for uuid in self.pieces.resting), *waking]:
            host = board.best(vm, pool.hosts, homes.get(vm.uuid, ""))
            if host is None:
                raise DoesNotFit(
                    f"{vm.name} is to be suspended for the upgrade, and no host has room to resume it after"
                )
            board.place(vm, host)
            self.steps.append(Step("resume", vm=vm.uuid, to=host, reason="it was suspended for the upgrade"))
        away = [uuid for uuid, host in board.where.items() if homes.get(uuid, host) != host]
        if self.wishes.return_home:
            for uuid in away:
                vm, home = pool.vms[uuid], homes[uuid]
                why = why_away(pool, vm, home, board.free.get(home, 0))
                self.warnings.append(f"{vm.name} ends away from home: {why}")
        self._fill_drives(board)
        self.steps += [
            Step("suspend", vm=uuid, reason="it was suspended at the start")
            for uuid, state in self.baseline.states.items()
            if state == "Suspended" and uuid in board.where
        ]
        return away

    def _fill_drives(self, board: Board) -> None:
        for vm, vbd, vdi in self.baseline.discs:
            facts, at = self.pool.vms.get(vm), board.where.get(vm)
            if facts is None or (at is None and facts.state == "Suspended") or self.wishes.policy(facts) == LEAVE:
                continue
            sr = next((disc.sr for disc in facts.discs if disc.vbd == vbd), "")
            if at is None or not sr or sr in self.pool.hosts[at].storage:
                self.steps.append(Step("insert", vm=vm, vbd=vbd, vdi=vdi))
            else:
                self.warnings.append(
                    f"the CD of {facts.name} is not put back: its host does not reach the storage that it is on"
                )

    def _downtime(self) -> dict[str, str]:
        """Why guests are down for a while, by uuid."""
        held, entering = self.pieces.held, self.pieces.entering
        lost = {uuid: f"{why}; its saved state is lost" for uuid, why in held.items() if uuid in entering}
        return {**held, **lost, **self.pieces.resting}


def _solved(pool: PoolFacts, made: Pieces) -> Solution:
    try:
        return solve(made.puzzle)
    except Impossible as error:
        raise refusal(pool, made, error.refusal) from None


def _parted(acts: Iterable[Act]) -> list[tuple[list[Hop], int]]:
    """The moves before each host's turn with that host, and last those after all."""
    out: list[tuple[list[Hop], int]] = []
    moves: list[Hop] = []
    for act in acts:
        if isinstance(act, Turn):
            out.append((moves, act.host))
            moves = []
        else:
            moves.append(act)
    return [*out, (moves, NOWHERE)]


def eject(vm: VMFacts, disc: Disc) -> Step:
    """The step that takes a disc out of a guest's drive."""
    return Step("eject", vm=vm.uuid, vbd=disc.vbd, vdi=disc.vdi, reason="a CD ties a guest to what its host sees")
