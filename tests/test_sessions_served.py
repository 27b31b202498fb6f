"""Sessions as the fake serves them: logging in and out, on masters and members, and how long they live."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from mockserver import Durations, MockPool
from mockserver.http import answer
from xenctl import database
from xenctl.errors import ConnectionLost, Failure
from xenctl.session import connect

Make = Callable[..., Any]
LOGIN = "session.login_with_password"


def refusal(pool: MockPool, method: str, *args: Any, on: str = "host1") -> list[str]:
    with pytest.raises(Failure) as caught:
        pool.dispatch(method, list(args), pool.machine(on))
    return caught.value.details


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_a_login_makes_a_session(calls: Make, release: str) -> None:
    """Its record says who logged in, where and when."""
    c = calls(release=release)
    record = c("session.get_record", c.session)
    assert record["this_host"] == c.host("host1").ref
    assert record["pool"] is False
    assert record["last_active"] == c.pool.clock.stamp()
    assert ("auth_user_name" in record) == (release == "8.2")
    assert record.get("validation_time", record["last_active"]) == record["last_active"]
    assert record["uuid"] not in c.session


@pytest.mark.parametrize(
    ("release", "named", "originator"),
    [("5.6", False, None), ("6.0", True, None), ("6.5", True, ""), ("7.0", True, "xapi")],
)
def test_sessions_of_root_and_of_hosts_have_names(
    calls: Make, release: str, named: bool, originator: str | None
) -> None:
    """Since 6.0. A host's session is on that host, and has an originator since 7.0."""
    c = calls(release=release)
    host = c.host("host2").ref
    ref = c.pool.dispatch("session.slave_login", [host, c.pool.master.system.pool_secret])
    record = c("session.get_record", ref)
    assert (record["this_host"], record["auth_user_name"]) == (host, host if named else "")
    assert record.get("originator") == originator
    assert c("session.get_auth_user_name", c.session) == ("root" if named else "")


@pytest.mark.parametrize(("release", "seconds"), [("5.6", 5), ("8.2", 5), ("8.4", 0)])
def test_a_wrong_password_is_refused_with_name_and_reason(calls: Make, release: str, seconds: int) -> None:
    """After a while, so that guessing takes time, until 8.2. On a member it is not looked at."""
    pool = calls(release=release).pool
    details, before = ["SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"], pool.clock.now()
    assert refusal(pool, LOGIN, "root", "wrong") == details
    assert pool.clock.now() == before + seconds
    assert refusal(pool, LOGIN, "root", "wrong", on="host2") == ["HOST_IS_SLAVE", pool.master.address]


def test_a_login_on_a_member_names_the_master(calls: Make) -> None:
    """Clients follow it."""
    pool = calls(hosts=3).pool
    assert refusal(pool, LOGIN, "root", "secret", on="host3") == ["HOST_IS_SLAVE", pool.master.address]
    with connect(f"http://{pool.machine('host3').address}", "root", "secret", transport=pool.transport()) as session:
        assert len(session.host.get_all()) == 3


def test_a_logout_ends_the_session(calls: Make) -> None:
    """The next call with it is invalid, as is one with a session that never was."""
    c = calls()
    c("session.logout")
    assert c.refused("VM.get_all") == ["SESSION_INVALID", c.session]
    assert c.refused("session.logout") == ["SESSION_INVALID", c.session]
    assert c.pool.store.table("session") == {}


def test_sessions_are_not_told_of(calls: Make) -> None:
    """They make no events and have no list."""
    c = calls(release="8.2")
    token = c("event.from", ["*"], "", 0)["token"]
    c.again()
    assert c("event.from", ["*", "session"], token, 0)["events"] == []
    assert c.refused("session.get_all") == ["MESSAGE_METHOD_UNKNOWN", "session.get_all"]


def test_a_master_that_restarts_knows_no_session(calls: Make) -> None:
    """Sessions are not persistent."""
    c = calls()
    c.halt("host1")
    c.pool.hands.power_on("host1")
    c.until(lambda: c.pool.master_serves)
    assert c.refused("VM.get_all") == ["SESSION_INVALID", c.session]
    assert c.again()("VM.get_all")


def test_a_session_without_calls_ends_after_a_day(calls: Make) -> None:
    """One with a call now and then lives on. Calls of the master count, a member has no say."""
    c, other = calls(), None
    other = c.again()
    for _ in range(5):
        c.sleep(8 * 3600.0)
        c("VM.get_all")
    row = c.pool.store.get("session", c.session)
    assert other.refused("VM.get_all") == ["SESSION_INVALID", other.session]
    c.sleep(1)
    before = row["last_active"]
    assert c.refused("VM.get_all", on="host2")[0] == "HOST_IS_SLAVE"
    assert row["last_active"] == before
    c("VM.get_all")
    assert row["last_active"] == c.pool.clock.stamp() != before


def test_a_client_whose_session_ended_logs_in_again() -> None:
    """Nobody notices: the call is answered, in another session."""
    pool = MockPool.create(hosts=1, vms=2, release="8.2")
    with connect(pool.url, "root", "secret", transport=pool.transport()) as session:
        first, vms = session.ref, session.VM.get_all()
        pool.clock.advance(86400.0 + 600.0)
        assert session.VM.get_all() == vms
        assert session.ref != first
        assert pool.store.find("session", first) is None


def test_a_session_whose_task_goes_on_does_not_end(calls: Make) -> None:
    """Nor does one that was made on its behalf."""
    c = calls(vms=2, release="8.2", durations=Durations(vm_shutdown=100_000.0))
    child = c.again()
    c.pool.store.write(c.pool.store.get("session", child.session), parent=c.session)
    task = c.start("VM.clean_shutdown", c.vm("vm01").ref)
    c.sleep(90_000.0)
    c.pool.store.write(task, created=c.pool.clock.stamp())  # xapi gives up pending tasks after a day, too
    other = c.again()
    assert c("VM.get_all") == other("VM.get_all") == child("VM.get_all")


@pytest.mark.parametrize(
    ("release", "login", "limit"),
    [
        ("8.2", ["root", "secret"], 400),
        ("8.2", ["root", "secret", "1.0", "backup"], 500),
        ("6.5", ["root", "secret", "1.0", "backup"], 500),
        ("6.2", ["root", "secret", "1.0", "backup"], 50),
        ("6.2", ["root", "secret"], 400),
        ("6.1", ["root", "secret"], 400),
        ("5.6", ["root", "secret"], 400),
        ("5.5", ["root", "secret"], 200),
        ("4.0.1", ["root", "secret"], 200),
    ],
)
def test_of_too_many_sessions_the_longest_unused_go(calls: Make, release: str, login: list[str], limit: int) -> None:
    """Logging in is never refused; the next pass drops those beyond the limit of their kind."""
    c = calls(hosts=1, release=release)
    c.sleep(60.0)
    made = []
    for _ in range(limit):
        made.append(c.pool.dispatch("session.login_with_password", login))
        c.sleep(0.1)
    c.sleep(700.0)
    c.pool.dispatch("VM.get_all", [made[0]])
    newest = c.pool.dispatch("session.login_with_password", login)
    c.sleep(30.0)
    c.pool.dispatch("VM.get_all", [newest])
    assert refusal(c.pool, "VM.get_all", made[1]) == ["SESSION_INVALID", made[1]]
    for ref in (made[0], made[-1]):
        assert len(c.pool.dispatch("VM.get_all", [ref])) == 1
    assert len(c.pool.store.table("session")) == limit + (len(login) > 2)


def test_a_local_session_is_known_to_its_host_alone(calls: Make) -> None:
    """It may do anything there, and ends by itself; others stay."""
    c = calls(release="8.2")
    member = c.pool.machine("host2")
    first, second = (
        c.pool.dispatch("session.slave_local_login_with_password", ["root", "secret"], member) for _ in range(2)
    )
    assert c.pool.dispatch("host.get_all", [first], member) == c("host.get_all")
    assert refusal(c.pool, "host.get_all", first) == ["SESSION_INVALID", first]
    c.pool.dispatch("session.logout", [first], member)
    assert c.pool.dispatch("host.get_all", [first], member)
    c.pool.dispatch("session.local_logout", [first], member)
    assert refusal(c.pool, "host.get_all", first, on="host2") == ["SESSION_INVALID", first]
    assert c.pool.dispatch("host.get_all", [second], member)
    assert (
        refusal(c.pool, "session.slave_local_login_with_password", "root", "no")[0] == "SESSION_AUTHENTICATION_FAILED"
    )


def test_the_pools_secret_opens_sessions_of_the_pool(calls: Make) -> None:
    """A wrong one does not."""
    c = calls(release="8.2")
    secret, host = c.pool.master.system.pool_secret, c.host("host2").ref
    ref = c.pool.dispatch("session.slave_login", [host, secret])
    assert c("session.get_pool", ref) is True
    assert refusal(c.pool, "session.slave_login", host, "no") == [
        *("SESSION_AUTHENTICATION_FAILED", host, "Pool credentials invalid"),
    ]
    assert c.pool.dispatch("session.slave_local_login", [secret], c.pool.machine("host2"))


def test_a_call_is_cut_off_when_its_host_stops(calls: Make) -> None:
    """Whoever waits for an answer loses the connection; what was being done is tidied up."""
    c = calls(vms=4)
    vm = c.vm("vm04")
    c.pool.clock.after(1.0, c.pool.master.power_off)
    with pytest.raises(ConnectionLost):
        c("VM.start", vm.ref, False, False)
    assert (vm["power_state"], vm["current_operations"], vm["scheduled_to_be_resident_on"]) == (
        "Halted",
        {},
        "OpaqueRef:NULL",
    )


# --- who may fetch the database


def fetch(pool: MockPool, target: str = "/pool/xmldbdump", on: str = "host1", **headers: str) -> Any:
    return answer(pool, pool.machine(on), "GET", target, headers, b"")


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_the_database_is_for_who_is_logged_in(calls: Make) -> None:
    """A session in the query or in a cookie, the pool's secret, or name and password; nobody else."""
    c = calls()
    pool, secret = c.pool, c.pool.master.system.pool_secret
    for out in (
        fetch(pool, f"/pool/xmldbdump?session_id={c.session}"),
        fetch(pool, cookie=f"session_id={c.session}"),
        fetch(pool, "/pool/xmldbdump?session_id=wrong&x=1", cookie=f"session_id={c.session}"),
        fetch(pool, f"/pool/xmldbdump?pool_secret={secret}"),
        fetch(pool, authorization=basic("root:secret")),
    ):
        assert (out.status, out.close, out.headers["cache-control"]) == (200, True, "no-cache, no-store")
        assert database.read(out.body).master == pool.store.pool()["master"]
    for out in (
        fetch(pool),
        fetch(pool, "/pool/xmldbdump?session_id=wrong"),
        fetch(pool, "/pool/xmldbdump?pool_secret=wrong"),
        fetch(pool, authorization=basic("root:wrong")),
        fetch(pool, authorization="Basic ????"),
        fetch(pool, f"/pool/xmldbdump?session_id={c.session}", on="host2"),
    ):
        assert (out.status, out.reason) == (401, "Unauthorised")
        assert out.headers["www-authenticate"] == 'Basic realm="get_pool_xml_db_sync"'
    assert fetch(pool, authorization="Bearer abc").status == 500
    assert len(pool.downloads) == 5


def test_a_download_completes_the_task_it_names(calls: Make) -> None:
    """The task was made by the client, and has no result."""
    c = calls()
    task = c("task.create", "dump", "")
    fetch(c.pool, f"/pool/xmldbdump?session_id={c.session}&task_id={task}")
    record = c("task.get_record", task)
    assert (record["status"], record["progress"], record["result"]) == ("success", 1.0, "")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/", 403), ("GET", "/no", 403), ("PUT", "/pool", 403), ("HEAD", "/", 501), ("DELETE", "/", 501)],
)
def test_other_requests_have_the_real_status(calls: Make, method: str, target: str, status: int) -> None:
    """403 where nothing is registered for the path, 501 for a method that has no handlers at all."""
    pool = calls().pool
    assert answer(pool, pool.master, method, target, {}, b"").status == status


def test_browsers_may_ask_first(calls: Make) -> None:
    """OPTIONS on the paths of calls allows what was asked for."""
    pool = calls().pool
    out = answer(pool, pool.master, "OPTIONS", "/", {"access-control-request-headers": "content-type"}, b"")
    assert (out.status, out.body) == (200, b"")
    assert out.headers["access-control-allow-headers"] == "content-type, X-Requested-With"
