"""What a trace holds: typed records without secrets, as JSON lines and back, compared, and sent again to another pool."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from xenctl import datamodel
from xenctl.datamodel import Message
from xenctl.datamodel import types as t
from xenctl.errors import Failure, TransportError

from .store import Row, Write

if TYPE_CHECKING:
    from .pool import MockPool
    from .trace import Entry

REDACTED = "REDACTED"
MEMBERS = 256
"""Members of a result, those within members included, beyond which it is not kept."""
LONGEST = 16384
"""Characters of a text beyond which it is not kept."""
FORMAT = 1
"""Of the file of JSON lines."""

_SECRET_PARAMS = re.compile(r"(?:.*_)?(?:pwd|password|psecret|pool_secret|private_key|old_ps|new_ps)")
_SECRET_KEYS = re.compile(
    r".*(?:pass|passwd|password|passphrase|secret|_transformed|cluster_token|private_key)", re.IGNORECASE | re.DOTALL
)
_SECRET_FIELDS = frozenset({("secret", "value"), ("pool", "wlb_password"), ("Cluster", "cluster_token")})
"""Fields whose name alone does not say it are here with their class."""


@dataclass(frozen=True)
class Omitted:
    """Stands for a value that was too large to keep."""

    kind: str
    members: int


@dataclass(frozen=True)
class Change:
    """One write of the database: `kind` is `create`, `write` or `delete`. Physical changes have the table `machine`. Rows
    that were made or deleted are in `new` and `old` as a whole."""

    kind: str
    table: str
    ref: str
    field: str = ""
    old: Any = None
    new: Any = None


@dataclass(frozen=True)
class TraceRecord:
    """One thing that happened.

    `kind` is `call`; `fault`, for what a fault did to a request (`lost` is its kind); or `event`, for what happened by
    itself (`method` says what). `number` counts calls; the others have that of the call before them. `at` is in simulated
    seconds since the epoch, and `seconds` is how long it took. `session` is a name in place of the reference. What came of
    it is `result`, or `error` (code and parameters), or neither where the connection was `lost`. `generations` are those
    of the database before and after. `missing` counts the writes that were dropped.
    """

    number: int
    kind: str
    at: float
    seconds: float
    host: str
    session: str
    method: str
    arguments: tuple[Any, ...] = ()
    result: Any = None
    error: tuple[str, ...] = ()
    lost: str = ""
    writes: tuple[Change, ...] = ()
    generations: tuple[int, int] = (0, 0)
    missing: int = 0

    def text(self) -> str:
        """Who called what and what came of it, in one line of any length."""
        said = ", ".join([*([self.session] if self.session else []), *map(repr, self.arguments)])
        if self.error:
            outcome = f"refused: {self.error[0]}({', '.join(self.error[1:])})"
        else:
            outcome = f"no answer: {self.lost}" if self.lost else repr(self.result)
        return f"{self.host} {self.method}({said}) -> {outcome}"


# --- keeping values


def keep(value: Any) -> Any:
    """`value`, as a copy that whoever was given it does not change; `Omitted` where it is too large, judged by its first
    member, as its members are of one kind. What lies deeper is shared, as it is with the database, which replaces values
    and never changes them."""
    kind = type(value)
    if kind is str:
        return value if len(value) <= LONGEST else Omitted("text", len(value))
    if kind is dict:
        return dict(value) if _size(value, value.values()) <= MEMBERS else Omitted("dict", len(value))
    if kind is list:
        return list(value) if _size(value, value) <= MEMBERS else Omitted("list", len(value))
    return value


def _size(value: Sized, members: Iterable[Any]) -> int:
    for first in members:
        return len(value) * (1 + len(first)) if isinstance(first, (dict, list)) else len(value)
    return 0


def plain_write(write: Write) -> Write:
    """The making of a row with the fields that it had then."""
    return Write(write.kind, write.table, write.ref, write.field, write.old, dict(write.new), write.at)


# --- secrets


_IN_URL = re.compile(r"((?:^|[?&;\s])session_id=)([^&;#\s\"']+)")
"""A session that somebody names in a URL."""


class Redactor:
    """Makes records of what was noted: session references become names, secrets `REDACTED`."""

    def __init__(self, pool: MockPool) -> None:
        self._pool = pool
        self._sessions: dict[str, str] = {}
        self._secrets = self._pool_secrets()

    def _pool_secrets(self) -> set[str]:
        return {secret for machine in self._pool.machines for secret in machine.system.secrets} - {""}

    def record(self, entry: Entry, writes: list[Write], missing: int) -> TraceRecord:
        """The record of `entry`, which made `writes`, of which `missing` are not there."""
        self._secrets = self._pool_secrets()
        message = self._message(entry.method) if entry.kind != "event" else None
        arguments, session = [keep(argument) for argument in entry.arguments], ""
        if arguments and (message is None or message.session) and self._is_session(arguments[0], message):
            session, arguments = self._named(arguments[0]), arguments[1:]
        for write in writes:
            if write.table == "session" and write.kind == "create":
                self._named(write.ref)
        return TraceRecord(
            number=entry.number,
            kind=entry.kind,
            at=entry.began,
            seconds=entry.ended - entry.began,
            host=entry.host,
            session=session,
            method=entry.method,
            arguments=tuple(self._arguments(message, arguments)),
            result=self._result(message, entry.result),
            error=tuple(str(self._clean(part)) for part in entry.error),
            lost=entry.lost,
            writes=tuple(self._change(write) for write in writes),
            generations=(entry.generation, entry.last_generation),
            missing=missing,
        )

    @staticmethod
    def _message(method: str) -> Message | None:
        for prefix in ("Async.", "InternalAsync."):
            method = method.removeprefix(prefix)
        name, _, message = (method if "." in method else method.replace("_", ".", 1)).partition(".")
        cls = datamodel.load().classes.get(name)
        return cls.messages.get(message) if cls is not None else None

    def _is_session(self, ref: Any, message: Message | None) -> bool:
        if not isinstance(ref, str):
            return False
        return message is not None or ref in self._sessions or self._pool.store.find("session", ref) is not None

    def name(self, names: Mapping[str, str]) -> None:
        """Call sessions, given by name, so from now on."""
        self._sessions.update({ref: name for name, ref in names.items()})

    def _named(self, ref: str) -> str:
        return self._sessions.setdefault(ref, f"session-{len(self._sessions) + 1}")

    def _arguments(self, message: Message | None, values: Sequence[Any]) -> Iterator[Any]:
        params = message.params if message is not None else ()
        key = ""
        for number, value in enumerate(values):
            param = params[number] if number < len(params) else None
            secret = param is not None and (
                _SECRET_PARAMS.fullmatch(param.name)
                or (param.name == "value" and (_SECRET_KEYS.fullmatch(key) or self._is_secret(message)))
            )
            if param is not None and param.name == "key" and isinstance(value, str):
                key = value
            if param is not None and param.type == t.Ref("session") and isinstance(value, str):
                yield self._named(value)
            else:
                yield REDACTED if secret and value else self._clean(value, message.class_name if message else "")

    @staticmethod
    def _is_secret(message: Message | None) -> bool:
        return message is not None and (message.class_name, message.field) in _SECRET_FIELDS

    def _result(self, message: Message | None, value: Any) -> Any:
        if message is None:
            return self._clean(value)
        if message.result == t.Ref("session") and isinstance(value, str) and message.name != "get_by_uuid":
            return self._named(value)
        if message.kind == "get" and value and self._is_secret(message):
            return REDACTED
        return self._clean(value, message.class_name)

    def _change(self, write: Write) -> Change:
        old, new = (self.value(write.table, write.field, value) for value in (write.old, write.new))
        return Change(write.kind, write.table, self._sessions.get(write.ref, write.ref), write.field, old, new)

    def value(self, table: str, name: str, value: Any) -> Any:
        """What field `name` of `table` holds, or a row of it, without secrets."""
        if value and ((table, name) in _SECRET_FIELDS or _SECRET_KEYS.fullmatch(name)):
            return REDACTED
        return self._clean(dict(value) if isinstance(value, Row) else value, table)

    def _renamed(self, found: re.Match[str]) -> str:
        return found[1] + self._named(unquote(found[2]))

    def _clean(self, value: Any, table: str = "") -> Any:
        if isinstance(value, str):
            if value in self._sessions:
                return self._sessions[value]
            if value in self._secrets:
                return REDACTED
            if self._pool.store.find("session", value) is not None:
                return self._named(value)
            return _IN_URL.sub(self._renamed, value) if "session_id=" in value else value
        if isinstance(value, list):
            return [self._clean(member, table) for member in value]
        if isinstance(value, dict):
            return {
                self._sessions.get(key, key): self._named(member)
                if key == "session_id" and member and isinstance(member, str)
                else REDACTED
                if member
                and isinstance(member, str)
                and (_SECRET_KEYS.fullmatch(key) or (table, key) in _SECRET_FIELDS)
                else self._clean(member, table)
                for key, member in value.items()
            }
        return value


# --- JSON lines


def to_lines(records: Iterable[TraceRecord], *, dropped: int = 0) -> Iterator[str]:
    """`records` as lines of JSON, the first of which says what the others are."""
    yield json.dumps({"trace": FORMAT, "dropped": dropped}) + "\n"
    for record in records:
        yield to_line(record)


def to_line(record: TraceRecord) -> str:
    """One record as a line of JSON."""
    return json.dumps(vars(record), default=_to_json) + "\n"


def _to_json(value: Any) -> Any:
    if isinstance(value, Omitted):
        return {"omitted": value.kind, "members": value.members}
    return vars(value) if isinstance(value, Change) else str(value)


def read(path: str | PathLike[str]) -> list[TraceRecord]:
    """The records of a file that `Trace.write` wrote. Raises `OSError`, and `ValueError` for a line that is no record."""
    with open(path, encoding="utf-8") as file:
        lines = list(enumerate(file, 1))
    if not lines:
        raise ValueError(f"{path} is empty, and no trace")
    found = []
    for number, line in lines:
        try:
            value = json.loads(line)
            if number == 1:
                _check_head(value)
            else:
                found.append(_from_json(value))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: not a record of a trace: {error}") from None
    return found


def _check_head(value: dict[str, Any]) -> None:
    if value.get("trace") != FORMAT:
        raise ValueError("it does not begin as a trace of this version does")


def _from_json(value: dict[str, Any]) -> TraceRecord:
    unknown = set(value) - {f.name for f in fields(TraceRecord)}
    if unknown:
        raise ValueError(f"unknown members {', '.join(sorted(unknown))}")
    plain = {name: _restored(member) for name, member in value.items() if name != "writes"}
    for name in ("arguments", "error", "generations"):
        plain[name] = tuple(plain[name])
    changes = [Change(**{key: _restored(member) for key, member in change.items()}) for change in value["writes"]]
    return TraceRecord(**plain, writes=tuple(changes))


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"omitted", "members"}:
            return Omitted(value["omitted"], value["members"])
        return {key: _restored(member) for key, member in value.items()}
    return [_restored(member) for member in value] if isinstance(value, list) else value


# --- comparing


@dataclass(frozen=True)
class Difference:
    """Where two traces part: in which call, in what, and what each has."""

    number: int
    method: str
    what: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f"call {self.number} ({self.method}): {self.what} is {self.first!r} in one, {self.second!r} in the other"


COMPARED = ("method", "host", "session", "arguments", "result", "error", "lost", "at", "seconds", "writes")


def compare(
    first: Iterable[TraceRecord], second: Iterable[TraceRecord], *, but: Iterable[str] = ()
) -> list[Difference]:
    """How the calls of two traces differ, in order; `but` are members of records that may. A value that was too large to
    keep is compared by its kind and number of members. Raises `ValueError` for a member that is not compared."""
    passed = set(but)
    if passed - set(COMPARED):
        raise ValueError(f"not compared anyway: {', '.join(sorted(passed - set(COMPARED)))}")
    ones = [record for record in first if record.kind == "call"]
    others = [record for record in second if record.kind == "call"]
    out = []
    for one, other in zip(ones, others, strict=False):
        pairs = [(name, getattr(one, name), getattr(other, name)) for name in COMPARED if name not in passed]
        out += [Difference(one.number, one.method, name, *pair) for name, *pair in pairs if pair[0] != pair[1]]
    for surplus, place in ((ones[len(others) :], "one"), (others[len(ones) :], "other")):
        out += [
            Difference(record.number, record.method, "the call", *_there(place, record.method)) for record in surplus
        ]
    return out


def _there(place: str, method: str) -> tuple[str | None, str | None]:
    return (method, None) if place == "one" else (None, method)


# --- sending again


@dataclass(frozen=True)
class Replay:
    """What came of sending the calls of a trace again: `records` of the new calls, `differences` from the old ones, and
    `skipped`, a sentence for each call that could not be sent."""

    records: tuple[TraceRecord, ...]
    differences: tuple[Difference, ...]
    skipped: tuple[str, ...] = field(default=())


def replay(records: Iterable[TraceRecord], pool: MockPool, *, but: Iterable[str] = ()) -> Replay:
    """Send the calls of a trace to `pool`, made from the same seed or dump, each at its time, and compare the outcomes.

    Sessions are those of the logins in the trace; a session that is older is replaced by one that is made first. A call
    with an argument that was redacted (but for the user's password) or too large cannot be sent. Nor can what hands did in
    the machine room; what follows from that differs. `but` is as for `compare`.
    """
    from .trace import Trace

    wanted = [record for record in records if record.kind == "call"]
    sessions: dict[str, str] = {}
    sent, skipped = [], []
    logins = {record.result for record in wanted if isinstance(record.result, str)}
    for name in dict.fromkeys(record.session for record in wanted if record.session and record.session not in logins):
        sessions[name] = pool.dispatch("session.login_with_password", [pool.username, pool.password])
    with Trace(pool, limit=max(1, 4 * len(wanted))) as trace:
        trace.name_sessions(sessions)
        for record in wanted:
            try:
                params = _params(record, sessions, pool)
            except ValueError as error:
                skipped.append(f"call {record.number} ({record.method}) was not sent: {error}")
                continue
            pool.clock.run_until(max(record.at, pool.clock.now()))
            sent.append(record)
            try:
                result = pool.dispatch(record.method, params, pool.machine(record.host))
            except (Failure, TransportError):
                continue
            if isinstance(record.result, str) and record.result.startswith("session-"):
                sessions[record.result] = result
                trace.name_sessions({record.result: result})
        made = [record for record in trace if record.kind == "call"]
    return Replay(tuple(made), tuple(compare(sent, made, but=but)), tuple(skipped))


def _params(record: TraceRecord, sessions: Mapping[str, str], pool: MockPool) -> list[Any]:
    """The parameters to send. Raises `ValueError` where one is not known."""
    values = list(record.arguments)
    if record.method.startswith("session.login_with_password") and len(values) > 1 and values[1] == REDACTED:
        values[1] = pool.password
    if any(isinstance(value, Omitted) for value in _all(values)):
        raise ValueError("an argument was too large to keep")
    if any(value == REDACTED for value in _all(values)):
        raise ValueError("an argument is secret")
    values = [sessions.get(value, value) if isinstance(value, str) else value for value in values]
    return [sessions[record.session], *values] if record.session else values


def _all(value: Any) -> Iterator[Any]:
    yield value
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for member in members:
        yield from _all(member)
