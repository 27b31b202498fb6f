"""The control path: what tests in this process do to a pool, for tests in other processes and languages.

JSON under `/_mockserver/`, on every host's port and on one of its own, which goes on when every host is off. It is there
only where the server was given a token, and answers nobody who does not send it. A request does all that it asks for or,
where something is wrong with it, nothing; the error says what is wrong, and where.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .handlers.base import NO_CACHE, Answer
from .invariants import sound
from .machine.host import MachineRoomError
from .savepoint import SavepointError
from .trace import Trace
from .traced import to_lines

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool
    from .store import Row

PREFIX = "/_mockserver/"
TAIL = 100
"""Records of the trace that are sent unless told otherwise."""
WEEK = 7 * 86400.0


class _Refused(Exception):
    """A request that cannot be done: with this status, and why."""

    def __init__(self, status: int, text: str, where: str = "") -> None:
        super().__init__(text)
        self.status, self.text, self.where = status, text, where


@dataclass(frozen=True)
class _Asked:
    """One request: what stands at the places of its path, the query, and the members of its body."""

    place: tuple[str, ...]
    query: Mapping[str, str]
    body: Mapping[str, Any]


def checked_token(token: str) -> str:
    """`token`, if it can be sent. Raises `ValueError` for one that is empty or that a header cannot carry."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("a control token is a text without spaces, of ASCII characters, and not empty")
    return token


class Control:
    """Answers the control path of one pool while it is served. From `start` on, the pool is traced and the invariants that
    hold in every pool are watched."""

    def __init__(self, pool: MockPool, token: str) -> None:
        self._pool = pool
        self._token = checked_token(token).encode()
        self._trace: Trace | None = None
        self._savepoints: dict[int, Any] = {}
        self._numbers = 0

    def start(self) -> None:
        """Begin to watch."""
        watched = {type(invariant) for invariant in self._pool.invariants}
        self._pool.watch(*(invariant for invariant in sound() if type(invariant) not in watched))
        if self._pool.trace is None:
            self._trace = Trace(self._pool)
            self._trace.start()

    def stop(self) -> None:
        """End the trace, if it was begun here."""
        if self._trace is not None:
            self._trace.stop()

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer one request, with the pool to itself. `headers` has lower-case names."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if not (hmac.compare_digest(given.strip().encode(), self._token) and scheme.lower() == "bearer"):
            text = "send the token that the server was started with, as Authorization: Bearer TOKEN"
            return _json(401, {"error": text, "where": "headers"}, **{"www-authenticate": "Bearer"})
        try:
            return self._routed(method, target, body)
        except _Refused as refused:
            return _json(refused.status, {"error": refused.text, "where": refused.where or f"{method} {target}"})

    def _routed(self, method: str, target: str, body: bytes) -> Answer:
        parts = urlsplit(target)
        words = [unquote(word) for word in parts.path[len(PREFIX) :].split("/")]
        found: dict[str, tuple[Callable[[Control, _Asked], Answer], tuple[str, ...]]] = {}
        for (verb, pattern), function in _ROUTES.items():
            place = _match(pattern.split("/"), words)
            if place is not None:
                found[verb] = function, place
        if not found:
            raise _Refused(404, f"there is no such path; there are {', '.join(sorted({p for _, p in _ROUTES}))}")
        if method not in found:
            raise _Refused(405, f"this path answers {', '.join(found)}, not {method}")
        function, place = found[method]
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        return function(self, _Asked(place, query, _members(body)))

    # --- what there is

    def _invariants(self, asked: _Asked) -> Answer:
        _only(asked.body)
        if asked.query.keys() - {"watched"}:
            raise _Refused(400, "the query is empty, or watched", "query")
        if "watched" in asked.query:
            return _json(200, [invariant.described() for invariant in self._pool.invariants])
        return _json(200, [violation.as_dict() for violation in self._pool.violations])

    def _clock(self, asked: _Asked) -> Answer:
        _only(asked.body)
        clock = self._pool.clock
        return _json(200, {"now": clock.now(), "stamp": str(clock.stamp()), "next": clock.next_moment()})

    def _move_clock(self, asked: _Asked) -> Answer:
        body = asked.body
        _only(body, "advance", "until_idle", "limit")
        if ("advance" in body) == ("until_idle" in body):
            raise _Refused(400, "give advance (seconds), or until_idle: true", "body")
        if "advance" in body:
            if "limit" in body:
                raise _Refused(400, "limit goes with until_idle", "body.limit")
            self._pool.clock.advance(_seconds(body, "advance"))
        elif body["until_idle"] is not True:
            raise _Refused(400, f"until_idle is true, not {body['until_idle']!r}", "body.until_idle")
        else:
            self._pool.clock.run_until_idle(_seconds(body, "limit") if "limit" in body else WEEK)
        return self._clock(_Asked((), {}, {}))

    def _hosts(self, asked: _Asked) -> Answer:
        _only(asked.body)
        return _json(200, [self._host_of(machine) for machine in self._pool.world.machines])

    def _host(self, asked: _Asked) -> Answer:
        _only(asked.body)
        return _json(200, self._host_of(self._machine(asked.place[0])))

    def _machine(self, name: str) -> HostMachine:
        try:
            return self._pool.machine(name)
        except KeyError as error:
            raise _Refused(404, str(error.args[0])) from None

    def _host_of(self, machine: HostMachine) -> dict[str, Any]:
        installer = machine.state == "installer"
        return {
            "name": machine.name,
            "uuid": machine.uuid,
            "address": machine.address,
            "disk": self._pool.hands.on_disk(machine.uuid),
            "power": machine.state,
            "release": machine.system.release.product_version,
            "media": machine.media.product_version if machine.media is not None else None,
            "installer": {
                "identified": self._pool.hands.identified(machine.uuid),
                "offers": list(machine.offers()),
                "restores": self._pool.hands.restores(machine.uuid),
            }
            if installer
            else None,
            "lost": sorted(machine.lost),
        }

    def _act_on_host(self, asked: _Asked) -> Answer:
        machine, body, hands = self._machine(asked.place[0]), asked.body, self._pool.hands
        _only(body, "power", "media", "answer", "lose", "regain", "network_backend", "answer_file")
        words = dict(body)
        answers = words.pop("answer_file", "")
        if len(words) != 1:
            raise _Refused(400, "give one of power, media, answer, lose, regain and network_backend", "body")
        ((word, value),) = words.items()
        if answers and (word != "media" or value is None or not isinstance(answers, str)):
            raise _Refused(400, "answer_file is a text, and goes with a medium", "body.answer_file")
        acts: dict[tuple[str, Any], Callable[[], None]] = {
            ("power", "on"): lambda: hands.power_on(machine.uuid),
            ("power", "off"): lambda: hands.power_off(machine.uuid),
            ("media", None): lambda: hands.eject_media(machine.uuid),
        }
        if word == "power" and value not in ("on", "off"):
            raise _Refused(400, f"power is on or off, not {value!r}", "body.power")
        if not isinstance(value, str) and (value is not None or word in ("lose", "regain", "network_backend")):
            raise _Refused(400, f"{word} is a text, not {value!r}", f"body.{word}")
        if word == "answer" and value not in ("upgrade", "fresh", "restore"):
            raise _Refused(400, f"answer is upgrade, fresh or restore, not {value!r}", "body.answer")
        insert: Callable[[], None] = lambda: hands.insert_media(machine.uuid, str(value), answers.encode())  # noqa: E731
        others: dict[str, Callable[[], None]] = {
            "media": insert,
            "answer": lambda: hands.answer(machine.uuid, str(value)),
            "lose": lambda: hands.lose_storage(machine.uuid, str(value)),
            "regain": lambda: hands.regain_storage(machine.uuid, str(value)),
            "network_backend": lambda: hands.set_network_backend(machine.uuid, str(value)),
        }
        try:
            (acts.get((word, value)) or others[word])()
        except MachineRoomError as error:
            raise _Refused(409, str(error), f"body.{word}") from None
        except ValueError as error:
            raise _Refused(400, str(error), f"body.{word}") from None
        return _json(200, self._host_of(machine))

    # --- guests

    def _vms(self, asked: _Asked) -> Answer:
        _only(asked.body)
        return _json(200, [self._vm_of(vm) for vm in self._pool.inside.all()])

    def _vm(self, asked: _Asked) -> Answer:
        _only(asked.body)
        return _json(200, self._vm_of(self._named(asked.place[0])))

    def _named(self, name: str) -> Row:
        try:
            return self._pool.inside.named(name)
        except ValueError as error:
            raise _Refused(404, str(error)) from None

    def _vm_of(self, vm: Row) -> dict[str, Any]:
        pool, found = self._pool, self._pool.domain(vm)
        agent = pool.store.find("VM_guest_metrics", vm["guest_metrics"])
        return {
            "name": vm["name_label"],
            "uuid": vm["uuid"],
            "power_state": vm["power_state"],
            "runs_on": found[0].name if found is not None else None,
            "domid": found[1].domid if found is not None else None,
            "agent": pool.store.record(agent) if agent is not None else None,
        }

    def _act_in_vm(self, asked: _Asked) -> Answer:
        vm, body, inside = self._named(asked.place[0]), asked.body, self._pool.inside
        _only(body, "guest", "report")
        if len(body) != 1:
            raise _Refused(400, "give one of guest and report", "body")
        acts = {"halts": inside.halt, "reboots": inside.reboot, "crashes": inside.crash}
        ((word, value),) = body.items()
        if word == "guest" and (not isinstance(value, str) or value not in acts):
            raise _Refused(400, f"guest {', '.join(acts)}, not {value!r}", "body.guest")
        if word == "report" and not isinstance(value, dict):
            raise _Refused(400, f"report is an object, fields of VM_guest_metrics, not {value!r}", "body.report")
        try:
            if word == "guest":
                acts[value](vm.ref)
            else:
                inside.report(vm.ref, **value)
        except MachineRoomError as error:
            raise _Refused(409, str(error), f"body.{word}") from None
        except ValueError as error:
            raise _Refused(400, str(error), f"body.{word}") from None
        return _json(200, self._vm_of(vm))

    # --- media on servers

    def _media(self, asked: _Asked) -> Answer:
        _only(asked.body)
        return _json(200, {url: release.product_version for url, release in self._pool.media.items()})

    def _publish(self, asked: _Asked) -> Answer:
        body = asked.body
        _only(body, "url", "release")
        for word in ("url", "release"):
            if not isinstance(body.get(word), str):
                raise _Refused(400, f"{word} is a text, not {body.get(word)!r}", f"body.{word}")
        try:
            self._pool.hands.publish(body["url"], body["release"])
        except ValueError as error:
            raise _Refused(400, str(error), "body") from None
        return _json(201, {"url": body["url"], "release": body["release"]})

    # --- faults

    def _faults(self, asked: _Asked) -> Answer:
        _only(asked.body)
        if asked.query.keys() - {"unused"}:
            raise _Refused(400, "the query is empty, or unused", "query")
        found = self._pool.faults.unused() if "unused" in asked.query else self._pool.faults
        return _json(200, [fault.as_dict() for fault in found])

    def _add_fault(self, asked: _Asked) -> Answer:
        words = dict(asked.body)
        kind = words.pop("kind", None)
        if not isinstance(kind, str):
            raise _Refused(400, "kind is a text: which fault?", "body.kind")
        if "when" in words:
            raise _Refused(400, "a condition is a function: only in the process of the pool", "body.when")
        try:
            fault = self._pool.faults.add(kind, **words)
        except (ValueError, TypeError) as error:
            raise _Refused(400, str(error), "body") from None
        return _json(201, fault.as_dict())

    def _remove_fault(self, asked: _Asked) -> Answer:
        _only(asked.body)
        try:
            self._pool.faults.remove(_number(asked.place[0]))
        except KeyError as error:
            raise _Refused(404, str(error.args[0])) from None
        return _json(200, {})

    def _clear_faults(self, asked: _Asked) -> Answer:
        _only(asked.body)
        self._pool.faults.clear()
        return _json(200, {})

    # --- trace

    def _tail(self, asked: _Asked) -> Answer:
        _only(asked.body)
        if asked.query.keys() - {"tail"}:
            raise _Refused(400, "the query is empty, or tail=NUMBER", "query")
        text = asked.query.get("tail", str(TAIL))
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise _Refused(400, f"tail is a whole number from 1, not {text!r}", "query.tail")
        trace = self._pool.trace
        if trace is None:
            raise _Refused(409, "the trace was stopped")
        lines = "".join(to_lines(trace.tail(int(text)), dropped=trace.dropped))
        return Answer(200, lines.encode(), {**NO_CACHE, "content-type": "application/x-ndjson"})

    # --- savepoints

    def _savepoint(self, asked: _Asked) -> Answer:
        _only(asked.body)
        try:
            taken = self._pool.savepoint()
        except SavepointError as error:
            raise _Refused(409, str(error)) from None
        self._numbers += 1
        self._savepoints[self._numbers] = taken
        return _json(201, {"id": self._numbers})

    def _rollback(self, asked: _Asked) -> Answer:
        _only(asked.body)
        number = _number(asked.place[0])
        if number not in self._savepoints:
            raise _Refused(404, f"there is no savepoint {number}")
        try:
            self._pool.rollback(self._savepoints[number])
        except SavepointError as error:
            raise _Refused(409, str(error)) from None
        self._savepoints = {n: taken for n, taken in self._savepoints.items() if n <= number}
        return _json(200, {"id": number})


_ROUTES: dict[tuple[str, str], Callable[[Control, _Asked], Answer]] = {
    ("GET", "invariants"): Control._invariants,
    ("GET", "clock"): Control._clock,
    ("POST", "clock"): Control._move_clock,
    ("GET", "hosts"): Control._hosts,
    ("GET", "hosts/HOST"): Control._host,
    ("POST", "hosts/HOST"): Control._act_on_host,
    ("GET", "vms"): Control._vms,
    ("GET", "vms/VM"): Control._vm,
    ("POST", "vms/VM"): Control._act_in_vm,
    ("GET", "media"): Control._media,
    ("POST", "media"): Control._publish,
    ("GET", "faults"): Control._faults,
    ("POST", "faults"): Control._add_fault,
    ("DELETE", "faults"): Control._clear_faults,
    ("DELETE", "faults/ID"): Control._remove_fault,
    ("GET", "trace"): Control._tail,
    ("POST", "savepoints"): Control._savepoint,
    ("POST", "savepoints/ID/rollback"): Control._rollback,
}
"""What answers which method on which path under the prefix; words in capitals stand for any."""


def _match(pattern: list[str], words: list[str]) -> tuple[str, ...] | None:
    """What stands at the places of a pattern; None where it does not fit."""
    if len(pattern) != len(words) or any(not p.isupper() and p != w for p, w in zip(pattern, words, strict=True)):
        return None
    return tuple(word for p, word in zip(pattern, words, strict=True) if p.isupper())


def _members(body: bytes) -> Mapping[str, Any]:
    if not body:
        return {}
    try:
        value = json.loads(body)
    except ValueError as error:
        raise _Refused(400, f"not JSON: {error}", "body") from None
    if not isinstance(value, dict):
        raise _Refused(400, "the body is a JSON object", "body")
    return value


def _only(body: Mapping[str, Any], *known: str) -> None:
    surplus = sorted(set(body) - set(known))
    if surplus:
        takes = ", ".join(known) or "no body"
        raise _Refused(400, f"not known here: {', '.join(surplus)}; this takes {takes}", f"body.{surplus[0]}")


def _seconds(body: Mapping[str, Any], word: str) -> float:
    value = body[word]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 100 * 366 * 86400:
        raise _Refused(400, f"{word} is a number of seconds from 0, not {value!r}", f"body.{word}")
    return float(value)


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise _Refused(404, f"{text!r} is no number of one")
    return int(text)


def _json(status: int, value: Any, **headers: str) -> Answer:
    return Answer(
        status,
        json.dumps(value).encode() + b"\n",
        {**NO_CACHE, "content-type": "application/json", **headers},
    )
