"""Release awareness: what is newer than the host is refused before anything is sent, as the host would do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from wires import PASSWORD, Session, Wire, answered, connect

from mockserver.pool import MockPool
from xenctl import releases, xmlrpc
from xenctl.api import errors
from xenctl.api.everywhere import EVERYWHERE
from xenctl.datamodel import load
from xenctl.errors import Failure, ProtocolError
from xenctl.served import refusal
from xenctl.session import TRUSTED

REF = "OpaqueRef:x"

NEWER: dict[str, tuple[str, Callable[[Session], Any]]] = {
    "a message": ("4.0.1", lambda s: s.host.evacuate(REF)),  # type: ignore[arg-type]
    "its asynchronous form": ("4.0.1", lambda s: s.Async.host.evacuate(REF)),  # type: ignore[arg-type]
    "a message of a newer class": ("4.0.1", lambda s: s.VM_appliance.get_all()),
    "the getter of a newer field": ("4.0.1", lambda s: s.VM.get_tags(REF)),  # type: ignore[arg-type]
    "event.from": ("5.6", lambda s: s.event.from_(["*"], "", 1.0)),
    "by its name": ("4.0.1", lambda s: s.call("host.evacuate", (REF,))),
}


@pytest.fixture
def made(wire: Wire) -> Callable[..., Session]:
    """A session with a pool of a release; only what it sends afterwards is among the wire's calls."""

    def make(release: str, **options: Any) -> Session:
        pool = MockPool.create(hosts=1, vms=1, release=release, password=PASSWORD)
        wire.lead_to(pool.transport())
        session = connect(pool.url, "root", PASSWORD, transport=wire, **options)
        wire.calls.clear()
        return session

    return make


@pytest.mark.parametrize("name", ["4.0.1", "4.1", "5.6", "6.5", "8.2", "XCP-ng 8.3"])
def test_a_session_knows_the_release_of_its_host(made: Callable[..., Session], wire: Wire, name: str) -> None:
    """It is asked for once, by two calls."""
    session = made(name)
    assert session.release == releases.find(name)
    assert session.release.api_version == releases.find(name).api_version
    assert wire.methods == ["session.get_this_host", "host.get_record"]


@pytest.mark.parametrize(("release", "act"), NEWER.values(), ids=NEWER)
def test_a_newer_call_is_not_sent(
    made: Callable[..., Session], wire: Wire, release: str, act: Callable[[Session], Any]
) -> None:
    """It is refused with the code that the host would give, and the error says since when there is such a call."""
    session = made(release)
    assert session.release
    wire.calls.clear()
    message = (
        rf"XenServer {release}(\.0)? does not have it yet, XenServer \d.* is the first that does; nothing was sent"
    )
    with pytest.raises(errors.MESSAGE_METHOD_UNKNOWN, match=message):
        act(session)
    assert wire.calls == []


def test_the_same_call_is_sent_to_a_host_that_has_it(made: Callable[..., Session]) -> None:
    """The host judges it then."""
    with pytest.raises(errors.HANDLE_INVALID):
        made("8.2").host.evacuate(REF)  # type: ignore[arg-type]


def test_a_removed_message_is_not_sent(made: Callable[..., Session], wire: Wire) -> None:
    """As the host would, with `MESSAGE_REMOVED`."""
    gone = next(
        m.wire_name
        for c in load().classes.values()
        for m in c.messages.values()
        if releases.has_removed(releases.find("8.2"), m)
    )
    session = made("8.2")
    with pytest.raises(errors.MESSAGE_REMOVED, match=rf"XenServer 8\.2\.0 no longer has {gone}; nothing was sent"):
        session.call(gone, (REF,))
    assert gone not in wire.methods


def test_a_newer_parameter_is_not_sent(made: Callable[..., Session], wire: Wire) -> None:
    """A host ignores arguments that it does not know, so one that is not left at its default is refused here."""
    session = made("6.2")
    message = r"XenServer 6\.2\.0 does not know .*; nothing was sent"
    newest = next(
        m
        for c in load().classes.values()
        for m in c.messages.values()
        if releases.serves(session.release, m) and len(releases.parameters(session.release, m)) < len(m.params)
    )
    with pytest.raises(errors.MESSAGE_PARAMETER_COUNT_MISMATCH, match=message):
        session.call(newest.wire_name, (REF,) * len(newest.params))
    assert newest.wire_name not in wire.methods


@pytest.mark.parametrize("name", ["VM.get_all_records", "session.get_this_host", "VM.start", "host.get_record"])
def test_what_every_release_has_costs_nothing(made: Callable[..., Session], wire: Wire, name: str) -> None:
    """The release is asked for when it matters, not before."""
    assert name in EVERYWHERE
    made("4.0.1").VM.get_all_records()
    assert wire.methods == ["VM.get_all_records"]


def test_what_the_model_does_not_know_is_sent(made: Callable[..., Session], wire: Wire) -> None:
    """The host may be newer than the data model."""
    with pytest.raises(errors.MESSAGE_METHOD_UNKNOWN) as caught:
        made("4.0.1").call("VM.brand_new", (REF,))
    assert caught.value.note == ""
    assert wire.methods[-1] == "VM.brand_new"


def test_the_check_can_be_switched_off(made: Callable[..., Session], wire: Wire) -> None:
    """The host answers itself then, and is not asked for its release."""
    with pytest.raises(errors.MESSAGE_METHOD_UNKNOWN) as caught:
        made("4.0.1", check_release=False).host.evacuate(REF)  # type: ignore[arg-type]
    assert caught.value.note == ""
    assert wire.methods == ["host.evacuate"]


@pytest.mark.parametrize("ends_session", [True, False])
def test_an_upgraded_host_is_asked_anew(wire: Wire, ends_session: bool) -> None:
    """What was heard before an upgrade refuses nothing after it, whether or not the session has noticed."""
    pool = MockPool.create(hosts=1, vms=0, release="4.0.1", password=PASSWORD)
    wire.lead_to(pool.transport())
    session = connect(pool.url, "root", PASSWORD, transport=wire)
    assert str(session.release) == "4.0.1"
    newer = MockPool.create(hosts=1, vms=0, release="8.2", password=PASSWORD)
    wire.lead_to(newer.transport())
    session.origin = newer.url
    newer.clock.advance(pool.clock.now() - newer.clock.now() + TRUSTED + 1)
    if ends_session:
        assert session.VM.get_all()
    with pytest.raises(errors.HANDLE_INVALID):
        session.host.evacuate(REF)  # type: ignore[arg-type]
    assert str(session.release) == "8.2.0"


def test_a_host_that_does_not_tell_is_left_to_judge(made: Callable[..., Session], wire: Wire) -> None:
    """Where the release cannot be asked for, the call is sent."""
    session = made("8.2")

    def refused(method: str, host: str) -> None:
        if method == "session.get_this_host":
            raise Failure(["RBAC_PERMISSION_DENIED", method])

    wire.before = refused
    with pytest.raises(errors.HANDLE_INVALID):
        session.host.evacuate(REF)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "record",
    [
        {"API_version_major": "2", "API_version_minor": "15"},
        {"API_version_major": "two", "API_version_minor": "15", "software_version": {}},
        {"API_version_major": "2", "API_version_minor": "15", "software_version": "8.2"},
    ],
)
def test_a_record_that_tells_no_release_is_one_typed_error(
    made: Callable[..., Session], wire: Wire, record: dict[str, Any]
) -> None:
    """Whoever asks for the release is told; a call is left to the host."""
    session = made("8.2")
    wire.before = lambda method, host: answered(xmlrpc.dumps_success(record)) if method == "host.get_record" else None
    with pytest.raises(ProtocolError, match=r"^host\.get_record on http://.*: its record does not tell the release: "):
        _ = session.release
    with pytest.raises(errors.HANDLE_INVALID):
        session.host.evacuate(REF)  # type: ignore[arg-type]


def test_the_list_of_what_is_everywhere_is_right() -> None:
    """A message is on it if and only if no release refuses it with all of its arguments."""
    for class_ in load().classes.values():
        for message in class_.messages.values():
            refused = any(
                refusal(release, message.wire_name, (None,) * len(message.params)) for release in releases.known()
            )
            assert (message.wire_name in EVERYWHERE) == (not refused), message.wire_name


@pytest.mark.parametrize("name", ["4.0.1", "6.1", "8.2"])
def test_the_fake_refuses_the_same(name: str) -> None:
    """For every message, what is refused here is what a host of that release refuses."""
    pool = MockPool.create(hosts=1, vms=0, release=name, password=PASSWORD)
    session = pool.dispatch("session.login_with_password", ["root", PASSWORD])
    release = releases.find(name)
    for class_ in load().classes.values():
        for message in class_.messages.values():
            found = refusal(release, message.wire_name, ())
            if found is None or not message.session:
                continue
            with pytest.raises(Failure) as caught:
                pool.dispatch(message.wire_name, [session, *[REF] * message.mandatory])
            assert caught.value.code in (found.code, "MESSAGE_PARAMETER_COUNT_MISMATCH", "INTERNAL_ERROR"), found
