"""Repositories, and which of them the pool takes updates from."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from xenctl.datamodel import load
from xenctl.errors import Failure

from .. import repositories
from ..call import Call, Steps, refuse
from ..hosts import live
from ..licence import assert_enabled
from ..placement import evacuation
from ..pool_operations import operation
from ..repositories import NEVER, SYNCED
from ..store import Row
from . import verbs_of
from .generic import make

verb = verbs_of("Repository")
pool_verb = verbs_of("pool")

USED = ("current_operations", "repositories", "Repository.hash", "last_update_sync", "update_sync_enabled")
FORGETS_SINCE = load().order("26.7.0")
"""The toolstack's version since which hosts no longer say that they are up to date once the pool has no repository."""
KEY_NAME = re.compile(r"[A-Za-z0-9_-]*")
HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")


# --- repositories


def _assert_url(url: str) -> None:
    """Raise for what is no URL of the web with a host that could be one."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise refuse("INVALID_BASE_URL", url) from None
    if parts.scheme not in ("http", "https") or not (HOST_NAME.fullmatch(host) or ":" in host):
        raise refuse("INVALID_BASE_URL", url)


def _assert_key(path: str) -> None:
    if not KEY_NAME.fullmatch(path):
        raise refuse("INVALID_GPGKEY_PATH", path)


@verb("*")
def introduce(
    call: Call,
    name_label: str,
    name_description: str,
    binary_url: str,
    source_url: str,
    update: bool,
    gpgkey_path: str = "",
) -> str:
    """Neither name nor URL may be another's."""
    _assert_url(binary_url)
    _assert_url(source_url)
    _assert_key(gpgkey_path)
    for row in call.db.table("Repository").values():
        if name_label == row["name_label"] or binary_url == row["binary_url"]:
            raise refuse("REPOSITORY_ALREADY_EXISTS", row.ref)
    fields: dict[str, Any] = {
        "name_label": name_label,
        "name_description": name_description,
        "binary_url": binary_url,
        "source_url": source_url,
        "update": update,
        "gpgkey_path": gpgkey_path,
    }
    return make(call, "Repository", fields).ref


@verb("*")
def forget(call: Call, ref: str) -> str:
    row = call.db.get("Repository", ref)
    if ref in call.db.pool()["repositories"]:
        raise refuse("REPOSITORY_IS_IN_USE")
    call.db.delete(row)
    return ""


@verb("gpgkey_path")
def set_gpgkey_path(call: Call, ref: str, value: str) -> str:
    row = call.db.get("Repository", ref)
    _assert_key(value)
    call.db.write(row, gpgkey_path=value)
    return ""


# --- which the pool uses


def _assert_together(call: Call, refs: list[str]) -> None:
    """Raise for more than one where one is no remote repository."""
    rows = [call.db.get("Repository", ref) for ref in refs]
    if len(rows) > 1 and any(_origin(row) != "remote" for row in rows):
        raise refuse("REPO_SHOULD_BE_SINGLE_ONE_ENABLED")


def _origin(repository: Row) -> str:
    return str(repository.get("origin", "remote"))


def _use(call: Call, pool: Row, refs: list[str]) -> None:
    """Take updates from these: what is known of those that go, or come, is forgotten."""
    before = pool["repositories"]
    for row in [call.db.find("Repository", ref) for ref in before if ref not in refs]:
        if row is not None:
            repositories.forget_mirror(call.pool, row)
    new = [ref for ref in refs if ref not in before]
    for ref in new:
        call.db.write(call.db.get("Repository", ref), hash="")
    call.db.write(pool, repositories=refs)
    if new or not refs:
        call.db.write(pool, last_update_sync=NEVER)


@pool_verb(*USED, "host.latest_synced_updates_applied")
def set_repositories(call: Call, ref: str, value: list[str]) -> str:
    pool = call.db.get("pool", ref)
    with operation(call, "configure_repositories"):
        _assert_together(call, value)
        _use(call, pool, value)
        for host in call.db.table("host").values() if not value and call.at_least(FORGETS_SINCE) else ():
            call.db.write(host, latest_synced_updates_applied="unknown")
        _stop_syncing(call, pool)
    return ""


@pool_verb(*USED)
def add_repository(call: Call, ref: str, value: str) -> str:
    pool = call.db.get("pool", ref)
    with operation(call, "configure_repositories"):
        if value not in pool["repositories"]:
            refs = [value, *pool["repositories"]]
            _assert_together(call, refs)
            _use(call, pool, refs)
            _stop_syncing(call, pool)
    return ""


@pool_verb(*USED)
def remove_repository(call: Call, ref: str, value: str) -> str:
    pool = call.db.get("pool", ref)
    with operation(call, "configure_repositories"):
        _use(call, pool, [other for other in pool["repositories"] if other != value])
    return ""


def _stop_syncing(call: Call, pool: Row) -> None:
    """Only remote repositories are synced in passing."""
    if any(_origin(row) != "remote" for row in repositories.enabled(call.db)):
        call.db.write(pool, update_sync_enabled=False)


# --- syncing


@pool_verb("current_operations", *SYNCED)
def sync_updates(
    call: Call,
    ref: str,
    force: bool,
    token: str = "",
    token_id: str = "",
    username: str = "",
    password: str = "",
) -> Steps:
    """Returns the digest by which hosts are told what to install. `force` throws away first what the master has."""
    call.db.get("pool", ref)
    assert_enabled(call, "Updates")
    with operation(call, "sync_updates"):
        rows = repositories.enabled(call.db)
        if any(_origin(row) == "bundle" for row in rows):
            raise refuse("CAN_NOT_SYNC_UPDATES")
        for row in rows if force else ():
            repositories.forget_mirror(call.pool, row)
        yield call.pool.durations.sync_updates
        return repositories.sync(call.pool)


@pool_verb("update_sync_enabled")
def set_update_sync_enabled(call: Call, ref: str, value: bool) -> str:
    """Look for updates from time to time, as set up by `configure_update_sync`, or no longer."""
    row = call.db.get("pool", ref)
    rows = repositories.enabled(call.db)
    if value and not rows:
        raise refuse("NO_REPOSITORIES_CONFIGURED")
    if value and any(_origin(repository) != "remote" for repository in rows):
        raise refuse("CAN_NOT_PERIODIC_SYNC_UPDATES")
    call.db.write(row, update_sync_enabled=value)
    repositories.reschedule(call.pool)
    return ""


@pool_verb()
def check_update_readiness(call: Call, ref: str, requires_reboot: bool) -> list[list[str]]:
    """Every reason why the pool could not be updated now, each as an error with its parameters."""
    pool = call.db.get("pool", ref)
    assert_enabled(call, "Updates")
    out = [["HA_IS_ENABLED"]] if pool["ha_enabled"] else []
    for host in call.db.table("host").values():
        if not live(call.db, host):
            out.append(["HOST_OFFLINE", host.ref])
        elif requires_reboot:
            plans = evacuation(call.pool, host, protected_only=False).values()
            out += [list(plan.details) for plan in plans if isinstance(plan, Failure)]
    return out
