"""The master is away: another host of the pool is asked for it, whatever the call, and only a host of this pool."""

from __future__ import annotations

import io
from typing import Any

import pytest
from wires import PASSWORD, Session, Wire, connect

from mockserver.pool import MockPool
from xenctl import xmlrpc
from xenctl.errors import ConnectError, Failure
from xenctl.transport import Request, Response, SystemClock

A, B, C = (f"http://10.0.0.{number}" for number in (1, 2, 3))


class Hosts:
    """Three hosts, of which some are off: each knows the address of its master, and the sessions it gave."""

    clock = SystemClock()

    def __init__(self) -> None:
        self.off: set[str] = set()
        self.master = {A: A, B: A, C: A}
        self.pool = {A: "one", B: "one", C: "one"}
        self.emergency: set[str] = set()
        self.calls: list[tuple[str, str]] = []

    def promote(self, new: str, *, old: str) -> None:
        """`old` is off, and `new` the master of the others."""
        self.off.add(old)
        self.master = dict.fromkeys((A, B, C), new)

    def send(self, request: Request) -> Response:
        if request.host in self.off:
            raise ConnectError("off", host=request.host, method=request.label)
        method, params = xmlrpc.loads_call(request.body)
        self.calls.append((request.host, method))
        return self._answer(request.host, method, params)

    def _answer(self, host: str, method: str, params: list[Any]) -> Response:
        def out(data: bytes) -> Response:
            return Response(200, {}, io.BytesIO(data))

        own = f"OpaqueRef:{host}"
        if host in self.emergency:
            return out(xmlrpc.dumps_failure(["HOST_STILL_BOOTING"]))
        if self.master[host] != host:
            return out(xmlrpc.dumps_failure(["HOST_IS_SLAVE", self.master[host].removeprefix("http://")]))
        if method == "session.login_with_password":
            return out(xmlrpc.dumps_success(own))
        if params[0] != own:
            return out(xmlrpc.dumps_failure(["SESSION_INVALID", str(params[0])]))
        values: dict[str, Any] = {
            "pool.get_all_records": {"OpaqueRef:p": {"uuid": self.pool[host]}},
            "host.get_all_records": {
                n: {"address": h.removeprefix("http://")} for n, h in zip("abc", (A, B, C), strict=True)
            },
        }
        return out(xmlrpc.dumps_success(values.get(method, host)))

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def hosts() -> Hosts:
    """Three hosts of one pool."""
    return Hosts()


@pytest.fixture
def session(hosts: Hosts) -> Session:
    """A session that has learnt the hosts."""
    made = connect(A, "root", PASSWORD, transport=hosts)
    made.learn_hosts()
    hosts.calls.clear()
    return made


def test_another_host_becomes_master(hosts: Hosts, session: Session) -> None:
    """The call goes on there with a login of its own, any call: nothing of it was sent before."""
    hosts.promote(B, old=A)
    assert session.call("VM.start", ("OpaqueRef:vm", False, False)) == B
    assert session.origin == B
    assert [call for call in hosts.calls if call[1] == "VM.start"] == [(B, "VM.start")]


def test_a_member_leads_to_the_new_master(hosts: Hosts, session: Session) -> None:
    """The first host that answers names the master."""
    hosts.promote(C, old=A)
    assert session.call("VM.get_all") == C
    assert hosts.calls[0] == (B, "session.login_with_password")


def test_the_master_may_go_between_two_logins(hosts: Hosts, session: Session) -> None:
    """A session whose master forgot it, and went before it could log in again, looks elsewhere too."""
    session.ref = None
    hosts.promote(B, old=A)
    assert session.call("VM.get_all") == B


def test_the_first_login_tries_the_other_hosts_that_were_named(hosts: Hosts) -> None:
    """`hosts=` is enough where the first host is off from the start."""
    hosts.promote(C, old=A)
    with pytest.raises(ConnectError, match="off"):
        connect(A, "root", PASSWORD, transport=hosts)
    assert connect(A, "root", PASSWORD, transport=hosts, hosts=[B]).origin == C


@pytest.mark.parametrize("spoil", ["all off", "no new master", "in emergency mode"])
def test_no_master_is_found(hosts: Hosts, session: Session, spoil: str) -> None:
    """The first error is raised, of the host that was spoken to; the session can find it when it is back."""
    hosts.off = {A, B, C} if spoil == "all off" else {A}
    hosts.emergency = {B, C} if spoil == "in emergency mode" else set()
    with pytest.raises(ConnectError, match=r"^VM\.get_all on http://10\.0\.0\.1: off$"):
        session.call("VM.get_all")
    hosts.off.clear()
    assert session.call("VM.get_all") == A


def test_a_host_of_another_pool_is_not_followed(
    hosts: Hosts, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """A host that was ejected meanwhile is master of its own pool: it is logged out of, and not used."""
    hosts.master = {A: A, B: B, C: C}
    hosts.pool[B] = "two"
    hosts.off = {A}
    assert session.call("VM.get_all") == C
    assert (B, "session.logout") in hosts.calls
    assert not any(host == B and method.startswith("VM.") for host, method in hosts.calls)
    assert "another pool" in caplog.text


def test_without_other_hosts_nothing_is_tried(hosts: Hosts) -> None:
    """A session that knows one host only says that it is away."""
    session = connect(A, "root", PASSWORD, transport=hosts)
    hosts.promote(B, old=A)
    with pytest.raises(ConnectError, match="off"):
        session.call("VM.get_all")


def test_a_failed_search_is_made_once_for_a_call(hosts: Hosts, session: Session) -> None:
    """A new master that goes down at once is not chased in circles."""
    hosts.promote(B, old=A)
    send = hosts.send

    def once(request: Request) -> Response:
        if request.host == B and request.label == "VM.get_all":
            raise ConnectError("off", host=B, method=request.label)
        return send(request)

    hosts.send = once  # type: ignore[method-assign]
    with pytest.raises(ConnectError, match=r"10\.0\.0\.2"):
        session.call("VM.get_all")


def test_the_hosts_of_a_pool_are_learnt(pool: MockPool, wire: Wire) -> None:
    """Their URLs have the scheme and port of the one that was given."""
    session = connect(pool.url, "root", PASSWORD, transport=wire)
    assert session.learn_hosts() == session.hosts == tuple(f"http://{m.address}" for m in pool.machines)


@pytest.fixture
def later(wire: Wire) -> MockPool:
    """A pool of a release that lets users log in to a member."""
    pool = MockPool.create(hosts=2, vms=4, release="8.2", password=PASSWORD)
    wire.lead_to(pool.transport())
    return pool


def test_a_local_session_stays_where_it_is(later: MockPool, wire: Wire) -> None:
    """A member serves it although it is not the master, and when that one is off, no other is asked."""
    member = later.machines[1]
    session = Session(f"http://{member.address}", transport=wire, hosts=[later.url])
    session.slave_local_login_with_password("root", PASSWORD)
    me = next(row.ref for row in later.store.table("host").values() if row["uuid"] == member.uuid)
    assert session.pool.is_slave(me)
    later.hands.power_off(member.name)
    with pytest.raises(ConnectError, match=member.address):
        session.pool.is_slave(me)
    assert session.origin == f"http://{member.address}"


def test_a_local_session_is_logged_out_of_as_such(later: MockPool, wire: Wire) -> None:
    """`session.local_logout`, and the host has forgotten it."""
    member = later.machines[1]
    with Session(f"http://{member.address}", transport=wire) as session:
        session.slave_local_login_with_password("root", PASSWORD)
        assert len(member.xapi.local_sessions) == 1
    assert wire.methods == ["session.slave_local_login_with_password", "session.local_logout"]
    assert not member.xapi.local_sessions


@pytest.mark.parametrize("act", ["call", "logout"])
def test_an_open_session_is_used_and_left_open(pool: MockPool, wire: Wire, act: str) -> None:
    """`ref=` takes over somebody else's session; only an explicit logout ends it."""
    owner = connect(pool.url, "root", PASSWORD, transport=pool.transport())
    with Session(pool.url, transport=wire, ref=owner.ref) as session:
        assert len(session.VM.get_all()) == 6
        if act == "logout":
            session.logout()
    assert len(pool.store.table("session")) == (1 if act == "call" else 0)


def test_a_session_taken_over_cannot_be_renewed(pool: MockPool, wire: Wire) -> None:
    """It has no credentials: that it is gone is the caller's business."""
    session = Session(pool.url, transport=wire, ref="OpaqueRef:gone")
    with pytest.raises(Failure, match="SESSION_INVALID"):
        session.VM.get_all()
    session.login_with_password("root", PASSWORD)
    with session:
        assert session.VM.get_all()
    assert not pool.store.table("session")


def test_a_login_over_a_session_that_is_gone(pool: MockPool, wire: Wire) -> None:
    """What was taken over and is gone does not stand in the way of a login."""
    session = Session(pool.url, transport=wire, ref="OpaqueRef:gone")
    session.login_with_password("root", PASSWORD)
    assert session.ref != "OpaqueRef:gone"


def test_a_changed_password_is_used_for_the_next_login(pool: MockPool, wire: Wire) -> None:
    """After `change_password` a session that is forgotten logs in with the new one."""
    session = connect(pool.url, "root", PASSWORD, transport=wire)
    session.session.change_password(PASSWORD, "correct horse")
    assert pool.password == "correct horse"
    for row in list(pool.store.table("session").values()):
        pool.store.delete(row)
    assert session.VM.get_all()
