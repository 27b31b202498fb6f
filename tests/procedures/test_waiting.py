"""Waiting for a host: each stage has its time, its remedy, and its sentence when it does not come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from guests import fully_virtual
from pools import row

from mockserver import MockPool
from xenctl.errors import Failure, TransportError
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.journal import Journal
from xenctl.procedures.policy import RESTART, Policy
from xenctl.procedures.running import Outcome, Run
from xenctl.procedures.waiting import NAMES, REACHABLE, STAGES, await_return
from xenctl.session import Session, connect

SHORT = 1200.0
"""Seconds that every stage has in these tests."""


@pytest.fixture
def pool(release: str) -> MockPool:
    return fully_virtual(MockPool.create(hosts=3, vms=6, release=release))


class Calls:
    """A transport that notes which calls go out."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.clock, self.seen = inner, inner.clock, list[str]()

    def send(self, request: Any) -> Any:
        body = request.body or b""
        self.seen.append(body.partition(b"<methodName>")[2].partition(b"<")[0].decode())
        return self.inner.send(request)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def calls(pool: MockPool) -> Calls:
    return Calls(pool.transport())


@pytest.fixture
def session(pool: MockPool, calls: Calls) -> Session:
    return connect(pool.url, pool.username, pool.password, transport=calls, protocol="xmlrpc")  # type: ignore[arg-type]


def waiting(pool: MockPool, session: Session) -> Run:
    """A run that waits for a host of a pool in which nothing is wrong yet."""
    plan = rolling_upgrade.plan(session)
    policy = Policy(on_fallen=RESTART, timeouts=dict.fromkeys(NAMES, SHORT))
    journal = Journal.create(plan)
    journal.now = session.clock.now
    return Run(session, plan, pool.hands, journal, policy=policy)


def kept(pool: MockPool, change: Callable[[], Any]) -> None:
    """Do something again and again, as a fault does that does not pass."""

    def again() -> None:
        change()
        pool.clock.after(5.0, again)

    again()


def still_old(pool: MockPool) -> str:
    """It booted its disk instead of the medium."""
    return "6.0.0"


def unable(pool: MockPool) -> str:
    """A member whose toolstack never comes up again."""
    pool.faults.add("toolstack_crash", victim="host3", after=0.0, lasting=None)
    pool.clock.advance(1.0)
    return ""


def disabled(pool: MockPool) -> str:
    kept(pool, lambda: pool.store.write(row(pool, "host", "host2"), enabled=False))
    return ""


def silent(pool: MockPool) -> str:
    metrics = pool.store.get("host_metrics", row(pool, "host", "host2")["metrics"])
    kept(pool, lambda: pool.store.write(metrics, live=False))
    return ""


def unplugged(pool: MockPool) -> str:
    pbd = pool.store.get("PBD", row(pool, "host", "host2")["PBDs"][0])
    kept(pool, lambda: pool.store.write(pbd, currently_attached=False))
    return ""


def gone(pool: MockPool) -> str:
    pool.machine("host1").power_off()
    return ""


FAULTS: dict[str, Callable[[MockPool], str]] = {
    "reachable": gone,
    "version": still_old,
    "attached": unable,
    "enabled": disabled,
    "live": silent,
    "storage": unplugged,
}
MENDED = {
    "version": "host.restart_agent",
    "attached": "pool.recover_slaves",
    "enabled": "host.enable",
    "live": "host.restart_agent",
    "storage": "PBD.plug",
}
"""The call that is each stage's remedy."""


def test_every_stage_is_tried_here() -> None:
    """And the table of remedies tells what there is."""
    assert set(FAULTS) == set(NAMES)
    assert set(MENDED) == {stage.name for stage in STAGES if stage.remedy is not None}


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_that_does_not_come_is_named_after_its_time(
    pool: MockPool, session: Session, calls: Calls, name: str
) -> None:
    """With what can be done; its remedy was tried before."""
    run = waiting(pool, session)
    release, start = FAULTS[name](pool), session.clock.now()
    calls.seen.clear()
    stage = next(stage for stage in (REACHABLE, *STAGES) if stage.name == name)
    with pytest.raises(Exception, match="within 20 minutes") as told:
        await_return(run, row(pool, "host", "host2")["uuid"], release)
    assert str(told.value) == f"host2 {stage.what} within 20 minutes; {stage.advice}"
    notes = [entry.text for entry in run.journal.entries() if entry.text.startswith(f"host2 {stage.what}; ")]
    means = "trying to mend that" if name in MENDED else stage.advice
    assert notes == [f"host2 {stage.what}; {means}"] * 2
    passed = session.clock.now() - start
    assert SHORT <= passed < SHORT + len(NAMES) * 2 * run.poll
    assert (name in MENDED) == bool(MENDED.get(name, "none") in calls.seen)
    for other in set(MENDED.values()) - {MENDED.get(name)}:
        assert other not in calls.seen


@pytest.mark.parametrize("name", ["enabled", "storage"])
def test_a_remedy_mends_what_it_is_for(pool: MockPool, session: Session, name: str) -> None:
    """What nobody else does: a host that was left disabled, storage that was left unplugged."""
    run = waiting(pool, session)
    host = row(pool, "host", "host2")
    if name == "enabled":
        session.host.disable(host.ref)
    else:
        session.PBD.unplug(idle_pbd(pool, host))
    await_return(run, host["uuid"], "")
    assert host["enabled"]
    assert all(pool.store.get("PBD", pbd)["currently_attached"] for pbd in host["PBDs"])
    notes = [entry.text for entry in run.journal.entries() if entry.phase == "note"]
    assert sum("trying to mend that" in note for note in notes) == 1
    assert [note for note in notes if "trying" not in note] == [f"host2: {stage}" for stage in NAMES]


def test_a_host_whose_version_the_pool_has_wrong_tells_it_again(pool: MockPool, session: Session) -> None:
    """It runs the new release, and the pool says otherwise: a toolstack that starts says what it runs."""
    run = waiting(pool, session)
    host = row(pool, "host", "host2")
    release = host["software_version"]["product_version"]
    pool.store.write(host, software_version={**host["software_version"], "product_version": "3.2.0"})
    await_return(run, host["uuid"], release)
    assert host["software_version"]["product_version"] == release
    notes = [entry.text for entry in run.journal.entries() if "trying" in entry.text]
    assert notes == ["host2 does not run the new release; trying to mend that"]


def test_a_master_that_does_not_answer_is_told_to_a_person_while_it_is_waited_for(
    pool: MockPool, session: Session
) -> None:
    """No call mends that: the journal says what can be done at its console, and the run goes on once somebody did."""
    run = waiting(pool, session)
    machine, host = pool.machine("host1"), row(pool, "host", "host2")["uuid"]
    machine.power_off()

    def seen_to() -> None:
        if [entry for entry in run.journal.entries() if "restart its toolstack at its console" in entry.text]:
            machine.power_on()
        else:
            pool.clock.after(30.0, seen_to)

    seen_to()
    await_return(run, host, "")
    notes = [entry.text for entry in run.journal.entries() if entry.phase == "note"]
    assert notes[0] == f"host2 {REACHABLE.what}; {REACHABLE.advice}"
    assert notes[-1] == "host2: storage"


def idle_pbd(pool: MockPool, host: Any) -> Any:
    """A PBD whose storage no guest of the host uses."""
    return next(pbd for pbd in host["PBDs"] if not pool.store.get("SR", pool.store.get("PBD", pbd)["SR"])["VDIs"])


def test_what_was_unplugged_before_is_not_waited_for(pool: MockPool, session: Session) -> None:
    """Nor plugged: the administrator had a reason."""
    host = row(pool, "host", "host2")
    pbd = idle_pbd(pool, host)
    session.PBD.unplug(pbd)
    await_return(waiting(pool, session), host["uuid"], "")
    assert not pool.store.get("PBD", pbd)["currently_attached"]


def test_a_member_in_emergency_mode_comes_out_by_itself(pool: MockPool, session: Session) -> None:
    """Its toolstack was away for a while: no remedy is needed, and the run goes on."""
    pool.faults.add("toolstack_crash", victim="host3", after=0.0, lasting=300.0)
    pool.clock.advance(1.0)
    assert pool.machine("host3").xapi.mode == "dead"
    run = waiting(pool, session)
    await_return(run, row(pool, "host", "host2")["uuid"], "")
    assert pool.machine("host3").xapi.mode == "member"
    notes = [entry.text for entry in run.journal.entries() if entry.phase == "note"]
    assert notes == [f"host2: {stage}" for stage in NAMES]


def test_an_upgrade_whose_host_does_not_return_stops_and_is_resumed(pool: MockPool, session: Session) -> None:
    """The times are the run's own; once somebody has seen to the host, the run goes on."""
    plan = rolling_upgrade.plan(session)
    journal = Journal.create(plan)

    def spoil(number: int, total: int, text: str) -> None:
        if text == "wait for host2":
            pool.machine("host2").power_off()

    policy = Policy(on_fallen=RESTART, timeouts=dict.fromkeys(NAMES, SHORT))
    outcome: Outcome = rolling_upgrade.run(session, plan, pool.hands, journal=journal, policy=policy, on_step=spoil)
    (problem,) = outcome.problems
    assert "wait for host2: host2" in problem
    assert "within 20 minutes" in problem
    pool.machine("host2").power_on()
    assert rolling_upgrade.run(session, plan, pool.hands, journal=journal).problems == []


def test_a_refusal_that_waiting_does_not_cure_is_raised(pool: MockPool, session: Session) -> None:
    """A password that was changed, say: nobody waits hours for that."""
    run = waiting(pool, session)
    pool.faults.add("error", method="host_metrics.get_all_records", code="RBAC_PERMISSION_DENIED", params=["a", "b"])
    with pytest.raises((Failure, TransportError), match="RBAC_PERMISSION_DENIED"):
        await_return(run, row(pool, "host", "host2")["uuid"], "")
