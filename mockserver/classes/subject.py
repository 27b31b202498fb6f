"""Subjects: the directory's users and groups that may log in to the pool."""

from __future__ import annotations

from typing import Any

from .. import roles, rules
from ..call import Call, refuse
from ..licence import assert_enabled, restricted
from . import verbs_of
from .auth import account
from .generic import make

verb = verbs_of("subject")


@verb("*")
def create(call: Call, args: dict[str, Any]) -> str:
    """A subject without roles where the licence lets an administrator give some, else one that may do everything."""
    sid = args["subject_identifier"]
    if any(host.get("external_auth_type") == "AD" for host in call.db.table("host").values()):
        assert_enabled(call, "AD")
    if any(row["subject_identifier"] == sid for row in call.db.table("subject").values()):
        raise refuse("SUBJECT_ALREADY_EXISTS")
    administrator = roles.of_release(call.db.release).by_name["pool-admin"].ref
    more: dict[str, Any] = {"roles": [administrator] if restricted(call, "RBAC") else []}
    if call.at_least(rules.NILE):
        more["other_config"] = account(call, sid=sid).information(call.pool.directory.domain)
    return make(call, "subject", args, **more).ref


@verb("roles")
def add_to_roles(call: Call, ref: str, role: str) -> str:
    assert_enabled(call, "RBAC")
    if role not in roles.of_release(call.db.release).by_ref:
        raise refuse("ROLE_NOT_FOUND")
    row = call.db.get("subject", ref)
    if role in row["roles"]:
        raise refuse("ROLE_ALREADY_EXISTS")
    call.db.write(row, roles=[role, *row["roles"]])
    return ""


@verb("roles")
def remove_from_roles(call: Call, ref: str, role: str) -> str:
    assert_enabled(call, "RBAC")
    row = call.db.get("subject", ref)
    if role not in row["roles"]:
        raise refuse("ROLE_NOT_FOUND")
    call.db.write(row, roles=[held for held in row["roles"] if held != role])
    return ""


@verb()
def get_permissions_name_label(call: Call, ref: str) -> list[str]:
    return roles.granted(call.db.release, call.db.get("subject", ref)["roles"])
