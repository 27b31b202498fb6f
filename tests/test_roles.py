"""Roles, subjects and users of a directory: who may log in, what each may do, and what the errors say."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import md5
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from people import PASSWORD, As, role, user

from xenctl import datamodel
from xenctl.errors import Failure

Make = Callable[..., Any]
ADMIN = "OpaqueRef:0165f154-ba3e-034e-6b27-5d271af109ba"


@pytest.fixture
def c(calls: Make) -> Any:
    caller = calls(release="8.2", hosts=2, vms=3)
    caller.pool.directory.connect(caller.pool)
    return caller


def login_refused(c: Any, name: str, password: str = PASSWORD) -> list[str]:
    with pytest.raises(Failure) as caught:
        As(c, name, password)
    return caught.value.details


# --- who may log in


def test_a_user_of_the_directory_logs_in_as_a_subject(c: Any) -> None:
    """The session says who it is, and what the roles come to."""
    subject = user(c, "alice", "read-only")
    alice = As(c, "alice")
    row = c.pool.store.get("session", alice.session)
    assert (row["is_local_superuser"], row["subject"], row["auth_user_name"]) == (False, subject, "EXAMPLE\\alice")
    assert row["auth_user_sid"] == c("subject.get_subject_identifier", subject)
    assert "vm.get_all" in row["rbac_permissions"] and "vm.start" not in row["rbac_permissions"]
    assert set(row["rbac_permissions"]) == set(c("subject.get_permissions_name_label", subject))
    assert alice("VM.get_all") == c("VM.get_all")


@pytest.mark.parametrize(
    ("release", "no_rights"), [("8.2", "SESSION_AUTHENTICATION_FAILED"), ("8.4", "SESSION_AUTHORIZATION_FAILED")]
)
def test_who_may_not_log_in_is_told_why_after_a_while(calls: Make, release: str, no_rights: str) -> None:
    """A wrong password, nobody, a group, somebody suspended, no subject, no roles; and five seconds pass."""
    c = calls(release=release, hosts=2, vms=3)
    c.pool.directory.connect(c.pool)
    directory = c.pool.directory
    user(c, "alice")
    directory.add("bob", password="pw")
    directory.add("carol", password="pw", suspended=True)
    directory.add("staff", is_group=True)
    before = c.pool.clock.now()
    for name, password in (("alice", "no"), ("nobody", "pw"), ("staff", "")):
        assert login_refused(c, name, password) == ["SESSION_AUTHENTICATION_FAILED", name, "Wrong credentials"]
    assert c.pool.clock.now() == before + 15
    assert login_refused(c, "carol")[:2] == [no_rights, "carol"]
    code, name, text = login_refused(c, "bob")
    assert (code, name) == (no_rights, "bob")
    assert text.startswith("Subject bob (identifier S-1-5-") and text.endswith("has no access rights in this pool")
    code, permission, text = login_refused(c, "alice")
    assert (code, permission) == ("RBAC_PERMISSION_DENIED", "session.login_with_password")
    assert text.endswith("has no roles in this pool")


def test_groups_count(c: Any) -> None:
    """Who is in a group that is a subject has its roles, also by a group of a group; a domain may go with the name."""
    directory = c.pool.directory
    directory.add("everybody", is_group=True)
    sid = directory.add("staff", is_group=True, groups=("everybody",))
    directory.add("dave", password="pw", groups=("staff",))
    ref = c("subject.create", {"subject_identifier": directory.accounts["everybody"].sid})
    c("subject.add_to_roles", ref, role(c, "vm-operator"))
    for name in ("dave", "EXAMPLE\\dave", "dave@example.com"):
        assert As(c, name)("VM.get_all")
    member = directory.accounts["dave"].sid
    assert set(c("auth.get_group_membership", member)) == {sid, directory.accounts["everybody"].sid}


@pytest.mark.parametrize(("release", "asked"), [("8.2", True), ("8.4", False)])
def test_whether_the_directory_is_asked_for_root(calls: Make, release: str, asked: bool) -> None:
    """It was until 8.2, where the password is not that of the host; nobody is while no host uses it."""
    c = calls(release=release, hosts=2, vms=3)
    c.pool.directory.connect(c.pool)
    c.pool.directory.add("root", password="pw")
    error = ["SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"]
    user(c, "alice", "pool-admin")
    before = c.pool.clock.now()
    details = login_refused(c, "root", "pw")
    if asked:
        assert details[2].startswith("Subject root (identifier S-1-5-")
    else:
        assert details == error
    assert c.pool.clock.now() == before + (5 if asked else 0)
    for host in c.pool.store.table("host").values():
        c.pool.store.write(host, external_auth_type="")
    assert login_refused(c, "alice") == ["SESSION_AUTHENTICATION_FAILED", "alice", "Authentication failure"]


def test_before_5_6_a_subject_might_do_anything(calls: Make) -> None:
    c = calls(release="5.5", vms=3)
    c.pool.directory.connect(c.pool)
    sid = c.pool.directory.add("alice", password="pw")
    c("subject.create", {"subject_identifier": sid, "other_config": {}})
    As(c, "alice")("VM.hard_shutdown", c.vm("vm01").ref)
    assert c.vm("vm01")["power_state"] == "Halted"


def test_only_root_changes_roots_password(calls: Make) -> None:
    """Before roles the verb itself sees to it; since 5.6 no role has the permission."""
    for release, code in (("5.5", "USER_IS_NOT_LOCAL_SUPERUSER"), ("5.6", "RBAC_PERMISSION_DENIED")):
        c = calls(release=release, hosts=1, vms=0)
        c.pool.directory.connect(c.pool)
        user(c, "alice", *(["pool-admin"] if release == "5.6" else []))
        error = As(c, "alice").refused("session.change_password", PASSWORD, "mine")
        assert error[0] == code
        if release == "5.5":
            assert error == [code, "Failed to change password for user root"]
        assert c.pool.password == "secret" and c.again()("pool.get_all")


# --- what each may do


@pytest.mark.parametrize(
    ("name", "method", "able"),
    [
        ("read-only", "VM.start", "vm-power-admin, vm-admin, vm-operator, pool-admin, pool-operator"),
        ("vm-operator", "VM.destroy", "vm-power-admin, vm-admin, pool-admin, pool-operator"),
        ("vm-admin", "VM.pool_migrate", "vm-power-admin, pool-admin, pool-operator"),
        ("vm-power-admin", "host.disable", "pool-admin, pool-operator"),
        ("pool-operator", "subject.destroy", "pool-admin"),
    ],
)
def test_a_call_beyond_the_roles_is_denied(c: Any, name: str, method: str, able: str) -> None:
    """By the name of its permission, with the roles that have it; what the call would do is not looked at."""
    user(c, "alice", name)
    alice = As(c, "alice")
    class_name, message_name = method.split(".")
    message = datamodel.load().classes[class_name].messages[message_name]
    args = [
        False if str(param.type) == "bool" else {} if "map" in str(param.type) else "none" for param in message.params
    ]
    mandatory = args[: message.mandatory]
    text = f"No permission in user session. (Roles with this permission: {able})"
    assert alice.refused(method, *mandatory) == ["RBAC_PERMISSION_DENIED", method.lower(), text]
    assert c.refused(method, *mandatory)[0] == "HANDLE_INVALID"


def test_an_asynchronous_call_is_denied_in_its_task(c: Any) -> None:
    """The call itself answers with the task; arguments that do not fit come before that."""
    user(c, "alice", "read-only")
    alice, vm = As(c, "alice"), c.vm("vm01").ref
    task = c.pool.store.get("task", alice("Async.VM.hard_shutdown", vm))
    assert (task["status"], task["error_info"][:2]) == ("failure", ["RBAC_PERMISSION_DENIED", "vm.hard_shutdown"])
    assert alice.refused("VM.hard_shutdown")[0] == "MESSAGE_PARAMETER_COUNT_MISMATCH"
    assert c.vm("vm01")["power_state"] == "Running"
    assert not [row for row in c.pool.store.table("task").values() if row["status"] == "pending"]


DONE_TO_TASKS = {
    "cancel": (),
    "destroy": (),
    "set_status": ("success",),
    "set_progress": (0.5,),
    "set_result": ("found",),
    "set_error_info": (["GONE"],),
    "set_resident_on": ("OpaqueRef:NULL",),
}


@pytest.mark.parametrize(("name", "args"), DONE_TO_TASKS.items())
def test_a_user_changes_no_task_of_another(calls: Make, name: str, args: tuple[Any, ...]) -> None:
    """Only one's own, from whichever session; those of others, root's too, take a pool operator."""
    c = calls(release="8.4", hosts=1, vms=0)
    c.pool.directory.connect(c.pool)
    user(c, "alice", "read-only")
    user(c, "bob", "vm-power-admin")
    user(c, "carol", "pool-operator")
    alice, again, bob, carol = (As(c, who) for who in ("alice", "alice", "bob", "carol"))
    able = "(Roles with this permission: pool-admin, pool-operator)"
    wrong = ["RBAC_PERMISSION_DENIED", "task.destroy/any", f"No permission in user session. {able}"]
    roots, hers = c("task.create", "", ""), alice("task.create", "", "")
    for ref in (roots, hers):
        before = dict(c.pool.store.get("task", ref))
        assert bob.refused(f"task.{name}", ref, *args) == wrong
        assert dict(c.pool.store.get("task", ref)) == before
    assert alice.refused(f"task.{name}", roots, *args) == wrong
    again(f"task.{name}", hers, *args)
    carol(f"task.{name}", roots, *args)
    carol(f"task.{name}", alice("task.create", "", ""), *args)
    c(f"task.{name}", bob("task.create", "", ""), *args)


def test_a_task_whose_session_is_over_is_nobodys(c: Any) -> None:
    """Not even a new session of the same user may drop it; whether there is such a task at all is not told."""
    user(c, "alice", "vm-operator")
    alice, later = As(c, "alice"), As(c, "alice")
    ref = alice("task.create", "", "")
    alice("session.logout")
    assert later.refused("task.destroy", ref)[:2] == ["RBAC_PERMISSION_DENIED", "task.destroy/any"]
    assert later.refused("task.destroy", "OpaqueRef:gone")[:2] == ["RBAC_PERMISSION_DENIED", "task.destroy/any"]
    assert c.refused("task.destroy", "OpaqueRef:gone") == ["HANDLE_INVALID", "task", "OpaqueRef:gone"]
    c("task.destroy", ref)


def test_before_roles_anybody_changes_any_task(calls: Make) -> None:
    """In 5.5 whoever can log in can do anything."""
    c = calls(release="5.5", hosts=1, vms=0)
    c.pool.directory.connect(c.pool)
    sid = c.pool.directory.add("alice", password=PASSWORD)
    c("subject.create", {"subject_identifier": sid, "other_config": {}})
    ref = c("task.create", "", "")
    As(c, "alice")("task.destroy", ref)
    assert c.pool.store.find("task", ref) is None


def test_what_is_for_the_local_root_is_for_no_role(c: Any) -> None:
    """Not even for an administrator; the error names no role."""
    user(c, "anna", "pool-admin")
    schedule = c("VMSS.create", {"type": "snapshot", "frequency": "daily"})
    text = "No permission in user session. (Roles with this permission: )"
    call = ("VMSS.set_last_run_time", schedule, "20260101T00:00:00Z")
    assert As(c, "anna").refused(*call) == ["RBAC_PERMISSION_DENIED", "vmss.set_last_run_time", text]
    c(*call)


def test_some_keys_of_maps_are_for_others(c: Any) -> None:
    """Folders are for operators, whoever may write the rest; passing a device through is for administrators."""
    user(c, "olivia", "vm-operator")
    user(c, "adam", "vm-admin")
    olivia, adam, vm = As(c, "olivia"), As(c, "adam"), c.vm("vm01").ref
    pool = c.pool.store.pool().ref
    olivia("pool.add_to_other_config", pool, "folder", "/a")
    olivia("pool.add_to_other_config", pool, "XenCenter.CustomFields.owner", "me")
    assert olivia.refused("pool.add_to_other_config", pool, "x", "y")[:2] == [
        "RBAC_PERMISSION_DENIED",
        "pool.add_to_other_config",
    ]
    adam("VM.add_to_other_config", vm, "note", "x")
    code, permission, text = adam.refused("VM.add_to_other_config", vm, "pci", "0/0000:00:1f.2")
    assert (code, permission) == ("RBAC_PERMISSION_DENIED", "vm.add_to_other_config/key:pci")
    assert text.endswith("(Roles with this permission: pool-admin)")


def test_roles_count_from_the_next_login_on(c: Any) -> None:
    """A session keeps what it was given."""
    subject = user(c, "alice", "read-only")
    alice = As(c, "alice")
    c("subject.add_to_roles", subject, role(c, "vm-operator"))
    assert alice.refused("VM.hard_reboot", c.vm("vm01").ref)[0] == "RBAC_PERMISSION_DENIED"
    As(c, "alice")("VM.hard_reboot", c.vm("vm01").ref)


def test_what_nobody_knows_might_be_an_extension(c: Any) -> None:
    """So it is denied before it is said to be unknown, except to administrators."""
    user(c, "olivia", "vm-operator")
    user(c, "anna", "pool-admin")
    assert As(c, "olivia").refused("VM.nonsense", "x")[:2] == ["RBAC_PERMISSION_DENIED", "host.call_extension"]
    assert As(c, "anna").refused("VM.nonsense", "x") == ["MESSAGE_METHOD_UNKNOWN", "VM.nonsense"]


# --- roles and permissions


def test_roles_are_the_same_everywhere(c: Any) -> None:
    """Digests of their names; the administrator's is the one that the data model gives to subjects."""
    names = {name: role(c, name).removeprefix("OpaqueRef:") for name in ("pool-admin", "vm-admin", "read-only")}
    assert f"OpaqueRef:{names['pool-admin']}" == ADMIN
    for name, uuid in names.items():
        assert uuid == str(UUID(bytes=md5(name.encode(), usedforsecurity=False).digest()))
        assert c("role.get_by_uuid", uuid) == f"OpaqueRef:{uuid}"
    assert role(c, "vm.start").endswith(str(UUID(bytes=md5(b"VM.start", usedforsecurity=False).digest())))
    assert c.refused("role.get_by_uuid", "none") == ["UUID_INVALID", "role", "none"]
    assert c.refused("role.get_record", "none") == ["HANDLE_INVALID", "role", "none"]
    assert c("role.get_by_name_label", "none") == []


def test_permissions_come_before_roles(c: Any) -> None:
    """Two queries tell them apart; any other text asks for both."""
    everything = c("role.get_all")
    permissions, roles = c("role.get_all_where", "subroles=[]"), c("role.get_all_where", "subroles<>[]")
    assert everything == [*permissions, *roles]
    assert list(c("role.get_all_records_where", "nonsense")) == list(c("role.get_all_records")) == everything
    assert [c("role.get_name_label", ref) for ref in roles] == [
        "vm-power-admin",
        "vm-admin",
        "vm-operator",
        "read-only",
        "pool-admin",
        "pool-operator",
    ]


def test_each_role_may_do_what_the_next_may(c: Any) -> None:
    """An administrator has every permission that any role has; a permission comes to itself."""
    ranks = ["read-only", "vm-operator", "vm-admin", "vm-power-admin", "pool-operator", "pool-admin"]
    sets = [set(c("role.get_permissions", role(c, name))) for name in ranks]
    assert all(less < more for less, more in pairwise(sets))
    start = role(c, "vm.start")
    assert c("role.get_permissions", start) == [start]
    assert c("role.get_permissions_name_label", start) == ["vm.start"]
    able = c("role.get_by_permission", start)
    assert able == c("role.get_by_permission_name_label", "vm.start")
    assert role(c, "vm-operator") in able and role(c, "read-only") not in able
    assert c("role.get_subroles", role(c, "vm-admin")) == c("role.get_permissions", role(c, "vm-admin"))
    record = c("role.get_record", start)
    assert record["uuid"] == c("role.get_uuid", start)
    assert record["name_description"] == c("role.get_name_description", start) == "A basic permission"
    assert "is_internal" not in record


def test_clients_with_certificates_came_late(calls: Make) -> None:
    """With them the field that says that a role is not for people."""
    c = calls(release="8.4")
    cert = role(c, "client-cert")
    assert c("role.get_is_internal", cert) is True
    assert c("role.get_is_internal", role(c, "vm-admin")) is False
    assert "client-cert" in [
        c("role.get_name_label", ref) for ref in c("role.get_by_permission_name_label", "vm.get_all")
    ]


# --- subjects and the directory


def test_a_subject_has_each_role_once(c: Any) -> None:
    """Roles that there are; what it has not cannot be taken away."""
    subject = user(c, "alice", "vm-admin")
    assert c.refused("subject.add_to_roles", subject, "none") == ["ROLE_NOT_FOUND"]
    assert c.refused("subject.add_to_roles", subject, role(c, "vm-admin")) == ["ROLE_ALREADY_EXISTS"]
    assert c.refused("subject.remove_from_roles", subject, role(c, "read-only")) == ["ROLE_NOT_FOUND"]
    c("subject.remove_from_roles", subject, role(c, "vm-admin"))
    assert c("subject.get_roles", subject) == []
    sid = c("subject.get_subject_identifier", subject)
    assert c.refused("subject.create", {"subject_identifier": sid}) == ["SUBJECT_ALREADY_EXISTS"]


def test_a_licence_without_roles_makes_everybody_administrator(c: Any) -> None:
    """And nobody may change that."""
    c.pool.store.write(c.pool.store.pool(), restrictions={"restrict_rbac": "true"})
    subject = user(c, "alice")
    assert c("subject.get_roles", subject) == [ADMIN]
    assert c.refused("subject.add_to_roles", subject, ADMIN) == ["LICENCE_RESTRICTION", "RBAC"]


def test_the_directory_describes_subjects_since_8_4(calls: Make) -> None:
    """Whatever the client says; who is not there is none."""
    c = calls(release="8.4")
    sid = c.pool.directory.add("alice", password="pw")
    assert c.refused("subject.create", {"subject_identifier": sid}) == ["AUTH_IS_DISABLED"]
    c.pool.directory.connect(c.pool)
    assert c.refused("subject.create", {"subject_identifier": "none"}) == ["SUBJECT_CANNOT_BE_RESOLVED"]
    ref = c("subject.create", {"subject_identifier": sid, "other_config": {"a": "b"}})
    described = c("subject.get_other_config", ref)
    assert (described["subject-name"], described["subject-upn"]) == ("EXAMPLE\\alice", "alice@example.com")


@pytest.mark.parametrize("release", ["8.2", "8.4"])
def test_the_directory_itself_is_asked_about_subjects(calls: Make, release: str) -> None:
    """Not what clients have written down of them. Of groups less is known, nor in which groups they are."""
    c = calls(release=release)
    directory = c.pool.directory
    directory.connect(c.pool)
    everybody = directory.add("everybody", is_group=True)
    staff = directory.add("staff", is_group=True, groups=("everybody",))
    alice = directory.add("alice", password="pw", groups=("staff",))
    c("subject.create", {"subject_identifier": alice, "other_config": {"subject-name": "somebody else"}})
    user = c("auth.get_subject_information_from_identifier", alice)
    assert (user["subject-name"], user["subject-is-group"]) == ("EXAMPLE\\alice", "false")
    assert {key for key, value in user.items() if value == "false"} == {
        "subject-is-group",
        *(f"subject-{flaw}" for flaw in ("account-disabled", "account-expired", "account-locked", "password-expired")),
    }
    group = c("auth.get_subject_information_from_identifier", staff)
    assert group == {
        "subject-name": "EXAMPLE\\staff",
        "subject-sid": staff,
        "subject-gid": group["subject-gid"],
        "subject-is-group": "true",
    }
    assert set(c("auth.get_group_membership", alice)) == {staff, everybody}
    assert c("auth.get_group_membership", staff) == []


def test_the_directory_is_asked_only_where_it_is_used(calls: Make) -> None:
    """By the host that serves the call, of a kind that xapi knows."""
    c = calls(release="8.2")
    sid = c.pool.directory.add("alice")
    for call in (("auth.get_subject_identifier", "alice"), ("auth.get_group_membership", sid)):
        assert c.refused(*call) == ["AUTH_IS_DISABLED"]
    c.pool.directory.connect(c.pool)
    assert c("auth.get_subject_identifier", "alice") == sid
    assert c.refused("auth.get_subject_identifier", "nobody") == ["SUBJECT_CANNOT_BE_RESOLVED"]
    assert c("auth.get_subject_information_from_identifier", sid)["subject-sid"] == sid
    c.pool.store.write(c.host("host1"), external_auth_type="NIS")
    assert c.refused("auth.get_subject_identifier", "alice") == ["AUTH_UNKNOWN_TYPE", "NIS"]


def test_a_name_is_in_the_directory_once(c: Any) -> None:
    c.pool.directory.add("alice")
    with pytest.raises(ValueError, match="'alice' is in the directory already"):
        c.pool.directory.add("alice")
    with pytest.raises(KeyError, match="nobody"):
        c.pool.directory.add("bob", groups=("nobody",))
