"""Roles and permissions: read only, and in no table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..call import Call, refuse
from ..roles import Role, Roles, of_release
from . import verbs_of

verb = verbs_of("role")

ROLES_ONLY, PERMISSIONS_ONLY = "subroles<>[]", "subroles=[]"
"""The only queries that xapi understands here; any other text asks for everything."""


def _known(call: Call) -> Roles:
    return of_release(call.db.release)


def _role(call: Call, ref: str) -> Role:
    role = _known(call).by_ref.get(ref)
    if role is None:
        raise refuse("HANDLE_INVALID", "role", ref)
    return role


def _record(call: Call, role: Role) -> dict[str, Any]:
    whole = {
        "uuid": role.uuid,
        "name_label": role.name,
        "name_description": role.description,
        "subroles": list(role.subroles),
        "is_internal": role.is_internal,
    }
    return {name: whole[name] for name in call.db.shape("role").visible}


def _where(call: Call, query: str) -> Iterable[Role]:
    wanted: dict[str, Callable[[Role], bool]] = {
        ROLES_ONLY: lambda role: bool(role.subroles),
        PERMISSIONS_ONLY: lambda role: not role.subroles,
    }
    return filter(wanted.get(query, lambda role: True), _known(call).by_ref.values())


@verb()
def get_all(call: Call) -> list[str]:
    return list(_known(call).by_ref)


@verb()
def get_all_where(call: Call, expr: str) -> list[str]:
    return [role.ref for role in _where(call, expr)]


@verb()
def get_all_records(call: Call) -> dict[str, Any]:
    return {role.ref: _record(call, role) for role in _known(call).by_ref.values()}


@verb()
def get_all_records_where(call: Call, expr: str) -> dict[str, Any]:
    return {role.ref: _record(call, role) for role in _where(call, expr)}


@verb()
def get_record(call: Call, ref: str) -> dict[str, Any]:
    return _record(call, _role(call, ref))


@verb()
def get_by_uuid(call: Call, uuid: str) -> str:
    ref = f"OpaqueRef:{uuid}"
    if ref not in _known(call).by_ref:
        raise refuse("UUID_INVALID", "role", uuid)
    return ref


@verb()
def get_by_name_label(call: Call, label: str) -> list[str]:
    role = _known(call).by_name.get(label)
    return [role.ref] if role is not None else []


@verb()
def get_uuid(call: Call, ref: str) -> str:
    return _role(call, ref).uuid


@verb()
def get_name_label(call: Call, ref: str) -> str:
    return _role(call, ref).name


@verb()
def get_name_description(call: Call, ref: str) -> str:
    return _role(call, ref).description


@verb()
def get_subroles(call: Call, ref: str) -> list[str]:
    return list(_role(call, ref).subroles)


@verb()
def get_is_internal(call: Call, ref: str) -> bool:
    return _role(call, ref).is_internal


# --- who may do what


@verb()
def get_permissions(call: Call, ref: str) -> list[str]:
    """The permissions that a role comes to; a permission comes to itself."""
    return list(_role(call, ref).subroles) or [ref]


@verb()
def get_permissions_name_label(call: Call, ref: str) -> list[str]:
    _role(call, ref)
    return _known(call).names(ref)


@verb()
def get_by_permission(call: Call, permission: str) -> list[str]:
    return [role.ref for role in _known(call).by_ref.values() if permission in role.subroles]


@verb()
def get_by_permission_name_label(call: Call, label: str) -> list[str]:
    known = _known(call)
    return [known.by_name[role].ref for role in known.permissions.get(label, ())]
