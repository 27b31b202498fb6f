"""How a plan is carried out: step by step, each observed, written down, done, and looked at again.

A step that holds in the pool is passed over. Else its intent goes into the journal, it acts, and the pool must show it. So
a run that was killed anywhere goes on from the journal's last finished step, and does nothing twice. Errors that may pass
are met by trying the step again, after another look; what goes on failing stops the run, which can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import (
    ConnectionLost,
    DatabaseError,
    Failure,
    ProcedureError,
    TaskCancelled,
    TransportError,
    WaitTimeout,
)
from . import marking
from .acts import KINDS
from .drift import Astray, differences
from .estimate import turn_of
from .fallen import EXCUSED, give_up, notes
from .journal import ABANDONED, DONE, PAUSE, RUNNING, STOPPED, VERSIONS, Change, Journal, JournalError
from .observe import PoolFacts, observe
from .plan import Plan, Step
from .policy import REPLAN, Policy
from .waiting import POLL

if TYPE_CHECKING:
    from os import PathLike

    from ..credentials import Credentials
    from ..session import Session
    from .backup import Backup
    from .comparison import Comparison
    from .hands import Hands

BUSY_TIMEOUT = 2 * 3600.0
"""Seconds in which an operation may end that is at work on a guest."""
LOST_TIMEOUT = 900.0
"""Seconds in which the effect of a call may show whose answer was lost."""
PASSED_OVER = "passed over"
"""What the journal keeps: the host that failed and was left out, and why."""
ATTEMPTS, PAUSES = 3, 2
"""How often a step is tried, and how many times the time between two looks passes before it is tried again."""

ENDED: Mapping[str, Sequence[str]] = {"return": ("enable", "switch-on"), "boot-installer": ("unprepare",)}
"""What need not be undone any more for a host, once it has taken this step."""
PUT_AWAY = frozenset({"power-down", "shut-down", "disable", "halt"})
"""With what hosts are put away."""
BEFORE_GUESTS: Mapping[str, int] = {"switch-on": 0, "enable": 1}
"""What is undone first, in this order: guests come back to hosts that run and are enabled."""

Progress = Callable[[int, int, str], None]
Gate = Callable[["Run", Step], str]
"""Asked before each host's turn: why to stop here, empty to go on."""

Ask = Callable[[str], bool]
"""Asks a person, who says yes or no."""

Replanner = Callable[["Session", Journal, Collection[str]], Plan]
"""Plans the rest of a journal's run from the pool as it is, without the hosts of these uuids."""

REPLANS = 3
"""How often the rest is planned anew before the same step; a pool that never is as planned is somebody else's."""


class Paused(ProcedureError):
    """A run that stops before a host's turn because it was told to. It can be resumed."""


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
        return {
            **self.step.as_dict(),
            "text": self.text,
            "at_s": self.at,
            "took_s": self.took,
            "skipped": self.skipped,
        }


@dataclass
class Outcome:
    """What came of a run. `problems` is empty where every step is done; `paused` says why it was told to stop; a run that
    has neither is done."""

    plan: Plan
    steps: list[StepDone] = field(default_factory=list)
    backup: Backup | None = None
    problems: list[str] = field(default_factory=list)
    paused: str = ""
    notes: list[str] = field(default_factory=list)
    """What happened that was not planned, and did not stop the run."""
    comparison: Comparison | None = None
    """How the pool differs from what it was before, where all is done and that is known."""

    @property
    def ok(self) -> bool:
        return not self.problems and not self.paused


class Run:
    """A plan under way: what the steps need to look and to act."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        hands: Hands,
        journal: Journal,
        *,
        backup_to: str | PathLike[str] | None = None,
        take_over: bool = False,
        gates: Sequence[Gate] = (),
        poll: float | None = None,
        ask: Ask | None = None,
        policy: Policy | None = None,
        replan: Replanner | None = None,
        stop: Callable[[], str] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """`stop` is asked before each step and at each look at what is waited for: why to stop there, empty to go on."""
        self.session, self.plan, self.hands, self.journal = session, plan, hands, journal
        self.backup_to, self.take_over, self.gates = backup_to, take_over, gates
        self.poll = POLL if poll is None else poll
        self.ask: Ask = ask or (lambda question: False)
        self.policy, self._replan = policy or Policy(), replan
        self._stop: Callable[[], str] = stop or (lambda: "")
        self._credentials = credentials
        self.outcome = Outcome(plan)
        self.begun: set[str] = set()
        self.turned: set[str] = set()
        """The hosts whose turns were taken by this process."""
        self.before = {host.uuid: host.before for host in plan.hosts}
        self.number, self.marked = 0, False
        self._unwatched = set[str]()
        """Guests on which an operation may be at work that nobody waits for: of a process that was killed, or of a call
        whose answer was lost."""
        self._refs: dict[str, Any] = {}
        knows = getattr(hands, "knows", None)
        if knows is not None:
            knows(plan)

    # --- what steps ask for

    def host(self, uuid: str) -> Any:
        """The reference of the host with this uuid."""
        if uuid not in self._refs:
            self._refs[uuid] = self.session.host.get_by_uuid(uuid)
        return self._refs[uuid]

    def vm(self, uuid: str) -> Any:
        """The reference of the VM with this uuid."""
        if uuid not in self._refs:
            self._refs[uuid] = self.session.VM.get_by_uuid(uuid)
        return self._refs[uuid]

    @property
    def credentials(self) -> Credentials:
        """As whom hosts are spoken to one by one. Raises `ProcedureError` where nobody said."""
        if self._credentials is None:
            raise ProcedureError("this procedure speaks to single hosts: give the run credentials")
        return self._credentials

    @cached_property
    def pool(self) -> Any:
        """The reference of the pool."""
        return next(iter(self.session.pool.get_all()))

    @property
    def unplugged(self) -> frozenset[str]:
        """The PBDs that were not plugged when the run was planned, and are not waited for."""
        return frozenset(self.plan.unplugged)

    def mark(self) -> str:
        """The name of the run that the pool is marked with, empty where it is not."""
        return marking.mark_of(self.session, self.pool)

    @property
    def excused(self) -> frozenset[str]:
        """The guests, by uuid, that went down and may stay so."""
        return frozenset(self.journal.get(EXCUSED, ()))

    def saw(self, facts: PoolFacts) -> None:
        """Note the power states of guests, as XenAPI shows them."""
        self.journal.saw({vm.uuid: vm.state for vm in facts.vms.values()})

    def begin_turn(self, step: Step) -> None:
        """Compare the pool with the plan, and ask whoever has a say. Raises `Astray`, or `Paused`."""
        self._ask_gates(step)
        now = observe(self.session)
        self.saw(now)
        found = differences(self.plan, self.number - 1, now, self.excused)
        if found:
            why = "the pool is not as the plan expects; put it right, or plan anew"
            raise Astray(why, found, master=now.master != self.plan.master)
        self.begun.add(step.host)

    def _ask_gates(self, step: Step) -> None:
        for gate in self.gates:
            why = gate(self, step)
            if why:
                raise Paused(why)

    def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass. Raises `Paused` where the run is told to stop meanwhile."""
        self.comes_true(lambda: False, seconds)

    def until(self, holds: Callable[[], bool], otherwise: str, timeout: float) -> None:
        """Look again and again until `holds()`. Raises `ProcedureError` with `otherwise` after `timeout` seconds."""
        if not self.comes_true(holds, timeout):
            raise ProcedureError(f"{otherwise} within {timeout / 60:.0f} minutes")

    def comes_true(self, holds: Callable[[], bool], timeout: float) -> bool:
        """Look again and again until `holds()`; False where it does not within `timeout` seconds."""
        clock = self.session.clock
        deadline = clock.now() + timeout
        while not holds():
            if clock.now() >= deadline:
                return False
            self.may_go_on()
            clock.sleep(min(self.poll, deadline - clock.now()))
        return True

    def may_go_on(self) -> None:
        """Raise `Paused` where the run is told to stop."""
        why = self._stop()
        if why:
            raise Paused(why)

    def do(self, step: Step) -> None:
        """Do one step by itself, unless it holds."""
        kind = KINDS[step.action]
        self._wait_until_idle(step)
        if not kind.holds(self, step):
            kind.act(self, step)
            if not kind.holds(self, step):
                raise ProcedureError("no error came, but the pool does not show it done")

    # --- the run itself

    def carry_out(self, on_step: Progress | None = None) -> Outcome:
        """Take every step that the journal does not call finished. A step that does not do what it is for stops the run,
        and `Outcome.problems` says which and why."""
        self.journal.now = self.session.clock.now
        self.journal.enter(RUNNING)
        if self.journal.get(PAUSE):  # it was for the run that is resumed now
            self.journal.put(PAUSE, "")
        try:
            self._take_all(on_step)
            self.outcome.notes = notes(self.journal, self.plan)
        except KeyboardInterrupt:
            self.outcome.paused = f"{self._where()}: interrupted"
        except JournalError as error:  # nothing can be written down any more, so nothing is done any more
            self.outcome.problems.append(f"{self._where()}: {error}")
            return self.outcome
        self.journal.enter(DONE if self.outcome.ok else STOPPED)
        return self.outcome

    def _where(self) -> str:
        return f"step {self.number} of {len(self.plan.steps)}"

    def _take_all(self, on_step: Progress | None) -> None:
        """Take the steps until one stops the run, planning the rest anew where that is the policy."""
        start, left = self.session.clock.now(), REPLANS
        while True:
            self.take_up()
            reached = len(self.outcome.steps)
            try:
                self._take_steps(on_step, start)
            except JournalError:
                raise
            except Paused as pause:
                self.outcome.paused = f"{self._where()}, {self._text()}: {pause}"
                self.journal.note(self.outcome.paused)
            except (Failure, TransportError, TaskCancelled, DatabaseError, ProcedureError, OSError) as error:
                left = REPLANS if len(self.outcome.steps) > reached else left - 1
                if left and self._goes_on_after(error):
                    continue
                self.outcome.problems.append(f"{self._where()}, {self._text()}: {error}")
                self.journal.write(self.number, "failed", str(error))
            return

    def _text(self) -> str:
        return self.plan.steps[self.number - 1].text(self.plan.names)

    def take_up(self) -> None:
        """Know where the plan was left."""
        finished = self.journal.finished()
        self.begun = {step.host for step in self.plan.steps[:finished] if step.action == "turn"}
        self.number, self.marked = finished + 1, False
        if self.journal.acted():  # a process that was killed may have left any of them at work
            self._unwatched = {step.vm for step in self.plan.steps if step.vm}
        for step in self.plan.steps[:finished]:
            self._marks(step)

    def _marks(self, step: Step) -> None:
        """Know whether the pool is marked with this run, once a step is done."""
        self.marked = step.action == "claim" or (self.marked and not KINDS[step.action].unmarks(self.plan, step))

    def assert_ours(self, step: Step) -> None:
        """Raise `ProcedureError` where the pool is to be marked with this run before a step, and is not."""
        if self.marked and not KINDS[step.action].unmarks(self.plan, step):
            marking.assert_ours(self.session, self.journal.run_id)

    def assert_nobody_elses(self) -> None:
        """Raise `ProcedureError` where another run is at work on the pool, and this one was before."""
        if self.marked:
            marking.assert_ours(self.session, self.journal.run_id, or_free=True)

    def _take_steps(self, on_step: Progress | None, start: float) -> None:
        """Take the steps that are not finished. Raises what stops the first that cannot be taken."""
        steps, clock = self.plan.steps, self.session.clock
        first = next((step for step in steps if step.action == "turn"), None)
        if self.number == 1 and first is not None and not self.outcome.steps:
            self._ask_gates(first)  # nothing is prepared for a turn that is not to come
        for number, step in enumerate(steps[self.number - 1 :], self.number):
            text, self.number = step.text(self.plan.names), number
            self.may_go_on()
            if on_step is not None:
                on_step(number, len(steps), text)
            at = clock.now()
            skipped = self._take(number, step)
            shows = KINDS[step.action].shows
            if step.action == "return":
                self.turned.add(step.host)
                if step.release:
                    self.journal.put(VERSIONS, {**self.journal.get(VERSIONS, {}), step.host: step.release})
            self._settle(step)
            self.journal.end(number, step, text, shows={step.vm: shows} if shows and step.vm else {})
            self._marks(step)
            self.outcome.steps.append(StepDone(step, text, at - start, clock.now() - at, skipped))

    def _goes_on_after(self, error: Exception) -> bool:
        """Whether the rest was planned anew, by the policies of drift and of hosts that fail."""
        if self._replan is None:
            return False
        if isinstance(error, Astray):
            return (error.ours or self.policy.on_drift == REPLAN) and not error.master and self._planned_anew(())
        return self._passed_over(turn_of(self.plan, self.number), str(error))

    def _passed_over(self, host: str, why: str) -> bool:
        """Whether the rest goes on without a host whose turn ended in a problem: the first such, no master, and up."""
        if not host or not self.policy.skip_failed or host == self.plan.master or self.journal.get(PASSED_OVER):
            return False
        try:
            facts = observe(self.session)
            if not facts.hosts[host].live or self.hands.power(host) != "running":
                return False
            self.do(Step("enable", host=host))
        except (Failure, TransportError, ProcedureError, KeyError):
            return False
        self.journal.put(PASSED_OVER, {"host": host, "why": why})
        self.journal.note(f"{self.plan.names[host]} is passed over: {why}")
        if self._planned_anew({host}):
            return True
        self.journal.put(PASSED_OVER, None)
        return False

    def _planned_anew(self, without: Collection[str]) -> bool:
        """Whether the rest could be planned, at no downtime that nobody has heard of."""
        assert self._replan is not None
        plan = self._replan(self.session, self.journal, without)
        agreed = {vm.uuid for vm in self.plan.downtime}
        new = [f"{vm.name} would be shut down: {vm.why}" for vm in plan.downtime if vm.uuid not in agreed]
        for why in (*plan.problems, *new):
            self.journal.note(f"the rest cannot be planned anew: {why}")
        if plan.problems or new:
            return False
        self.journal.replan(plan)
        self.plan = self.outcome.plan = plan
        give_up(self, plan)
        return True

    def _settle(self, step: Step) -> None:
        """What this step undoes need not be undone any more, nor what the return of a host does that was disabled. Once the
        whole pool is found as it was, neither need what somebody else undid, or what is about guests that stay down."""
        for done in (step, *(Step(ended, host=step.host) for ended in ENDED.get(step.action, ()))):
            for change in self._taken_back(done):
                self.journal.undone(change)
        if step.action == "verify":
            for change in self.journal.changes():
                undo = change.undo
                if not change.undone and (undo.vm in self.excused or KINDS[undo.action].holds(self, undo)):
                    self.journal.undone(change)

    def _taken_back(self, step: Step) -> list[Change]:
        """What this run changed and a step takes back."""
        bare = _bare(step)
        return [change for change in self.journal.changes() if not change.undone and _bare(change.undo) == bare]

    def _take(self, number: int, step: Step) -> bool:
        """Do a step unless what it is for holds, trying again what may pass; True where it held already."""
        kind = KINDS[step.action]
        for attempt in range(ATTEMPTS, 0, -1):
            try:
                self._wait_until_idle(step)
                if self._is_excused(step) or kind.holds(self, step):
                    return attempt == ATTEMPTS
                self.assert_ours(step)
                undo = kind.undo(step)
                if undo is not None and not self._taken_back(step):
                    self.journal.changed(undo)
                self.journal.write(number, "intent", step.text(self.plan.names))
                try:
                    kind.act(self, step)
                except (ConnectionLost, WaitTimeout):
                    if not self._comes_to_hold(step):  # the answer was lost, which says nothing of the effect
                        raise
                if kind.holds(self, step):
                    return False
            except (Failure, TransportError) as error:
                if attempt == 1:
                    raise
                self.journal.note(f"step {number} is tried again: {error}")
                self._unwatched |= {step.vm} - {""}
            else:
                raise ProcedureError("no error came, but the pool does not show it done")
            self.session.clock.sleep(PAUSES * self.poll)
        raise AssertionError("the last attempt returns or raises")

    def _is_excused(self, step: Step) -> bool:
        """Whether a step is about the power state of a guest that went down, and may stay so."""
        return bool(
            KINDS[step.action].shows
            and step.vm in self.excused
            and self.session.VM.get_power_state(self.vm(step.vm)) == "Halted"
        )

    def _wait_until_idle(self, step: Step) -> None:
        """Wait for the end of what may be at work on the step's guest since before: a second operation would wait for it,
        too, and then be done once more."""
        if step.vm in self._unwatched:
            vm = self.vm(step.vm)
            idle = "the operation on the guest does not end"
            self.until(lambda: not self.session.VM.get_current_operations(vm), idle, BUSY_TIMEOUT)
            self._unwatched.discard(step.vm)

    def _comes_to_hold(self, step: Step) -> bool:
        """Whether what a step is for holds after all, within the time that a lost answer is given."""

        def shows() -> bool:
            try:
                return KINDS[step.action].holds(self, step)
            except TransportError:
                return False

        return self.comes_true(shows, LOST_TIMEOUT)


def abandon(session: Session, journal: Journal, hands: Hands, *, poll: float | None = None) -> list[str]:
    """Give a run up: undo what it changed on the way and the pool allows to be undone now, newest first; unmark the pool.

    Returns what is left to be undone, one sentence each; abandon again to try again. Hosts that are upgraded stay so, for
    `adopt` and `revert`. Raises `ProcedureError` for a run that is done.
    """
    if journal.state == DONE:
        raise ProcedureError(f"{journal.run_id} is done: there is nothing to abandon")
    run, left = Run(session, journal.plan, hands, journal, poll=poll), []
    run.take_up()
    run.assert_nobody_elses()
    newest = list(reversed(journal.changes()))
    for change in sorted(newest, key=lambda change: BEFORE_GUESTS.get(change.undo.action, len(BEFORE_GUESTS))):
        if change.undone or change.undo.action == "release":
            continue
        text = change.undo.text(run.plan.names)
        try:
            if _is_moot(run, change.undo):
                journal.note(f"{text}: it is down, and stays so")
            else:
                run.do(change.undo)
        except (Failure, TransportError, TaskCancelled, ProcedureError) as error:
            left.append(f"{text}: {error}")
        else:
            journal.undone(change)
            if change.undo.action == "switch-on":
                journal.rewind(_began_with(journal, change.undo.host))
    for change in journal.changes():
        if not change.undone and change.undo.action == "release" and not left:
            run.do(change.undo)
            journal.undone(change)
    journal.enter(ABANDONED if not left else STOPPED)
    return left


def _began_with(journal: Journal, host: str) -> int:
    """The number of the step with which a run began to put a host away: what follows its turn's beginning, or, where it had
    none, the first that shuts anything down."""
    done = list(enumerate(journal.plan.steps[: journal.finished()], 1))
    turns = [number + 1 for number, step in done if (step.action, step.host) == ("turn", host)]
    return max(turns, default=min((number for number, step in done if step.action in PUT_AWAY), default=1))


def _is_moot(run: Run, step: Step) -> bool:
    """Whether a guest that was to be suspended again has been shut down: there is nothing left to save."""
    return step.action == "suspend" and run.session.VM.get_power_state(run.vm(step.vm)) == "Halted"


def _bare(step: Step) -> Step:
    """A step without the reason for it, and without the hosts where it is about a guest: it is up again wherever it is."""
    return replace(step, reason="") if step.vm == "" else replace(step, reason="", host="", to="")
