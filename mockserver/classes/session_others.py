"""Sessions of others: who from the directory is logged in, logging them out; and sessions that look at another database."""

from __future__ import annotations

from collections.abc import Iterator

from .. import roles
from ..call import Call, refuse
from ..store import NULL, Row, Store
from . import verbs_of

verb = verbs_of("session")

STATE = ("/var/lib/xcp/state.db", "/var/xapi/state.db")
"""Where a host has its database: since 6.0, and before."""
FROM_FILE = "db-from-file"
"""The user of a session that looks at a database from a file."""


def _of_subjects(call: Call) -> Iterator[tuple[Row, tuple[str, str]]]:
    """The sessions of users of the directory, with who each is, and the subject by which he was let in."""
    for session in list(call.db.table("session").values()):
        if not session["is_local_superuser"]:
            subject = call.db.find("subject", session["subject"])
            yield session, (session["auth_user_sid"], subject["subject_identifier"] if subject is not None else "")


@verb()
def get_all_subject_identifiers(call: Call) -> list[str]:
    return list(dict.fromkeys(sid for _, sids in _of_subjects(call) for sid in sids if sid))


@verb()
def logout_subject_identifier(call: Call, subject_identifier: str) -> str:
    """Log out a user, or everybody who was let in as a member of a group; root and the caller stay."""
    for session, sids in _of_subjects(call):
        if subject_identifier in sids and session.ref != call.caller:
            call.db.delete(session)
    return ""


@verb()
def create_from_db_file(call: Call, filename: str) -> str:
    """A session that reads what a database file on the host holds, and writes nothing."""
    if filename not in STATE:
        raise refuse("INTERNAL_ERROR", f'Sys_error("{filename}: No such file or directory")')
    db, known = call.pool.store, roles.of_release(call.db.release)
    host = call.pool.host_row(call.machine)
    fields = {
        "uuid": call.pool.new_uuid(),
        "this_host": host.ref if host is not None else NULL,
        "last_active": call.clock.stamp(),
        "validation_time": call.clock.stamp(),
        "originator": "xapi",
        "is_local_superuser": False,
        "auth_user_sid": "readonly-sid",
        "auth_user_name": FROM_FILE,
        "rbac_permissions": roles.granted(db.release, [known.by_name["read-only"].ref]),
    }
    ref = db.create("session", call.pool.new_ref(), fields).ref
    call.pool.views[ref] = Store.load(db.dump(), db.release)
    return ref
