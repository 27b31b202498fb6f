"""The master is away: another host of the pool is asked for it, whatever the call, and only a host of this pool."""

from __future__ import annotations

import io
from typing import Any

import pytest
from wires import PASSWORD, Session, Wire, answered, connect

from mockserver.pool import MockPool
from xenctl import xmlrpc
from xenctl.api import errors
from xenctl.errors import ConnectError, ConnectionLost, Failure, ProtocolError
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
        self.odd: dict[str, dict[str, Any]] = {}
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
            **self.odd.get(host, {}),
        }
        if isinstance(values.get(method), Failure):
            return out(xmlrpc.dumps_failure(values[method].details))
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


ODD: dict[str, Any] = {
    "text": "many",
    "none": {},
    "two": {"OpaqueRef:p": {"uuid": "one"}, "OpaqueRef:q": {"uuid": "one"}},
    "no uuid": {"OpaqueRef:p": {}},
    "a list": {"OpaqueRef:p": {"uuid": ["one"]}},
    "a refusal": Failure(["INTERNAL_ERROR", "x"]),
}
"""What is no record of one pool."""


@pytest.mark.parametrize("answer", ODD.values(), ids=ODD)
def test_a_host_that_does_not_tell_its_pool_is_not_followed(hosts: Hosts, session: Session, answer: Any) -> None:
    """Nor is a session left behind there, and the next host is asked."""
    hosts.master = {A: A, B: B, C: C}
    hosts.off = {A}
    hosts.odd[B] = {"pool.get_all_records": answer}
    assert session.call("VM.get_all") == C
    assert [method for host, method in hosts.calls if host == B] == [
        "session.login_with_password",
        "pool.get_all_records",
        "session.logout",
    ]


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        *(("pool.get_all_records", answer) for answer in ODD.values() if not isinstance(answer, Failure)),
        ("host.get_all_records", {"OpaqueRef:h": {"address": "no address"}}),
        ("host.get_all_records", {"OpaqueRef:h": {}}),
        ("host.get_all_records", "none"),
    ],
)
def test_hosts_that_cannot_be_learnt(hosts: Hosts, session: Session, method: str, answer: Any) -> None:
    """An answer that XenAPI does not give is one typed error, and what was learnt before stays."""
    hosts.odd[A] = {method: answer}
    with pytest.raises(ProtocolError, match=rf"^{method} on {A}: the answer is not of its type: "):
        session.learn_hosts()
    assert session.hosts == (A, B, C)


def test_a_sibling_knows_the_pool(hosts: Hosts, session: Session) -> None:
    """It looks for the master among the same hosts, and takes no host of another pool for it."""
    sibling = session.sibling()
    assert sibling is not None
    hosts.master = {A: A, B: B, C: C}
    hosts.pool[B] = "two"
    hosts.off = {A}
    assert sibling.call("VM.get_all") == C


def test_a_sibling_is_set_up_alike(pool: MockPool, wire: Wire) -> None:
    """It sends no more often, and leaves as much to the host, as the session that it is made of; it has a login of its
    own."""
    session = connect(pool.url, "root", PASSWORD, transport=wire, retries=0, check_release=False)
    sibling = session.sibling()
    assert sibling is not None
    with pytest.raises(Failure, match="MESSAGE_METHOD_UNKNOWN"):
        sibling.call("host.evacuate", ("OpaqueRef:x",))
    assert sibling.ref not in (None, session.ref)
    assert wire.methods[-1] == "host.evacuate"
    wire.calls.clear()

    def lost(method: str, host: str) -> None:
        raise ConnectionLost("gone", host=host, method=method)

    wire.before = lost
    with pytest.raises(ConnectionLost):
        sibling.VM.get_all()
    assert wire.methods == ["VM.get_all"]


def test_a_session_without_credentials_has_no_sibling(pool: MockPool, wire: Wire) -> None:
    """One that was taken over cannot log in a second time."""
    assert Session(pool.url, transport=wire, ref="OpaqueRef:x").sibling() is None


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


def test_a_local_session_that_is_gone_is_renewed_where_it_was(later: MockPool, wire: Wire) -> None:
    """A member that restarted has forgotten it, and is logged in to once more."""
    member = later.machines[1]
    session = Session(f"http://{member.address}", transport=wire)
    session.slave_local_login_with_password("root", PASSWORD)
    member.xapi.local_sessions.clear()
    wire.calls.clear()
    assert session.VM.get_all()
    login = "session.slave_local_login_with_password"
    assert [(host, method) for host, method, _ in wire.calls] == [
        (session.origin, method) for method in ("VM.get_all", login, "VM.get_all")
    ]
    assert session.origin == f"http://{member.address}"


def test_a_local_session_is_not_led_to_the_master(wire: Wire, later: MockPool) -> None:
    """What a member will not do the master is not asked for: the next call may be one that must hit no other host."""
    session = Session(f"http://{later.machines[1].address}", transport=wire)
    session.slave_local_login_with_password("root", PASSWORD)
    wire.after = lambda method, host: answered(xmlrpc.dumps_failure(["HOST_IS_SLAVE", later.master_address]))
    for act in (session.VM.get_all, session.logout):
        with pytest.raises(errors.HOST_IS_SLAVE):
            act()
    assert {host for host, _, _ in wire.calls} == {session.origin}


def test_a_local_session_is_not_asked_for_the_release(later: MockPool, wire: Wire) -> None:
    """The host may be one that answers little; what is newer it refuses itself."""
    session = Session(f"http://{later.machines[1].address}", transport=wire)
    session.slave_local_login_with_password("root", PASSWORD)
    with pytest.raises(errors.MESSAGE_METHOD_UNKNOWN):
        session.VM_group.get_all()
    assert wire.methods == ["session.slave_local_login_with_password", "VM_group.get_all"]


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


def test_a_login_leaves_a_session_taken_over_open(pool: MockPool, wire: Wire) -> None:
    """It is somebody else's still; the end of the block ends the new one alone."""
    owner = connect(pool.url, "root", PASSWORD, transport=pool.transport())
    with Session(pool.url, transport=wire, ref=owner.ref) as session:
        session.login_with_password("root", PASSWORD)
        assert session.ref != owner.ref
        assert len(pool.store.table("session")) == 2
    assert list(pool.store.table("session")) == [owner.ref]


def test_a_login_with_the_first_call_leaves_a_session_taken_over_open(pool: MockPool, wire: Wire) -> None:
    """Nothing is sent before; then it is as with a login at once."""
    owner = connect(pool.url, "root", PASSWORD, transport=pool.transport())
    with Session(pool.url, transport=wire, ref=owner.ref) as session:
        session.login_later("root", PASSWORD)
        assert session.ref is None
        assert list(pool.store.table("session")) == [owner.ref]
        assert len(session.VM.get_all()) == 6
        assert session.ref != owner.ref
    assert list(pool.store.table("session")) == [owner.ref]


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
