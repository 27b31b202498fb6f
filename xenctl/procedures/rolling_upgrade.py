"""A rolling upgrade: every host gets a new release, one after another, while the guests go on running.

After the installation guide: back up the database; eject CDs; resume what is suspended, since a suspended guest cannot
cross releases; empty the master guest by guest, halt it, install, wait until the pool is out of emergency mode; then each
member likewise, its guests going only to hosts that are upgraded; bring guests home, put CDs back, suspend again what was
suspended. A guest that cannot move is shut down for its host's turn and started again, and is named before the start.

`plan` looks at the pool and plays the whole sequence through; `run` does it. A run takes each step of the plan in turn: if
what the step is for holds already in the pool, it is passed over; else it acts, and then looks whether it holds now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..calls import EMPTY_MAP
from ..errors import (
    ConnectionLost,
    DatabaseError,
    Failure,
    ProcedureError,
    TaskCancelled,
    TransportError,
    WaitTimeout,
)
from ..releases import Release, accepts, find, next_release, path
from . import backup as backups
from .hands import Hands
from .observe import NULL, UPGRADE_KEY, PoolFacts, VMFacts, attached, observe
from .placement import Board, DoesNotFit, Move, empty, go_home, orders, pinned, reachable
from .plan import Plan, PlannedHost, PlannedVM, Step

if TYPE_CHECKING:
    from os import PathLike

    from ..session import Session
    from .backup import Backup

POLL = 15.0
"""Seconds between two looks at a host that is being waited for."""
HOST_TIMEOUT = 4 * 3600.0
"""Seconds after which a host that does not come back is given up."""
LOST_TIMEOUT = 900.0
"""Seconds in which the effect of a call may show whose answer was lost."""
FLAG_TIMEOUT = 600.0
"""Seconds that the master may take to notice that all versions are equal."""


# --- planning


def plan(session: Session, target: str | None = None) -> Plan:
    """The plan for upgrading the session's pool to `target` (a product version; the next release if left out).

    Whatever stands against it is in `Plan.problems`; nothing is changed. Raises `ValueError` for an unknown release.
    """
    pool = observe(session)
    silent = [
        f"{host.name} does not answer at {host.address or 'no address'} as a member of this pool"
        for host in pool.hosts.values()
        if host.uuid != pool.master and host.live and not attached(session, host.address)
    ]
    made = make_plan(pool, target)
    return replace(made, steps=(), problems=(*made.problems, *silent)) if silent else made


def make_plan(pool: PoolFacts, target: str | None = None) -> Plan:
    """The plan for a pool that was observed."""
    source = pool.release
    release = _wanted(source, target) if target is not None else next_release(source)
    if release is None:
        return _plan(pool, source, source, [pool.master], problems=[f"there is no release after {source.name}"])
    problems = _against(pool, source, release)
    if problems:
        return _plan(pool, source, release, [pool.master], problems=problems)
    board, warnings, refusal = Board.of(pool), _oddities(pool), ""
    for order in orders(pool, board):
        for tight in (False, True):
            try:
                return _played(pool, source, release, order, board.copy(tight=tight), warnings)
            except DoesNotFit as error:
                refusal = refusal or f"no way was found to empty the hosts one after another: {error}"
    return _plan(pool, source, release, [pool.master], problems=[refusal], warnings=warnings)


def _wanted(source: Release, target: str) -> Release:
    """The release called `target`, of the pool's own brand where no brand is named."""
    try:
        return find(f"{source.product_brand} {target}")
    except ValueError:
        return find(target)


def _oddities(pool: PoolFacts) -> list[str]:
    """What is worth saying and stops nothing."""
    out = [f"{host.name}: {sr} is not plugged" for host in pool.hosts.values() for sr in host.unplugged]
    for host in pool.hosts.values():
        if host.version != host.release.product_version:
            said = host.version or "no version that it tells"
            out.append(f"{host.name} runs {said}, which is not known here; it is taken for {host.release.name}")
    return out


def _against(pool: PoolFacts, source: Release, target: Release) -> list[str]:
    """Everything that stands against an upgrade before placement is looked at."""
    out = []
    if target == source:
        out.append(f"the pool runs {source.name} already")
    elif target < source:
        out.append(f"{target.name} is older than the pool's {source.name}: an upgrade only goes forward")
    elif not accepts(target, source):
        out.append(f"the {target.name} installer does not upgrade {source.name}{_by_way_of(source, target)}")
    if len(pool.hosts) < 2:
        out.append("the pool has one host: there is nowhere for its guests to run meanwhile")
    if pool.upgrading or any(host.version != pool.hosts[pool.master].version for host in pool.hosts.values()):
        out.append("versions are mixed already: an earlier upgrade was not finished")
    if pool.ha_enabled:
        out.append("high availability is on: switch it off first, it would fence the hosts that are upgraded")
    for host in pool.hosts.values():
        others = [other.name for other in pool.hosts.values() if other is not host and other.address == host.address]
        if others:
            out.append(f"{host.name} has the same address as {', '.join(others)}: {host.address or 'none'}")
        if not host.live:
            out.append(f"{host.name} is not running")
        elif not host.enabled:
            out.append(f"{host.name} is disabled")
    for vm in pool.vms.values():
        if vm.busy:
            out.append(f"{vm.name} has an operation going on ({', '.join(vm.busy)})")
        if vm.state not in ("Halted", "Paused", "Running", "Suspended"):
            out.append(f"{vm.name} is in a power state that XenAPI does not have ({vm.state})")
        elif vm.state == "Paused":
            out.append(f"{vm.name} is paused: a paused guest cannot migrate; unpause it or shut it down")
        elif vm.state == "Running" and vm.stuck:
            out.append(f"{vm.name} can neither migrate nor be shut down cleanly: {vm.stuck}")
        elif vm.state == "Suspended" and vm.stuck:
            out.append(f"{vm.name} is suspended and {vm.stuck}; shut it down by force, or restore the image")
    return out


def _by_way_of(source: Release, target: Release) -> str:
    try:
        hops = path(source, target)[:-1]
    except ValueError:
        return ""
    return f"; go by way of {', '.join(hop.product_version for hop in hops)}"


def _plan(
    pool: PoolFacts,
    source: Release,
    target: Release,
    order: list[str],
    *,
    downtime: Mapping[str, str] = EMPTY_MAP,
    steps: Sequence[Step] = (),
    problems: Sequence[str] = (),
    warnings: Sequence[str] = (),
    away: Sequence[str] = (),
) -> Plan:
    order = [*order, *(uuid for uuid in pool.hosts if uuid not in order)]
    return Plan(
        pool=pool.uuid,
        pool_name=pool.name,
        source=source.product_version,
        target=target.product_version,
        medium=target.name,
        hosts=tuple(PlannedHost(uuid, pool.hosts[uuid].name, pool.hosts[uuid].version) for uuid in order),
        vms=tuple(
            PlannedVM(vm.uuid, vm.name, vm.state, vm.host or None, vm.uuid in downtime, downtime.get(vm.uuid, ""))
            for vm in sorted(pool.vms.values(), key=lambda vm: vm.name)
        ),
        steps=tuple(steps),
        problems=tuple(problems),
        warnings=tuple(warnings),
        away=tuple(away),
    )


def _played(
    pool: PoolFacts, source: Release, target: Release, order: list[str], board: Board, warnings: list[str]
) -> Plan:
    """Play the sequence with hosts in `order` on `board`. Raises `DoesNotFit`."""
    steps = [Step("backup")]
    steps += [_eject(vm, disc.vbd) for vm in pool.vms.values() if vm.state != "Suspended" for disc in vm.discs]
    suspended = [vm for vm in pool.vms.values() if vm.state == "Suspended"]
    for vm in sorted(suspended, key=lambda vm: (-vm.memory, vm.name)):
        host = _resume_at(pool, board, vm)
        board.place(vm, host)
        steps.append(Step("resume", vm=vm.uuid, to=host, reason="a suspended guest cannot cross releases"))
        steps += [_eject(vm, disc.vbd) for disc in vm.discs]
    homes = {vm.uuid: vm.host for vm in pool.vms.values() if vm.host}
    downtime: dict[str, str] = {}
    upgraded: list[str] = []
    for host in order:
        fixed = {vm.uuid: why for vm in board.on(host) if (why := pinned(pool, vm, host))}
        for uuid in fixed:
            if not reachable(pool.vms[uuid], pool.hosts[host]):
                raise DoesNotFit(
                    f"{pool.vms[uuid].name} has to be shut down when {pool.hosts[host].name} is upgraded, and could not be "
                    "started again: that host does not reach all of its storage and networks"
                )
        allowed = upgraded or [uuid for uuid in order if uuid != host]
        steps.append(Step("disable", host=host, reason="no guest is to come while it is emptied"))
        steps += [_migrate(move) for move in empty(board, host, allowed, homes, set(fixed))]
        steps += [Step("stop", host=host, vm=uuid, reason=why) for uuid, why in fixed.items()]
        steps.append(Step("halt", host=host))
        steps.append(Step("install", host=host, release=target.product_version))
        steps.append(Step("return", host=host, release=target.product_version))
        steps += [Step("start", host=host, vm=uuid, to=host, reason="it was shut down for this turn") for uuid in fixed]
        lost = {uuid: f"{why}; its saved state is lost" for uuid, why in fixed.items() if uuid not in homes}
        downtime.update({**fixed, **lost})
        upgraded.append(host)
    steps.append(Step("equal", release=target.product_version))
    moves, away = go_home(board, homes)
    why = "its home has no room for it, or lacks its storage or networks"
    warnings = [*warnings, *(f"{pool.vms[uuid].name} ends away from home: {why}" for uuid in away)]
    steps += [_migrate(move) for move in moves]
    for vm in pool.vms.values():
        for disc in vm.discs:
            at = board.where.get(vm.uuid)
            if at is None or disc.sr in pool.hosts[at].storage:
                steps.append(Step("insert", vm=vm.uuid, vbd=disc.vbd, vdi=disc.vdi))
            else:
                warnings.append(
                    f"the CD of {vm.name} is not put back: its host does not reach the storage that it is on"
                )
    steps += [Step("suspend", vm=vm.uuid, reason="it was suspended at the start") for vm in suspended]
    steps.append(Step("verify"))
    return _plan(pool, source, target, order, downtime=downtime, steps=steps, warnings=warnings, away=away)


def _eject(vm: VMFacts, vbd: str) -> Step:
    return Step("eject", vm=vm.uuid, vbd=vbd, reason="a CD ties a guest to what its host sees")


def _migrate(move: Move) -> Step:
    return Step("migrate", host=move.source, vm=move.vm, to=move.target, reason=move.reason)


def _resume_at(pool: PoolFacts, board: Board, vm: VMFacts) -> str:
    """The host to resume `vm` on: one that reaches its disks, its suspend image and its CDs; rather not the master, which is
    emptied first."""
    needs = replace(vm, storage=vm.storage | {vm.image} | {disc.sr for disc in vm.discs})
    seeing = [uuid for uuid, host in pool.hosts.items() if reachable(needs, host)]
    if not seeing:
        raise DoesNotFit(f"{vm.name} is suspended and cannot be resumed: no host reaches all of its disks")
    members = [uuid for uuid in seeing if uuid != pool.master]
    found = board.best(vm, members) or board.best(vm, seeing)
    if found is None:
        rooms = "; ".join(f"{pool.hosts[u].name} has {max(0, board.free[u]) >> 20} MiB free" for u in seeing)
        raise DoesNotFit(
            f"{vm.name} is suspended and has to be resumed before the master is upgraded, but memory forbids it: "
            f"it takes {vm.memory >> 20} MiB; {rooms}"
        )
    return found


# --- running


@dataclass(frozen=True)
class StepDone:
    """One step of a run: `at` and `took` are seconds of the pool's clock, from the start of the run; `skipped` says that it
    held already."""

    step: Step
    text: str
    at: float
    took: float
    skipped: bool

    def as_dict(self) -> dict[str, Any]:
        filled = {name: value for name, value in vars(self.step).items() if value}
        return {**filled, "text": self.text, "at_s": self.at, "took_s": self.took, "skipped": self.skipped}


@dataclass
class Outcome:
    """What came of a run. `problems` is empty where the pool is as it was, on the new release."""

    plan: Plan
    steps: list[StepDone] = field(default_factory=list)
    backup: Backup | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


Progress = Callable[[int, int, str], None]


def run(
    session: Session,
    plan: Plan,
    hands: Hands,
    *,
    backup_to: str | PathLike[str] | None = None,
    accept_downtime: bool = False,
    on_step: Progress | None = None,
) -> Outcome:
    """Carry out `plan` with `hands` on the machines.

    `on_step` is told the number of the step, how many there are, and the step in words. Raises `ProcedureError` before
    anything is changed where the plan has problems, or shuts guests down and `accept_downtime` is not given. Once it has
    begun it returns: a step that does not do what it is for ends the run, and `Outcome.problems` says which and why.
    """
    if plan.problems:
        raise ProcedureError("this upgrade cannot be done", plan.problems)
    if plan.downtime and not accept_downtime:
        raise ProcedureError(
            "this upgrade shuts guests down; say that you accept the downtime",
            [f"{vm.name}: {vm.why}" for vm in plan.downtime],
        )
    runner = _Run(session, plan, hands, backup_to)
    start = session.clock.now()
    for number, step in enumerate(plan.steps, 1):
        text = step.text(plan.names)
        if on_step is not None:
            on_step(number, len(plan.steps), text)
        at = session.clock.now()
        try:
            skipped = runner.take(step)
        except (Failure, TransportError, TaskCancelled, DatabaseError, ProcedureError) as error:
            runner.outcome.problems.append(f"step {number} of {len(plan.steps)}, {text}: {error}")
            break
        runner.outcome.steps.append(StepDone(step, text, at - start, session.clock.now() - at, skipped))
    return runner.outcome


class _Run:
    """The acts and looks behind each step."""

    def __init__(self, session: Session, plan: Plan, hands: Hands, backup_to: str | PathLike[str] | None) -> None:
        self.session, self.plan, self.hands, self.backup_to = session, plan, hands, backup_to
        self.outcome = Outcome(plan)
        self._refs: dict[str, Any] = {}

    def take(self, step: Step) -> bool:
        """Do a step unless what it is for holds; True where it held already."""
        holds, act = self.HOLDS[step.action], self.ACTS[step.action]
        if holds(self, step):
            return True
        try:
            act(self, step)
        except (ConnectionLost, WaitTimeout):
            if not self._comes_to_hold(step):  # the answer was lost, which says nothing of the effect
                raise
        if not holds(self, step):
            raise ProcedureError("no error came, but the pool does not show it done")
        return False

    def _comes_to_hold(self, step: Step) -> bool:
        """Whether what a step is for holds after all, within the time that a lost answer is given."""

        def shows() -> bool:
            try:
                return self.HOLDS[step.action](self, step)
            except TransportError:
                return False

        return self._comes_true(shows, LOST_TIMEOUT)

    def host(self, uuid: str) -> Any:
        if uuid not in self._refs:
            self._refs[uuid] = self.session.host.get_by_uuid(uuid)
        return self._refs[uuid]

    def vm(self, uuid: str) -> Any:
        if uuid not in self._refs:
            self._refs[uuid] = self.session.VM.get_by_uuid(uuid)
        return self._refs[uuid]

    # each pair: what the step is for, and what brings it about

    def backed_up(self, step: Step) -> bool:
        return self.outcome.backup is not None

    def back_up(self, step: Step) -> None:
        self.outcome.backup = backups.take(self.session, self.backup_to)

    def ejected(self, step: Step) -> bool:
        return self.session.VBD.get_empty(step.vbd)  # type: ignore[arg-type]

    def eject(self, step: Step) -> None:
        self.session.Async.VBD.eject(step.vbd).wait()  # type: ignore[arg-type]

    def inserted(self, step: Step) -> bool:
        return self.session.VBD.get_VDI(step.vbd) == step.vdi  # type: ignore[arg-type]

    def insert(self, step: Step) -> None:
        self.session.Async.VBD.insert(step.vbd, step.vdi).wait()  # type: ignore[arg-type]

    def resumed(self, step: Step) -> bool:
        return self.session.VM.get_power_state(self.vm(step.vm)) == "Running"

    def resume(self, step: Step) -> None:
        self.session.Async.VM.resume_on(self.vm(step.vm), self.host(step.to), False, False).wait()

    def disabled(self, step: Step) -> bool:
        return not self.session.host.get_enabled(self.host(step.host))

    def disable(self, step: Step) -> None:
        self.session.host.disable(self.host(step.host))

    def moved(self, step: Step) -> bool:
        """Whether the guest is where the step puts it. One that stopped meanwhile on its own has nothing to move."""
        return self.session.VM.get_resident_on(self.vm(step.vm)) in (self.host(step.to), NULL)

    def migrate(self, step: Step) -> None:
        self.session.Async.VM.pool_migrate(self.vm(step.vm), self.host(step.to), {"live": "true"}).wait()

    def stopped(self, step: Step) -> bool:
        return self.session.VM.get_power_state(self.vm(step.vm)) == "Halted"

    def stop(self, step: Step) -> None:
        self.session.Async.VM.clean_shutdown(self.vm(step.vm)).wait()

    def started(self, step: Step) -> bool:
        return self.session.VM.get_power_state(self.vm(step.vm)) == "Running"

    def start(self, step: Step) -> None:
        self.session.Async.VM.start_on(self.vm(step.vm), self.host(step.to), False, False).wait()

    def suspended(self, step: Step) -> bool:
        return self.session.VM.get_power_state(self.vm(step.vm)) == "Suspended"

    def suspend(self, step: Step) -> None:
        self.session.Async.VM.suspend(self.vm(step.vm)).wait()

    def halted(self, step: Step) -> bool:
        return self.hands.power(step.host) not in ("running", "stopping")

    def halt(self, step: Step) -> None:
        self.session.host.shutdown(self.host(step.host))
        self._until(lambda: self.hands.power(step.host) == "off", "it does not switch off", step)

    def installed(self, step: Step) -> bool:
        """Whether the host is beyond the installer: it runs. Which release it runs is the next step's business."""
        return self.hands.power(step.host) == "running"

    def install(self, step: Step) -> None:
        """Boot the medium, see that the installer found what is there and preserves it, let it work."""
        hands, host = self.hands, step.host
        hands.insert_media(host, self.plan.medium)
        if hands.power(host) == "off":
            hands.power_on(host)
        self._until(lambda: hands.power(host) == "installer", "the installer does not come up", step)
        found, offered = hands.identified(host), hands.offers(host)
        if found != self.plan.source or "upgrade" not in offered:
            hands.eject_media(host)
            raise ProcedureError(
                f"{self.plan.names[host]}: the installer found {found} and offers {', '.join(offered)}; only an upgrade "
                f"of {self.plan.source} preserves settings and guests, so nothing was chosen"
            )
        hands.answer(host, "upgrade")
        self._until(lambda: hands.power(host) == "running", "the installation does not end", step)

    def back(self, step: Step) -> bool:
        """Whether the pool is whole: this host of the new release, and every host out of emergency mode, enabled and live,
        with its storage plugged."""
        session = self.session
        try:
            metrics, hosts = session.host_metrics.get_all_records(), session.host.get_all_records()
            pbds, master = session.PBD.get_all_records(), next(iter(session.pool.get_all_records().values())).master
        except Failure as error:
            if error.code in ("HOST_STILL_BOOTING", "HOST_IS_SLAVE", "SESSION_INVALID"):
                return False
            raise
        except TransportError:
            return False
        host = hosts[self.host(step.host)]
        if host.software_version.get("product_version") != step.release:
            return False
        if not all(h.enabled and h.metrics in metrics and metrics[h.metrics].live for h in hosts.values()):
            return False
        if not all(pbds[pbd].currently_attached for pbd in host.PBDs if pbd in pbds):
            return False
        return all(attached(session, h.address) for ref, h in hosts.items() if ref != master)

    def wait_back(self, step: Step) -> None:
        self._until(lambda: self.back(step), "it did not come back whole", step)

    def equal(self, step: Step) -> bool:
        """Whether every host has the new version and the master has noticed."""
        versions = {h.software_version.get("product_version") for h in self.session.host.get_all_records().values()}
        (pool,) = self.session.pool.get_all_records().values()
        return versions == {step.release} and UPGRADE_KEY not in pool.other_config

    def wait_equal(self, step: Step) -> None:
        self._until(lambda: self.equal(step), "the master still sees mixed versions", step, FLAG_TIMEOUT)

    def verified(self, step: Step) -> bool:
        return not self._different()

    def verify(self, step: Step) -> None:
        raise ProcedureError("the pool is not what it was", self._different())

    def _different(self) -> list[str]:
        """How the pool differs from what the plan promised."""
        now, out = observe(self.session), []
        for host in now.hosts.values():
            if host.version != self.plan.target:
                out.append(f"{host.name} runs {host.version}, not {self.plan.target}")
            if not host.enabled or not host.live:
                out.append(f"{host.name} is not enabled and live")
        for planned in self.plan.vms:
            vm = now.vms.get(planned.uuid)
            if vm is None:
                out.append(f"{planned.name} is gone")
            elif vm.state != planned.state:
                out.append(f"{planned.name} was {planned.state} and is {vm.state}")
            elif planned.home and vm.host != planned.home and planned.uuid not in self.plan.away:
                out.append(f"{planned.name} is not on {self.plan.names[planned.home]}, where it was")
        inserts = (step for step in self.plan.steps if step.action == "insert")
        return out + [
            f"the CD of {self.plan.names[step.vm]} is not back in its drive"
            for step in inserts
            if not self.inserted(step)
        ]

    def _until(self, holds: Callable[[], bool], otherwise: str, step: Step, timeout: float = HOST_TIMEOUT) -> None:
        if not self._comes_true(holds, timeout):
            where = self.plan.names.get(step.host, "the pool")
            raise ProcedureError(f"{where}: {otherwise} within {timeout / 60:.0f} minutes")

    def _comes_true(self, holds: Callable[[], bool], timeout: float) -> bool:
        """Look again and again until `holds()`; False where it does not within `timeout` seconds."""
        clock = self.session.clock
        deadline = clock.now() + timeout
        while not holds():
            if clock.now() >= deadline:
                return False
            clock.sleep(POLL)
        return True

    HOLDS: Mapping[str, Callable[[_Run, Step], bool]] = {
        "backup": backed_up,
        "eject": ejected,
        "insert": inserted,
        "resume": resumed,
        "disable": disabled,
        "migrate": moved,
        "stop": stopped,
        "start": started,
        "suspend": suspended,
        "halt": halted,
        "install": installed,
        "return": back,
        "equal": equal,
        "verify": verified,
    }
    ACTS: Mapping[str, Callable[[_Run, Step], None]] = {
        "backup": back_up,
        "eject": eject,
        "insert": insert,
        "resume": resume,
        "disable": disable,
        "migrate": migrate,
        "stop": stop,
        "start": start,
        "suspend": suspend,
        "halt": halt,
        "install": install,
        "return": wait_back,
        "equal": wait_equal,
        "verify": verify,
    }


__all__ = ["Outcome", "StepDone", "make_plan", "plan", "run"]
