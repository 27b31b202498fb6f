"""Repositories that the pool takes updates from: which is in use, what the master has of it, and syncing in passing.

Only the master has a copy of what was synced, on its own disk; a pool whose master changed has to sync again.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from xenctl.errors import Failure

from . import messages, updates
from .licence import assert_enabled_in
from .machine.update_repositories import Mirror

if TYPE_CHECKING:
    from .pool import MockPool
    from .startup import Xapi
    from .store import Row, Store

NEVER = "19700101T00:00:00Z"
"""When a pool was synced that was not."""
DAY = 86400.0
LEAST = 7200.0
"""Seconds between two syncs in passing, at the least."""
SYNCED = ("last_update_sync", "Repository.hash", "host.latest_synced_updates_applied")
"""What a sync writes."""


def enabled(store: Store) -> list[Row]:
    """The repositories that the pool uses."""
    rows = (store.find("Repository", ref) for ref in store.pool()["repositories"])
    return [row for row in rows if row is not None]


def of_updates(store: Store) -> Row:
    """The one repository in use that updates come from."""
    rows = [row for row in enabled(store) if row["update"]]
    if not rows:
        raise Failure(["NO_REPOSITORY_ENABLED"])
    if len(rows) > 1:
        raise Failure(["MULTIPLE_UPDATE_REPOSITORIES_ENABLED"])
    return rows[0]


def mirror(pool: MockPool, repository: Row) -> Mirror:
    """What the master has of a repository. Raises where that is nothing, or not what the database says."""
    found = pool.master.system.mirrors.get(repository["uuid"])
    if found is None:
        raise Failure(["INVALID_REPOMD_XML"])
    if found.checksum != repository["hash"]:
        text = f"Unexpected mismatch between XAPI DB ({repository['hash']}) and YUM DB ({found.checksum}). "
        raise Failure(["INTERNAL_ERROR", text + "Need to do pool.sync-updates again."])
    return found


def lacking(pool: MockPool, host: Row, found: Mirror) -> updates.HostUpdates:
    """What a host lacks; it has to answer itself. Raises `GET_HOST_UPDATES_FAILED`."""
    machine = pool.machine_of(host)
    if machine is None or machine.xapi.mode not in ("master", "member"):
        raise Failure(["GET_HOST_UPDATES_FAILED", host.ref])
    return updates.lacking(machine, found)


def sync(pool: MockPool) -> str:
    """Copy every repository in use to the master, and see which hosts lack something; returns the digest of the updates."""
    store, mirrors = pool.store, pool.master.system.mirrors
    for row in enabled(store):
        source = pool.repositories.by_url.get(row["binary_url"])
        if source is None or not source.up:
            raise Failure(["REPOSYNC_FAILED"])
        mirrors[row["uuid"]] = Mirror(source.updates)
    repository = of_updates(store)
    found = mirrors[repository["uuid"]]
    lacked = {host.ref: lacking(pool, host, found) for host in store.table("host").values()}
    for ref, missing in lacked.items():
        store.write(store.get("host", ref), latest_synced_updates_applied="yes" if missing.empty else "no")
    store.write(repository, hash=found.checksum)
    store.write(store.pool(), last_update_sync=pool.clock.stamp())
    return found.checksum


def forget_mirror(pool: MockPool, repository: Row) -> None:
    """Clean up what the master has of a repository."""
    pool.master.system.mirrors.pop(repository["uuid"], None)


# --- in passing


def sync_if_due(pool: MockPool, xapi: Xapi, now: float) -> None:
    """Sync where the pool is set to do so by itself and it is time; a failure is told in a message."""
    row = pool.store.pool()
    if not row.get("update_sync_enabled"):
        xapi.sync_at = 0.0
        return
    if not xapi.sync_at:
        xapi.sync_at = next_sync(pool, now)
    elif now >= xapi.sync_at:
        xapi.sync_at = next_sync(pool, now)
        try:
            assert_enabled_in(pool.store, "Updates")
            sync(pool)
        except Failure as error:
            _tell(pool, row, error)


def reschedule(pool: MockPool) -> None:
    """Work out anew when the next sync in passing is due."""
    on = pool.store.pool()["update_sync_enabled"]
    pool.master.xapi.sync_at = next_sync(pool, pool.clock.now()) if on else 0.0


def next_sync(pool: MockPool, now: float) -> float:
    """When the next sync is due: some time of tomorrow, or of the day of the week that was chosen."""
    row = pool.store.pool()
    today = datetime.fromtimestamp(now, timezone.utc)
    midnight = today.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    weekday, wanted = today.isoweekday() % 7, row["update_sync_day"]
    days = 1 if row["update_sync_frequency"] == "daily" else (wanted - weekday - 1) % 7 + 1
    return max(now + LEAST, midnight + days * DAY + pool.random.random() * DAY)


def _tell(pool: MockPool, row: Row, error: Failure) -> None:
    text = f"{error.code}({'; '.join(error.params)})"
    body = (
        f"<body><message>Periodic update sync failed.</message><exception>{text}</exception>"
        f"<date>{pool.clock.stamp()}</date></body>"
    )
    messages.post(pool, "PERIODIC_UPDATE_SYNC_FAILED", priority=3, cls="Pool", uuid=row["uuid"], body=body)
