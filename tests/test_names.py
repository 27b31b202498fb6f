"""The public names: exactly these, each of them there, and nothing loaded before it is used."""

from __future__ import annotations

import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from types import ModuleType

import pytest

import mockserver
import xenctl
from xenctl.session import Session, SessionOptions
from xenctl.transport import HttpOptions, HttpTransport

XENCTL = [
    "NULL",
    "ConnectError",
    "ConnectionLost",
    "DatabaseError",
    "Failure",
    "NotJsonRpc",
    "ProcedureError",
    "ProtocolError",
    "Record",
    "Ref",
    "Session",
    "Task",
    "TaskCancelled",
    "TransportError",
    "WaitTimeout",
    "XenctlError",
    "connect",
]

MOCKSERVER = [
    "Change",
    "Comparison",
    "Durations",
    "Invariant",
    "MockPool",
    "PoolServer",
    "Savepoint",
    "SavepointError",
    "Trace",
    "Violation",
    "activate",
    "sweep",
]

SAMPLE = (Path(__file__).parent / "typing" / "user_code.py").read_text(encoding="utf-8")

EXPORTS = [(xenctl, XENCTL), (mockserver, MOCKSERVER)]


@pytest.mark.parametrize(("package", "names"), EXPORTS, ids=["xenctl", "mockserver"])
def test_the_exported_names_are_those_of_this_list(package: ModuleType, names: list[str]) -> None:
    assert list(package.__all__) == names


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, names in EXPORTS for name in names])
def test_every_exported_name_is_there(package: ModuleType, name: str) -> None:
    assert getattr(package, name) is not None
    assert name in dir(package)


@pytest.mark.parametrize("name", XENCTL + MOCKSERVER)
def test_every_exported_name_is_in_the_sample_that_type_checkers_read(name: str) -> None:
    assert re.search(rf"\b{name}\b", SAMPLE)


@pytest.mark.parametrize("package", [xenctl, mockserver], ids=["xenctl", "mockserver"])
def test_a_name_that_is_not_exported_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nonesuch'"):
        _ = package.nonesuch


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import xenctl", {"requests", "lxml", "urllib3", "xenctl.session", "xenctl.datamodel", "mockserver", "click"}),
        ("import xenctl; xenctl.Failure", {"requests", "lxml", "xenctl.session", "xenctl.api"}),
        ("import xenctl; xenctl.Session", {"requests", "lxml", "xenctl.datamodel", "xenctl.api.VM", "mockserver"}),
        ("import mockserver", {"requests", "lxml", "xenctl", "mockserver.pool"}),
        ("import xenctl.rehearsal", {"requests", "lxml", "mockserver", "xenctl.session"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_importing_loads_only_what_is_used(code: str, absent: set[str]) -> None:
    program = f"import sys; {code}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not absent & set(loaded)


def test_the_options_that_checkers_know_are_those_that_are_taken() -> None:
    transport, session = list(signature(HttpTransport).parameters), list(signature(Session).parameters)
    assert list(HttpOptions.__annotations__) == transport
    own = [name for name in session if name not in ("url", "ref", "transport", "options")]
    assert sorted(SessionOptions.__annotations__) == sorted(own + transport)
