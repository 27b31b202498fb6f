"""A new secret for the whole pool, which its hosts know each other by.

Four rounds: every host takes both secrets, every host sends the new one, members forget the old one, the master does. A
rotation that fails stays pending, and whoever calls again goes on where it failed, with the same secrets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenctl.errors import Failure

from .. import hosts, rules, trust
from ..call import Call, Steps, refuse
from ..licence import assert_enabled
from ..machine.host import OLD_SECRET
from . import host_secret, verbs_of
from .host_secret import CHECKPOINT

if TYPE_CHECKING:
    from ..machine.host import System

verb = verbs_of("pool")

TOLD = 1.0
"""Simulated seconds that it takes to tell a host."""


@dataclass(frozen=True)
class Round:
    """Something that hosts are told: how the checkpoint spells it, which of them, and what is said of one that fails."""

    name: str
    hosts: Callable[[Call], list[str]]
    tell: Callable[[Call, str, str, str], object]
    failure: str


def _clean_up_master(call: Call, host: str, old: str, new: str) -> None:
    host_secret.clean_up(call.machine.system, old, new)


CLEANUP = "{} encountered an error whilst cleaning up after a pool secret rotation."
ROUNDS = (
    Round(
        "Accept_new_pool_secret",
        hosts.master_first,
        host_secret.notify_accept_new_pool_secret,
        "Operation to tell {} to begin accepting new pool secret failed.",
    ),
    Round(
        "Send_new_pool_secret",
        hosts.master_first,
        host_secret.notify_send_new_pool_secret,
        "Operation to tell {} to begin sending new pool secret failed.",
    ),
    Round("Cleanup_members", hosts.members, host_secret.cleanup_pool_secret, CLEANUP),
    Round("Cleanup_master", lambda call: hosts.master_first(call)[:1], _clean_up_master, CLEANUP),
)


@verb("is_psr_pending")
def rotate_secret(call: Call) -> Steps:
    xapi, pool = call.machine.xapi, call.db.pool()
    if xapi.rotating:
        raise refuse("INTERNAL_ERROR", "pool secret rotation already running")
    xapi.rotating = True
    try:
        _begin(call)
        yield from _rotate(call, call.machine.system)
        call.db.write(pool, is_psr_pending=False)
    finally:
        xapi.rotating = False
    return ""


def _begin(call: Call) -> None:
    """Mark the pool. The mark goes again only where this call is refused and has set it."""
    pool = call.db.pool()
    was_pending = pool["is_psr_pending"]
    call.db.write(pool, is_psr_pending=True)
    try:
        _assert_possible(call)
    except Failure:
        call.db.write(pool, is_psr_pending=was_pending)
        raise


def _assert_possible(call: Call) -> None:
    pool, files = call.db.pool(), call.machine.system.files
    assert_enabled(call, "Pool_secret_rotation")
    if (OLD_SECRET in files) != (CHECKPOINT in files):
        raise refuse("INTERNAL_ERROR", "master pool secret rotation state is invalid")
    away = sorted(ref for ref, row in call.db.table("host").items() if not hosts.live(call.db, row))
    if away:
        raise refuse("CANNOT_CONTACT_HOST", away[0])
    if pool["ha_enabled"]:
        raise refuse("HA_IS_ENABLED")
    if rules.upgrading(call.db):
        raise refuse("NOT_SUPPORTED_DURING_UPGRADE")
    going = list(pool["current_operations"].values())
    if going:
        raise refuse("INTERNAL_ERROR", f"pool operations in progress: [ {'; '.join(going)} ]")


def _rotate(call: Call, master: System) -> Steps:
    """All rounds, or those from the one that failed before."""
    names = [step.name for step in ROUNDS]
    reached = master.files.get(CHECKPOINT, b"").decode()
    if reached:
        old, new = host_secret.backups(master)
    else:
        old, new = master.pool_secret, "/".join(call.pool.new_uuid() for _ in range(3))
        host_secret.keep(master, old, new)
    for step in ROUNDS[names.index(reached or names[0]) :]:
        trust.change(master, {CHECKPOINT: step.name.encode()})
        for host in step.hosts(call):
            yield TOLD
            try:
                step.tell(call, host, old, new)
            except Failure:
                raise refuse("INTERNAL_ERROR", step.failure.format(call.db.get("host", host)["name_label"])) from None
