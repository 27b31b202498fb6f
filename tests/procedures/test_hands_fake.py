"""The machine room of a mockserver over sockets: an installer that is refused, and what the room answers."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pools import unharmed, versions

from mockserver import MockPool, PoolServer
from xenctl import ConnectError
from xenctl.errors import ProcedureError
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.giving_up import give_up
from xenctl.procedures.hands_fake import FakeHands, TokenError
from xenctl.procedures.journal import Journal
from xenctl.session import Session, connect

TOKEN = "s3cr3t"


@contextmanager
def served(release: str = "5.0", **shape: Any) -> Iterator[tuple[MockPool, Session, FakeHands]]:
    """A pool on sockets, a session with it, and hands on its machines."""
    pool = MockPool.create(**{"hosts": 2, "vms": 4, "release": release, **shape})
    with PoolServer(pool, control=TOKEN) as server, connect(server.url, "root", "secret") as session:
        yield pool, session, FakeHands(session, f"{TOKEN}@{server.control_url}")


def shown(hands: FakeHands, host: str) -> None:
    """Wait until the installer is on screen."""
    while hands.power(host) != "installer":
        threading.Event().wait(0.01)


@contextmanager
def answering(status: int, text: bytes) -> Iterator[str]:
    """A server of something else; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_installer_without_its_medium_can_be_looked_at() -> None:
    """It shows what it found and offers; it refuses to install, and says why."""
    with served() as (_, _, hands):
        hands.power_off("host2")
        hands.insert_media("host2", "5.5.0")
        hands.power_on("host2")
        shown(hands, "host2")
        hands.eject_media("host2")
        assert (hands.power("host2"), hands.identified("host2")) == ("installer", "5.0.0")
        assert (set(hands.offers("host2")), hands.restores("host2")) == ({"upgrade", "fresh"}, "")
        with pytest.raises(
            ProcedureError, match="refuses: the installer on host2 cannot go on: its medium was taken out"
        ):
            hands.answer("host2", "upgrade")
        hands.power_off("host2")
        assert (hands.power("host2"), hands.identified("host2"), hands.offers("host2")) == ("off", "", [])


def test_a_run_that_refused_an_installer_goes_on() -> None:
    """Resumed, it says the same reason; given up, it says what to do; with the right medium it is done."""
    with served() as (pool, session, hands):
        plan = rolling_upgrade.plan(session, hands=hands)
        journal = Journal.create(plan)
        install = f"install 5.5.0 on {plan.hosts[1].name}"

        def somebody(number: int, total: int, text: str) -> None:
            if text == install:
                hands.insert_media("host2", "6.0")
                hands.power_on("host2")

        refused = "host2: the installer found 5.0.0 and offers fresh; only an upgrade of 5.0.0 preserves settings"
        outcome = rolling_upgrade.run(session, plan, hands, journal=journal, on_step=somebody, poll=hands.poll)
        assert refused in outcome.problems[0]
        assert refused in rolling_upgrade.run(session, plan, hands, journal=journal, poll=hands.poll).problems[0]
        left = give_up(session, journal, hands, poll=hands.poll)
        assert "host2 shows an installer (installer): see to it" in "; ".join(left)
        hands.power_off("host2")
        assert rolling_upgrade.run(session, plan, hands, journal=journal, poll=hands.poll).problems == []
        assert versions(pool) == ["5.5.0", "5.5.0"]
        assert unharmed(pool)


@pytest.mark.parametrize(
    ("status", "text", "error", "said"),
    [
        (404, b"<html>not found</html>", ProcedureError, "{url} has no machine room: fake:TOKEN is for a mockserver"),
        (200, b"<html>hello</html>", ProcedureError, "{url} has no machine room"),
        (
            404,
            b'{"error": "no host is called host9"}',
            ProcedureError,
            "the machine room refuses: no host is called host9",
        ),
        (
            401,
            b'{"error": "send the token"}',
            TokenError,
            "{url} refuses the token of --hands fake:TOKEN: send the token",
        ),
        (500, b"KeyError\n 'x'\n", ProcedureError, "the machine room of {url} failed (500): KeyError 'x'"),
        (409, b'["odd"]', ProcedureError, "the machine room refuses: ['odd']"),
    ],
)
def test_what_the_room_answers_is_told(status: int, text: bytes, error: type[Exception], said: str) -> None:
    """No machine room, a token that is wrong, a refusal and a failure are told apart."""
    pool = MockPool.create(hosts=1, vms=0)
    with answering(status, text) as url, PoolServer(pool) as server, connect(server.url, "root", "secret") as session:
        with pytest.raises(error) as found:
            FakeHands(session, f"{TOKEN}@{url}").power("host1")
        assert str(found.value).startswith(said.format(url=url))


def test_a_room_that_is_not_there_is_unreachable() -> None:
    """A `TransportError`, which a run takes for what passes."""
    with served(hosts=1, vms=0) as (_, session, _), pytest.raises(ConnectError, match="cannot be reached"):
        FakeHands(session, f"{TOKEN}@http://127.0.0.1:1").power("host1")
