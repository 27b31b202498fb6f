"""A rehearsal: the real upgrade code on a fake pool that is loaded from the real pool's own database dump.

The one module of this library that imports `mockserver`, and only when a rehearsal starts. Nothing here decides anything
about an upgrade: plan and run are the procedures', and what happened is told by the fake, which sees machines and disks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mockserver.pool import MockPool
    from mockserver.recorder import Recorder

    from .database import Database
    from .procedures.plan import Plan
    from .session import Session

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class HostResult:
    """One host: its version before and after, and how many simulated seconds it was offline."""

    name: str
    before: str
    after: str
    offline_s: float


@dataclass(frozen=True)
class VMResult:
    """One guest. `downtime_s` are simulated seconds in which a guest that ran at the start was shown not running (the
    blackout of a live migration excluded), 0 for others; `home` is None for one that had no host at the start."""

    name: str
    uuid: str
    state_before: str
    state_after: str
    migrations: int
    downtime_s: float
    planned_downtime: bool
    home: bool | None


@dataclass
class Rehearsal:
    """The verdict.

    `ok` means that the pool ends on the new release as it was, and no invariant was broken; `reasons` says why it is not.
    `warnings` are the plan's, `reports` what the dump holds that the data model lacks or that dangles. `simulated_s` is the
    estimate of how long the real upgrade takes, without a person's delays.
    """

    source: str
    target: str
    plan: Plan
    hosts: list[HostResult] = field(default_factory=list)
    vms: list[VMResult] = field(default_factory=list)
    max_hosts_offline: int = 0
    backup: dict[str, Any] = field(default_factory=lambda: {"sha256": None, "verified": False})
    violations: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    simulated_s: float = 0.0
    wall_s: float = 0.0
    calls: int = 0
    bytes: dict[str, int] = field(default_factory=lambda: {"sent": 0, "received": 0})

    @property
    def ok(self) -> bool:
        return not self.reasons and not self.violations

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain values, as `--json` prints it."""
        return {
            "ok": self.ok,
            "from": self.source,
            "to": self.target,
            "hosts": [vars(host) for host in self.hosts],
            "vms": [vars(vm) for vm in self.vms],
            "max_hosts_offline": self.max_hosts_offline,
            "backup": self.backup,
            "violations": self.violations,
            "reasons": self.reasons,
            "warnings": self.warnings,
            "reports": self.reports,
            "simulated_s": round(self.simulated_s, 3),
            "wall_s": round(self.wall_s, 3),
            "calls": self.calls,
            "bytes": self.bytes,
            "steps": self.steps,
        }

    def to_json(self) -> str:
        """`as_dict` as one line of JSON."""
        return json.dumps(self.as_dict())


def rehearse(
    dump: str | PathLike[str] | bytes | Database | None = None,
    *,
    to: str | None = None,
    release: str = "4.0.1",
    hosts: int = 3,
    vms: int = 12,
    seed: int = 0,
    stay: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    on_step: Progress | None = None,
) -> Rehearsal:
    """Rehearse the rolling upgrade of a pool to release `to` (the next one if left out) and return the verdict.

    `dump` is a pool database dump: a path, its bytes, or one that was read. Without it a pool of `hosts` hosts of `release`
    with `vms` guests is made. With `stay` guests stay where the upgrade puts them. `on_plan` is shown the plan before the
    start, `on_step` each step as it begins. A pool that cannot be upgraded is a verdict with `reasons`, not an error. Raises
    `DatabaseError` for a dump that cannot be used or read, `ValueError` for an unknown release.
    """
    started = time.perf_counter()
    with staged(dump, release=release, hosts=hosts, vms=vms, seed=seed) as (pool, session):
        verdict = _rehearsed(pool, session, to, on_plan, on_step, stay=stay)
    verdict.wall_s = time.perf_counter() - started
    return verdict


@contextmanager
def staged(
    dump: str | PathLike[str] | bytes | Database | None = None,
    *,
    release: str = "4.0.1",
    hosts: int = 3,
    vms: int = 12,
    seed: int = 0,
) -> Iterator[tuple[MockPool, Session]]:
    """A fake pool that is loaded from `dump`, or made where there is none, and a session with it: what any procedure
    can be rehearsed on. What is wrong with the pool in the dump is in the pool's `obstacles` and `reports`; the
    invariants that hold in every pool are watched, and `violations` holds what broke them. Raises `DatabaseError`."""
    from mockserver.invariants import sound

    from .session import Session

    pool = _pool(dump, release, hosts, vms, seed)
    pool.watch(*sound())
    session = Session(pool.url, transport=pool.transport())
    session.login_with_password(pool.username, pool.password)
    yield pool, session


def _pool(dump: Any, release: str, hosts: int, vms: int, seed: int) -> MockPool:
    from mockserver.pool import MockPool

    if dump is None:
        return MockPool.create(hosts=hosts, vms=vms, release=release, seed=seed)
    return MockPool.from_dump(dump, seed=seed)


def watch(pool: MockPool, plan: Plan) -> Recorder:
    """Have a fake pool watch what must hold in an upgrade by `plan`, and record what happens to hosts and guests."""
    from mockserver.invariants import rolling_upgrade as invariants
    from mockserver.recorder import Recorder

    recorder = Recorder()
    stops = [vm.uuid for vm in plan.downtime]
    inserted = {step.vbd for step in plan.steps if step.action == "insert"}
    stay_out = {step.vbd for step in plan.steps if step.action == "eject"} - inserted
    there = {type(invariant) for invariant in pool.invariants}
    wanted = invariants(may_stop=stops, may_stay_away=plan.away, may_stay_out=stay_out)
    pool.watch(recorder, *(invariant for invariant in wanted if type(invariant) not in there))
    return recorder


def _rehearsed(
    pool: MockPool,
    session: Session,
    to: str | None,
    on_plan: Callable[[Plan], None] | None,
    on_step: Progress | None,
    *,
    stay: bool,
) -> Rehearsal:
    from .procedures import rolling_upgrade
    from .procedures.planner.pieces import Wishes

    plan = rolling_upgrade.plan(session, to, wishes=Wishes(return_home=not stay))
    verdict = Rehearsal(
        plan.source, plan.target, plan, reasons=[*plan.problems, *pool.obstacles], warnings=list(plan.warnings)
    )
    verdict.reports = pool.reports
    if on_plan is not None:
        on_plan(plan)
    recorder = watch(pool, plan)
    start = pool.clock.now()
    if not verdict.reasons:
        outcome = rolling_upgrade.run(session, plan, pool.hands, accept_downtime=True, on_step=on_step)
        verdict.reasons += outcome.problems
        if outcome.ok:
            pool.conclude()
        verdict.steps = [step.as_dict() for step in outcome.steps]
        if outcome.backup is not None:
            verdict.backup = {"sha256": outcome.backup.sha256, "verified": outcome.backup.verified}
            if outcome.backup.sha256 not in pool.downloads:
                verdict.reasons.append("the backup is no dump that the pool sent")
    verdict.simulated_s = pool.clock.now() - start
    _tell(verdict, pool, recorder)
    return verdict


def _tell(verdict: Rehearsal, pool: MockPool, recorder: Recorder) -> None:
    """Fill in what the fake saw."""
    now, store = pool.clock.now(), pool.store
    before = {host.uuid: host.before for host in verdict.plan.hosts}
    verdict.max_hosts_offline = pool.max_offline
    verdict.violations = [violation.as_dict() for violation in pool.violations]
    verdict.calls = pool.calls
    verdict.bytes = {"sent": pool.wire_bytes[0], "received": pool.wire_bytes[1]}
    verdict.hosts = [
        HostResult(
            host.name,
            before[host.uuid],
            pool.machine(host.uuid).system.release.product_version,
            round(recorder.offline(host.uuid, now), 3),
        )
        for host in verdict.plan.hosts
    ]
    for planned in verdict.plan.vms:
        found = store.by_uuid.get(planned.uuid)
        row = store.find(*found) if found else None
        host = store.find("host", row["resident_on"]) if row is not None else None
        verdict.vms.append(
            VMResult(
                name=planned.name,
                uuid=planned.uuid,
                state_before=planned.state,
                state_after=row["power_state"] if row is not None else "gone",
                migrations=recorder.migrations.get(row.ref, 0) if row is not None else 0,
                downtime_s=round(recorder.downtime(row.ref, now), 3) if row is not None else 0.0,
                planned_downtime=planned.planned_downtime,
                home=None if planned.home is None else host is not None and host["uuid"] == planned.home,
            )
        )
