"""A directory service for authentication on every host of the pool."""

from __future__ import annotations

from contextlib import suppress

from xenctl.errors import Failure

from .. import hosts
from ..call import Call, refuse
from . import host_external_auth, verbs_of
from .host_external_auth import FIELDS

verb = verbs_of("pool")

WRITES = (*(f"host.{field}" for field in FIELDS), "message.*", "subject.*", "session.*")
LIMITS = {"Internal auth": "local_auth_max_threads", "External auth": "ext_auth_max_threads"}
"""What limits how many log in at a time, by xapi's name for it: the field of the pool that it begins with."""


@verb(*WRITES)
def enable_external_auth(call: Call, pool: str, config: dict[str, str], service_name: str, auth_type: str) -> str:
    """All hosts join, the master first, or none does. Subjects whom the domain does not know are destroyed."""
    call.db.get("pool", pool)
    refs = hosts.master_first(call)
    rows = [call.db.get("host", ref) for ref in refs]
    for row in rows:
        if row["external_auth_type"]:
            raise refuse("POOL_AUTH_ALREADY_ENABLED", row.ref)
    if len({row["hostname"] for row in rows}) < len(rows):
        text = "At least two hosts in the pool have the same hostname"
        raise refuse("POOL_AUTH_ENABLE_FAILED_DUPLICATE_HOSTNAME", refs[0], text)
    for number, ref in enumerate(refs):
        try:
            host_external_auth.enable_external_auth(call, ref, config, service_name, auth_type)
        except Failure as error:
            for joined in refs[: number + 1]:
                with suppress(Failure):
                    host_external_auth.disable_external_auth(call, joined, config, force=False)
            raise _of_pool(error, ref, "ENABLE") from None
    for subject in list(call.db.table("subject").values()):
        if call.pool.directory.by_sid(subject["subject_identifier"]) is None:
            call.db.delete(subject)
    return ""


def _of_pool(error: Failure, host: str, action: str) -> Failure:
    """The pool's error for that of one host: its own kind where that is told, else the general one."""
    if error.code in ("AUTH_UNKNOWN_TYPE", "NOT_IMPLEMENTED"):
        return error
    if error.code.startswith(f"AUTH_{action}_FAILED"):
        return refuse(f"POOL_{error.code}", host, *error.params)
    return refuse(f"POOL_AUTH_{action}_FAILED", host, f"{error.code}: [ {'; '.join(error.params)} ]")


@verb(*WRITES)
def disable_external_auth(call: Call, pool: str, config: dict[str, str]) -> str:
    """Every host that answers leaves, whatever becomes of others; the first error is raised. Where all have left, the
    directory's users are logged out."""
    call.db.get("pool", pool)
    failed: list[tuple[str, Failure]] = []
    for ref in hosts.master_first(call):
        try:
            host_external_auth.disable_external_auth(call, ref, config, force=False)
        except Failure as error:
            failed.append((ref, error))
    if failed:
        ref, first = failed[0]
        text = first.params[0] if len(first.params) == 1 else f"{first.code}: [ {'; '.join(first.params)} ]"
        code = first.code if first.code.startswith("AUTH_DISABLE_FAILED") else "AUTH_DISABLE_FAILED"
        raise refuse(f"POOL_{code}", ref, f"{call.db.get('host', ref)['name_label']}: {text}")
    for session in list(call.db.table("session").values()):
        if not session.get("is_local_superuser", True) and not session.get("client_certificate", False):
            call.db.delete(session)
    return ""


@verb("message.*")
def detect_nonhomogeneous_external_auth(call: Call, pool: str) -> str:
    """A message for each member whose directory is not the master's."""
    call.db.get("pool", pool)
    host_external_auth.compare_host(call, call.db.get("host", call.db.pool()["master"]))
    return ""


# --- how many log in at a time


@verb()
def set_local_auth_max_threads(call: Call, ref: str, value: int) -> str:
    """Until the master's toolstack starts anew, which goes by the field again; this does not write it, as xapi does not."""
    return _limit(call, ref, "Internal auth", value)


@verb()
def set_ext_auth_max_threads(call: Call, ref: str, value: int) -> str:
    """The same for users of the directory."""
    return _limit(call, ref, "External auth", value)


def _limit(call: Call, ref: str, name: str, value: int) -> str:
    call.db.get("pool", ref)
    if value < 1:
        text = f"The semaphore '{name}' must have at least 1 resource available, requested: {value}"
        raise refuse("INTERNAL_ERROR", f'Invalid_argument("{text}")')
    call.machine.xapi.login_limits[LIMITS[name]] = value
    return ""
