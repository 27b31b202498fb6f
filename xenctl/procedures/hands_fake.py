"""The machine room of a `mockserver` in another process, through its control path: so that a run over sockets can be killed
and resumed while the pool lives on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ProcedureError, TransportError
from ..transport import Request, origin_at, origin_of

if TYPE_CHECKING:
    from ..session import Session
    from .plan import Plan


class TokenError(ProcedureError):
    """The control path does not take the token."""

    bad_input = True


class FakeHands:
    """Hands on the machines behind a control path. `token` may name the path's own port: `TOKEN@http://127.0.0.1:1234`,
    which answers when every host is off; else the session's hosts are asked, one after another.

    Errors are `ProcedureError` for what the room refuses, `TransportError` where nobody answers.
    """

    sees_power = True
    poll = 0.2
    """A fake pool's clock runs fast: it is looked at often."""

    def __init__(self, session: Session, token: str) -> None:
        self._token, _, own = token.partition("@")
        self._transport, self._session, self._own = session.transport, session, bool(own)
        self._origins = [origin_of(own)] if own else [session.origin, *session.hosts]

    def knows(self, plan: Plan) -> None:
        """Learn where the plan's hosts are: any of them that is up answers for all."""
        if not self._own:
            addresses = (origin_at(self._session.origin, host.address) for host in plan.hosts if host.address)
            self._origins += [origin for origin in addresses if origin not in self._origins]

    def _asked(self, method: str, path: str, body: Any = None) -> Any:
        lost: TransportError | None = None
        for origin in list(self._origins):
            headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
            data = b"" if body is None else json.dumps(body).encode()
            try:
                answer = self._transport.send(Request(origin, method, f"/_mockserver/{path}", headers, data))
                text = answer.read()
            except TransportError as error:
                lost = error
                continue
            said = _said(origin, answer.status, text)
            self._origins.remove(origin)
            self._origins.insert(0, origin)
            return said
        assert lost is not None
        raise lost

    def _host(self, host: str) -> Any:
        return self._asked("GET", f"hosts/{host}")

    def insert_media(self, host: str, release: str, answer_file: bytes = b"", /) -> None:
        with_answers = {"answer_file": answer_file.decode()} if answer_file else {}
        self._asked("POST", f"hosts/{host}", {"media": release, **with_answers})

    def eject_media(self, host: str, /) -> None:
        self._asked("POST", f"hosts/{host}", {"media": None})

    def power_on(self, host: str, /) -> None:
        self._asked("POST", f"hosts/{host}", {"power": "on"})

    def power_off(self, host: str, /) -> None:
        self._asked("POST", f"hosts/{host}", {"power": "off"})

    def power(self, host: str, /) -> str:
        return str(self._host(host)["power"])

    def on_disk(self, host: str, /) -> Mapping[str, str]:
        return dict(self._host(host)["disk"])

    def identified(self, host: str, /) -> str:
        return str((self._host(host)["installer"] or {}).get("identified", ""))

    def offers(self, host: str, /) -> Sequence[str]:
        return list((self._host(host)["installer"] or {}).get("offers", ()))

    def restores(self, host: str, /) -> str:
        return str((self._host(host)["installer"] or {}).get("restores", ""))

    def answer(self, host: str, choice: str, /) -> None:
        self._asked("POST", f"hosts/{host}", {"answer": choice})


def _said(origin: str, status: int, text: bytes) -> Any:
    """What a machine room answered. Raises `ProcedureError` for what it refuses, for a failure of its own, and where there
    is none: whoever else is asked for the control path does not answer in JSON."""
    if status >= 500:
        shown = " ".join(text.decode(errors="replace").split())
        raise ProcedureError(f"the machine room of {origin} failed ({status}): {shown}")
    try:
        said = json.loads(text)
    except ValueError:
        raise ProcedureError(
            f"{origin} has no machine room: fake:TOKEN is for a mockserver that was started with --control TOKEN"
        ) from None
    if status < 400:
        return said
    why = said.get("error", text) if isinstance(said, dict) else said
    if status == 401:
        raise TokenError(f"{origin} refuses the token of --hands fake:TOKEN: {why}")
    raise ProcedureError(f"the machine room refuses: {why}")
