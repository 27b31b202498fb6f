"""Hosts installed afresh, and the database of a dump put back on the first of them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import Failure, ProcedureError, TransportError
from ..emergency import SILENT
from ..losing import own_storage
from ..observe import observe
from . import Kind, Verification
from .recovering import report, seen, sees_power
from .rejoining import GoHome, new_host
from .restoring import Restore, read_dump

if TYPE_CHECKING:
    from ..plan import Step
    from ..running import Run

ON_DISKS = frozenset("lvm ext ext3 ext4 file xfs zfs largeblock iso".split())
"""The types of storage that is on disks of a host."""
COLLECTED = 300.0
"""Seconds in which the master notices what is left of hosts that are gone."""
LOST_GUESTS = "guests without disks"
"""Under which name the journal keeps the guests whose disks went with those of a host."""


class SeeOff(Kind):
    """See that a host is off which nobody can tell to shut down."""

    name, text = "see-off", "see that {host} is off"

    def holds(self, run: Run, step: Step) -> bool:
        return bool(run.journal.get(f"off {step.host}"))

    def act(self, run: Run, step: Step) -> None:
        name, address = run.plan.names[step.host], step.args["address"]
        if seen(run, address).state != SILENT:
            raise ProcedureError(
                f"{name} answers at {address}: shut down from within what runs there, switch the host off, and go on"
            )
        if sees_power(run.hands):
            power = run.hands.power(step.host)
            if power != "off":
                raise ProcedureError(f"{name} does not answer, but it is not off ({power}): switch it off, and go on")
        elif not run.ask(f"{name} does not answer. Do you see that its power is off?"):
            raise ProcedureError(
                f"{name} does not answer, and neither does a host that hangs: switch it off, see that it is, and say so at "
                "the terminal"
            )
        run.journal.put(f"off {step.host}", True)


class ReadDump(Kind):
    """Read the dump once more, before anything is destroyed that it is to bring back."""

    name, text = "read-dump", "read the dump again, before anything is destroyed"

    def holds(self, run: Run, step: Step) -> bool:
        return bool(run.journal.get("dump read"))

    def act(self, run: Run, step: Step) -> None:
        read_dump(step)
        run.journal.put("dump read", True)


class RestoreAfresh(Restore):
    """Put the dump in the place of the database that a new installation made. The pool's uuid tells them apart.

    With it everything is gone that the run has changed so far, and nothing of it is left to be taken back.
    """

    name = "restore-afresh"

    def holds(self, run: Run, step: Step) -> bool:
        try:
            (pool,) = run.session.pool.get_all_records().values()
            if pool.uuid != run.plan.pool:
                return False
            uuid = run.session.host.get_uuid(pool.master)
        except (Failure, TransportError):
            return False
        report(run, f"{run.plan.names[step.host]} is known to the pool by a new uuid, {uuid}; it was {step.host}")
        return True

    def begin(self, run: Run, step: Step) -> None:
        """Tell how the storage that the installation made comes into the pool: the restored database does not know it."""
        (me,) = run.session.host.get_all()
        for sr in own_storage(run.session, me):
            if not sr.media:
                kind = run.session.SR.get_type(sr.ref)  # type: ignore[arg-type]
                report(
                    run,
                    f"{run.plan.names[step.host]} has new storage of its own, which the restored database does not know: "
                    f"xe sr-introduce uuid={sr.uuid} type={kind} name-label='{sr.name}', then pbd-create and pbd-plug",
                )


class Restored(Kind):
    """Go on with the database of the dump: what was changed before went with the old one."""

    name, text = "restored", "go on with the restored database of {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return not self.changes(run)

    def act(self, run: Run, step: Step) -> None:
        for change in self.changes(run):
            run.journal.undone(change)

    def changes(self, run: Run) -> list[Any]:
        return [change for change in run.journal.changes() if not change.undone and change.undo.action != "release"]


class OwnStorage(Kind):
    """Connect a host to the storage that only it had. What was on the disk that it was installed on is not there any more:
    its records are dropped, and the disks and guests are named."""

    name, text = "own-storage", "connect {host} to the storage that only it had, as far as that is left"

    def holds(self, run: Run, step: Step) -> bool:
        return not self.missing(run, step) and not self.drives(run, step)

    def missing(self, run: Run, step: Step) -> list[tuple[str, Any, Any]]:
        """The storage that the pool knows and the host is not connected to: references, records, and PBDs or None."""
        host, pbds = new_host(run, step), run.session.PBD.get_all_records()
        out: list[tuple[str, Any, Any]] = []
        for ref, sr in run.session.SR.get_all_records().items():
            if sr.uuid in step.args["storage"]:
                mine = next((pbd for pbd in sr.PBDs if pbd in pbds and pbds[pbd].host == host), None)
                if mine is None or not pbds[mine].currently_attached:
                    out.append((ref, sr, mine))
        return out

    def drives(self, run: Run, step: Step) -> list[Any]:
        """The drives that the host had, and that the pool still knows."""
        return [ref for ref, sr in run.session.SR.get_all_records().items() if sr.uuid in step.args["drives"]]

    def act(self, run: Run, step: Step) -> None:
        host = new_host(run, step)
        run.comes_true(lambda: self.cleared(run, step), COLLECTED)
        for ref in self.drives(run, step):
            run.session.SR.forget(ref)
        for ref, sr, known in self.missing(run, step):
            fields = {"host": host, "SR": ref, "device_config": step.args["storage"][sr.uuid], "other_config": {}}
            pbd = known or run.session.PBD.create(fields)
            try:
                run.session.PBD.plug(pbd)
            except Failure as error:
                if sr.type not in ON_DISKS:  # it is elsewhere, and still there
                    raise
                self.drop(run, step, ref, sr, pbd, str(error))

    def cleared(self, run: Run, step: Step) -> bool:
        """Whether no connection to that storage is left of hosts that are gone: the master drops them by itself, too."""
        hosts, left = run.session.host.get_all_records(), 0
        mine = {*step.args["storage"], *step.args["drives"]}
        srs = {ref for ref, sr in run.session.SR.get_all_records().items() if sr.uuid in mine}
        for ref, pbd in run.session.PBD.get_all_records().items():
            if pbd.SR in srs and pbd.host not in hosts:
                left += 1
                with suppress(Failure):
                    run.session.PBD.destroy(ref)
        return not left

    def drop(self, run: Run, step: Step, ref: Any, sr: Any, pbd: Any, why: str) -> None:
        """Forget storage that is not there any more, and say what was on it."""
        vdis, vbds, vms = (
            run.session.VDI.get_all_records(),
            run.session.VBD.get_all_records(),
            run.session.VM.get_all_records(),
        )
        lost = [vdis[vdi] for vdi in sr.VDIs if vdi in vdis]
        users = {vms[vbds[vbd].VM].uuid for vdi in lost for vbd in vdi.VBDs if vbd in vbds and vbds[vbd].type != "CD"}
        run.journal.put(LOST_GUESTS, sorted({*run.journal.get(LOST_GUESTS, ()), *users}))
        what = f", with {', '.join(sorted(vdi.name_label or vdi.uuid for vdi in lost))}" if lost else ""
        report(run, f"{sr.name_label} was on the disk of {run.plan.names[step.host]}, and is lost{what} ({why})")
        with suppress(Failure):
            run.session.PBD.destroy(pbd)
        run.session.SR.forget(ref)


class StartAtHome(GoHome):
    """Start the guests of a host that is back, but for those whose disks are gone."""

    name, text = "start-at-home", "start the guests of {host}"

    def away(self, run: Run, step: Step) -> list[tuple[Any, Any]]:
        lost = run.journal.get(LOST_GUESTS, ())
        return [(ref, vm) for ref, vm in super().away(run, step) if vm.uuid not in lost]


class VerifyAnew(Verification):
    """Compare the pool with what it was before, hosts by their addresses."""

    name, text, said = "verify-anew", "compare the pool with what it was", "the pool is not what it was"

    def faults(self, run: Run, step: Step) -> list[str]:
        """How the pool differs from what the plan promised."""
        plan, now = run.plan, observe(run.session)
        by_address = {host.address: host for host in now.hosts.values()}
        lost = run.journal.get(LOST_GUESTS, ())
        out = []
        for uuid, address in step.args["hosts"].items():
            host, name = by_address.get(address), plan.names[uuid]
            if host is None:
                out.append(f"{name} is not in the pool")
            elif host.version != plan.target:
                out.append(f"{name} runs {host.version}, not {plan.target}")
            elif not host.enabled or not host.live:
                out.append(f"{name} is not enabled and live")
        for planned in plan.vms:
            vm = now.vms.get(planned.uuid)
            if vm is None or vm.uuid in lost:
                continue  # it was made since, or is named already
            host = now.hosts.get(vm.host)
            if vm.state != planned.state:
                out.append(f"{planned.name} is to be {planned.state} and is {vm.state}")
            elif planned.home and (host is None or host.address != step.args["hosts"][planned.home]):
                out.append(f"{planned.name} is not on {plan.names[planned.home]}, where it was")
        return out
