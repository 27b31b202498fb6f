"""The seam between generated code and a session: what a class of messages needs of whoever sends its calls.

A generated method knows its wire name, its arguments and how its result is converted; it hands these to a `Caller`.
`Session` is one; `session.Async` is another, whose result is a task; a test may be a third.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .tasks import Task

T = TypeVar("T")

EMPTY_MAP: Mapping[Any, Any] = MappingProxyType({})
"""The default of optional parameters that are maps."""


class Caller(Protocol):
    """Sends one call and converts its result."""

    def call(self, method: str, args: Sequence[Any], convert: Callable[[Any], T], /) -> T:
        """Send `method` (`"VM.start"`) with `args` (without the session) and convert the wire value that comes back."""


class TaskCaller(Protocol):
    """Sends one call in its asynchronous form."""

    def call(self, method: str, args: Sequence[Any], convert: Callable[[Any], T], /) -> Task[T]:
        """Send `Async.<method>`; the task's result will be converted with `convert`."""


def trimmed(args: tuple[Any, ...], *optional: tuple[Any, Any]) -> tuple[Any, ...]:
    """`args` followed by the optional ones, given as `(value, default)`, without trailing ones that equal their default.

    Old hosts know fewer parameters; what is left off the wire they cannot refuse.
    """
    end = len(optional)
    while end and optional[end - 1][0] == optional[end - 1][1]:
        end -= 1
    return args + tuple(value for value, _ in optional[:end])


class Messages:
    """The base of every generated class of messages: it holds the caller."""

    __slots__ = ("_caller",)

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._caller!r}>"


class AsyncMessages:
    """The base of the generated classes of messages that have an asynchronous form."""

    __slots__ = ("_caller",)

    def __init__(self, caller: TaskCaller) -> None:
        self._caller = caller

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._caller!r}>"
