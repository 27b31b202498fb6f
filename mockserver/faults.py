"""Faults by exact coordinates: which call, on which host, when, and what goes wrong.

    pool.faults.add("answer_lost", method="VM.start", nth=2)
    pool.faults.add("error", method="VM.start", code="HOST_NOT_ENOUGH_FREE_MEMORY", params=["1", "0"])
    pool.faults.add("power_loss", victim="host2", after=90)

A fault counts the requests that reach a host from the moment it is added, in whatever way they come: without bytes, in
process, or over sockets. The one that its coordinates name it strikes. Each tells whether it `fired`; `unused()` are those
that never did, so that no test passes because its fault was written wrongly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import urlsplit

from xenctl import xmlrpc
from xenctl.errors import ConnectionLost, ProtocolError

from . import handlers, paths
from .call import methods, underscored
from .handlers.base import Answer
from .striking import AFTER, BEFORE, ERRORS, PHYSICAL, around, go_to_its_end

if TYPE_CHECKING:
    from .call import Call
    from .classes import Verb
    from .machine.host import HostMachine
    from .pool import MockPool

KINDS: dict[str, str] = {
    "error": "the call is refused with `code` and `params`, without its effect",
    "error_after": "the call takes effect, and is answered with `code` and `params`",
    "answer_lost": "the call takes effect, and the connection breaks before the answer",
    "half_answer": "the call takes effect, and the connection breaks in the middle of the answer; so does a transfer",
    "stall": "the call takes effect, and no answer comes until the client gives up, after `seconds` where time is simulated",
    "reset": "the connection is reset before anything was read: no effect",
    "refused": "the connection is refused: no effect; over sockets it is reset, since TCP had accepted it",
    "http_status": "a proxy on the way answers with a page and `status`: no effect",
    "toolstack_crash": "the toolstack of `victim` dies while its guests go on; it starts again after `lasting` seconds",
    "power_loss": "`victim` loses its power, its guests are gone; it is switched on again after `lasting` seconds",
    "storage_path_lost": "`victim` does not reach the storage `sr`, which stays plugged: its disk calls there fail, its "
    "`guests` there `stall` or `crash`; it is back after `lasting` seconds",
}
"""What can go wrong, by name."""

TAKES: dict[str, frozenset[str]] = {
    **dict.fromkeys(ERRORS, frozenset({"code", "params", "unknown_code"})),
    **dict.fromkeys(PHYSICAL, frozenset({"victim", "lasting"})),
    "storage_path_lost": frozenset({"victim", "lasting", "sr", "guests"}),
    "stall": frozenset({"seconds"}),
    "http_status": frozenset({"status"}),
}
"""What each kind can be told beside its coordinates."""


class _Kind(TypedDict):
    kind: str


class Planned(_Kind, total=False):
    """A fault that is yet to be added, as `Faults.plan` takes it: a plain dict of the words of `Faults.add`, the kind under
    `kind`. `Planned(kind="answer_lost", method="VM.start", nth=2)`."""

    method: str | None
    host: str | None
    nth: int
    times: int | None
    at: float | None
    after: float | None
    about: str | None
    when: Callable[[Arrival], bool] | None
    code: str
    params: Sequence[str]
    unknown_code: bool
    victim: str
    lasting: float | None
    sr: str
    guests: str
    seconds: float
    status: int


READ_TIMEOUT = 300.0
"""Simulated seconds that a client waits for an answer unless told otherwise: what `HttpTransport` waits."""
BAD_GATEWAY = 502


@dataclass(frozen=True)
class Arrival:
    """A request that reached a host: what a condition looks at.

    `number` counts the requests that this pool's faults have seen. `method` is the message's name without `Async.`, which
    `is_async` tells; a request for a handler is called `GET /path`. `arguments` are those on the wire, the session
    first where the message takes one.
    """

    pool: MockPool
    number: int
    host: str
    method: str
    is_async: bool
    arguments: tuple[Any, ...]


@dataclass(eq=False)
class Fault:
    """One thing that is to go wrong. `fired` is how often it did, `calls` are the numbers of the requests that it struck,
    and `missed` says why it passed over a request that its coordinates name."""

    number: int
    kind: str
    coordinates: dict[str, Any]
    settings: dict[str, Any]
    timed: bool = False
    """Whether it happens by itself, at its time."""
    fired: int = 0
    calls: list[int] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    seen: int = 0
    over: bool = False

    @property
    def details(self) -> list[str]:
        """The error of a fault that is one: its code and parameters."""
        return [self.settings["code"], *self.settings["params"]]

    def comes_to(self, arrival: Arrival) -> bool:
        """Count `arrival`, and tell whether it is one that this fault strikes."""
        where = self.coordinates
        if self.over or self.timed or not self._concerns(arrival):
            return False
        self.seen += 1
        last = where["nth"] - 1 + where["times"] if where["times"] is not None else None
        self.over = last is not None and self.seen >= last
        return bool(self.seen >= where["nth"])

    def _concerns(self, arrival: Arrival) -> bool:
        where = self.coordinates
        name, is_async = _split(where["method"] or "")
        return (
            (where["at"] is None or arrival.pool.clock.now() >= where["at"])
            and (not name or (name == arrival.method and is_async <= arrival.is_async))
            and where["host"] in (None, arrival.host)
            and (where["about"] is None or where["about"] in arrival.arguments)
            and (where["when"] is None or bool(where["when"](arrival)))
        )

    def as_dict(self) -> dict[str, Any]:
        """What was asked for and what became of it, as JSON has it."""
        asked = {k: v for k, v in {**self.coordinates, **self.settings}.items() if v is not None and k != "when"}
        counts = {"fired": self.fired, "calls": list(self.calls), "missed": list(self.missed), "over": self.over}
        return {"id": self.number, "kind": self.kind, **asked, **counts}

    def __str__(self) -> str:
        """The expression that adds it."""
        plain: dict[str, Any] = {"nth": 1, "times": 1, "unknown_code": False}
        asked = {**self.coordinates, **self.settings}
        words = [f"{k}={v!r}" for k, v in asked.items() if v is not None and plain.get(k) != v]
        text = f"pool.faults.add({', '.join([repr(self.kind), *words])})"
        return text if not self.missed else f"{text}  # missed: {'; '.join(self.missed)}"


class Faults:
    """What is to go wrong in a pool and its neighbours. Iterating gives the faults, in the order in which they were added;
    where several name the same request, the first one strikes, and the others miss it."""

    def __init__(self, pool: MockPool) -> None:
        self._pool = pool
        self._faults: list[Fault] = []
        self._numbers = 0
        self.armed = False
        """Whether any fault may still strike, or somebody listens: while not, a request is not looked at."""
        self.requests = 0
        self.due: Fault | None = None
        """The error that the call at hand is to come to, until its verb takes it."""
        self._listener: Callable[[Arrival], None] | None = None

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def __len__(self) -> int:
        return len(self._faults)

    # --- what is to go wrong

    def add(
        self,
        kind: str,
        *,
        method: str | None = None,
        host: str | None = None,
        nth: int = 1,
        times: int | None = 1,
        at: float | None = None,
        after: float | None = None,
        about: str | None = None,
        when: Callable[[Arrival], bool] | None = None,
        **settings: Any,
    ) -> Fault:
        """Let something of `kind` (see `KINDS`) go wrong, and return it.

        The coordinates: the `nth` request and those after it, `times` in all (None: from then on always), that goes to
        `method` (`VM.start` is its `Async.` form too, `Async.VM.start` is that alone, `GET /pool/xmldbdump` is a handler) on
        `host` (name, address or uuid), at or later than the simulated time `at`, or `after` seconds from now, which has
        `about` among its arguments, and for which `when(arrival)` holds. All that are given must fit.

        What kinds take beside these: errors `code`, `params` and, for a code that no XenAPI has, `unknown_code=True`;
        `stall` the `seconds` of the client's patience; `http_status` the `status`; `power_loss`, `toolstack_crash` and
        `storage_path_lost` their `victim`, and `lasting`, the seconds until it is back (None: until somebody sees to it);
        the last one the `sr` (name label, uuid or reference) and whether `guests` `stall` or `crash`. These happen at their
        time where no request is named, and else before the request is served.

        An error takes the place of the verb, or comes after it: a request that is refused earlier (arguments, session,
        permission) is so refused, and the fault has missed it. That of an `Async.` call is its task's.

        Raises `ValueError` for what cannot be, and `TypeError` for words that the kind does not take.
        """
        if kind not in KINDS:
            raise ValueError(f"no such fault: {kind!r}{_nearest(kind, KINDS)}; there are {', '.join(KINDS)}")
        surplus = sorted(set(settings) - TAKES.get(kind, frozenset()))
        if surplus:
            takes = ", ".join(sorted(TAKES.get(kind, ()))) or "nothing of its own"
            raise TypeError(f"a fault {kind!r} does not take {', '.join(surplus)}; it takes {takes}")
        with self._pool.guard():
            moment = self._moment(at, after)
            coordinates: dict[str, Any] = {
                "method": self._known_method(method),
                "host": self._name(host),
                "nth": _count("nth", nth),
                "times": None if times is None else _count("times", times),
                "at": moment,
                "about": None if about is None else _text("about", about),
                "when": when,
            }
            made = _SETTINGS[kind](self, settings) if kind in _SETTINGS else {}
            named = any(coordinates[word] is not None for word in ("method", "host", "about", "when")) or nth != 1
            if kind in PHYSICAL and not named and coordinates["at"] is None:
                raise ValueError(f"when is {kind!r} to happen? Give at, after, or the request before which it does")
            self._numbers += 1
            fault = Fault(self._numbers, kind, coordinates, made, timed=kind in PHYSICAL and not named)
            self._faults.append(fault)
            if fault.timed:
                delay = (moment or 0.0) - self._pool.clock.now()
                self._pool.clock.after(delay, lambda: self._happen(fault, None))
            else:
                self.armed = True
            return fault

    def plan(self, what: Planned | Mapping[str, Any] | str) -> Fault:
        """Add a fault that is given as a mapping (see `Planned`) or as text, which has its kind, the method if there is one,
        and other words as `word=value`: `"answer_lost VM.start nth=2"`, `"error VM.start code=HOST_OFFLINE params=x"`,
        `"power_loss victim=host2 after=90"`. Values are without spaces, params are parted by commas.

        Raises what `add` raises, and `ValueError` for what is no such text or mapping.
        """
        words = _from_text(what) if isinstance(what, str) else dict(what)
        kind = words.pop("kind", None)
        if not isinstance(kind, str):
            raise ValueError(f"which fault? Give its kind in {what!r}")  # noqa: TRY004 - of one kind with what cannot be
        return self.add(kind, **words)

    def remove(self, fault: Fault | int) -> None:
        """Take a fault back, by itself or by its number. Raises `KeyError` for one that is not there."""
        with self._pool.guard():
            number = fault if isinstance(fault, int) else fault.number
            found = [known for known in self._faults if known.number == number]
            if not found:
                raise KeyError(f"no fault {number} in this pool")
            found[0].over = True
            self._faults.remove(found[0])
            self._rearm()

    def clear(self) -> None:
        """Take every fault back."""
        for fault in list(self._faults):
            self.remove(fault)

    def unused(self) -> list[Fault]:
        """The faults that never fired; as text each says how it was asked for, and why it missed."""
        return [fault for fault in self._faults if not fault.fired]

    def listen(self, listener: Callable[[Arrival], None] | None) -> None:
        """Tell `listener` of every request from now on; None ends that."""
        self._listener = listener
        self._rearm()

    def _rearm(self) -> None:
        waiting = any(not fault.over and not fault.timed for fault in self._faults)
        self.armed = waiting or self._listener is not None

    # --- checking what was asked for

    def _known_method(self, method: str | None) -> str | None:
        if method is None:
            return None
        verb, _, path = _text("method", method).partition(" ")
        if path:
            if not any(handlers.find(m.system.release, verb, path) for m in self._pool.world.machines):
                raise ValueError(f"no host answers {method!r}: there is no such handler")
            return method
        name, is_async = _split(method)
        names = {known: message for m in self._pool.world.machines for known, message in self._messages(m).items()}
        if name not in names:
            raise ValueError(f"no host of this pool knows the method {name!r}{_nearest(name, names)}")
        if is_async and not names[name].has_async:
            raise ValueError(f"{name} has no Async form")
        return method

    def _messages(self, machine: HostMachine) -> dict[str, Any]:
        return methods(machine.system.release)

    def _name(self, host: str | None) -> str | None:
        if host is None:
            return None
        try:
            return self._pool.machine(_text("host", host)).name
        except KeyError as error:
            raise ValueError(error.args[0]) from None

    def _moment(self, at: float | None, after: float | None) -> float | None:
        now = self._pool.clock.now()
        if at is not None and after is not None:
            raise ValueError("give at (a moment) or after (seconds from now), not both")
        if after is not None and _number("after", after) < 0:
            raise ValueError(f"after is a number of seconds from now, not {after:g}")
        if at is not None and _number("at", at) < now:
            raise ValueError(f"the simulated time {at:g} is over: it is {now:g}")
        return at if after is None else now + after

    def _error(self, settings: dict[str, Any]) -> dict[str, Any]:
        code, params = settings.get("code"), settings.get("params", [])
        unknown = bool(settings.get("unknown_code", False))
        if not code:
            raise ValueError("which error? Give its code, such as code='HOST_OFFLINE', and params")
        code = _text("code", code)
        params = _texts("params", params)
        errors = self._pool.store.model.errors
        names = errors.get("SR_BACKEND_FAILURE" if code.startswith("SR_BACKEND_FAILURE_") else code)
        if names is None and not unknown:
            raise ValueError(
                f"no XenAPI has the error {code!r}{_nearest(code, errors)}; unknown_code=True lets it pass"
            )
        if names is not None and len(names) != len(params):
            wanted = f"{len(names)} params ({', '.join(names)})" if names else "no params"
            raise ValueError(f"{code} has {wanted}, not {len(params)}")
        return {"code": code, "params": params, "unknown_code": unknown}

    def _accident(self, settings: dict[str, Any]) -> dict[str, Any]:
        if settings.get("victim") is None:
            raise ValueError("whose? Give the host as victim=")
        lasting = settings.get("lasting")
        if lasting is not None and not _number("lasting", lasting) > 0:
            raise ValueError(f"lasting is a number of seconds, not {lasting!r}")
        return {"victim": self._name(settings["victim"]), "lasting": lasting}

    def _path(self, settings: dict[str, Any]) -> dict[str, Any]:
        made, sr, guests = self._accident(settings), settings.get("sr"), settings.get("guests", paths.STALL)
        if sr is None:
            raise ValueError("the path to which storage? Give its name, uuid or reference as sr=")
        paths.assert_policy(guests)
        row = paths.named(self._pool.machine(made["victim"]), _text("sr", sr))
        return {**made, "sr": row["uuid"], "guests": guests}

    def _patience(self, settings: dict[str, Any]) -> dict[str, Any]:
        seconds = settings.get("seconds", READ_TIMEOUT)
        if not _number("seconds", seconds) > 0:
            raise ValueError(f"seconds is how long the client waits, not {seconds!r}")
        return {"seconds": seconds}

    def _page(self, settings: dict[str, Any]) -> dict[str, Any]:
        status = settings.get("status", BAD_GATEWAY)
        if status not in range(300, 600):
            raise ValueError(f"status is one that says that something went wrong, 300 to 599, not {status!r}")
        return {"status": status}

    # --- on the way of a request

    def answer(self, machine: HostMachine, method: str, target: str, body: bytes, go: Callable[[], Answer]) -> Answer:
        """Answer an HTTP request to `machine` by `go`, or let it go wrong."""
        name, params = _peek(method, urlsplit(target).path, body)
        answer: Answer = self._carry(machine, name, params, go)
        return answer

    def dispatch(self, machine: HostMachine, method: str, params: list[Any], go: Callable[[], Any]) -> Any:
        """The same for a call without bytes."""
        out = self._carry(machine, method, params, go)
        if isinstance(out, Answer):
            text = f"HTTP {out.status} instead of an answer: a fault of the test"
            raise ProtocolError(text, host=f"http://{machine.address}", method=method)
        return out

    def _carry(self, machine: HostMachine, name: str, params: Sequence[Any], go: Callable[[], Any]) -> Any:
        plain, is_async = _split(name)
        message = underscored(machine.system.release).get(plain)
        self.requests += 1
        plain = message.wire_name if message is not None and not is_async else plain
        arrival = Arrival(machine.pool, self.requests, machine.name, plain, is_async, tuple(params))
        if self._listener is not None:
            self._listener(arrival)
        fault = self._chosen(arrival)
        if not machine.answers:
            raise ConnectionLost("the host went away", host=f"http://{machine.address}", method=name)
        if fault is None:
            return go()
        if fault.kind in ERRORS:
            return self._with_error(fault, arrival, go)
        if fault.kind in BEFORE:
            self._note(fault, arrival)
            return BEFORE[fault.kind](fault, machine, name)
        began, answer = self._pool.clock.now(), go_to_its_end(go)
        if fault.kind != "half_answer" and isinstance(answer, Answer) and answer.steps is not None:
            fault.missed.append(f"request {arrival.number} ({arrival.method}) was answered before it had any effect")
            return answer
        self._note(fault, arrival)
        return AFTER[fault.kind](fault, machine, name, answer, began)

    def _chosen(self, arrival: Arrival) -> Fault | None:
        """The fault that strikes a request; what happens to hosts happens now."""
        chosen = None
        for fault in [fault for fault in self._faults if fault.comes_to(arrival)]:
            if fault.kind in PHYSICAL:
                self._happen(fault, arrival)
            elif chosen is None:
                chosen = fault
            else:
                fault.missed.append(f"request {arrival.number} was struck by fault {chosen.number} already")
        self._rearm()
        return chosen

    def _with_error(self, fault: Fault, arrival: Arrival, go: Callable[[], Any]) -> Any:
        self.due = fault
        try:
            return go()
        finally:
            if self.due is fault:
                self.due = None
                fault.missed.append(f"request {arrival.number} ({arrival.method}) did not get as far as its verb")
            else:
                self._told(fault, arrival)

    def around(self, call: Call, verb: Verb) -> Verb:
        """`verb` with the error that is due in its place, or after it."""
        fault, self.due = self.due, None
        return verb if fault is None else around(fault, verb)

    def _happen(self, fault: Fault, arrival: Arrival | None) -> None:
        if arrival is None and fault.over:
            return
        fault.over = fault.over or arrival is None
        why_not = PHYSICAL[fault.kind](self._pool.machine(fault.settings["victim"]), fault.settings)
        if why_not:
            fault.missed.append(why_not)
        else:
            self._note(fault, arrival)

    def _note(self, fault: Fault, arrival: Arrival | None) -> None:
        fault.fired += 1
        if arrival is not None:
            self._told(fault, arrival)

    def _told(self, fault: Fault, arrival: Arrival) -> None:
        fault.calls.append(arrival.number)
        pool = arrival.pool
        if pool.trace is not None:
            pool.trace.struck(fault, arrival)
        if pool.log is not None and fault.kind not in ERRORS:
            pool.log.struck(fault, arrival)


_SETTINGS: dict[str, Callable[[Faults, dict[str, Any]], dict[str, Any]]] = {
    **dict.fromkeys(ERRORS, Faults._error),
    **dict.fromkeys(PHYSICAL, Faults._accident),
    "storage_path_lost": Faults._path,
    "stall": Faults._patience,
    "http_status": Faults._page,
}


_VALUES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("nth", "status"), int),
    **dict.fromkeys(("at", "after", "lasting", "seconds"), float),
    **dict.fromkeys(("method", "host", "about", "code", "victim", "sr", "guests"), str),
    "times": lambda text: None if text == "always" else int(text),
    "params": lambda text: text.split(",") if text else [],
    "unknown_code": {"true": True, "false": False}.__getitem__,
}
"""What the words of a fault that is given as text hold, made of their text."""


def _from_text(text: str) -> dict[str, Any]:
    """The words of a fault that is given as text."""
    kind, *rest = text.split() or [""]
    words: dict[str, Any] = {"kind": kind}
    if rest and "=" not in rest[0]:
        words["method"] = rest.pop(0)
    for part in rest:
        word, mark, value = part.partition("=")
        if not mark or word not in _VALUES or word in words:
            raise ValueError(f"not a word of a fault: {part!r} in {text!r}; there are {', '.join(_VALUES)}, each once")
        try:
            words[word] = _VALUES[word](value)
        except (ValueError, KeyError):
            raise ValueError(f"not a value of {word}: {value!r} in {text!r}") from None
    return words


def _split(method: str) -> tuple[str, bool]:
    """A method's name without the prefix that makes it a task, and whether it had one."""
    for prefix in ("Async.", "InternalAsync."):
        if method.startswith(prefix):
            return method[len(prefix) :], True
    return method, False


def _peek(method: str, path: str, body: bytes) -> tuple[str, Sequence[Any]]:
    """What a request is for: the method and parameters of a call, or the HTTP method and path of anything else."""
    if method == "POST":
        try:
            return xmlrpc.loads_call(body)
        except ValueError:
            pass
        try:
            call = json.loads(body)
            return str(call["method"]), list(call["params"])
        except (ValueError, TypeError, KeyError):
            pass
    return f"{method} {path}", ()


def _count(word: str, number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"{word} is a whole number from 1, not {number!r}")
    return number


def _number(word: str, number: Any) -> float:
    if not isinstance(number, (int, float)) or isinstance(number, bool) or not math.isfinite(number):
        raise ValueError(f"{word} is a number, not {number!r}")
    return number


def _text(word: str, text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{word} is a text, not {text!r}")  # noqa: TRY004 - of one kind with what else cannot be
    return text


def _texts(word: str, texts: Any) -> list[str]:
    if not isinstance(texts, (list, tuple)):
        raise ValueError(f"{word} is a list of texts, not {texts!r}")  # noqa: TRY004
    return [str(text) for text in texts]


def _nearest(word: str, known: Any) -> str:
    found = get_close_matches(word, known, n=1)
    return f" (is {found[0]!r} meant?)" if found else ""
