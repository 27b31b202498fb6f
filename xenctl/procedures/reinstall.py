"""Installing a host again with the release that it runs, its settings and guests preserved.

After the installation guide: its guests are shut down in good order, those that are suspended are resumed first; the host
boots the medium of its own release; the installer finds the installation, and the one answer that preserves is `upgrade`;
the host boots, is waited for, and its guests are started where they ran. Where there are other hosts its guests may go
there meanwhile instead. What the host and its guests are configured to be is written down before and compared afterwards.
Packages that somebody installed beside the product are lost, and are named before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from . import marking, picture, shutdown, ways_back
from .acts.shutting import GIVE_UP
from .answer_file import assert_preserves, read
from .hands import MEDIA, Hands, route_of
from .observe import HostFacts, PoolFacts, VMFacts, observe
from .placement import Board, DoesNotFit, empty, go_home, pinned
from .plan import Plan, Step

if TYPE_CHECKING:
    from ..session import Session

REINSTALL = "reinstallation"


@dataclass(frozen=True)
class Guests:
    """What becomes of the host's guests: `evacuate` sends them to other hosts, else they are shut down as `shutdown` does
    with `policy`, `timeout` (seconds) and `limit`."""

    evacuate: bool = False
    policy: str = GIVE_UP
    timeout: float = shutdown.TIMEOUT
    limit: int = shutdown.LIMIT


def plan(
    session: Session,
    host: str,
    *,
    guests: Guests | None = None,
    hands: Hands | None = None,
    answer_file: bytes = b"",
) -> Plan:
    """The plan for installing the host with this name or uuid again; nothing is changed.

    `answer_file` is what the medium boots with; it must preserve. What stands against it all is in `Plan.problems`. Raises
    `ValueError` for a host that the pool does not have, and for an answer file that would not preserve.
    """
    pool, how = observe(session), guests or Guests()
    uuid = shutdown.find_host(pool, host)
    text = answer_file.decode(errors="replace")
    made = _Making(session, pool, pool.hosts[uuid], route_of(hands or object()), text, hands)
    if answer_file:
        assert_preserves(read(answer_file, release=made.host.release))
    made.check()
    if how.evacuate:
        made.evacuate()
    else:
        made.shut_down(how)
    return made.plan()


@dataclass
class _Making:
    """A plan that is being made: the steps before and after the installation."""

    session: Session
    pool: PoolFacts
    host: HostFacts
    route: str
    answer_file: str
    hands: Hands | None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    before: list[Step] = field(default_factory=list)
    after: list[Step] = field(default_factory=list)
    scope: list[VMFacts] = field(default_factory=list)
    downtime: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    """The power states, by guest, of those that end in another than they began with."""

    def check(self) -> None:
        """Everything that stands against it before guests are looked at."""
        pool, host = self.pool, self.host
        self.problems += _against(pool, host)
        if self.answer_file and self.route != MEDIA:
            self.problems.append(
                "an answer file goes with a medium: hosts that install themselves have one of their own"
            )
        against = getattr(self.hands, "against", None)
        if against is not None:
            problems, warnings = against(replace(pool, hosts={host.uuid: host}), host.release, again=True)
            self.problems += problems
            self.warnings += warnings
        packages = picture.packages(self.session, host.ref)
        self.warnings += [f"{host.name} loses {name} ({text})" for name, text in sorted(packages.items())]

    def shut_down(self, how: Guests) -> None:
        """Shut the host's guests down; those that ran are started again."""
        down = shutdown.plan(self.session, self.host.uuid, policy=how.policy, timeout=how.timeout, limit=how.limit)
        self.problems += [problem for problem in down.problems if problem not in self.problems]
        steps = (step for step in down.steps if step.action not in ("claim", "release"))
        ran = {vm.uuid: vm.home for vm in down.vms if vm.state == "Running" and vm.home}
        self.before += [_with_way_back(step, ran) for step in steps]
        self.before.append(Step("disable", host=self.host.uuid, reason="no guest is to come while it is installed"))
        self.scope = [self.pool.vms[vm.uuid] for vm in down.vms]
        if ran:
            again = [[uuid, home] for uuid, home in ran.items()]
            self.after.append(Step("start-again", args={"vms": again, "count": len(again)}))
        for vm in self.scope:
            self.downtime[vm.uuid] = "it is shut down while its host is installed"
            if vm.state == "Suspended":
                self.left[vm.uuid] = "Halted"
                self.downtime[vm.uuid] = "it is suspended: it is resumed and shut down, and stays down"

    def evacuate(self) -> None:
        """Send the host's guests to other hosts, and home afterwards; those that cannot move are shut down meanwhile."""
        pool, host, board = self.pool, self.host, Board.of(self.pool)
        self.scope = board.on(host.uuid)
        others = [uuid for uuid, facts in pool.hosts.items() if uuid != host.uuid and facts.enabled and facts.live]
        if not others:
            self.problems.append(f"{host.name} cannot be evacuated: no other host of the pool is up and enabled")
            return
        fixed = {vm.uuid: why for vm in self.scope if (why := pinned(pool, vm, host.uuid))}
        homes = {vm.uuid: host.uuid for vm in self.scope}
        self.before.append(Step("disable", host=host.uuid, reason="no guest is to come while it is emptied"))
        try:
            moves = empty(board, host.uuid, others, homes, set(fixed))
        except DoesNotFit as error:
            self.problems.append(str(error))
            return
        back, away = go_home(board, homes)
        self.before += [
            Step("migrate", host=move.source, vm=move.vm, to=move.target, reason=move.reason) for move in moves
        ]
        self.before += [Step("stop", host=host.uuid, vm=uuid, reason=why) for uuid, why in fixed.items()]
        self.after += [
            Step("migrate", host=move.source, vm=move.vm, to=move.target, reason=move.reason) for move in back
        ]
        self.after += [Step("start", host=host.uuid, vm=uuid, to=host.uuid, reason="it ran here") for uuid in fixed]
        self.problems += [f"{pool.vms[uuid].name} could not come back to {host.name}" for uuid in away]
        self.downtime.update(fixed)

    def steps(self) -> Iterator[Step]:
        """All steps, in order."""
        host, release = self.host.uuid, self.host.version
        ends = {vm.uuid: [self.left.get(vm.uuid, vm.state), vm.host] for vm in self.scope}
        args: Mapping[str, Any] = {"vms": ends}
        yield from (Step("backup"), Step("claim"), Step("picture", host=host, args=args), Step("turn", host=host))
        yield from self.before
        if self.route == MEDIA:
            answers = {"answer_file": self.answer_file} if self.answer_file else {}
            yield Step("halt", host=host)
            yield Step("reinstall", host=host, release=release, args=answers)
        else:
            yield Step("prepare", host=host, release=release)
            yield Step("boot-installer", host=host)
        yield Step("return", host=host, release=release)
        yield from self.after
        yield from (Step("lost", host=host), Step("compare", host=host, args=args), Step("release"))

    def plan(self) -> Plan:
        """The plan, without steps where something stands against it."""
        pool, host = self.pool, self.host
        made = Plan.of(
            *(pool, REINSTALL, self.steps()),
            hosts=[host.uuid],
            downtime=self.downtime,
            problems=self.problems,
            warnings=self.warnings,
        )
        version = host.version
        return replace(
            made,
            source=version,
            target=version,
            medium=host.release.name,
            route=self.route,
            no_return=tuple(ways_back.ended(pool, {host.uuid}, self.hands)) if made.steps else (),
        )


def _with_way_back(step: Step, ran: Mapping[str, str]) -> Step:
    """A shutdown that is taken back where the reinstallation is given up: guests that ran start again where they did."""
    if step.action != "shut-down":
        return step
    pairs = [[uuid, home] for uuid, home in ran.items() if uuid in step.args["vms"]]
    return replace(step, args={**step.args, "from": pairs})


def _against(pool: PoolFacts, host: HostFacts) -> Iterator[str]:
    if host.version != host.release.product_version:
        yield f"{host.name} runs {host.version or 'no version that it tells'}: which medium is the same is not known here"
    yield from marking.against(pool)
    if pool.upgrading or any(other.version != host.version for other in pool.hosts.values()):
        yield "versions are mixed: finish the upgrade first, or revert it"
    if pool.ha_enabled:
        yield "high availability is on: switch it off first, the installer refuses to preserve a host that has it"
    for other in pool.hosts.values():
        if not other.live:
            yield f"{other.name} is not running: two hosts away are one too many"
        elif not other.enabled:
            yield f"{other.name} is disabled: enable it first, every host is in the end"
    for vm in pool.vms.values():
        if vm.busy and vm.host == host.uuid:
            yield f"{vm.name} has an operation going on ({', '.join(vm.busy)})"


__all__ = ["REINSTALL", "Guests", "plan"]
