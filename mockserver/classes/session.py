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
    return _new(call, uname, originator=originator)


@verb()
def slave_login(call: Call, host: str, psecret: str) -> str:
    """The login of a member's toolstack: it may do what users may not, on members too."""
    _know_secret(call, host, psecret)
    return _new(call, host, pool=True)


@verb()
def logout(call: Call) -> str:
    call.machine.xapi.local_sessions.discard(call.caller)
    call.pool.old_events.subscriptions.pop(call.caller, None)
    if call.session is not None:
        call.db.delete(call.session)
    return ""


@verb()
def change_password(call: Call, old_pwd: str, new_pwd: str) -> str:
    """It is root's password that changes, whoever asks, and the old one is not looked at."""
    if call.session is not None and not call.session.get("is_local_superuser", True):
        raise refuse("USER_IS_NOT_LOCAL_SUPERUSER", "only root may change root's password")
    if call.pool.username != "root":
        raise refuse("CHANGE_PASSWORD_REJECTED", "this pool has no user root")
    call.pool.password = new_pwd
    return ""


@verb()
def slave_local_login(call: Call, psecret: str) -> str:
    _know_secret(call, "localhost", psecret)
    return _new_local(call)


@verb()
def slave_local_login_with_password(call: Call, uname: str, pwd: str) -> str:
    _authenticate(call, uname, pwd)
    return _new_local(call)


@verb()
def local_logout(call: Call) -> str:
    call.machine.xapi.local_sessions.discard(call.caller)
    return ""


def _new(call: Call, name: str, *, originator: str = "", pool: bool = False) -> str:
    host = call.pool.host_row(call.machine)
    fields = {
        "uuid": call.pool.new_uuid(),
        "this_host": host.ref if host else NULL,
        "last_active": call.clock.stamp(),
        "pool": pool,
        "is_local_superuser": True,
        "auth_user_name": name,
        "originator": originator,
    }
    return call.db.create("session", call.pool.new_ref(), fields).ref


def _new_local(call: Call) -> str:
    ref = call.pool.new_ref()
    call.machine.xapi.local_sessions.add(ref)
    return ref


def _authenticate(call: Call, uname: str, pwd: str) -> None:
    if (uname, pwd) != (call.pool.username, call.pool.password):
        raise refuse("SESSION_AUTHENTICATION_FAILED", uname, "Authentication failure")


def _know_secret(call: Call, who: str, secret: str) -> None:
    if secret != call.machine.system.pool_secret:
        raise refuse("SESSION_AUTHENTICATION_FAILED", who, "Pool credentials invalid")
