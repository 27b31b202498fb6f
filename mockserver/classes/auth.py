"""Questions to the directory service that hosts use for authentication."""

from __future__ import annotations

from ..call import Call, refuse
from ..directory import Account
from . import verbs_of

verb = verbs_of("auth")

KNOWN_TYPES = ("AD",)


def account(call: Call, name: str = "", sid: str = "") -> Account:
    """The directory's account of a name or an identifier.

    Raises `AUTH_IS_DISABLED` where the host that serves the call uses no directory, `AUTH_UNKNOWN_TYPE` where it uses one
    that xapi does not know, `SUBJECT_CANNOT_BE_RESOLVED` for somebody who is not there.
    """
    host = call.pool.host_row(call.machine)
    kind = host["external_auth_type"] if host is not None else ""
    if not kind:
        raise refuse("AUTH_IS_DISABLED")
    if kind not in KNOWN_TYPES:
        raise refuse("AUTH_UNKNOWN_TYPE", kind)
    found = call.pool.directory.by_sid(sid) if sid else call.pool.directory.find(name)
    if found is None:
        raise refuse("SUBJECT_CANNOT_BE_RESOLVED")
    return found


@verb()
def get_subject_identifier(call: Call, subject_name: str) -> str:
    return account(call, name=subject_name).sid


@verb()
def get_group_membership(call: Call, subject_identifier: str) -> list[str]:
    """The groups of a user. Of a group it is not asked in which groups it is."""
    found = account(call, sid=subject_identifier)
    return [] if found.is_group else list(found.groups)


@verb()
def get_subject_information_from_identifier(call: Call, subject_identifier: str) -> dict[str, str]:
    return account(call, sid=subject_identifier).information(call.pool.directory.domain)
