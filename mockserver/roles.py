"""Roles and permissions, made from the data model: every message is a permission, a role is a set of them.

They are in no table: references and uuids are digests of names, the same on every pool. A session of the local root, of a
pool member or of a host may do anything; that of a directory's user what the roles gave that its subjects had at login.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from hashlib import md5
from typing import TYPE_CHECKING, Any
from uuid import UUID

from xenctl import datamodel
from xenctl.errors import Failure
from xenctl.releases import Release, find, serves

if TYPE_CHECKING:
    from xenctl.datamodel import Message

    from .call import Call

SINCE = find("5.6.0").order
"""The first release with roles; before, whoever could log in could do anything."""
CERTIFICATES_SINCE = datamodel.load().order("22.5.0")

DESCRIPTIONS = {
    "vm-power-admin": "Manages VMs and templates, chooses hosts for them, and uses snapshots and dynamic memory",
    "vm-admin": "Manages VMs and templates",
    "vm-operator": "Uses VMs and their consoles",
    "read-only": "Logs in and reads",
    "client-cert": "What is open to those who log in with a client certificate",
    "pool-admin": "Everything, control domains, subjects and external authentication included",
    "pool-operator": "Manages hosts and the pool: storage, members, patches, high availability",
}
"""What roles are for, in the order in which xapi lists them."""

RANK = ("pool-admin", "pool-operator", "vm-power-admin", "vm-admin", "vm-operator", "client-cert", "read-only")
"""The roles, most powerful first: each may do what those after it may."""

_FOLDERS = (("folder", "vm-operator"), ("XenCenter.CustomFields.*", "vm-operator"))
GUARDED = {
    "VM.other_config": (("pci", "pool-admin"), ("hvm_serial", "pool-admin"), *_FOLDERS),
    "VM.platform": (("hvm_serial", "pool-admin"),),
    "host.other_config": _FOLDERS,
    "pool.other_config": (*_FOLDERS, ("EMPTY_FOLDERS", "vm-operator")),
    "network.other_config": (*_FOLDERS, ("XenCenterCreateInProgress", "vm-operator")),
    "SR.other_config": _FOLDERS,
    "VDI.other_config": _FOLDERS,
    "task.other_config": (
        ("applies_to", "vm-operator"),
        ("XenCenterUUID", "vm-operator"),
        ("XenCenterMeddlingActionTitle", "vm-operator"),
    ),
}
"""The keys of maps that need another role to be added or removed than other keys, by field; `*` ends a prefix."""

FORMERLY = {
    "task.other_config": datamodel.load().order("25.8.0"),
    "pool.uefi_certificates": datamodel.load().order("22.16.0"),
}
"""The fields that could be written like others before these releases: by pool operators."""

HTTP = {
    "pool-admin": "get_host_backup put_host_restore get_pool_xml_db_sync put_pool_xml_db_sync get_config_sync rrd "
    "connect_remotecmd post_remote_db_access post_remote_db_access_v2 post_services put_services "
    "connect_console/host_console connect_console_ws/host_console_ws get_vncsnapshot/host_console",
    "pool-operator": "get_host_logs_download get_system_status put_pool_patch_upload put_bundle get_enabled_repository "
    "get_host_updates get_updates",
    "vm-power-admin": "put_blob put_messages get_services_xenops post_services_xenops put_services_xenops "
    "get_services_sm post_services_sm put_services_sm",
    "vm-admin": "get_export get_export_metadata put_import put_import_metadata get_export_raw_vdi put_import_raw_vdi",
    "vm-operator": "connect_console connect_console_ws get_vncsnapshot",
    "read-only": "get_audit_log vm_rrd get_vm_rrds host_rrd get_host_rrds sr_rrd rrd_updates get_blob get_services "
    "get_wlb_report get_wlb_diagnostics",
}
"""The least role for each request that is no call."""


@dataclass(frozen=True)
class Role:
    """A role, or a permission, which is one without `subroles`."""

    name: str
    uuid: str
    subroles: tuple[str, ...]
    description: str
    is_internal: bool

    @property
    def ref(self) -> str:
        return f"OpaqueRef:{self.uuid}"


@dataclass(frozen=True)
class Roles:
    """What a release knows: every permission with the roles that have it, and roles and permissions by reference."""

    permissions: dict[str, tuple[str, ...]]
    by_ref: dict[str, Role]
    by_name: dict[str, Role]

    def names(self, ref: str) -> list[str]:
        """The names of the permissions that a role comes to."""
        role = self.by_ref[ref]
        return [self.by_ref[part].name for part in role.subroles] or [role.name]


def _uuid(name: str) -> str:
    return str(UUID(bytes=md5(name.encode(), usedforsecurity=False).digest()))


def and_above(role: str) -> tuple[str, ...]:
    """A role and those that may do all that it may, in xapi's order."""
    able = RANK[: RANK.index(role) + 1]
    return tuple(name for name in DESCRIPTIONS if name in able)


@cache
def of_release(release: Release) -> Roles:
    """The roles and permissions that a host of `release` knows."""
    known = tuple(name for name in DESCRIPTIONS if name != "client-cert" or release.order >= CERTIFICATES_SINCE)
    permissions: dict[str, tuple[str, ...]] = {}

    def allow(name: str, roles: tuple[str, ...]) -> None:
        permissions[name] = tuple(role for role in known if role in roles)

    for cls in datamodel.load().classes.values():
        for message in cls.messages.values():
            if serves(release, message):
                alike = release.order < FORMERLY.get(_field_of(message), ())
                allow(message.wire_name, and_above("pool-operator") if alike else message.roles)
                for key, role in _keys(message):
                    allow(f"{message.wire_name}/key:{key}", and_above(role))
    for role, actions in HTTP.items():
        for action in actions.split():
            allow(f"http/{action}", and_above(role))
    allow("task.destroy/any", and_above("pool-operator"))
    leaves = {name: Role(name.lower(), _uuid(name), (), "A basic permission", is_internal=True) for name in permissions}
    roles = [
        Role(
            role,
            _uuid(role),
            tuple(leaves[name].ref for name, able in permissions.items() if role in able),
            DESCRIPTIONS[role],
            is_internal=role == "client-cert",
        )
        for role in known
    ]
    everything = [*leaves.values(), *roles]
    return Roles(
        {name.lower(): able for name, able in permissions.items()},
        {role.ref: role for role in everything},
        {role.name: role for role in everything},
    )


def _field_of(message: Message) -> str:
    """The field that a message writes, or the map that it adds to or removes from, going by its name."""
    for prefix in ("set_", "add_to_", "remove_from_"):
        if message.name.startswith(prefix):
            return f"{message.class_name}.{message.name[len(prefix) :]}"
    return ""


def _keys(message: Message) -> tuple[tuple[str, str], ...]:
    return () if message.name.startswith("set_") else GUARDED.get(_field_of(message), ())


def granted(release: Release, roles: list[str]) -> list[str]:
    """The permissions that the roles of these references come to, sorted."""
    known = of_release(release)
    return sorted({name for ref in roles if ref in known.by_ref for name in known.names(ref)})


# --- checks


def denied(release: Release, permission: str) -> Failure:
    """The error for a session that lacks a permission."""
    able = ", ".join(of_release(release).permissions.get(permission, ()))
    text = f"No permission in user session. (Roles with this permission: {able})"
    return Failure(["RBAC_PERMISSION_DENIED", permission, text])


def has(session: Any, permission: str) -> bool:
    """Whether a session, given by its row, has a permission; None is a session that only its host knows."""
    if session is None or session.get("is_local_superuser", True) or "rbac_permissions" not in session:
        return True
    held = session["rbac_permissions"]
    place = bisect_left(held, permission)
    return place < len(held) and held[place] == permission


def assert_allowed(call: Call) -> None:
    """Raise `RBAC_PERMISSION_DENIED` where the call's session must not make it."""
    session = call.session
    if session is None or session.get("is_local_superuser", True):
        return
    permission = call.message.wire_name.lower()
    for key, _ in _keys(call.message):
        given = str(call.args[1])
        if given == key or (key.endswith("*") and given.startswith(key[:-1])):
            permission = f"{permission}/key:{key.lower()}"
            break
    if not has(session, permission):
        raise denied(call.db.release, permission)
