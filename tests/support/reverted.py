"""A pool that is upgraded and goes back, for tests of both."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

from guests import fully_virtual

from mockserver import MockPool
from mockserver.invariants import AsBefore, sound
from mockserver.invariants import revert as invariants
from xenctl.procedures import revert, rolling_upgrade
from xenctl.procedures.before import Before, of_journal
from xenctl.procedures.journal import Journal
from xenctl.procedures.plan import Plan
from xenctl.procedures.running import Outcome, Run
from xenctl.session import Session, connect


class Case:
    """A pool that was upgraded as far as some hosts, and how it was before."""

    def __init__(self, tmp_path: Path, release: str = "5.0", to: str = "5.5", **shape: Any) -> None:
        made = MockPool.create(**{"hosts": 3, "vms": 12, "release": release, **shape})
        self.pool = fully_virtual(made) if to == "8.4" else made
        self.to, self.dump = to, tmp_path / "dump.xml"
        self.session = self.connect()
        self.before = AsBefore(self.pool)
        self.pool.watch(*sound())

    def again(self) -> Case:
        """The same once more, its pool a fork."""
        out = copy(self)
        out.pool = self.pool.fork()
        out.session = out.session_later()
        return out

    def connect(self) -> Session:
        return connect(self.pool.url, self.pool.username, self.pool.password, transport=self.pool.transport())

    def session_later(self) -> Session:
        """A session that logs in with its first call: the master may be away."""
        session = Session(self.pool.url, transport=self.pool.transport())
        session.login_later(self.pool.username, self.pool.password)
        return session

    def upgrade(self, turns: int, path: Path | None = None) -> Journal:
        """Upgrade the first `turns` hosts of the plan; the journal of that run."""
        plan = rolling_upgrade.plan(self.session, self.to)
        assert plan.problems == ()
        journal, seen = Journal.create(plan, path), list[str]()

        def gate(run: Run, step: Any) -> str:
            if step.host not in seen:
                seen.append(step.host)
            return "" if len(seen) <= turns else "far enough"

        outcome = rolling_upgrade.run(
            *(self.session, plan, self.pool.hands),
            journal=journal,
            backup_to=self.dump,
            accept_downtime=True,
            gates=[gate],
        )
        assert outcome.problems == []
        return journal

    def plan(self, journal: Journal, **options: Any) -> Plan:
        return self.plan_of(of_journal(journal), **options)

    def plan_of(self, known: Before, **options: Any) -> Plan:
        return revert.plan(self.session, known, **options)

    def watch(self, plan: Plan) -> None:
        """Watch over a revert by this plan."""
        lost = {uuid for step in plan.steps if step.action == "verify-reverted" for uuid in step.args["lost"]}
        stop = {vm.uuid for vm in plan.downtime}
        self.pool.watch(*invariants(self.before, may_stop=stop, may_go=lost, may_stay_away=plan.away))

    def revert(self, journal: Journal, **options: Any) -> Outcome:
        """Take back what the journal's run did."""
        plan = self.plan(journal, **options)
        assert plan.problems == ()
        self.watch(plan)
        return self.carry_out(plan, of_journal(journal), journal)

    def carry_out(self, plan: Plan, known: Before, journal: Journal | None = None) -> Outcome:
        kept = revert.begin(plan, known, upgrade=journal)
        return revert.run(*(self.session, plan, self.pool.hands), journal=kept, accept_downtime=True, accept_loss=True)

    def is_as_before(self) -> None:
        """Every host runs what it ran, every guest is where it was, no byte is lost, no key is left."""
        self.pool.clock.advance(60)
        self.pool.conclude()
        assert [violation.as_dict() for violation in self.pool.violations] == []

    def row(self, kind: str, name: str) -> Any:
        return next(row for row in self.pool.store.table(kind).values() if row["name_label"] == name)


def why(plan: Plan) -> dict[str, str]:
    return {vm.name: vm.why for vm in plan.downtime}


def halt(c: Case, host: str) -> None:
    """Shut down an empty host."""
    ref = c.row("host", host).ref
    c.session.host.disable(ref)
    c.session.host.shutdown(ref)
    c.pool.clock.run_until(c.pool.clock.now() + 600, lambda: c.pool.machine(host).state == "off")


def fail_half_way(c: Case, host: str, share: float = 0.9) -> None:
    """The power fails while the installer writes."""
    hands, clock = c.pool.hands, c.pool.clock
    hands.insert_media(host, c.to)
    hands.power_on(host)
    clock.run_until(clock.now() + 600, lambda: hands.power(host) == "installer")
    hands.answer(host, "upgrade")
    clock.advance(share * c.pool.durations.install)
    hands.power_off(host)


def stop_before_install(c: Case, host: str) -> Journal:
    """An upgrade whose process dies when `host` is off and nothing is installed there."""
    plan = rolling_upgrade.plan(c.session, c.to)
    journal, uuid = Journal.create(plan), c.pool.machine(host).uuid

    class Gone:
        def __getattr__(self, name: str) -> Any:
            deed = getattr(c.pool.hands, name)

            def act(where: str, *more: Any) -> Any:
                if name == "insert_media" and where == uuid:
                    raise KeyboardInterrupt
                return deed(where, *more)

            return act

    hands: Any = Gone()
    outcome = rolling_upgrade.run(c.session, plan, hands, journal=journal, backup_to=c.dump, accept_downtime=True)
    assert "interrupted" in outcome.paused
    assert c.pool.machine(host).state == "off"
    return journal
