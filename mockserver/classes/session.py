"""Logging in and out."""

from __future__ import annotations

from typing import Any

from xenctl import datamodel
from xenctl.errors import Failure

from .. import roles, rules
from ..call import Call, Steps, refuse
from ..directory import subjects_of
from ..store import NULL
from . import verbs_of

verb = verbs_of("session")

GUESSING = 5.0
"""Simulated seconds until who guesses is told that there is no session."""
TOLD_APART_SINCE = datamodel.load().order("1.289.0")
"""The first version that tells a wrong password from a lack of rights, and does not ask the directory for root or wait where
root's password is wrong."""


@verb()
def login_with_password(call: Call, uname: str, pwd: str, version: str, originator: str) -> str | Steps:
    if call.machine.xapi.mode == "member":
        raise refuse("HOST_IS_SLAVE", call.pool.master_address)
    if _is_root(call, uname, pwd):
        return _new(call, originator=originator, auth_user_name=_of_root(call, uname))
    host, apart = call.pool.host_row(call.machine), call.at_least(TOLD_APART_SINCE)
    if host is not None and host.get("external_auth_type") and not (apart and uname == call.pool.username):
        found = _in_directory(call, uname, pwd)
        return _late(found) if isinstance(found, Failure) else _new(call, originator=originator, **found)
    error = refuse("SESSION_AUTHENTICATION_FAILED", uname, "Authentication failure")
    if apart:
        raise error
    return _late(error)


def _in_directory(call: Call, uname: str, pwd: str) -> dict[str, Any] | Failure:
    """What the session of a directory's user holds, or why there is none."""
    account = call.pool.directory.find(uname)
    no_rights = "SESSION_AUTHORIZATION_FAILED" if call.at_least(TOLD_APART_SINCE) else "SESSION_AUTHENTICATION_FAILED"
    if account is None or account.is_group or account.password != pwd:
        return refuse("SESSION_AUTHENTICATION_FAILED", uname, "Wrong credentials")
    if account.suspended:
        text = f"User {uname} (subject_id {account.sid}) suspended in external directory"
        return refuse(no_rights, uname, text)
    who, subjects = f"Subject {uname} (identifier {account.sid})", subjects_of(call.db, account)
    if not subjects:
        return refuse(no_rights, uname, f"{who} has no access rights in this pool")
    held = [role for ref in subjects for role in call.db.get("subject", ref).get("roles", ())]
    permissions = roles.granted(call.db.release, held)
    if not permissions and call.at_least(roles.SINCE):
        return refuse("RBAC_PERMISSION_DENIED", "session.login_with_password", f"{who} has no roles in this pool")
    return {
        "is_local_superuser": False,
        "subject": subjects[0],
        "auth_user_sid": account.sid,
        "auth_user_name": account.full_name(call.pool.directory.domain),
        "rbac_permissions": permissions,
    }


def _late(error: Failure) -> Steps:
    """Raise `error` after a while."""
    yield GUESSING
    raise error


@verb()
def slave_login(call: Call, host: str, psecret: str) -> str:
    """The login of a member's toolstack: it may do what users may not, on members too."""
    _know_secret(call, host, psecret)
    originator = "xapi" if call.at_least(rules.DUNDEE) else ""
    return _new(call, this_host=host, originator=originator, pool=True, auth_user_name=_of_root(call, host))


@verb()
def logout(call: Call) -> str:
    """A local session goes on: that has a logout of its own."""
    call.pool.old_events.subscriptions.pop(call.caller, None)
    call.pool.views.pop(call.caller, None)
    if call.session is not None:
        call.pool.store.delete(call.session)
    return ""


@verb()
def change_password(call: Call, old_pwd: str, new_pwd: str) -> str:
    """It is root's password that changes, and the old one is not looked at."""
    if call.session is not None and not call.session.get("is_local_superuser", True):
        raise refuse("USER_IS_NOT_LOCAL_SUPERUSER", "Failed to change password for user root")
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
    if not _is_root(call, uname, pwd):
        raise refuse("SESSION_AUTHENTICATION_FAILED", uname, "Authentication failure")
    return _new_local(call)


@verb()
def local_logout(call: Call) -> str:
    call.machine.xapi.local_sessions.discard(call.caller)
    return ""


def _new(call: Call, **fields: Any) -> str:
    """Make a session with these fields, of root unless they say otherwise."""
    host = call.pool.host_row(call.machine)
    fields = {
        "uuid": call.pool.new_uuid(),
        "this_host": host.ref if host else NULL,
        "last_active": call.clock.stamp(),
        "validation_time": call.clock.stamp(),
        "is_local_superuser": True,
        **fields,
    }
    return call.db.create("session", call.pool.new_ref(), fields).ref


def _new_local(call: Call) -> str:
    ref = call.pool.new_ref()
    call.machine.xapi.local_sessions.add(ref)
    return ref


def _is_root(call: Call, uname: str, pwd: str) -> bool:
    return (uname, pwd) == (call.pool.username, call.machine.system.password)


def _of_root(call: Call, name: str) -> str:
    """The name that a session of root or of a host carries: none before 6.0."""
    return name if call.at_least(rules.BOSTON) else ""


def _know_secret(call: Call, who: str, secret: str) -> None:
    if secret not in call.machine.system.secrets:
        raise refuse("SESSION_AUTHENTICATION_FAILED", who, "Pool credentials invalid")
