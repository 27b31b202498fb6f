"""The tree of errors, their texts, and their trips to other processes; XenAPI's codes are in `test_api.py`."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

import xenctl
from xenctl import errors
from xenctl.errors import (
    ConnectError,
    ConnectionLost,
    DatabaseError,
    Failure,
    NotJsonRpc,
    ProcedureError,
    ProtocolError,
    TaskCancelled,
    TransportError,
    WaitTimeout,
    XenctlError,
    failure,
)

SAMPLES: list[XenctlError] = [
    Failure(["BRAND_NEW", "a"]),
    failure(["HANDLE_INVALID", "VM", "OpaqueRef:1"]),
    TransportError("broke"),
    ConnectError("refused", host="https://h", method="VM.start"),
    ConnectionLost("broke", host="https://h", method="VM.start"),
    WaitTimeout("late", host="https://h"),
    ProtocolError("HTML", method="VM.start"),
    NotJsonRpc("HTML", method="VM.start"),
    TaskCancelled("OpaqueRef:1", "VM.start"),
    DatabaseError("bad cell", source="dump.xml", line=7, table="VM", row="OpaqueRef:1", column="name__label"),
    ProcedureError("cannot go on", ["one reason", "another"]),
]


def test_the_tree_is_as_it_is_drawn() -> None:
    """The module's docstring shows every class under its parent."""
    parents = ["XenctlError"]
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    (?P<bars>[ |]*)\+-- (?P<name>\w+)", line)
        if match:
            level = len(match["bars"]) // 5
            del parents[level + 1 :]
            drawn[match["name"]] = parents[level]
            parents.append(match["name"])
    real = {
        name: value.__mro__[1].__name__
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, XenctlError) and value is not XenctlError
    }
    assert drawn == real


def test_all_of_them_are_public() -> None:
    """Whoever catches an error needs no second import."""
    for error in SAMPLES:
        kind = Failure if isinstance(error, Failure) else type(error)
        assert getattr(xenctl, kind.__name__) is kind


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TransportError("broke"), "broke"),
        (ConnectError("refused", host="https://h"), "on https://h: refused"),
        (ConnectError("refused", method="VM.start"), "VM.start: refused"),
        (ConnectError("refused", host="https://h", method="VM.start"), "VM.start on https://h: refused"),
        (TaskCancelled("OpaqueRef:1"), "task OpaqueRef:1 was cancelled"),
        (TaskCancelled("OpaqueRef:1", "VM.start"), "task VM.start was cancelled"),
        (DatabaseError("bad"), "bad"),
        (
            DatabaseError("bad", source="dump.xml", line=7, table="VM", row="r", column="c"),
            "dump.xml, line 7, table VM, row r, column c: bad",
        ),
        (ProcedureError("cannot go on"), "cannot go on"),
        (ProcedureError("cannot go on", ["one", "two"]), "cannot go on\n  - one\n  - two"),
    ],
)
def test_an_error_says_what_and_where(error: XenctlError, text: str) -> None:
    """What was tried and on which host come first, as far as they are known."""
    assert str(error) == text


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])  # noqa: S301 - our own
def test_errors_travel(error: XenctlError, again: Callable[[Any], Any]) -> None:
    """An error keeps its class, text and attributes on its way to another process."""
    if isinstance(error, Failure):
        error = failure(error.details)  # classes by code are known once a session has been made
    twin = again(error)
    assert type(twin) is type(error)
    assert (str(twin), repr(twin), vars(twin)) == (str(error), repr(error), vars(error))


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_one_class_catches_them_all(error: XenctlError) -> None:
    """Everything raised on purpose is a `XenctlError`; none is taken for one of Python's."""
    assert isinstance(error, XenctlError)
    assert not isinstance(error, (OSError, ValueError, RuntimeError))


def test_a_failures_parameter_that_is_not_there() -> None:
    """Servers send as many parameters as they like: one that is missing is None."""
    error = Failure(["CODE", "first"])
    assert (error.code, error.parameter(0), error.parameter(1)) == ("CODE", "first", None)
    assert (Failure([]).code, Failure([]).params) == ("", [])


def test_failures_are_the_official_sdks_for_the_eye() -> None:
    """`details` is what users of XenAPI.py know: code first, all of it text."""
    error = Failure(["CODE", 5, "x"])  # type: ignore[list-item]
    assert error.details == ["CODE", "5", "x"]
    assert error.args == (error.details,)
