"""Whose a journal or a dump is: each has the uuid of its pool, and is of no use in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Failure, ProcedureError, TransportError

if TYPE_CHECKING:
    from ..database import Database
    from ..session import Session
    from .plan import Plan


def of_another(what: str, uuid: str, name: str, *, here: str, called: str) -> str:
    """Why `what`, a file of the pool with this uuid and name, is of no use in the one with the uuid `here`, which is
    `called` so; empty where it is of that one."""
    if uuid == here:
        return ""
    return (
        f"{what} is of another pool, {_pool(uuid, name)}, and this is {_pool(here, called)}: give the one of this pool, or "
        "the address of that pool"
    )


def dump_of_another(dump: Database, *, here: str, called: str) -> str:
    """The same for a dump."""
    (row,) = dump.rows("pool")
    return of_another(
        *("the dump", row.cells.get("uuid", ""), row.cells.get("name_label", "")), here=here, called=called
    )


def assert_same_pool(session: Session, plan: Plan) -> None:
    """Raise `ProcedureError` where the session's pool answers and is not that of a journal with this plan. Its master may be
    away: hosts are known by their uuids, so nothing can hit another pool."""
    if not plan.pool:
        return
    afresh = any(step.action == "restore-afresh" for step in plan.steps)
    try:
        (pool,) = session.pool.get_all_records().values()
        if afresh and session.host.get_address(pool.master) in {host.address for host in plan.hosts}:
            return  # until the dump is restored the new installation is a pool of its own
    except (TransportError, Failure) as error:
        if isinstance(error, Failure) and error.code == "SESSION_AUTHENTICATION_FAILED":
            raise
        return
    whose = of_another("the journal", plan.pool, plan.pool_name, here=pool.uuid, called=pool.name_label)
    if whose:
        raise ProcedureError(whose)


def _pool(uuid: str, name: str) -> str:
    return f"{name} ({uuid})" if name else uuid or "without a uuid"
