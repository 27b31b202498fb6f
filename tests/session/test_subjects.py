"""Sessions of users of a directory service: they log in as root does, and may do what their roles allow."""

from __future__ import annotations

import pytest
from wires import connect

from mockserver.pool import MockPool
from xenctl.api import errors
from xenctl.session import Session


@pytest.fixture
def pool() -> MockPool:
    return known("8.2")


def known(release: str) -> MockPool:
    """A pool that knows Alice, who may look, and Bob, of whom nobody said what he may do."""
    made = MockPool.create(hosts=2, vms=2, release=release, password="hunter2")
    made.directory.connect(made)
    alice = made.directory.add("alice", password="pw")
    made.directory.add("bob", password="pw")
    with connect(made.url, "root", "hunter2", transport=made.transport()) as session:
        subject = session.subject.create({"subject_identifier": alice, "other_config": {}})
        (role,) = session.role.get_by_name_label("read-only")
        session.subject.add_to_roles(subject, role)
    return made


def logged_in(pool: MockPool, name: str, password: str) -> Session:
    """A session of a user, by way of a member."""
    return connect(f"http://{pool.machines[1].address}", name, password, transport=pool.transport())


@pytest.mark.parametrize("name", ["alice", "alice@example.com", "EXAMPLE\\alice"])
def test_a_subject_logs_in(pool: MockPool, name: str) -> None:
    """The session is told from root's by its subject, and logs out as any other."""
    with logged_in(pool, name, "pw") as session:
        (subject,) = session.subject.get_all()
        assert session.session.get_subject(session.ref) == subject
        assert session.session.get_is_local_superuser(session.ref) is False
    assert not pool.store.table("session")


def test_a_subject_may_do_what_its_roles_allow(pool: MockPool) -> None:
    """Reading, and nothing else: the refusal is typed."""
    with logged_in(pool, "alice", "pw") as session:
        (vm,) = session.VM.get_by_name_label("vm01")
        with pytest.raises(errors.RBAC_PERMISSION_DENIED) as refused:
            session.VM.set_name_label(vm, "new")
        assert refused.value.permission == "vm.set_name_label"


def test_a_subject_logs_in_again(pool: MockPool) -> None:
    """After the master forgot the session, as root does."""
    with logged_in(pool, "alice", "pw") as session:
        before = session.ref
        for row in list(pool.store.table("session").values()):
            pool.store.delete(row)
        assert session.VM.get_all()
        assert session.ref != before


@pytest.mark.parametrize(
    ("release", "error"), [("8.2", errors.SESSION_AUTHENTICATION_FAILED), ("8.4", errors.SESSION_AUTHORIZATION_FAILED)]
)
def test_who_is_refused(release: str, error: type[Exception]) -> None:
    """A wrong password and an unknown name have one error; a user without any right has another since 8.4."""
    pool = known(release)
    for name, password in (("alice", "wrong"), ("carol", "pw")):
        with pytest.raises(errors.SESSION_AUTHENTICATION_FAILED):
            logged_in(pool, name, password)
    with pytest.raises(error):
        logged_in(pool, "bob", "pw")
