"""What tests of recovery share: pools that are watched, people at consoles, runs that die."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed, MortalHands, MortalTransport, kills, mortal
from pools import reach

from mockserver import MockPool, membership
from xenctl.credentials import Credentials
from xenctl.procedures import emergency
from xenctl.procedures.journal import Journal
from xenctl.procedures.plan import Plan
from xenctl.procedures.running import Outcome, Run
from xenctl.session import Session

ROOT = Credentials("", "root", "secret")


def towards(pool: MockPool, host: str, fate: Fate | None = None) -> Session:
    """A session that logs in later at one host, which need not be the master yet."""
    transport: Any = MortalTransport(pool.transport(), fate or Fate())
    session = Session(f"http://{pool.machine(host).address}", transport=transport, protocol="xmlrpc")
    session.login_later(pool.username, pool.password)
    return session


def address(pool: MockPool, host: str) -> str:
    return str(pool.machine(host).address)


def status(pool: MockPool, *hosts: str) -> emergency.Status:
    return emergency.status(reach(pool), [address(pool, host) for host in hosts], ROOT)


def at_the_console(pool: MockPool) -> Any:
    """A person who types at a host's console what is asked, which hosts of 4.0 need."""

    def ask(question: str) -> bool:
        where, command = question.removesuffix(". Is that done?").split("console of ")[1].split(" and type: ")
        machine = pool.machine(where)
        if command == "xe pool-emergency-transition-to-master":
            membership.lead(machine)
        else:
            membership.follow(machine, command.removeprefix("xe pool-emergency-reset-master master-address="))
        return True

    return ask


def carried_out(
    pool: MockPool, plan: Plan, session: Session | None = None, journal: Journal | None = None, **options: Any
) -> tuple[Outcome, Journal]:
    assert plan.problems == ()
    kept, given = (
        journal or Journal.create(plan),
        {
            "hands": pool.hands,
            "credentials": ROOT,
            "ask": at_the_console(pool),
            **options,
        },
    )
    return Run(session or reach(pool), plan, given.pop("hands"), kept, **given).carry_out(), kept


def running(pool: MockPool) -> dict[str, str]:
    """Where each guest that runs does so, by the names of guests and hosts, as the machines have it."""
    names = {vm["uuid"]: vm["name_label"] for vm in pool.store.table("VM").values() if not vm["is_control_domain"]}
    return {names[uuid]: m.name for m in pool.machines for uuid in m.domains if uuid in names}


def killed_anywhere(
    tmp_path: Path,
    make: Callable[[], MockPool],
    plan: Callable[[MockPool], Plan],
    right: Callable[[MockPool], bool],
    *,
    master: str = "host1",
    seed: int = 5,
    sample: int = 12,
) -> None:
    """Carry a plan out, dying before and after calls, acts of hands and writes of the journal (a `sample` of them); whoever
    resumes must come to `right`."""
    points, pool = Fate(), make()
    made_plan = plan(pool)
    run = Run(
        towards(pool, master, points),
        made_plan,
        MortalHands(pool.hands, points),  # type: ignore[arg-type]
        mortal(Journal.create(made_plan), points),
        credentials=ROOT,
        ask=at_the_console(pool),
    )
    assert run.carry_out().problems == []
    assert right(pool)
    for number, after in kills(points.points, sample, seed=seed):
        pool, fate, path = make(), Fate(number, after), tmp_path / f"{number}{after}"
        made_plan, hands = plan(pool), MortalHands(pool.hands, fate)
        with Journal.create(made_plan, path) as journal, pytest.raises(Killed):
            Run(
                towards(pool, master, fate),
                made_plan,
                hands,  # type: ignore[arg-type]
                mortal(journal, fate),
                credentials=ROOT,
                ask=at_the_console(pool),
            ).carry_out()
        with Journal.open(path, to_run=True) as journal:
            outcome, _ = carried_out(pool, journal.plan, towards(pool, master), journal)
        assert outcome.problems == [], (seed, number, after, points.points[number - 1])
        assert right(pool), (seed, number, after, points.points[number - 1])
