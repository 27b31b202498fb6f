"""The rolling upgrade: what its plan holds, what stands against it, and what a run does when things go wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pools import connected, memory, pin, row

from mockserver import MockPool
from xenctl.errors import ConnectionLost, Failure, ProcedureError
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.acts import KINDS
from xenctl.procedures.plan import Plan, Step
from xenctl.session import Session, connect

GIB = 1 << 30


@pytest.fixture
def pool() -> MockPool:
    return MockPool.create(release="4.0.1")


@pytest.fixture
def session(pool: MockPool) -> Session:
    return connected(pool)


# --- the plan


def test_a_plan_changes_nothing(pool: MockPool, session: Session) -> None:
    """Planning only reads."""
    before = pool.store.generation
    plan = rolling_upgrade.plan(session)
    assert pool.store.generation == before
    assert not plan.problems


def test_the_plan_follows_the_installation_guide(session: Session) -> None:
    """Backup first, CDs and suspended guests next, the master before members, homes, CDs and suspending last."""
    plan = rolling_upgrade.plan(session)
    actions = [step.action for step in plan.steps]
    assert actions[:5] == ["backup", "claim", "eject", "eject", "resume"]
    assert [plan.names[step.host] for step in plan.steps if step.action == "install"] == ["host1", "host2", "host3"]
    assert actions[-5:] == ["insert", "insert", "suspend", "verify", "release"]
    assert actions.index("equal") > max(i for i, action in enumerate(actions) if action == "return")
    assert (plan.source, plan.target, plan.medium) == ("4.0.1", "4.1.0", "XenServer 4.1.0")


def test_a_plan_is_plain_data(session: Session) -> None:
    """A plan can be stored: it is made of text, numbers and lists."""
    import json

    plan = rolling_upgrade.plan(session)
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan
    assert all(step.action in KINDS and "{" not in step.text(plan.names) for step in plan.steps)


def test_after_the_master_guests_go_to_upgraded_hosts_only(session: Session) -> None:
    """From the master's upgrade on no guest moves to a host that is not upgraded: a 4.1 master would refuse it."""
    upgraded: set[str] = set()
    moves = 0
    for step in rolling_upgrade.plan(session).steps:
        if step.action == "return":
            upgraded.add(step.host)
        elif step.action == "migrate" and upgraded:
            assert step.to in upgraded
            moves += 1
    assert moves


def test_a_guest_that_cannot_move_is_named_and_shut_down_for_its_hosts_turn(pool: MockPool, session: Session) -> None:
    """A disk on local storage: planned downtime with the reason, stopped last before its host, started right after."""
    pin(pool, "vm02", "host2")
    plan = rolling_upgrade.plan(session)
    (down,) = plan.downtime
    assert (down.name, down.planned_downtime) == ("vm02", True)
    assert "Local storage on host2" in down.why
    turn = [step.action for step in plan.steps if plan.names.get(step.host) == "host2" and step.action != "migrate"]
    assert turn == ["turn", "disable", "stop", "halt", "install", "return", "start"]


def test_a_suspend_image_on_local_storage_alone_pins_nobody(pool: MockPool, session: Session) -> None:
    """Once resumed, a guest needs its disks only: where these are shared it goes on running."""
    pool.store.write(row(pool, "VDI", "Suspend image"), SR=row(pool, "SR", "Local storage on host3").ref)
    plan = rolling_upgrade.plan(session)
    (resume,) = [step for step in plan.steps if step.action == "resume"]
    assert plan.names[resume.to] == "host3"
    assert plan.downtime == ()


def test_guests_are_packed_tightly_where_that_alone_works() -> None:
    """A pool that has room, but not for the roomiest host first, is not turned away."""
    made = MockPool.create(release="4.0.1", hosts=3, vms=12)
    on_master = [vm for vm in made.store.table("VM").values() if vm["name_label"] in ("vm01", "vm07", "vm10")]
    for vm in made.store.table("VM").values():
        if vm["is_control_domain"] or vm in on_master:
            continue
        made.end_domain(vm)
        made.force_halted(vm)
    for vm, size in zip(on_master, (6, 4, 4), strict=True):
        made.store.write(vm, memory_static_max=size * GIB, memory_dynamic_max=size * GIB, memory_dynamic_min=size * GIB)
    memory(made, int(15.5 * GIB), "host1")
    memory(made, int(9.0 * GIB), "host2")
    memory(made, int(7.0 * GIB), "host3")
    with connected(made) as session:
        assert rolling_upgrade.plan(session).problems == ()


def test_a_suspended_guest_on_local_storage_is_resumed_there(pool: MockPool, session: Session) -> None:
    """A suspended guest resumes on a host that sees its disks and its suspend image."""
    for name in ("disk of vm06", "Suspend image"):
        pool.store.write(row(pool, "VDI", name), SR=row(pool, "SR", "Local storage on host3").ref)
    plan = rolling_upgrade.plan(session)
    (resume,) = [step for step in plan.steps if step.action == "resume"]
    assert plan.names[resume.to] == "host3"
    assert [vm.name for vm in plan.downtime] == ["vm06"]


def against(change: Callable[[MockPool], Any], expected: str, release: str = "4.0.1", **made: Any) -> Any:
    return pytest.param(change, expected, release, made, id=expected[:40])


AGAINST = [
    against(lambda p: memory(p, 6 * GIB), "has to move and fits nowhere"),
    against(
        lambda p: (memory(p, 1 * GIB, "host1"), memory(p, 7 * GIB, "host2", "host3")),
        "while host3 is down, 9 guests need 18.2 GiB on host1, host2, where there are 13.6 GiB; 4.6 GiB are missing",
    ),
    against(
        lambda p: [p.store.write(row(p, "VM", "vm06"), memory_static_max=100 * GIB)],
        "vm06 is suspended and has to be resumed before the master is upgraded, but memory forbids it",
    ),
    against(lambda p: p.store.write(row(p, "host", "host2"), enabled=False), "host2 is disabled"),
    against(lambda p: (p.machine("host2").power_off(), p.clock.advance(700)), "host2 is not running"),
    against(lambda p: p.store.write(row(p, "VM", "vm01"), power_state="Paused"), "vm01 is paused"),
    against(
        lambda p: p.store.write(row(p, "VM", "vm03"), guest_metrics="OpaqueRef:NULL"),
        "vm03 can neither migrate nor be shut down cleanly: it has no paravirtual drivers",
    ),
    against(
        lambda p: p.store.write(row(p, "VM", "vm01"), current_operations={"OpaqueRef:t": "clone"}),
        "vm01 has an operation going on (clone)",
    ),
    against(
        lambda p: p.store.write(row(p, "VM", "vm01"), power_state="Odd"), "a power state that XenAPI does not have"
    ),
    against(
        lambda p: p.store.write(row(p, "VM", "vm06"), suspend_VDI="OpaqueRef:NULL"),
        "vm06 is suspended and its suspend image is gone",
    ),
    against(
        lambda p: setattr(p.machine("host3"), "address", "10.9.9.9"),
        "host3 does not answer at 10.0.0.3 as a member of this pool",
    ),
    against(
        lambda p: p.store.write(row(p, "host", "host3"), address=""),
        "host3 does not answer at no address as a member of this pool",
    ),
    against(
        lambda p: p.store.write(row(p, "host", "host3"), address=row(p, "host", "host2")["address"]),
        "host2 has the same address as host3: 10.0.0.2",
    ),
    against(
        lambda p: (
            pin(p, "vm02", "host2"),
            p.store.write(
                row(p, "VDI", "debian-etch.iso"), SR=row(p, "SR", "Local storage on host3").ref, type="system"
            ),
            [p.store.write(v, type="Disk") for v in p.vbds(row(p, "VM", "vm02")) if v["type"] == "CD"],
        ),
        "vm02 has to be shut down when host2 is upgraded, and could not be started again",
    ),
    against(lambda p: None, "the pool has one host", hosts=1),
    against(lambda p: p.store.write(p.store.pool(), ha_enabled=True), "high availability is on", release="5.0.0"),
    against(
        lambda p: p.store.write(
            row(p, "host", "host3"),
            software_version={**row(p, "host", "host3")["software_version"], "product_version": "4.0.0"},
        ),
        "versions are mixed already",
    ),
]


@pytest.mark.parametrize(("change", "expected", "release", "made"), AGAINST)
def test_what_stands_against_an_upgrade_is_said(
    change: Callable[[MockPool], Any], expected: str, release: str, made: dict[str, Any]
) -> None:
    """Each obstacle is one sentence in the plan's problems, and a run refuses before it changes anything."""
    pool = MockPool.create(release=release, **made)
    change(pool)
    with connected(pool) as session:
        plan = rolling_upgrade.plan(session)
        assert any(expected in problem for problem in plan.problems), plan.problems
        assert plan.steps == ()
        before = pool.store.generation
        with pytest.raises(ProcedureError, match="cannot be done"):
            rolling_upgrade.run(session, plan, pool.hands, accept_downtime=True)
        assert pool.store.generation == before


@pytest.mark.parametrize(
    ("release", "target", "expected"),
    [
        ("4.1.0", "4.1", "the pool runs XenServer 4.1.0 already"),
        ("4.1.0", "4.0.1", "an upgrade only goes forward"),
        ("4.0.1", "5.5", "does not upgrade XenServer 4.0.1; go by way of 4.1.0, 5.0.0"),
        ("8.4", None, "there is no release after XenServer 8.4.0"),
    ],
)
def test_a_target_that_cannot_be_reached_is_said(release: str, target: str | None, expected: str) -> None:
    """The present release, an older one, one too far away, and none at all."""
    pool = MockPool.create(release=release)
    with connected(pool) as session:
        (problem,) = rolling_upgrade.plan(session, target).problems
    assert expected in problem


def test_all_problems_are_named_at_once(pool: MockPool, session: Session) -> None:
    """Two obstacles are two sentences: nobody has to mend one to learn of the next."""
    pool.store.write(row(pool, "host", "host2"), enabled=False)
    pool.store.write(row(pool, "VM", "vm01"), power_state="Paused")
    assert len(rolling_upgrade.plan(session).problems) == 2


def test_a_disc_that_could_not_be_put_back_is_warned_of(pool: MockPool, session: Session) -> None:
    """Where a guest's host does not reach the storage of its CD, the plan says that the CD will stay out."""
    for ref in row(pool, "SR", "ISO library")["PBDs"]:
        pool.store.write(pool.store.get("PBD", ref), currently_attached=False)
    plan = rolling_upgrade.plan(session)
    assert "the CD of vm02 is not put back: its host does not reach the storage that it is on" in plan.warnings
    assert "insert" not in [step.action for step in plan.steps]


def test_a_release_that_is_not_known_is_said(pool: MockPool, session: Session) -> None:
    """A host of an unlisted version is taken for the nearest older release, and the plan says so."""
    for host in pool.store.table("host").values():
        pool.store.write(host, software_version={**host["software_version"], "product_version": "4.0.9"})
    plan = rolling_upgrade.plan(session)
    assert "host1 runs 4.0.9, which is not known here; it is taken for XenServer 4.0.1" in plan.warnings


# --- the run


def test_downtime_must_be_accepted(pool: MockPool, session: Session) -> None:
    """Without consent to the downtime of a named guest nothing is changed."""
    pin(pool, "vm02", "host2")
    plan = rolling_upgrade.plan(session)
    before = pool.store.generation
    with pytest.raises(ProcedureError, match="accept the downtime") as caught:
        rolling_upgrade.run(session, plan, pool.hands)
    assert caught.value.reasons == [
        "vm02: it has a disk on storage that only its host reaches (Local storage on host2)"
    ]
    assert pool.store.generation == before


def test_a_run_tells_each_step(pool: MockPool, session: Session) -> None:
    """Progress counts every step of the plan, in words, and the outcome has each with its simulated time."""
    plan, told = rolling_upgrade.plan(session), []
    outcome = rolling_upgrade.run(session, plan, pool.hands, on_step=lambda *what: told.append(what))
    assert outcome.ok
    assert [number for number, _, _ in told] == list(range(1, len(plan.steps) + 1))
    assert [done.text for done in outcome.steps] == [text for _, _, text in told]
    assert all(a.at <= b.at for a, b in zip(outcome.steps, outcome.steps[1:], strict=False))
    assert outcome.steps[-1].at > 3000


def test_a_step_that_holds_is_passed_over(pool: MockPool, session: Session) -> None:
    """What somebody did already is not done again."""
    plan = rolling_upgrade.plan(session)
    eject = next(step for step in plan.steps if step.action == "eject")
    session.VBD.eject(eject.vbd)  # type: ignore[arg-type]
    outcome = rolling_upgrade.run(session, plan, pool.hands)
    assert [done.text for done in outcome.steps if done.skipped and done.step == eject]
    assert outcome.ok


def test_an_installer_that_finds_something_else_is_not_answered(pool: MockPool, session: Session) -> None:
    """Where the installer did not find what the plan expects, nothing is chosen, and the medium is taken out."""
    plan = rolling_upgrade.plan(session)
    pool.hands = WrongMedium(pool)  # type: ignore[assignment]
    outcome = rolling_upgrade.run(session, plan, pool.hands)
    (problem,) = outcome.problems
    assert "install 4.1.0 on host1" in problem
    assert "nothing was chosen" in problem
    assert pool.machine("host1").media is None
    assert pool.machine("host1").system.release.product_version == "4.0.1"


class WrongMedium(type(MockPool.create(hosts=1, vms=0).hands)):  # type: ignore[misc]
    """Hands that put the wrong disc in."""

    def insert_media(self, host: str, release: str) -> None:
        super().insert_media(host, "5.5.0")


def test_a_refused_step_ends_the_run_with_its_name(pool: MockPool, session: Session) -> None:
    """An error of the pool ends the run: the outcome names the step, what went before, and why."""
    plan = rolling_upgrade.plan(session)

    def spoil(number: int, total: int, text: str) -> None:
        if text.startswith("migrate vm07"):
            pool.store.write(row(pool, "host", "host2"), enabled=False)

    outcome = rolling_upgrade.run(session, plan, pool.hands, on_step=spoil)
    (problem,) = outcome.problems
    assert "migrate vm07 from host1 to host2: HOST_DISABLED" in problem
    number = next(
        n
        for n, step in enumerate(plan.steps)
        if step.action == "migrate" and step.vm == row(pool, "VM", "vm07")["uuid"]
    )
    assert [done.step for done in outcome.steps] == list(plan.steps[:number])
    assert number > 4


class Lossy:
    """A transport that carries a call to the pool and loses the answer, the first time for each method named."""

    def __init__(self, inner: Any, *methods: str) -> None:
        self.inner, self.methods, self.clock = inner, list(methods), inner.clock

    def send(self, request: Any) -> Any:
        answer = self.inner.send(request)
        for method in self.methods:
            if f"<methodName>{method}<".encode() in request.body:
                self.methods.remove(method)
                raise ConnectionLost("the answer was lost", host=request.host, method=method)
        return answer

    def close(self) -> None:
        self.inner.close()


def test_a_lost_answer_is_no_failure_where_the_effect_shows(pool: MockPool) -> None:
    """A call whose answer is lost is not repeated: the pool is looked at, and what it shows decides."""
    lossy = Lossy(pool.transport(), "host.shutdown", "host.disable", "Async.VM.pool_migrate", "Async.VBD.eject")
    session = connect(pool.url, pool.username, pool.password, transport=lossy)
    outcome = rolling_upgrade.run(session, rolling_upgrade.plan(session), pool.hands)
    assert outcome.problems == []
    assert lossy.methods == []


def test_a_lost_answer_without_effect_ends_the_run(pool: MockPool, session: Session) -> None:
    """Where the effect never shows, the run ends with the loss."""

    class Deaf(Lossy):
        def send(self, request: Any) -> Any:
            if b"<methodName>host.shutdown<" in request.body:
                raise ConnectionLost("the answer was lost", host=request.host, method="host.shutdown")
            return self.inner.send(request)

    deaf = connect(pool.url, pool.username, pool.password, transport=Deaf(pool.transport()))
    outcome = rolling_upgrade.run(deaf, rolling_upgrade.plan(deaf), pool.hands)
    (problem,) = outcome.problems
    assert "shut down host1" in problem
    assert "the answer was lost" in problem


def test_a_version_without_a_brand_is_of_the_pools_brand() -> None:
    """On an XCP-ng pool `8.2` means XCP-ng's."""
    with connected(MockPool.create(release="XCP-ng 8.1")) as session:
        plan = rolling_upgrade.plan(session, "8.2")
    assert (plan.medium, plan.problems) == ("XCP-ng 8.2.1", ())


def test_a_host_that_does_not_come_back_is_given_up(pool: MockPool, session: Session) -> None:
    """A host that stays away ends the run after the time allowed, in one sentence."""
    plan = rolling_upgrade.plan(session)

    def spoil(number: int, total: int, text: str) -> None:
        if text == "wait for host1":
            pool.machine("host1").power_off()

    outcome = rolling_upgrade.run(session, plan, pool.hands, on_step=spoil)
    (problem,) = outcome.problems
    assert (
        "wait for host1: host1 is waited for, and the pool's master does not answer within 240 minutes; see to"
        in problem
    )


def test_a_member_in_emergency_mode_is_waited_for(pool: MockPool, session: Session) -> None:
    """After the master's return no host is touched before every member answers as a member again."""
    plan, modes = rolling_upgrade.plan(session), []

    def look(number: int, total: int, text: str) -> None:
        if text == "disable host2":
            modes.extend(machine.xapi.mode for machine in pool.machines)

    assert rolling_upgrade.run(session, plan, pool.hands, on_step=look).ok
    assert modes == ["master", "member", "member"]


def test_the_pool_is_compared_at_the_end(pool: MockPool, session: Session) -> None:
    """A guest that somebody halted meanwhile is named by the last step."""
    plan = rolling_upgrade.plan(session)

    def spoil(number: int, total: int, text: str) -> None:
        if text.startswith("put the CD of vm02"):
            session.VM.hard_shutdown(session.VM.get_by_name_label("vm09")[0])

    outcome = rolling_upgrade.run(session, plan, pool.hands, on_step=spoil)
    assert outcome.problems
    assert "vm09 was Running and is Halted" in outcome.problems[0]


def test_suspended_guests_end_suspended_with_their_discs(pool: MockPool, session: Session) -> None:
    """A suspended guest with a CD comes out as it went in: suspended, the disc in its drive, its memory kept."""
    drive = next(vbd for vbd in pool.vbds(row(pool, "VM", "vm06")) if vbd["type"] == "CD")
    disc = row(pool, "VDI", "debian-etch.iso").ref
    pool.store.write(drive, VDI=disc, empty=False)
    assert rolling_upgrade.run(session, rolling_upgrade.plan(session), pool.hands).ok
    assert (drive["VDI"], drive["empty"]) == (disc, False)
    vm = row(pool, "VM", "vm06")
    assert vm["power_state"] == "Suspended"
    session.VM.resume(vm.ref, False, False)
    assert pool.domain(vm) is not None


def test_a_suspended_guest_with_a_disc_cannot_be_resumed_once_hosts_are_newer(pool: MockPool) -> None:
    """What the guide warns of, and why the procedure resumes first."""
    drive = next(vbd for vbd in pool.vbds(row(pool, "VM", "vm06")) if vbd["type"] == "CD")
    pool.store.write(drive, VDI=row(pool, "VDI", "debian-etch.iso").ref, empty=False)
    with connected(pool) as session:
        plan = rolling_upgrade.plan(session)
        keep = {"backup", "turn", "disable", "migrate", "halt", "install", "return", "equal"}
        vm06 = row(pool, "VM", "vm06")["uuid"]
        steps = tuple(s for s in plan.steps if s.action in keep and s.vm != vm06)
        careless = Plan(**{**vars(plan), "steps": steps})
        assert rolling_upgrade.run(session, careless, pool.hands).ok
        with pytest.raises(Failure):
            session.VM.resume(row(pool, "VM", "vm06").ref, False, False)


def test_step_texts_use_names() -> None:
    """A step in words names hosts and guests."""
    step = Step("migrate", host="h1", vm="v", to="h2")
    assert step.text({"h1": "alpha", "h2": "beta", "v": "web"}) == "migrate web from alpha to beta"
