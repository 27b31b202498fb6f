"""The mark that a run leaves in the pool: while it is there no other run begins, and a run goes on only under its own.

A run whose journal is lost leaves its mark behind. Who knows that it is lost takes the mark away by its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import Failure, ProcedureError, TransportError
from .observe import MARK, PoolFacts, observe

if TYPE_CHECKING:
    from ..session import Session


def at_work(mark: str) -> str:
    """That another run is at work, and what to do about it."""
    return (
        f"another run ({mark}) is at work on this pool: resume or abandon it with its journal; if that is lost, "
        f"have the pool forget it (xenctl abandon --lost {mark})"
    )


def against(pool: PoolFacts, *, take_over: bool = False) -> list[str]:
    """That another run is at work, where one is."""
    return [at_work(pool.mark)] if pool.mark and not take_over else []


def mark_of(session: Session, pool: Any) -> str:
    """The name of the run that the pool with this reference is marked with, empty where it is not."""
    return str(session.pool.get_other_config(pool).get(MARK, ""))


def assert_ours(session: Session, run_id: str, *, or_free: bool = False) -> None:
    """Raise `ProcedureError` where the pool says that it is not marked with this run any more; with `or_free` it may be
    marked with none. A pool that does not answer says nothing: whatever is done next needs it itself, or is done while its
    master is away."""
    try:
        (pool,) = session.pool.get_all_records().values()
    except (Failure, TransportError):
        return
    mark = pool.other_config.get(MARK, "")
    if mark != run_id and (mark or not or_free):
        now = f"another run ({mark}) has taken over" if mark else "somebody else has unmarked it"
        raise ProcedureError(
            f"the pool is not marked with this run any more: {now}. Nothing more is done: what is planned here may be done "
            "already, or undone. If nobody else is at work, have it marked again (xenctl take-over) and go on"
        )


def mark(session: Session, pool: Any, run_id: str) -> str:
    """Mark the pool with a run, whatever it is marked with; returns what that was, empty for nothing."""
    before = mark_of(session, pool)
    if before and before != run_id:
        session.pool.remove_from_other_config(pool, MARK)
    if before != run_id:
        session.pool.add_to_other_config(pool, MARK, run_id)
    return before


def take_back(session: Session, run_id: str) -> str:
    """Mark the pool with a run again, whoever marked it since; returns what `mark` does."""
    return mark(session, next(iter(session.pool.get_all())), run_id)


def forget(session: Session, run_id: str) -> list[str]:
    """Take the mark of a run away whose journal is lost, and tell what it may have left, one sentence each. Nothing else is
    changed: what the run had done nobody knows any more. Raises `ProcedureError` where the pool is not marked with it."""
    facts, pool = observe(session), next(iter(session.pool.get_all()))
    if facts.mark != run_id:
        raise ProcedureError(
            f"the pool is {f'marked with {facts.mark}' if facts.mark else 'not marked with any run'}, not with {run_id}: "
            "nothing is changed"
        )
    session.pool.remove_from_other_config(pool, MARK)
    versions = sorted({host.version for host in facts.hosts.values()})
    out = [f"{host.name} is disabled" for host in facts.hosts.values() if host.live and not host.enabled]
    out += [f"{host.name} is not running" for host in facts.hosts.values() if not host.live]
    if len(versions) > 1:
        out.append(f"versions are mixed ({', '.join(versions)}): adopt the upgrade, or revert it")
    out.append(
        "whether it had switched anything off (high availability, workload balancing, automatic start), ejected discs, shut "
        "guests down or suspended them, nobody knows any more: see to that yourself"
    )
    return out
