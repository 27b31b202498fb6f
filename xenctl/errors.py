"""Every error that this library raises, in one tree.

    XenctlError
     +-- Failure                   the server understood the call and refused it: a XenAPI error code
     |    +-- <one class a code>   generated, in xenctl.api.errors: VM_BAD_POWER_STATE, HANDLE_INVALID, ...
     +-- TransportError            no usable answer came back
     |    +-- ConnectError         nothing was sent: refused, unreachable, name unknown, TLS refused
     |    +-- ConnectionLost       the connection broke after sending: whether the call took effect is unknown
     |    +-- WaitTimeout          no answer in time: likewise unknown
     |    +-- ProtocolError        an answer came that is not XenAPI: HTML, cut off, wrong type
     |         +-- NotJsonRpc      and it is none of JSON-RPC's either, in which the call was sent
     +-- TaskCancelled             a task that was waited for was cancelled
     +-- DatabaseError             a pool database dump that cannot be used
     +-- ProcedureError            a maintenance procedure that cannot go on, with every reason

`CleartextWarning` is a warning and no part of the tree.

Every error says what was tried, on which host, and what to do. None of them carries a password or a session reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, overload


class XenctlError(Exception):
    """The root of everything this library raises on purpose."""


class Failure(XenctlError):
    """The server refused a call with a XenAPI error code.

    `code` is the code, `params` its parameters, both as the server sent them; `details` is `[code, *params]`, as the
    official SDK names it. Codes and parameter counts are an open set: one that the data model does not know is a plain
    `Failure`. Subclasses for the known codes are in `xenctl.api.errors`. `note` is what this library has to add: a call
    that the host's release does not serve is refused here as the host would have done it, and the note says so.
    """

    CODE: ClassVar[str] = ""
    PARAMS: ClassVar[tuple[str, ...]] = ()
    MEANING: ClassVar[str] = ""
    _by_code: ClassVar[dict[str, type[Failure]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.CODE:
            Failure._by_code[cls.CODE] = cls

    def __init__(self, details: Sequence[str], note: str = "") -> None:
        self.details = [str(part) for part in details]
        self.note = note
        super().__init__(self.details)

    @property
    def code(self) -> str:
        """The error code, such as `VM_BAD_POWER_STATE`."""
        return self.details[0] if self.details else ""

    @property
    def params(self) -> list[str]:
        """The parameters that came with the code."""
        return self.details[1:]

    def parameter(self, index: int) -> str | None:
        """The parameter at `index`, or None where the server sent fewer."""
        return self.details[index + 1] if index + 1 < len(self.details) else None

    def __str__(self) -> str:
        text = f"{self.code}: {self.MEANING}" if self.MEANING else self.code
        names = self.PARAMS if len(self.PARAMS) == len(self.params) else ()
        shown = [f"{name} {value!r}" for name, value in zip(names, self.params, strict=False)] or self.params
        text = f"{text} ({', '.join(shown)})" if shown else text
        return f"{text}: {self.note}" if self.note else text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.details!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failure) and other.details == self.details

    def __hash__(self) -> int:
        return hash(tuple(self.details))

    def __reduce__(self) -> tuple[object, ...]:
        return failure, (self.details, self.note)


class Parameter:
    """One parameter of a failure as an attribute: its text, or None where the server sent fewer."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    @overload
    def __get__(self, failure: None, owner: type[Failure]) -> Parameter: ...
    @overload
    def __get__(self, failure: Failure, owner: type[Failure]) -> str | None: ...
    def __get__(self, failure: Failure | None, owner: type[Failure]) -> Parameter | str | None:
        return self if failure is None else failure.parameter(self.index)


def failure(details: Sequence[str], note: str = "") -> Failure:
    """The `Failure` for `details` (`[code, *params]`), of the code's own class where that is loaded."""
    kind = Failure._by_code.get(str(details[0])) if details else None
    return (kind or Failure)(details, note)


class TransportError(XenctlError):
    """No usable answer came back from a host.

    `host` is the origin that was spoken to, `method` the XenAPI method or HTTP path.
    """

    def __init__(self, message: str, *, host: str = "", method: str = "") -> None:
        self.message, self.host, self.method = message, host, method
        where = " ".join(part for part in (method, f"on {host}" if host else "") if part)
        super().__init__(f"{where}: {message}" if where else message)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.host, self.method)


def _rebuild(kind: type[TransportError], message: str, host: str, method: str) -> TransportError:
    return kind(message, host=host, method=method)


class ConnectError(TransportError):
    """The host could not be reached; nothing was sent, so the call had no effect."""


class ConnectionLost(TransportError):
    """The connection broke after the call was sent; whether it took effect is not known."""


class WaitTimeout(TransportError):
    """No answer came within the time allowed; whether the call took effect is not known."""


class ProtocolError(TransportError):
    """An answer came that XenAPI does not give; nothing of it was used."""


class NotJsonRpc(ProtocolError):
    """The answer to a call over JSON-RPC was none of JSON-RPC's: the host is of a release before 7.0, or something stands
    before it."""


class CleartextWarning(UserWarning):
    """A host on the network is spoken to without TLS, so that anybody on the way can read the password and all data."""


class TaskCancelled(XenctlError):
    """A task that was waited for was cancelled. `ref` is the task's reference."""

    def __init__(self, ref: str, label: str = "") -> None:
        self.ref, self.label = ref, label
        super().__init__(f"task {label or ref} was cancelled")

    def __reduce__(self) -> tuple[object, ...]:
        return TaskCancelled, (self.ref, self.label)


class DatabaseError(XenctlError):
    """A pool database dump that cannot be used; says what is wrong, where, and what to do."""

    def __init__(
        self,
        message: str,
        *,
        source: str = "",
        line: int | None = None,
        table: str = "",
        row: str = "",
        column: str = "",
    ) -> None:
        self.message, self.source, self.line = message, source, line
        self.table, self.row, self.column = table, row, column
        place = [source] if source else []
        if line is not None:
            place.append(f"line {line}")
        place += [f"{word} {name}" for word, name in (("table", table), ("row", row), ("column", column)) if name]
        super().__init__(f"{', '.join(place)}: {message}" if place else message)


class ProcedureError(XenctlError):
    """A maintenance procedure cannot be done or cannot go on. `reasons` holds every reason, one sentence each. `bad_input`
    tells that what was given is at fault, and not the pool."""

    bad_input: ClassVar[bool] = False

    def __init__(self, message: str, reasons: Iterable[str] = ()) -> None:
        self.message, self.reasons = message, list(reasons)
        super().__init__("\n".join([message, *(f"  - {reason}" for reason in self.reasons)]))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.reasons)
