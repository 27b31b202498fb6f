"""What is known of a pool as it was before an upgrade that is to be taken back, and what has changed since.

The journal of the upgrade tells most: where guests lived, which discs were in drives, what preparation changed, and where
each guest was when the master was upgraded, which is what its backup partition will say again. The dump that the upgrade
took before its first change tells of disks. Without a journal little of this is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import database
from ..errors import DatabaseError, ProcedureError
from ..releases import find
from ..values import NULL
from .backup import version_in
from .belonging import dump_of_another
from .observe import PoolFacts
from .plan import UPGRADE, Plan, PlannedHost, PlannedVM, Step

if TYPE_CHECKING:
    from ..database import Database
    from ..session import Session
    from .journal import Journal

OWN = frozenset("insert suspend resume start migrate enable switch-on release".split())
"""What the plan of a revert brings about by itself; other changes of a preparation are undone in the end."""
LVHD = "use_vhd"
"""The key of an LVM repository's `sm_config` that says that its format is the one of 5.5."""


@dataclass(frozen=True)
class Before:
    """The pool before the upgrade. `source` is the product version to go back to, `medium` the release whose installer
    restores; both are names. `states` and `homes` are those of guests, by uuid, `discs` are `(vm, vbd, vdi)`.

    `kept` is what the master's backup partition says of each guest: power state and the uuid of its host; None where nobody
    knows. `dump` is the path of the database dump from before, empty without; `mends` undo what preparation changed; `run`
    is the upgrade's mark. `hosts` and `vms` are those of the upgrade's first plan.
    """

    source: str
    medium: str
    master: str = ""
    states: Mapping[str, str] | None = None
    homes: Mapping[str, str] | None = None
    discs: tuple[tuple[str, str, str], ...] = ()
    kept: Mapping[str, tuple[str, str]] | None = None
    dump: str = ""
    mends: tuple[Step, ...] = ()
    run: str = ""
    pool: str = ""
    pool_name: str = ""
    hosts: tuple[PlannedHost, ...] = ()
    vms: tuple[PlannedVM, ...] = ()

    def state(self, uuid: str) -> str:
        """The power state that a guest had; empty where it is not known."""
        return (self.states or {}).get(uuid, "")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a journal."""
        return {**asdict(self), "mends": [step.as_dict() for step in self.mends]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Before:
        """What `as_dict` gave, also after a way through JSON."""
        kept = data["kept"]
        made = {
            "discs": tuple((vm, vbd, vdi) for vm, vbd, vdi in data["discs"]),
            "kept": None if kept is None else {uuid: (state, host) for uuid, (state, host) in kept.items()},
            "mends": tuple(Step(**step) for step in data["mends"]),
            "hosts": tuple(PlannedHost(**host) for host in data["hosts"]),
            "vms": tuple(PlannedVM(**vm) for vm in data["vms"]),
        }
        return cls(**{**data, **made})


def of_journal(journal: Journal) -> Before:
    """What the journal of an upgrade tells. Raises `ProcedureError` for that of something else."""
    plans = [*(Plan.from_dict(plan) for plan in journal.get("earlier", ())), journal.plan]
    first, last = plans[0], plans[-1]
    if last.procedure != UPGRADE:
        raise ProcedureError(f"{journal.path or 'this journal'} is of a {last.procedure}, not of a {UPGRADE}")
    changes = [change.undo for change in journal.changes()]
    discs = [(s.vm, s.vbd, s.vdi) for s in (*first.steps, *changes) if s.action == "insert"]
    return Before(
        source=first.source,
        medium=first.medium,
        master=first.master,
        states={vm.uuid: vm.state for vm in first.vms},
        homes={vm.uuid: vm.home for vm in first.vms if vm.home},
        discs=tuple(dict.fromkeys(discs)),
        kept=next((kept for plan in reversed(plans) if (kept := _kept(plan)) is not None), None),
        dump=(journal.get("backup") or {}).get("path") or "",
        mends=tuple(undo for undo in reversed(changes) if undo.action not in OWN),
        run=journal.run_id,
        pool=first.pool,
        pool_name=first.pool_name,
        hosts=first.hosts,
        vms=first.vms,
    )


def _kept(plan: Plan) -> dict[str, tuple[str, str]] | None:
    """Where guests are when a plan upgrades the master: its database is copied then."""
    for number, step in enumerate(plan.steps):
        if step.action == "install" and step.host == plan.master:
            return {uuid: (one.state, one.host) for uuid, one in plan.expected(number).items()}
    return None


def of_pool(pool: PoolFacts, to: str | None = None, dump: str = "") -> Before:
    """What the pool itself tells: to which release it goes back, if versions are mixed or `to` says so; `dump` is the path
    of a database dump from before. Raises `ProcedureError` where neither is, `ValueError` for an unknown release."""
    oldest = min((host for host in pool.hosts.values()), key=lambda host: host.release)
    if to is None and oldest.release == pool.release:
        raise ProcedureError(
            f"every host runs {pool.release.name}, so the pool does not say what it ran before: name the release, or the "
            "journal of the upgrade"
        )
    source = oldest.version if to is None else find(to, pool.release).product_version
    return Before(source=source, medium=pool.release.name, dump=dump)


@dataclass(frozen=True)
class Since:
    """What changed since the dump. `made` are the guests that were made, by uuid; `losses` says in sentences what a master
    that goes back no longer knows, or knows wrongly; `refusals` what makes going back impossible; `images` are the guests
    whose suspend image is still the one of then. `compared` says that there was a dump to compare with, `warnings` what is
    not known without."""

    made: frozenset[str] = frozenset()
    losses: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    images: frozenset[str] = frozenset()
    compared: bool = False
    warnings: tuple[str, ...] = ()


def since(session: Session, pool: PoolFacts, before: Before) -> Since:
    """Compare the pool with what is known of it. A dump that cannot be read is one of the warnings; one of another pool or
    of another time is a refusal, and nothing is compared then."""
    dump, why = _dump(before)
    if dump is not None:
        against = against_dump(dump, before, pool.uuid, pool.name)
        return Since(refusals=against) if against else _Comparison(session, pool, dump).result()
    unknown = [f"{why}: nobody knows whether disks were moved, resized, deleted or made since"]
    if before.states is None:
        unknown.append(f"{why}: nobody knows which guests were made since the master was upgraded; their records go")
    made = [uuid for uuid in pool.vms if uuid not in before.states] if before.states is not None else []
    return Since(
        made=frozenset(made),
        losses=tuple(f"{pool.vms[uuid].name} was made since: its record is lost" for uuid in made),
        warnings=tuple(unknown),
    )


def refusals(before: Before, pool: str, name: str) -> tuple[str, ...]:
    """What `since` refuses for the dump's sake, where nothing is lost and there is nothing to compare: `pool` and `name` are
    the uuid and the name of the pool that goes back."""
    dump, _ = _dump(before)
    return () if dump is None else against_dump(dump, before, pool, name)


def against_dump(dump: Database, before: Before, pool: str, name: str) -> tuple[str, ...]:
    """Why a dump does not say how the pool with the uuid `pool`, called `name`, was before: it is another's, or it was taken
    under another release, as it is once the upgrade has begun."""
    whose = dump_of_another(dump, here=pool, called=name)
    if whose:
        return (whose,)
    made = version_in(dump)
    if made == before.source:
        return ()
    return (
        f"the dump was taken under {made}, and the pool goes back to {before.source}: give the dump from before the upgrade",
    )


def _dump(before: Before) -> tuple[Database | None, str]:
    """The dump from before, or why there is none that can be used."""
    if not before.dump:
        return None, "there is no dump from before"
    path = Path(before.dump)
    try:
        dump = database.read(path.read_bytes(), source=str(path))
        database.verify(dump)
    except (OSError, DatabaseError) as error:
        return None, f"the dump from before cannot be used ({error})"
    return dump, ""


class _Comparison:
    """The live pool beside a dump of it."""

    def __init__(self, session: Session, pool: PoolFacts, dump: Database) -> None:
        self.pool, self.dump = pool, dump
        self.vms, self.vbds = session.VM.get_all_records(), session.VBD.get_all_records()
        self.vdis, self.srs = session.VDI.get_all_records(), session.SR.get_all_records()
        self.old_vdis = {row.cells["uuid"]: row for row in dump.rows("VDI")}
        self.guests = {row.cells["uuid"]: row for row in dump.rows("VM") if row.cells.get("is_a_template") != "true"}

    def result(self) -> Since:
        live = {vm.uuid: vm for vm in self.vms.values()}
        made = frozenset(uuid for uuid in self.pool.vms if uuid not in self.guests)
        losses = [self.lost(uuid) for uuid in sorted(made, key=lambda uuid: self.pool.vms[uuid].name)]
        return Since(
            made=made,
            losses=(*losses, *self.disks_changed(), *self.disks_made(made)),
            refusals=tuple(self.formats()),
            images=frozenset(
                uuid
                for uuid, row in self.guests.items()
                if uuid in live and NULL != live[uuid].suspend_VDI == row.cells.get("suspend_VDI")
            ),
            compared=True,
        )

    def disk(self, vdi: Any) -> str:
        """A disk in words: what it is called, and where it stays."""
        sr = self.srs.get(vdi.SR)
        return f"{vdi.name_label or 'a disk'} ({vdi.uuid}) on {sr.name_label if sr is not None else 'no storage'}"

    def disks_of(self, ref: str) -> list[Any]:
        """The disks of a live VM, CDs apart."""
        drives = (self.vbds[vbd] for vbd in self.vms[ref].VBDs if vbd in self.vbds)  # type: ignore[index]
        return [self.vdis[drive.VDI] for drive in drives if drive.type != "CD" and drive.VDI in self.vdis]

    def lost(self, uuid: str) -> str:
        """What becomes of a guest that was made since."""
        vm = self.pool.vms[uuid]
        disks = [self.disk(vdi) for vdi in self.disks_of(vm.ref)]
        stay = f"; of its disks no record is left, though they stay: {', '.join(disks)}" if disks else ""
        return f"{vm.name} was made since: its record is lost{stay}"

    def old_disks(self) -> Iterator[tuple[Any, Any]]:
        """The disks of guests in the dump: the guest's row, and the disk's."""
        by_ref = {row.ref: row for row in self.guests.values()}
        for vbd in self.dump.rows("VBD"):
            vm, vdi = by_ref.get(vbd.cells.get("VM", "")), self.dump.tables["VDI"].rows.get(vbd.cells.get("VDI", ""))
            if vm is not None and vdi is not None and vbd.cells.get("type") != "CD":
                yield vm, vdi

    def disks_changed(self) -> Iterator[str]:
        """Disks that the old database knows and that are not any more as it says."""
        now = {vdi.uuid: vdi for vdi in self.vdis.values()}
        for vm, old in self.old_disks():
            cells, owner = old.cells, vm.cells.get("name__label", vm.ref)
            name, vdi = f"{cells.get('name__label') or 'a disk'} ({cells['uuid']})", now.get(cells["uuid"])
            if vdi is None:
                yield f"the disk {name} of {owner} was deleted or moved since: its old record finds nothing"
            elif cells.get("SR") != vdi.SR:
                yield f"the disk {name} of {owner} was moved since: its old record finds nothing"
            elif str(vdi.virtual_size) != cells.get("virtual_size"):
                yield f"the disk {name} of {owner} was resized since: its old record says {cells.get('virtual_size')} bytes"

    def disks_made(self, made: frozenset[str]) -> Iterator[str]:
        """Disks that came to guests which the old database knows."""
        known = set(self.old_vdis)
        for uuid, vm in self.pool.vms.items():
            if uuid not in made:
                for vdi in self.disks_of(vm.ref):
                    if vdi.uuid not in known:
                        yield f"the disk {self.disk(vdi)} was given to {vm.name} since: it stays, without a record"

    def formats(self) -> Iterator[str]:
        """Storage whose format old releases cannot read."""
        then = {row.ref: database.parse_map(row.cells.get("sm_config", "()")) for row in self.dump.rows("SR")}
        for ref, sr in self.srs.items():
            if LVHD in sr.get("sm_config", {}) and ref in then and LVHD not in then[ref]:
                yield f"{sr.name_label} was brought to the format of 5.5 (xe-lvm-upgrade): older releases cannot read it"
