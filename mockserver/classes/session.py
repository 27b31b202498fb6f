"""Logging in and out."""

from __future__ import annotations

from ..call import Call, refuse
from ..store import NULL
from . import verbs_of

verb = verbs_of("session")


@verb()
def login_with_password(call: Call, uname: str, pwd: str, version: str, originator: str) -> str:
    if call.machine.xapi.mode == "member":
        raise refuse("HOST_IS_SLAVE", call.pool.master_address)
    _authenticate(call, uname, pwd)
    host = call.pool.host_row(call.machine)
    ref = call.pool.new_ref()
    call.db.create(
        "session",
        ref,
        {
            "uuid": call.pool.new_uuid(),
            "this_host": host.ref if host else NULL,
            "last_active": call.clock.stamp(),
            "is_local_superuser": True,
            "auth_user_name": uname,
            "originator": originator,
        },
    )
    return ref


@verb()
def logout(call: Call) -> str:
    if call.session is not None:
        call.db.delete(call.session)
    return ""


@verb()
def slave_local_login_with_password(call: Call, uname: str, pwd: str) -> str:
    _authenticate(call, uname, pwd)
    ref = call.pool.new_ref()
    call.machine.xapi.local_sessions.add(ref)
    return ref


@verb()
def local_logout(call: Call) -> str:
    call.machine.xapi.local_sessions.clear()
    return ""


def _authenticate(call: Call, uname: str, pwd: str) -> None:
    if (uname, pwd) != (call.pool.username, call.pool.password):
        raise refuse("SESSION_AUTHENTICATION_FAILED", uname, "Authentication failure")
