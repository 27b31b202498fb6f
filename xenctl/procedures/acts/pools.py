"""What concerns the pool as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ProcedureError
from .. import backup, marking
from ..observe import CAME_FROM, MARK, TO, UPGRADE_KEY, observe
from ..plan import Plan, Step
from . import Kind, Verification

if TYPE_CHECKING:
    from ..running import Run

FLAG_TIMEOUT = 600.0
"""Seconds that the master may take to notice that all versions are equal."""


class Backup(Kind):
    """Fetch the pool's database, verified."""

    name, text = "backup", "fetch and verify a database backup"

    def holds(self, run: Run, step: Step) -> bool:
        return run.outcome.backup is not None

    def act(self, run: Run, step: Step) -> None:
        try:
            taken = backup.take(run.session, run.backup_to)
        except OSError as error:
            why = error.strerror or error
            raise ProcedureError(f"{run.backup_to} cannot be written: {why}; see to it and resume") from error
        run.journal.put("backup", {"sha256": taken.sha256, "size": taken.size, "path": taken.path})
        run.outcome.backup = taken


class Claim(Kind):
    """Mark the pool as being worked on, so that a second run, from wherever, is refused."""

    name, text = "claim", "mark the pool as being worked on"

    def holds(self, run: Run, step: Step) -> bool:
        return run.mark() == run.journal.run_id

    def act(self, run: Run, step: Step) -> None:
        other = run.mark()
        if other and not run.take_over:
            raise ProcedureError(marking.at_work(other))
        marking.mark(run.session, run.pool, run.journal.run_id)

    def undo(self, step: Step) -> Step:
        return Step("release")


class Release(Kind):
    """Take the mark away."""

    name, text = "release", "unmark the pool"

    def holds(self, run: Run, step: Step) -> bool:
        return run.mark() != run.journal.run_id

    def unmarks(self, plan: Plan, step: Step) -> bool:
        return True

    def act(self, run: Run, step: Step) -> None:
        run.session.pool.remove_from_other_config(run.pool, MARK)


class NoteUpgrade(Kind):
    """Note in the pool from which release to which it was upgraded: what every host's backup partition holds since."""

    name, text = "note-upgrade", "note that the pool was upgraded from {source} to {release}"

    def holds(self, run: Run, step: Step) -> bool:
        return run.session.pool.get_other_config(run.pool).get(CAME_FROM) == self.note(step)

    def act(self, run: Run, step: Step) -> None:
        run.session.pool.remove_from_other_config(run.pool, CAME_FROM)
        run.session.pool.add_to_other_config(run.pool, CAME_FROM, self.note(step))

    def note(self, step: Step) -> str:
        return f"{step.args['source']}{TO}{step.release}"


class ForgetUpgrade(Kind):
    """Drop that note: a pool that went back has an older one than its hosts' backup partitions."""

    name, text = "forget-upgrade", "note that the upgrade was taken back"

    def holds(self, run: Run, step: Step) -> bool:
        return CAME_FROM not in run.session.pool.get_other_config(run.pool)

    def act(self, run: Run, step: Step) -> None:
        run.session.pool.remove_from_other_config(run.pool, CAME_FROM)


class Equal(Kind):
    """Wait until the master has noticed that all versions are equal."""

    name, text = "equal", "wait until all versions are equal"

    def holds(self, run: Run, step: Step) -> bool:
        """Whether every host has the new version and the master has noticed."""
        versions = {h.software_version.get("product_version") for h in run.session.host.get_all_records().values()}
        (pool,) = run.session.pool.get_all_records().values()
        return versions == {step.release} and UPGRADE_KEY not in pool.other_config

    def act(self, run: Run, step: Step) -> None:
        run.until(lambda: self.holds(run, step), "the pool: the master still sees mixed versions", FLAG_TIMEOUT)


class Verify(Verification):
    """Compare the pool with what it is to be in the end."""

    name, text, said = "verify", "compare the pool with what it was", "the pool is not what it was"

    def faults(self, run: Run, step: Step) -> list[str]:
        """How the pool differs from what the plan promised."""
        plan, now = run.plan, observe(run.session)
        run.saw(now)
        kept_out = {step.host for step in plan.steps if step.action == "keep-out"}
        out = []
        for host in now.hosts.values():
            if plan.target and host.version != plan.target:
                out.append(f"{host.name} runs {host.version}, not {plan.target}")
            if not (host.enabled or host.uuid in kept_out) or not host.live:
                out.append(f"{host.name} is not enabled and live")
        for planned in plan.vms:
            vm = now.vms.get(planned.uuid)
            if vm is None:
                out.append(f"{planned.name} is gone")
            elif vm.uuid in run.excused and vm.state == "Halted":
                continue
            elif vm.state != planned.state:
                out.append(f"{planned.name} was {planned.state} and is {vm.state}")
            elif planned.home and vm.host != planned.home and planned.uuid not in plan.away:
                out.append(f"{planned.name} is not on {plan.names[planned.home]}, where it was")
        inserts = (step for step in plan.steps if step.action == "insert")
        return out + [
            f"the CD of {plan.names[step.vm]} is not back in its drive"
            for step in inserts
            if run.session.VBD.get_VDI(step.vbd) != step.vdi  # type: ignore[arg-type]
        ]
