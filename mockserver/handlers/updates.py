"""`/updates`: what the hosts of a pool lack of the updates that the master has synced, as JSON."""

from __future__ import annotations

import json

from xenctl.errors import Failure

from .. import repositories, updates
from ..pool_operations import refused
from .base import NO_CACHE, Answer, Request, plain

NOTHING_THERE = frozenset({"NO_REPOSITORY_ENABLED", "INVALID_REPOMD_XML", "INVALID_UPDATEINFO_XML"})
"""The errors of a pool that has nothing to tell."""


def get_updates(request: Request) -> Answer:
    """Of all hosts, or of those that `host_refs` names, with `;` between them."""
    pool = request.pool
    known = pool.store.table("host")
    refs = request.arguments["host_refs"].split(";") if "host_refs" in request.arguments else list(known)
    if not refs or not all(ref in known for ref in refs):
        return plain(400, "Bad Request")
    going = refused(pool.store, "get_updates")
    if going is not None:
        raise going
    try:
        told = _told(request, refs)
    except Failure as error:
        if error.code in NOTHING_THERE:
            return plain(404, "Not Found")
        if error.code == "INTERNAL_ERROR":
            raise Failure(["GET_UPDATES_FAILED"]) from error
        raise
    return Answer(200, json.dumps(told).encode(), {**NO_CACHE, "content-type": "application/json"}, close=True)


def _told(request: Request, refs: list[str]) -> dict[str, object]:
    pool = request.pool
    repository = repositories.of_updates(pool.store)
    mirror = repositories.mirror(pool, repository)
    lacked = {ref: repositories.lacking(pool, pool.store.get("host", ref), mirror) for ref in refs}
    patches = [patch for found in lacked.values() for patch in found.livepatches]
    wanted = {update.id for found in lacked.values() for update in (*found.updates, *found.steps)}
    return {
        "hosts": [updates.host_record(ref, found) for ref, found in lacked.items()],
        "updates": [updates.update_record(update, patches) for update in mirror.updates if update.id in wanted],
        "hash": repository["hash"],
    }
