"""Workload balancing: setting it up, its settings, and what it recommends."""

from __future__ import annotations

from xenctl.errors import Failure

from .. import workload_balancing as wlb
from ..call import Call, Steps, refuse
from ..licence import assert_enabled
from ..machine.balancers import SETTINGS
from ..passwords import make_secret
from ..store import NULL, Row
from . import verbs_of

pool_verb = verbs_of("pool")
host_verb = verbs_of("host")
vm_verb = verbs_of("VM")

SETUP = ("wlb_url", "wlb_username", "wlb_password", "secret.*")


# --- setting up


@pool_verb(*SETUP)
def initialize_wlb(
    call: Call,
    wlb_url: str,
    wlb_username: str,
    wlb_password: str,
    xenserver_username: str,
    xenserver_password: str,
) -> Steps:
    """The server logs in to the pool before it takes the pool in; the password of a server before it is forgotten."""
    assert_enabled(call, "WLB")
    wlb.split(wlb_url)
    yield call.pool.durations.device
    found = wlb.connect(call.pool, wlb_url, wlb_username, wlb_password)
    if (xenserver_username, xenserver_password) != (call.pool.username, call.pool.password):
        raise wlb.internal_error(wlb.CANNOT_LOG_IN, "The server could not log in to the pool.")
    pool = call.db.pool()
    found.pools[pool["uuid"]] = dict(SETTINGS)
    before = pool.get("wlb_password", NULL)
    secret = NULL
    if "wlb_password" in pool:
        secret = make_secret(call, wlb_password).ref
    else:
        call.pool.balancers.password = wlb_password
    call.db.write(pool, wlb_username=wlb_username, wlb_password=secret, wlb_url=wlb_url)
    _destroy_secret(call, before)
    return ""


@pool_verb(*SETUP, "wlb_enabled")
def deconfigure_wlb(call: Call) -> Steps:
    """The pool forgets the server, whether or not that can be told."""
    pool = call.db.pool()
    if not pool["wlb_url"]:
        raise refuse("WLB_NOT_INITIALIZED")
    yield call.pool.durations.device
    try:
        wlb.server(call).pools.pop(pool["uuid"])
    except Failure as error:
        if not error.code.startswith("WLB_"):
            raise
    before = pool.get("wlb_password", NULL)
    call.db.write(pool, wlb_username="", wlb_password=NULL, wlb_url="", wlb_enabled=False)
    _destroy_secret(call, before)
    return ""


def _destroy_secret(call: Call, ref: str) -> None:
    row = call.db.find("secret", ref)
    if row is not None:
        call.db.delete(row)


@pool_verb()
def send_wlb_configuration(call: Call, config: dict[str, str]) -> Steps:
    wlb.assert_initialised(call)
    yield call.pool.durations.device
    wlb.server(call).pools[call.db.pool()["uuid"]].update(config)
    return ""


@pool_verb()
def retrieve_wlb_configuration(call: Call) -> Steps:
    wlb.assert_initialised(call)
    yield call.pool.durations.device
    return dict(wlb.server(call).pools[call.db.pool()["uuid"]])


# --- asking


@pool_verb()
def retrieve_wlb_recommendations(call: Call) -> Steps:
    """By guest: `WLB`, the uuid of the host to move it to, the numbers of the optimisation and of this part of it, why."""
    wlb.assert_in_use(call)
    yield call.pool.durations.device
    return wlb.moves(call)


@vm_verb()
def retrieve_wlb_recommendations_(call: Call, vm: str) -> Steps:
    """By host: `WLB`, its stars, the number of the answer, and for one without stars why."""
    row = call.db.get("VM", vm)
    wlb.assert_in_use(call)
    yield call.pool.durations.device
    return wlb.places(call, row)


@host_verb()
def retrieve_wlb_evacuate_recommendations(call: Call, ref: str) -> Steps:
    """By guest: `WLB` and the uuid of the host that takes it, or the error that keeps it."""
    host = call.db.get("host", ref)
    wlb.assert_in_use(call)
    yield call.pool.durations.device
    return {vm: _told(plan) for vm, plan in wlb.evacuation(call, host).items()}


def _told(plan: Row | Failure) -> list[str]:
    return list(plan.details) if isinstance(plan, Failure) else ["WLB", plan["uuid"]]
