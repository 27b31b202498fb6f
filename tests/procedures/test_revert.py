"""An upgrade that is taken back: members first, the master last, and every guest as it was before."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed, MortalHands, mortal, session_on

from mockserver import MockPool
from mockserver.invariants import sound
from mockserver.recorder import Recorder
from xenctl.errors import ProcedureError
from xenctl.procedures import before, revert, rolling_upgrade
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import MARK, UPGRADE_KEY, PoolFacts, observe
from xenctl.procedures.plan import Plan
from xenctl.procedures.running import Outcome, Run
from xenctl.session import Session, connect

RELEASES = [
    ("4.0.1", "4.1"),
    ("4.1", "5.0"),
    ("5.0", "5.5"),
    ("5.6", "6.0"),
    ("6.2", "6.5"),
    ("7.1", "8.0"),
    ("8.2", "8.4"),
]


class Case:
    """A pool that was upgraded as far as some hosts, and how it was before."""

    def __init__(self, tmp_path: Path, *, release: str, to: str, hosts: int = 3, vms: int = 12, seed: int = 0) -> None:
        self.pool = MockPool.create(hosts=hosts, vms=vms, release=release, seed=seed)
        self.to, self.path = to, tmp_path / "upgrade"
        self.session = self.connect()
        self.first = observe(self.session)
        self.boots = {uuid: guest.boots for uuid, guest in self.pool.guests.items()}
        self.pool.watch(*sound())

    def connect(self) -> Session:
        return connect(self.pool.url, self.pool.username, self.pool.password, transport=self.pool.transport())

    def upgrade(self, turns: int) -> Journal:
        """Upgrade the first `turns` hosts of the plan; the journal of that run."""
        plan = rolling_upgrade.plan(self.session, self.to)
        assert plan.problems == ()
        journal = Journal.create(plan, self.path)
        seen: list[str] = []

        def gate(run: Run, step: Any) -> str:
            seen.append(step.host)
            return "" if len(seen) <= turns else "far enough"

        outcome = rolling_upgrade.run(
            *(self.session, plan, self.pool.hands),
            journal=journal,
            backup_to=f"{self.path}.xml",
            accept_downtime=True,
            gates=[gate],
        )
        assert outcome.problems == []
        return journal

    def plan(self, journal: Journal, **options: Any) -> Plan:
        return revert.plan(self.session, before.of_journal(journal), **options)

    def revert(self, journal: Journal, **options: Any) -> Outcome:
        """Take back what the journal's run did."""
        made = self.plan(journal, **options)
        assert made.problems == ()
        known = before.of_journal(journal)
        kept = revert.begin(made, known, upgrade=journal)
        return revert.run(self.session, made, self.pool.hands, journal=kept, accept_downtime=True, accept_loss=True)

    def is_as_before(self, seconds: float = 60.0) -> None:
        """Every host runs what it ran, every guest is where it was, no byte is lost, no key is left."""
        self.pool.clock.advance(seconds)
        self.pool.conclude()
        assert [violation.as_dict() for violation in self.pool.violations] == []
        now = observe(self.session)
        assert {host.version for host in now.hosts.values()} == {self.first.hosts[self.first.master].version}
        assert now.master == self.first.master
        assert not now.upgrading
        assert now.mark == ""
        assert {vm.uuid: (vm.state, vm.host) for vm in now.vms.values()} == {
            vm.uuid: (vm.state, vm.host) for vm in self.first.vms.values()
        }
        assert {vm.uuid: [d.vdi for d in vm.discs] for vm in now.vms.values()} == {
            vm.uuid: [d.vdi for d in vm.discs] for vm in self.first.vms.values()
        }


@pytest.mark.parametrize(("release", "to"), RELEASES)
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_pool_goes_back_from_any_number_of_hosts(tmp_path: Path, release: str, to: str, turns: int) -> None:
    """The master alone, master and a member, all of them: versions, guests, discs and bytes are as before."""
    case = Case(tmp_path, release=release, to=to)
    outcome = case.revert(case.upgrade(turns))
    assert outcome.problems == []
    case.is_as_before()
