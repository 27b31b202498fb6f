"""Logging in and out."""

from __future__ import annotations

from typing import Any

from xenctl.errors import Failure

from .. import roles
from ..call import Call, Steps, refuse
from ..directory import subjects_of
from ..store import NULL
from . import verbs_of

verb = verbs_of("session")

GUESSING = 5.0
"""Simulated seconds until a user of the directory is told that there is no session."""


@verb()
def login_with_password(call: Call, uname: str, pwd: str, version: str, originator: str) -> str | Steps:
    if call.machine.xapi.mode == "member":
        raise refuse("HOST_IS_SLAVE", call.pool.master_address)
    host = call.pool.host_row(call.machine)
    if host is not None and host.get("external_auth_type") and uname != call.pool.username:
        found = _in_directory(call, uname, pwd)
        return _late(found) if isinstance(found, Failure) else _new(call, uname, originator=originator, **found)
    _authenticate(call, uname, pwd)
    return _new(call, uname, originator=originator)


def _in_directory(call: Call, uname: str, pwd: str) -> dict[str, Any] | Failure:
    """What the session of a directory's user holds, or why there is none."""
    account = call.pool.directory.find(uname)
    if account is None or account.is_group or account.password != pwd:
        return refuse("SESSION_AUTHENTICATION_FAILED", uname, "Wrong credentials")
    if account.suspended:
        text = f"User {uname} (subject_id {account.sid}) suspended in external directory"
        return refuse("SESSION_AUTHORIZATION_FAILED", uname, text)
    who, subjects = f"Subject {uname} (identifier {account.sid})", subjects_of(call.db, account)
    if not subjects:
        return refuse("SESSION_AUTHORIZATION_FAILED", uname, f"{who} has no access rights in this pool")
    held = [role for ref in subjects for role in call.db.get("subject", ref).get("roles", ())]
    permissions = roles.granted(call.db.release, held)
    if not permissions and call.at_least(roles.SINCE):
        return refuse("RBAC_PERMISSION_DENIED", "session.login_with_password", f"{who} has no roles in this pool")
    return {
        "is_local_superuser": False,
        "subject": subjects[0],
        "auth_user_sid": account.sid,
        "validation_time": call.clock.stamp(),
        "rbac_permissions": permissions,
    }


def _late(error: Failure) -> Steps:
    """Raise `error` after a while: who guesses passwords is to wait."""
    yield GUESSING
    raise error


@verb()
def slave_login(call: Call, host: str, psecret: str) -> str:
    """The login of a member's toolstack: it may do what users may not, on members too."""
    _know_secret(call, host, psecret)
    return _new(call, host, pool=True)


@verb()
def logout(call: Call) -> str:
    call.machine.xapi.local_sessions.discard(call.caller)
    call.pool.old_events.subscriptions.pop(call.caller, None)
    call.pool.views.pop(call.caller, None)
    if call.session is not None:
        call.pool.store.delete(call.session)
    return ""


@verb()
def change_password(call: Call, old_pwd: str, new_pwd: str) -> str:
    """It is root's password that changes, whoever asks, and the old one is not looked at."""
    if call.session is not None and not call.session.get("is_local_superuser", True):
        raise refuse("USER_IS_NOT_LOCAL_SUPERUSER", "only root may change root's password")
    if call.pool.username != "root":
        raise refuse("CHANGE_PASSWORD_REJECTED", "this pool has no user root")
    call.pool.password = new_pwd
    for machine in call.pool.machines:
        if machine.xapi.mode in ("master", "member"):  # the others get it when they start
            machine.system.password = new_pwd
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


def _new(call: Call, name: str, *, originator: str = "", pool: bool = False, **more: Any) -> str:
    host = call.pool.host_row(call.machine)
    fields = {
        "uuid": call.pool.new_uuid(),
        "this_host": host.ref if host else NULL,
        "last_active": call.clock.stamp(),
        "pool": pool,
        "is_local_superuser": True,
        "auth_user_name": name,
        "originator": originator,
        **more,
    }
    return call.db.create("session", call.pool.new_ref(), fields).ref


def _new_local(call: Call) -> str:
    ref = call.pool.new_ref()
    call.machine.xapi.local_sessions.add(ref)
    return ref


def _authenticate(call: Call, uname: str, pwd: str) -> None:
    if (uname, pwd) != (call.pool.username, call.machine.system.password):
        raise refuse("SESSION_AUTHENTICATION_FAILED", uname, "Authentication failure")


def _know_secret(call: Call, who: str, secret: str) -> None:
    if secret not in call.machine.system.secrets:
        raise refuse("SESSION_AUTHENTICATION_FAILED", who, "Pool credentials invalid")
