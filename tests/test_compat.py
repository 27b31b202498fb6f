"""The drop-in for the official SDK, held against the official SDK: the same calls to the same pools, compared.

`SAME` is a table of what users do; each row runs through both, on two pools made with the same seed, and every value with
its types and every exception with its arguments and text has to be the same. What differs on purpose is in
`test_compat_wire.py`.
"""

from __future__ import annotations

import copy
import pickle
import re
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from mockserver import MockPool, PoolServer
from xenctl import compat, datamodel

official = pytest.importorskip("XenAPI.XenAPI")
ours = compat.XenAPI


@dataclass
class Side:
    """One SDK with a pool of its own, and what its script keeps from one step to the next."""

    XenAPI: Any
    pool: MockPool
    server: PoolServer
    kept: SimpleNamespace = field(default_factory=SimpleNamespace)
    opened: list[Any] = field(default_factory=list)

    def open(self, host: int = 0, *args: Any, **options: Any) -> Any:
        """A session with the host of this number, not logged in."""
        session = self.XenAPI.Session(self.server.hosts()[host]["url"], *args, **options)
        self.opened.append(session)
        return session

    @property
    def s(self) -> Any:
        """The session with the master that every script has."""
        return self.opened[0]

    @property
    def api(self) -> Any:
        """Its messages, logged in."""
        if self.s.handle is None:
            self.s.login_with_password("root", "secret")
        return self.s.xenapi

    def close(self) -> None:
        for session in self.opened:
            session("close")()

    def told(self, value: Any) -> Any:
        """A value as plain data that shows all types, with hosts' addresses replaced by their names."""
        if isinstance(value, str):
            for host in self.server.hosts():
                value = value.replace(host["url"].partition("://")[2], host["name"])
            for host in self.server.hosts():
                value = value.replace(host["address"], host["name"])
            return value
        if isinstance(value, dict):
            return {name: self.told(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [type(value).__name__, *map(self.told, value)]
        if isinstance(value, xmlrpc.client.DateTime):
            return ("DateTime", value.value)
        if isinstance(value, self.XenAPI.Failure):
            return ("Failure", self.told(value.args), self.told(value.details), self.told(str(value)), repr(value)[:9])
        if isinstance(value, Exception):
            return (f"{type(value).__module__}.{type(value).__name__}", self.told(value.args), self.told(str(value)))
        return (type(value).__name__, repr(value))

    def run(self, step: Callable[[Side], Any]) -> Any:
        """What comes of one step: a value, or an exception."""
        try:
            return ("returned", self.told(step(self)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
            return ("raised", self.told(error))


@contextmanager
def a_side(sdk: Any, *, vms: int = 3, time_scale: float = 0.0) -> Iterator[Side]:
    """An SDK and its pool, on sockets."""
    pool = MockPool.create(hosts=2, vms=vms, release="8.2", seed=7)
    with PoolServer(pool, time_scale=time_scale) as server:
        side = Side(sdk, pool, server)
        side.open()
        try:
            yield side
        finally:
            side.close()


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    """The official SDK and ours, each with its pool."""
    with a_side(official) as theirs, a_side(ours) as mine:
        yield theirs, mine


class Row(NamedTuple):
    """Steps that both SDKs take alike."""

    title: str
    steps: tuple[Callable[[Side], Any], ...]


def row(title: str, *steps: Callable[[Side], Any]) -> Row:
    return Row(title, steps)


def keep(side: Side, **values: Any) -> Any:
    """Remember values for later steps; the last one is returned."""
    side.kept.__dict__.update(values)
    return list(values.values())[-1]


def vm(side: Side, label: str = "vm01") -> Any:
    return side.api.VM.get_by_name_label(label)[0]


def finished(side: Side, task: str) -> Any:
    """The record of a task, once it has ended."""
    while side.api.task.get_status(task) == "pending":
        pass
    return side.api.task.get_record(task)


STATE = (
    lambda x: x.s.handle,
    lambda x: x.s._session,
    lambda x: x.s.last_login_method,
    lambda x: x.s.last_login_params,
    lambda x: x.s.API_version,
)
"""What a session shows of itself."""

SAME = [
    row("before a login", *STATE, lambda x: x.s.transport, lambda x: repr(x.s), lambda x: x.s.xenapi.VM.get_all()),
    row("a login", lambda x: x.s.login_with_password("root", "secret"), *STATE),
    row(
        "a login with version and originator",
        lambda x: x.s.xenapi.login_with_password("root", "secret", "1.0", "me"),
        *STATE,
        lambda x: x.api.session.get_originator(x.s.handle),
    ),
    row("a wrong password", lambda x: x.s.login_with_password("root", "wrong"), *STATE),
    row("a login without arguments", lambda x: x.s.login_with_password(), *STATE),
    row("a login that does not exist", lambda x: x.s.login_with_magic("abracadabra"), *STATE),
    row(
        "a login on a member, and on the master that it names",
        lambda x: keep(x, member=x.open(1)).login_with_password("root", "secret"),
        lambda x: x.kept.member.xenapi.login_with_password("root", "secret"),
        lambda x: x.kept.member.handle,
        lambda x: x.kept.member.API_version,
    ),
    row(
        "a local login on a member",
        lambda x: keep(x, member=x.open(1)).slave_local_login_with_password("root", "secret"),
        lambda x: x.kept.member.last_login_method,
        lambda x: x.kept.member.xenapi.host.is_in_emergency_mode(),
        lambda x: x.kept.member.xenapi.session.logout(),
        lambda x: x.kept.member.handle,
    ),
    row(
        "a login as XenAPI's message, which is sent as a plain call",
        lambda x: x.s.xenapi.session.login_with_password("root", "secret"),
        *STATE,
    ),
    row(
        "a session's reference set by hand",
        lambda x: setattr(keep(x, other=x.open()), "_session", x.api and x.s.handle),
        lambda x: x.kept.other.handle,
        lambda x: x.kept.other.xenapi.VM.get_all(),
        lambda x: setattr(x.kept.other, "_session", "OpaqueRef:made-up"),
        lambda x: x.kept.other.xenapi.VM.get_all(),
    ),
    row(
        "setters, and getters after them",
        lambda x: x.api.VM.set_name_label(vm(x), "sinkr\u00e4tare <&> \"'"),
        lambda x: x.api.VM.get_record(vm(x, "sinkr\u00e4tare <&> \"'")),
        lambda x: x.api.VM.set_name_description(vm(x, "vm02"), "two\nlines\tand  space "),
        lambda x: x.api.VM.get_name_description(vm(x, "vm02")),
        lambda x: x.api.VM.set_user_version(vm(x, "vm02"), 3),
        lambda x: x.api.VM.set_user_version(vm(x, "vm02"), "4"),
        lambda x: x.api.VM.get_user_version(vm(x, "vm02")),
        lambda x: x.api.VM.set_is_a_template(vm(x, "vm03"), True),
        lambda x: x.api.VM.get_is_a_template(vm(x, "vm03")),
        lambda x: x.api.VM.set_tags(vm(x, "vm02"), ("b", "a")),
        lambda x: x.api.VM.add_tags(vm(x, "vm02"), "c"),
        lambda x: x.api.VM.get_tags(vm(x, "vm02")),
        lambda x: x.api.VM.set_other_config(vm(x, "vm02"), {"a": "1", "b": ""}),
        lambda x: x.api.VM.add_to_other_config(vm(x, "vm02"), "c", "3"),
        lambda x: x.api.VM.add_to_other_config(vm(x, "vm02"), "c", "4"),
        lambda x: x.api.VM.remove_from_other_config(vm(x, "vm02"), "a"),
        lambda x: x.api.VM.get_other_config(vm(x, "vm02")),
        lambda x: x.api.task.set_progress(keep(x, task=x.api.task.create("mine", "")), 0.25),
        lambda x: x.api.task.get_progress(x.kept.task),
        lambda x: x.api.task.get_created(x.kept.task),
    ),
    row(
        "tasks",
        lambda x: keep(x, task=x.api.Async.VM.hard_shutdown(vm(x))),
        lambda x: finished(x, x.kept.task),
        lambda x: x.api.VM.get_power_state(vm(x)),
        lambda x: keep(x, task=x.api.Async.VM.hard_shutdown(vm(x))),
        lambda x: finished(x, x.kept.task),
        lambda x: x.api.task.destroy(x.kept.task),
        lambda x: x.api.task.get_status(x.kept.task),
        lambda x: x.api.Async.VM.get_all(),
        lambda x: x.api.Async.VM.nonesuch(),
    ),
    row(
        "events, the old way",
        lambda x: x.api.event.next(),
        lambda x: x.api.event.register(["vm"]),
        lambda x: x.api.VM.set_name_label(vm(x), "renamed"),
        lambda x: x.api.event.next(),
        lambda x: x.api.event.get_current_id(),
        lambda x: x.api.event.unregister(["vm"]),
    ),
    row(
        "events, the new way",
        lambda x: keep(x, first=x.api.event_from(["vm", "pool"], "", 5.0)),
        lambda x: x.api.VM.set_name_label(vm(x), "renamed"),
        lambda x: getattr(x.api.event, "from")(["vm"], x.kept.first["token"], 5.0),
        lambda x: x.api.event_from(["vm"], "no token", 5.0),
        lambda x: x.api.event_from(["vm"], "", "soon"),
    ),
    *(
        row(title, lambda x: x.api.VM.get_all() and None, leave, *STATE, lambda x: x.s.xenapi.VM.get_all())
        for title, leave in {
            "a logout": lambda x: x.s.logout(),
            "a logout under xenapi": lambda x: x.s.xenapi.logout(),
            "a logout as XenAPI's message": lambda x: x.s.xenapi.session.logout(),
        }.items()
    ),
    row(
        "a logout of a session that the server has ended",
        lambda x: x.api and x.s.session.logout(x.s.handle),
        lambda x: x.s.logout(),
        *STATE,
    ),
    row(
        "what the server refuses",
        lambda x: x.api.VM.nonesuch(),
        lambda x: x.api.Nonesuch.get_all(),
        lambda x: x.api.VM(),
        lambda x: x.api.VM.get_all("one too many"),
        lambda x: x.api.VM.get_power_state(),
        lambda x: x.api.VM.get_power_state("OpaqueRef:made-up"),
        lambda x: x.api.VM.get_by_uuid("nobody's"),
        lambda x: x.api.VM.get_power_state(["a", "list"]),
        lambda x: x.api.VM.start(vm(x), "True", False),
        lambda x: x.api.VM.start(vm(x), False, False),
        lambda x: x.api.VM.set_name_description(vm(x), "x" * 400_000),
    ),
    row(
        "None",
        lambda x: x.api.VM.set_name_label(vm(x), None),
        lambda x: x.api.VM.set_other_config(
            vm(x), {"a": None, "n": 1, "f": 0.5, "b": True, "s": "<&>", "l": ["\u00e4"]}
        ),
        lambda x: keep(x, strict=x.open(0, None, None, False, False)).login_with_password("root", "secret"),
        lambda x: x.kept.strict.xenapi.VM.set_name_label(vm(x), None),
        lambda x: x.kept.strict.xenapi.VM.set_name_label(vm(x), "text"),
    ),
    row(
        "arguments that XML-RPC has no form for",
        lambda x: x.api.VM.set_name_label(vm(x), object),
        lambda x: x.api.VM.set_name_label(vm(x), 1j),
        lambda x: x.api.VM.set_name_label(vm(x), SimpleNamespace(a="b")),
        lambda x: x.api.VM.set_name_label(vm(x), b"bytes"),
        lambda x: x.api.VM.set_other_config(vm(x), {None: "a"}),
        lambda x: x.api.VM.set_name_label(vm(x), label="by name"),
    ),
    row(
        "calls without the session",
        lambda x: x.api and x.s.VM.get_all(x.s.handle),
        lambda x: getattr(x.s, "VM.get_all")(x.s.handle),
        lambda x: x.s.VM.get_all("OpaqueRef:made-up"),
        lambda x: x.s.VM.nonesuch(x.s.handle),
        lambda x: x.s.system.listMethods()[:5],
        lambda x: x.s.session.login_with_password("root", "secret")["Status"],
        lambda x: x.XenAPI._parse_result(x.s.host.get_all(x.s.handle)),
        lambda x: x.XenAPI._parse_result(x.s.host.nonesuch(x.s.handle)),
        lambda x: x.XenAPI._parse_result(x.s.host.get_all("OpaqueRef:made-up")) is x.XenAPI._RECONNECT_AND_RETRY,
        lambda x: x.XenAPI._parse_result({"Status": "Success"}),
        lambda x: x.XenAPI._parse_result({"Status": "Failure"}),
    ),
    row(
        "xenapi_request",
        lambda x: x.s.xenapi_request("login_with_password", ("root", "secret")),
        lambda x: x.s.xenapi_request("VM.get_all", ()),
        lambda x: x.s.xenapi_request("VM.get_by_name_label", ("vm01",)),
        lambda x: x.s.xenapi_request("session.logout", ()),
        *STATE,
    ),
    row(
        "names and dots",
        lambda x: repr(x.s.xenapi),
        lambda x: repr(x.s.xenapi.VM),
        lambda x: repr(x.s.xenapi.Async.VM.start),
        lambda x: repr(x.s.logout)[:0],
        lambda x: x.s("nonesuch"),
        lambda x: (x.XenAPI.API_VERSION_1_1, x.XenAPI.API_VERSION_1_2),
    ),
    row(
        "a session that the server no longer knows",
        lambda x: keep(x, ref=x.api and x.s.handle),
        lambda x: x.s.session.logout(x.s.handle),
        lambda x: x.api.VM.get_all(),
        lambda x: x.s.handle != x.kept.ref,
        *STATE,
    ),
    row(
        "a with block, which does not log out",
        lambda x: keep(x, inside=x.open().__enter__()).login_with_password("root", "secret"),
        lambda x: x.kept.inside.__exit__(None, None, None),
        lambda x: x.kept.inside.handle,
        lambda x: x.kept.inside.xenapi.VM.get_all(),
    ),
    row(
        "positional arguments",
        lambda x: keep(x, other=x.open(0, None, None, 0, 1, True)).login_with_password("root", "secret"),
        lambda x: x.kept.other.xenapi.VM.get_all(),
        lambda x: x.kept.other.transport,
    ),
    row(
        "URLs",
        lambda x: x.XenAPI.Session("127.0.0.1"),
        lambda x: x.XenAPI.Session("ftp://127.0.0.1"),
        lambda x: repr(x.XenAPI.Session("http://127.0.0.1/")),
        lambda x: repr(x.XenAPI.Session("https://127.0.0.1:8443/a?b")),
    ),
    row(
        "Failure",
        lambda x: x.XenAPI.Failure(["VM_BAD_POWER_STATE", "OpaqueRef:1", "Halted", "Running"]),
        lambda x: x.XenAPI.Failure(["A", "b"])._details_map(),
        lambda x: pickle.loads(pickle.dumps(x.XenAPI.Failure(["A", "b"]))),  # noqa: S301 - our own
        lambda x: copy.deepcopy(x.XenAPI.Failure(["A", "b"])),
        lambda x: x.XenAPI.Failure("only text"),
        lambda x: x.XenAPI.Failure([]),
        lambda x: x.XenAPI.Failure(),
    ),
]


@pytest.mark.parametrize("row", SAME, ids=[row.title for row in SAME])
def test_both_do_the_same(row: Row, sides: tuple[Side, Side]) -> None:
    """Every step of a row gives the same value, type for type, or the same exception."""
    for number, step in enumerate(row.steps):
        theirs, mine = (side.run(step) for side in sides)
        assert mine == theirs, f"step {number}"


def test_all_records_and_every_getter(sides: tuple[Side, Side]) -> None:
    """For each class: `get_all_records`, `get_all`, and every field of its first object; all scalar types are among them."""

    def both(name: str, message: str, *args: Any) -> Any:
        theirs, mine = (side.run(lambda x: getattr(getattr(x.api, name), message)(*args)) for side in sides)
        assert mine == theirs, f"{name}.{message}"
        return theirs

    seen = set()
    for name, cls in datamodel.load().classes.items():
        both(name, "get_all_records")
        outcome, refs = both(name, "get_all")
        if outcome == "returned" and len(refs) > 1:
            for each in cls.fields.values():
                if both(name, f"get_{each.name}", refs[1])[0] == "returned":
                    seen.add(
                        re.sub(
                            r"(enum )?\w+ ref|enum \w+",
                            lambda m: m[0].split()[-2 if "ref" not in m[0] else -1],
                            str(each.type),
                        )
                    )
    assert {"string", "int", "float", "bool", "datetime", "ref", "enum", "ref set", "string set"} <= seen, seen


def test_a_master_that_restarts_is_logged_in_to_again() -> None:
    """After a reboot of the master, calls are refused until it is back; then the same session goes on as a new one."""
    outcomes = []
    for sdk in (official, ours):
        with a_side(sdk, vms=0, time_scale=500) as side:
            before, master = side.s.handle, side.api.pool.get_master(side.api.pool.get_all()[0])
            side.api.host.disable(master)
            with suppress(OSError):
                side.api.host.reboot(master)
            while side.s.handle == before:
                with suppress(OSError, sdk.Failure):
                    side.api.pool.get_all()
            outcomes.append(side.run(lambda x: x.s.xenapi.host.get_all()))
    assert outcomes[0][0] == "returned"
    assert outcomes[0] == outcomes[1]


def test_whole_numbers_are_sent_without_a_tag(sides: tuple[Side, Side]) -> None:
    """So xapi takes one where it wants text, which it refuses to take from the official SDK."""
    theirs, mine = (side.run(lambda x: x.api.VM.set_name_label(vm(x), 5)) for side in sides)
    assert theirs[0] == "raised"
    assert mine == ("returned", "")
    assert mine == sides[1].run(lambda x: x.api.VM.set_name_label(vm(x, "5"), "vm01"))
