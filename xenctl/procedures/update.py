"""Applying an update to hosts one after another, the master first, and doing what it asks for afterwards.

Up to 7.0 an update is a `pool_patch`, since 7.1 a `pool_update` on a disk of its own. The pool is asked on every host
whether the update could be applied, before anything happens. A host that has to boot for it is emptied first, and gets its
guests back before the next one's turn. In the end it must show on every host.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .. import transfers
from ..errors import Failure, ProcedureError
from ..releases import find
from ..transfers.bound import default_sr
from ..values import NULL, Ref
from .acts.updating import ROUTES, Route
from .emptying import REFUSE, against_work
from .observe import PoolFacts, observe
from .plan import Plan, Step
from .rolling_reboot import Turns, in_order

if TYPE_CHECKING:
    from ..session import Session

UPDATE = "update"
PATCHES_SINCE, UPDATES_SINCE = "4.1", "7.1"
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
REBOOT, TOOLSTACK = "restartHost", "restartXAPI"
GUESTS: Mapping[str, bool] = {"restartHVM": True, "restartPV": False}
"""What updates ask of guests: those that are fully virtual, or those that are not, are to be restarted."""

MEANINGS: Mapping[str, str] = {
    "PATCH_PRECHECK_FAILED_PREREQUISITE_MISSING": "these updates have to be applied before: {1}",
    "PATCH_PRECHECK_FAILED_WRONG_SERVER_VERSION": "it is for version {2}, and the host runs {1}",
    "PATCH_PRECHECK_FAILED_WRONG_SERVER_BUILD": "it is for build {2}, and the host runs {1}",
    "PATCH_PRECHECK_FAILED_OUT_OF_SPACE": "the host's disk has {1} bytes left, and {2} are needed",
    "PATCH_PRECHECK_FAILED_ISO_MOUNTED": "the disc with the guest tools is in a guest's drive: eject it",
    "PATCH_PRECHECK_FAILED_UNKNOWN_ERROR": "its own check failed: {1}",
    "UPDATE_PRECHECK_FAILED_PREREQUISITE_MISSING": "these updates have to be applied before: {1}",
    "UPDATE_PRECHECK_FAILED_CONFLICT_PRESENT": "these updates stand against it: {1}",
    "UPDATE_PRECHECK_FAILED_WRONG_SERVER_VERSION": "it is for version {2}, and the host runs {1}",
    "UPDATE_PRECHECK_FAILED_OUT_OF_SPACE": "the host's disk has {1} bytes left, and {2} are needed",
    "UPDATE_PRECHECK_FAILED_GPGKEY_NOT_IMPORTED": "the host does not have the key that it is signed with",
    "UPDATE_PRECHECK_FAILED_UNKNOWN_ERROR": "its own check failed: {1}",
    "CANNOT_FIND_PATCH": "its package is gone from the pool: upload it again",
    "CANNOT_FIND_UPDATE": "its package is gone from the pool: upload it again",
}
"""What a check that failed means, by code; numbers stand for the error's parameters."""
EMPTY_FIRST = "PATCH_PRECHECK_FAILED_VM_RUNNING"
"""The check that only says that guests run on the host."""


@dataclass(frozen=True)
class Found:
    """An update that the pool knows. `asks` is what it wants to be restarted; `there` are the hosts that have it."""

    route: Route
    ref: Any
    uuid: str
    name: str
    asks: frozenset[str]
    there: frozenset[str]

    @property
    def args(self) -> dict[str, str]:
        """How steps name it."""
        return {"kind": self.route.kind, "uuid": self.uuid, "name": self.name}


# --- coming to the pool


def upload(session: Session, path: str | os.PathLike[str], *, sr: str | None = None) -> str:
    """Bring an update's file to the pool and return the update's uuid; one that the pool has already is taken as it is.

    Since 7.1 the package lies on a disk of storage `sr` (a uuid), else of the pool's default storage; where it turns out to
    be no update, that disk is destroyed again. Raises `OSError` for a file that cannot be read, `ProcedureError` for one
    that the pool does not take.
    """
    with open(path, "rb"):  # before the pool is asked anything
        pass
    if session.release < find(PATCHES_SINCE):
        raise ProcedureError(f"{session.release.name} takes no updates of pools: they came with {PATCHES_SINCE}")
    try:
        if session.release < find(UPDATES_SINCE):
            return str(session.pool_patch.get_uuid(transfers.upload_patch(session, os.fspath(path))))
        return _introduced(session, path, sr)
    except Failure as error:
        if error.code in ("PATCH_ALREADY_EXISTS", "UPDATE_ALREADY_EXISTS"):
            return str(error.details[1])
        raise ProcedureError(f"{os.fspath(path)} is not taken as an update: {error}") from error


def _introduced(session: Session, path: str | os.PathLike[str], sr: str | None) -> str:
    """The update on a new disk that gets the file's bytes."""
    storage = session.SR.get_by_uuid(sr) if sr is not None else default_sr(session)
    size = os.stat(path).st_size
    disk = session.VDI.create(
        {
            "name_label": f"update {os.path.basename(path)}",
            "name_description": "",
            "SR": storage,
            "virtual_size": max(size, 1),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
        }
    )
    try:
        transfers.import_raw_vdi(session, os.fspath(path), Ref(disk))
        return str(session.pool_update.get_uuid(session.Async.pool_update.introduce(disk).wait()))
    except BaseException:
        with suppress(Failure):
            session.Async.VDI.destroy(disk).wait()
        raise


def find_update(session: Session, uuid: str) -> Found:
    """The update with this uuid, be it that of a patch or of an update. Raises `ValueError` where the pool has none."""
    release = session.release
    if release < find(PATCHES_SINCE):
        raise ProcedureError(f"{release.name} takes no updates of pools: they came with {PATCHES_SINCE}")
    for kind in ("pool_update", "pool_patch") if release >= find(UPDATES_SINCE) else ("pool_patch",):
        messages = getattr(session, kind)
        try:
            ref = messages.get_by_uuid(uuid)
        except Failure as error:
            if error.code != "UUID_INVALID":
                raise
            continue
        record = messages.get_record(ref)
        if record.get("pool_update", NULL) != NULL:
            return find_update(session, session.pool_update.get_uuid(record.pool_update))
        route = ROUTES[kind]
        return Found(
            *(route, ref, uuid, record.name_label),
            frozenset(map(str, record.after_apply_guidance)),
            frozenset(route.hosts(session, ref)),
        )
    raise ValueError(f"the pool has no update {uuid!r}; give its file to bring it there")


# --- planning


def plan(
    session: Session,
    uuid: str,
    hosts: Sequence[str] = (),
    *,
    stuck: str = REFUSE,
    restart_guests: bool = False,
    keep: bool = False,
) -> Plan:
    """The plan for applying the update with this uuid to the hosts named (all if none is); the pool is asked on each of them
    whether it could be. Nothing is changed.

    `stuck` says what becomes of a guest that cannot leave its host: `refuse`, `suspend` or `shut-down`. With
    `restart_guests` those that the update wants restarted are; else they are named. With `keep` the package stays in the
    pool. What stands against it is in `Plan.problems`. Raises `ValueError` for a host or an update that the pool does not
    have.
    """
    pool, update = observe(session), find_update(session, uuid)
    order = in_order(pool, hosts)
    lacking = [host for host in order if pool.hosts[host].ref not in update.there]
    problems = against_work(session, pool, lacking)
    if not lacking:
        problems = [f"{update.name} is on {', '.join(pool.hosts[host].name for host in order)} already"]
        return Plan.of(pool, UPDATE, hosts=order, problems=problems)
    master = pool.hosts[pool.master]
    if pool.master not in order and master.ref not in update.there:
        problems.append(f"{master.name} is the master and lacks {update.name}: name it too, members follow it")
    turns = Turns(session, pool, stuck=stuck)
    for host in lacking:
        refusal = precheck(session, update, pool, host)
        if refusal not in ("", EMPTY_FIRST):
            problems.append(refusal)
            continue
        turns.add(host, _work(update, host, emptied=bool(refusal)), emptied=bool(refusal) or REBOOT in update.asks)
    asked = _asked(update, pool, lacking)
    then = [Step("restart-guest", vm=vm, reason=f"{update.name} asks for it") for vm in asked if restart_guests]
    everywhere = {host.ref for host in pool.hosts.values()} == update.there | {pool.hosts[h].ref for h in lacking}
    if everywhere and not keep:
        then.append(Step("clean-update", args=update.args))
    then.append(Step("verify-update", args={**update.args, "hosts": order}))
    made = turns.plan(UPDATE, order, problems, then=then)
    left = [] if restart_guests else [pool.vms[vm].name for vm in asked]
    names = ", ".join(left)
    note = f"{update.name} takes effect in these guests when they are restarted (--restart-guests does it): {names}"
    return replace(made, warnings=(*made.warnings, *([note] if left else [])))


def precheck(session: Session, update: Found, pool: PoolFacts, host: str) -> str:
    """Why the update cannot be applied to a host, naming it; `EMPTY_FIRST` where it only has to be emptied; empty where
    nothing stands against it. Raises what the calls raise, of what is no answer of the check."""
    facts = pool.hosts[host]
    if not facts.live:
        return ""  # a problem of its own
    try:
        getattr(session.Async, update.route.kind).precheck(update.ref, facts.ref).wait()
    except Failure as error:
        if error.code == EMPTY_FIRST:
            return EMPTY_FIRST
        if error.code not in MEANINGS:
            return f"{update.name} cannot be applied to {facts.name}: {error}"
        known = [*error.details, "?", "?", "?"]
        return f"{update.name} cannot be applied to {facts.name}: {MEANINGS[error.code].format(*known[1:])}"
    return ""


def _work(update: Found, host: str, *, emptied: bool) -> list[Step]:
    """What is done with a host once it is its turn. Booting starts its toolstack, too."""
    steps = [Step("apply", host=host, args=update.args)]
    if REBOOT in update.asks:
        return [*steps, Step("reboot", host=host, reason=f"{update.name} asks for it")]
    if TOOLSTACK in update.asks:
        steps.append(Step("restart-toolstack", host=host, reason=f"{update.name} asks for it"))
    return [*steps, *([Step("enable", host=host)] if emptied else [])]


def _asked(update: Found, pool: PoolFacts, hosts: Iterable[str]) -> list[str]:
    """The guests on these hosts that the update wants restarted."""
    kinds = {hvm for name, hvm in GUESTS.items() if name in update.asks}
    on = set(hosts)
    return [vm.uuid for vm in pool.vms.values() if vm.state == "Running" and vm.host in on and vm.hvm in kinds]
