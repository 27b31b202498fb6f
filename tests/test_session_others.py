"""Sessions of others: who is logged in from the directory, and sessions that look at a database from a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from xenctl.errors import Failure

Make = Callable[..., Any]
FILE = "/var/lib/xcp/state.db"


@pytest.fixture
def served(calls: Make) -> Any:
    """A pool where two of three users of the directory may log in, one of them as a member of a group."""
    c = calls(hosts=1, release="8.2")
    directory = c.pool.directory
    directory.add("staff", is_group=True)
    directory.add("alice", password="a", groups=("staff",))
    directory.add("bob", password="b")
    directory.connect(c.pool)
    for name in ("staff", "bob"):
        subject = c("subject.create", {"subject_identifier": directory.accounts[name].sid, "other_config": {}})
        (role,) = c("role.get_by_name_label", "pool-admin")
        c("subject.add_to_roles", subject, role)
    return c


def login(c: Any, name: str) -> Any:
    return c.pool.dispatch("session.login_with_password", [name, name[0]])


def test_who_is_logged_in_is_told_once_by_user_and_by_group(served: Any) -> None:
    """Root is nobody from the directory."""
    c = served
    accounts = c.pool.directory.accounts
    assert c("session.get_all_subject_identifiers") == []
    login(c, "alice"), login(c, "alice"), login(c, "bob")
    sids = {accounts[name].sid for name in ("alice", "staff", "bob")}
    found = c("session.get_all_subject_identifiers")
    assert (set(found), len(found)) == (sids, 3)


@pytest.mark.parametrize(("whom", "gone"), [("alice", {"alice"}), ("staff", {"alice"}), ("bob", {"bob"})])
def test_logging_out_an_identifier_ends_the_sessions_of_the_user_or_the_group(
    served: Any, whom: str, gone: set[str]
) -> None:
    """Others' sessions go on, and so does root's."""
    c = served
    sessions = {name: login(c, name) for name in ("alice", "bob")}
    c("session.logout_subject_identifier", c.pool.directory.accounts[whom].sid)
    for name, ref in sessions.items():
        if name in gone:
            with pytest.raises(Failure, match="SESSION_INVALID"):
                c.pool.dispatch("pool.get_all", [ref])
        else:
            assert c.pool.dispatch("pool.get_all", [ref])
    assert c("pool.get_all")


def test_who_logs_himself_out_by_his_identifier_keeps_the_session_that_does_it(served: Any) -> None:
    """Only his others end."""
    c = served
    first, second = login(c, "bob"), login(c, "bob")
    c.pool.dispatch("session.logout_subject_identifier", [first, c.pool.directory.accounts["bob"].sid])
    assert c.pool.dispatch("pool.get_all", [first])
    with pytest.raises(Failure, match="SESSION_INVALID"):
        c.pool.dispatch("pool.get_all", [second])


@pytest.mark.parametrize("change", ["nothing", "suspended", "gone", "no subject", "group left", "directory left"])
def test_users_are_looked_up_again(served: Any, change: str) -> None:
    """Within three quarters of an hour, however busy they are; who leaves a group is no subject by it any more."""
    c = served
    alice, accounts = login(c, "alice"), c.pool.directory.accounts
    root = c.pool.dispatch("session.create_from_db_file", [c.session, FILE])
    if change == "suspended":
        accounts["alice"] = replace(accounts["alice"], suspended=True)
    elif change == "gone":
        del accounts["alice"]
    elif change == "no subject":
        (staff,) = [ref for ref in c("subject.get_all") if c("session.get_subject", alice) == ref]
        c("subject.destroy", staff)
    elif change == "group left":
        accounts["alice"] = replace(accounts["alice"], groups=())
    elif change == "directory left":
        c.pool.store.write(c.host("host1"), external_auth_type="")
    at_once = change == "directory left"
    for minute in range(50):
        c.sleep(60)
        known = alice in c.pool.store.table("session")
        assert c("pool.get_all") == c.pool.dispatch("pool.get_all", [root])
        if change == "nothing" or (minute < 29 and not at_once):
            assert known and c.pool.dispatch("pool.get_all", [alice])
    assert (alice in c.pool.store.table("session")) == (change == "nothing")
    if change == "nothing":
        assert c("session.get_validation_time", alice) > c("session.get_validation_time", root)


def test_a_session_from_a_file_reads_the_database_as_it_was(calls: Make) -> None:
    """It may only read, sees nothing of what comes later, and ends like any other."""
    c = calls(hosts=1, vms=2, release="8.2")
    vm = c.vm("vm01").ref
    ref = c("session.create_from_db_file", FILE)
    c("VM.set_name_label", vm, "later")
    assert c.pool.dispatch("VM.get_name_label", [ref, vm]) == "vm01"
    assert len(c.pool.dispatch("VM.get_all_records", [ref])) == len(c("VM.get_all_records"))
    with pytest.raises(Failure, match="RBAC_PERMISSION_DENIED"):
        c.pool.dispatch("VM.set_name_label", [ref, vm, "x"])
    c.pool.dispatch("session.logout", [ref])
    with pytest.raises(Failure, match="SESSION_INVALID"):
        c.pool.dispatch("VM.get_all", [ref])
    assert c.pool.views == {}
    assert c.refused("session.create_from_db_file", "/none")[0] == "INTERNAL_ERROR"
