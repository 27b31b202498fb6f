"""Updating hosts one after another from the pool's repositories, the master first.

What is published is synced once, and every host gets just that. What a host must do afterwards is known only when it has
been updated, so each host is emptied first, and then does what it says that it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import Failure, ProcedureError
from ..values import Ref
from .acts.repositories import has_synced
from .emptying import REFUSE, against_work
from .observe import observe
from .plan import Plan, Step
from .rolling_reboot import Turns, in_order

if TYPE_CHECKING:
    from ..session import Session

SYNCED = "update from repositories"
MEANINGS = {
    "NO_REPOSITORY_ENABLED": "the pool has no repository: add one first",
    "REPOSITORY_IS_IN_USE": "its repositories are in use",
    "SYNC_UPDATES_IN_PROGRESS": "somebody else syncs at this moment: try again later",
}


def sync(session: Session) -> str:
    """Have the pool fetch what its repositories publish; returns the digest by which hosts are updated. Raises
    `ProcedureError`."""
    (pool,) = session.pool.get_all()
    try:
        session.require("pool.sync_updates", "8.3")
        return str(session.Async.pool.sync_updates(pool, False).wait())
    except Failure as error:
        if error.code == "MESSAGE_METHOD_UNKNOWN":
            raise ProcedureError(f"{session.release.name} has no repositories: give it an update's file") from error
        raise ProcedureError(f"the updates cannot be synced: {MEANINGS.get(error.code, str(error))}") from error


def plan(session: Session, digest: str, hosts: Sequence[str] = (), *, stuck: str = REFUSE) -> Plan:
    """The plan for updating the hosts named (all if none is) to what `sync` gave the digest of; nothing is changed.

    `stuck` is that of a rolling reboot. What stands against it is in `Plan.problems`. Raises `ValueError` for a host that
    the pool does not have.
    """
    pool = observe(session)
    order = in_order(pool, hosts)
    records = {uuid: session.host.get_record(Ref(host.ref)) for uuid, host in pool.hosts.items()}
    lacking = [uuid for uuid in order if not has_synced(records[uuid], digest)]
    if not lacking:
        names = ", ".join(pool.hosts[uuid].name for uuid in order)
        return Plan.of(pool, SYNCED, hosts=order, problems=[f"{names}: there is nothing that could be updated"])
    problems = against_work(session, pool, lacking)
    for uuid, record in records.items():
        asked = ", ".join(map(str, record.get("pending_guidances", [])))
        if asked:
            name = pool.hosts[uuid].name
            problems.append(f"{name} has not done what an earlier update asks for ({asked}): reboot it first")
    if pool.master not in order and not has_synced(records[pool.master], digest):
        problems.append(f"{pool.hosts[pool.master].name} is the master and is not up to date: name it too")
    turns = Turns(session, pool, stuck=stuck)
    for host in lacking:
        work = [Step("apply-synced", host=host, args={"hash": digest}), Step("follow-guidance", host=host)]
        turns.add(host, [*work, Step("enable", host=host)])
    then = [Step("verify-synced", args={"hash": digest, "hosts": order})]
    return turns.plan(SYNCED, order, problems, then=then)
