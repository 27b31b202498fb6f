"""Workload balancing: what the pool asks its server, and what the server recommends.

The server is asked by its address of `pool.wlb_url`, with the name and the secret that it was set up with. It recommends by
free memory alone: a guest to start where most is free, a guest to move where that makes the hosts more alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenctl import memory
from xenctl.errors import Failure

from . import hosts, messages, placement, rules
from .call import Call, refuse
from .licence import assert_enabled, restricted
from .store import Row

if TYPE_CHECKING:
    from .machine.balancers import Balancer
    from .pool import MockPool

BEST = 5.0
"""Stars of the best host."""
CANNOT_LOG_IN, UNKNOWN_POOL = "4002", "4015"
"""Numbers of the server's own errors: it could not log in to the pool, it does not know the pool."""
DISABLED = "wlb_choose_host_disable"
"""The key of `pool.other_config` that keeps xapi from asking where to put guests."""


# --- the connection


def split(url: str) -> tuple[str, int]:
    """The host and port of a server. Raises `WLB_URL_INVALID`."""
    host, _, port = url.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or "/" in host or int(port) > 65535:
        raise refuse("WLB_URL_INVALID", url)
    return host, int(port)


def connect(pool: MockPool, url: str, username: str, password: str) -> Balancer:
    """The server at `url`. Raises `WLB_CONNECTION_REFUSED` where none listens, `WLB_AUTHENTICATION_FAILED`."""
    found = pool.balancers.servers.get(split(url))
    if found is None or not found.up:
        raise refuse("WLB_CONNECTION_REFUSED")
    if (found.username, found.password) != (username, password):
        raise refuse("WLB_AUTHENTICATION_FAILED")
    return found


def server(call: Call) -> Balancer:
    """The server that the pool was set up with."""
    pool = call.db.pool()
    secret = call.db.find("secret", pool.get("wlb_password", ""))
    password = secret["value"] if secret is not None else call.pool.balancers.password
    found = connect(call.pool, pool["wlb_url"], pool["wlb_username"], password)
    if pool["uuid"] not in found.pools:
        raise internal_error(UNKNOWN_POOL, "The pool is not known.")
    return found


def internal_error(code: str, text: str) -> Failure:
    """What an error of the server becomes."""
    return refuse("WLB_INTERNAL_ERROR", code, text)


def assert_initialised(call: Call) -> None:
    """Raise where the pool may not use balancing, or was not set up for it."""
    assert_enabled(call, "WLB")
    if not call.db.pool()["wlb_url"]:
        raise refuse("WLB_NOT_INITIALIZED")


def assert_in_use(call: Call) -> None:
    """Raise where balancing is not set up and switched on."""
    assert_initialised(call)
    if not call.db.pool()["wlb_enabled"]:
        raise refuse("WLB_DISABLED")


# --- what it recommends


def _number(found: Balancer) -> str:
    found.answers += 1
    return str(found.answers)


def live_hosts(call: Call) -> list[Row]:
    """The hosts that the server thinks of."""
    return [host for host in call.db.table("host").values() if hosts.live(call.db, host)]


def places(call: Call, vm: Row) -> dict[str, list[str]]:
    """For each host that lives, how many stars it has for `vm`: by its share of free memory, none where it cannot."""
    found = server(call)
    number, free = _number(found), {host.ref: _free(call, host) for host in live_hosts(call)}
    most = max(max(free.values(), default=0), 1)
    out = {}
    for ref, left in free.items():
        reason = _unfit(call, vm, call.db.get("host", ref))
        stars = max(0.1, round(BEST * left / most, 1))
        out[ref] = ["WLB", "0.0", number, reason] if reason else ["WLB", str(stars), number]
    return out


def _free(call: Call, host: Row) -> int:
    return max(0, rules.memory_free(call.db, host))


def _unfit(call: Call, vm: Row, host: Row) -> str:
    """Why a guest cannot be on a host, in the code of xapi's error; empty where it can."""
    try:
        placement.assert_can_boot_here(call.pool, vm, host, asker="recommend")
    except Failure as error:
        return error.code
    return ""


def moves(call: Call) -> dict[str, list[str]]:
    """The guest that had best move, from the host with the least free memory to the one with the most; nothing where the
    hosts are alike enough."""
    found = server(call)
    takes = [host for host in live_hosts(call) if host["enabled"]]
    if len(takes) < 2:
        return {}
    full, empty = min(takes, key=lambda h: _free(call, h)), max(takes, key=lambda h: _free(call, h))
    gap = _free(call, empty) - _free(call, full)
    best: tuple[int, Row] | None = None
    for vm in (call.db.get("VM", ref) for ref in full["resident_VMs"]):
        size = memory.needed(vm, call.db.release)
        if not vm["is_control_domain"] and size < gap and not _unfit(call, vm, empty):
            left = abs(gap - 2 * size)
            if best is None or left < best[0]:
                best = left, vm
    if best is None:
        return {}
    number = _number(found)
    return {best[1].ref: ["WLB", empty["uuid"], number, number, "Memory"]}


def evacuation(call: Call, host: Row) -> dict[str, Row | Failure]:
    """Where each guest of `host` had best go. What xapi itself holds against a move counts more than what the server says,
    but not whether there is room: a guest for which the server has no place lacks memory."""
    plain = placement.evacuation(call.pool, host)
    found = server(call)
    _number(found)
    out: dict[str, Row | Failure] = {}
    for vm, plan in plain.items():
        full = isinstance(plan, Failure) and plan.code == "HOST_NOT_ENOUGH_FREE_MEMORY"
        out[vm] = refuse("HOST_NOT_ENOUGH_FREE_MEMORY", vm) if full else plan
    return out


def plan(call: Call, host: Row) -> dict[str, Row | Failure]:
    """What becomes of each guest of `host` when it is emptied: by the server's advice where balancing is in use, by xapi's
    own plan where it is not, or where the server fails, which is told in a message."""
    try:
        if _unasked(call):
            return placement.evacuation(call.pool, host)
        return evacuation(call, host)
    except Failure as error:
        if not error.code.startswith("WLB_"):
            raise
        _tell(call, host)
        return placement.evacuation(call.pool, host)


def _unasked(call: Call) -> bool:
    """Whether the server is not to be asked where guests go."""
    pool = call.db.pool()
    if not pool.get("wlb_enabled") or not pool["wlb_url"] or restricted(call, "WLB"):
        return True
    return str(pool["other_config"].get(DISABLED, "")).lower() == "true"


def _tell(call: Call, host: Row) -> None:
    body = f"Wlb consultation for Host '{host['name_label']}' failed (pool uuid: {call.db.pool()['uuid']})"
    messages.post(call.pool, "WLB_CONSULTATION_FAILED", priority=3, cls="Host", uuid=host["uuid"], body=body)
