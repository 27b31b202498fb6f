"""What the headers of a call say of its task, how cookies are read, and what becomes of bytes that are no UTF-8."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mockserver import http
from mockserver.trace import Trace
from xenctl import xmlrpc
from xenctl.errors import Failure

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"
GARBLED = b"caf\xe9"


def post(c: Any, body: bytes, path: str = "/", host: str = "", **headers: str) -> http.Answer:
    """One call as bytes; words of headers are joined by hyphens."""
    machine = c.pool.machine(host) if host else c.pool.master
    return http.answer(c.pool, machine, "POST", path, {n.replace("_", "-"): v for n, v in headers.items()}, body)


def rpc(c: Any, method: str, *args: Any, **headers: str) -> Any:
    """The value of an XML-RPC call with headers. Raises `Failure`."""
    return xmlrpc.loads_response(bytes(post(c, xmlrpc.dumps_call(method, [c.session, *args]), **headers).body))


def made(c: Any, method: str, *args: Any, **headers: str) -> dict[str, Any]:
    """The record of the task that a call makes for itself, as it was while the call went on."""
    with Trace(c.pool) as trace:
        rpc(c, method, *args, **headers)
        writes = [write for record in trace for write in record.writes]
    (row,) = [write.new for write in writes if (write.kind, write.table) == ("create", "task")]
    return dict(row)


# --- the task to run under


def test_a_call_runs_under_the_task_that_its_request_names(calls: Make) -> None:
    """It makes none of its own, and who made the task ends it."""
    c = calls(release="8.2", vms=4)
    task = c("task.create", "mine", "")
    with Trace(c.pool) as trace:
        rpc(c, "VM.start", c.vm("vm04").ref, False, False, task_id=task)
        created = [write.table for record in trace for write in record.writes if write.kind == "create"]
    assert "task" not in created
    assert c.vm("vm04")["power_state"] == "Running"
    row = c.pool.store.get("task", task)
    assert (row["status"], row["name_label"], row["result"]) == ("pending", "mine", "")


def test_an_asynchronous_call_gives_back_the_task_that_its_request_names(calls: Make) -> None:
    """It goes on under that; cancelling it cancels the call."""
    c = calls(release="8.2", vms=4)
    task = c("task.create", "mine", "")
    assert rpc(c, "Async.VM.start", c.vm("vm04").ref, False, False, task_id=task) == task
    assert list(c.vm("vm04")["current_operations"]) == [task]
    c("task.cancel", task)
    c.sleep(60)
    assert (c.vm("vm04")["power_state"], c.pool.store.get("task", task)["status"]) == ("Halted", "pending")


def test_a_task_without_a_row_is_as_good(calls: Make) -> None:
    """That of a call that has none in the database; one that was in it and is not any more is refused."""
    c = calls(release="8.2", vms=4)
    dummy = "DummyRef:|1|VM.get_all"
    assert rpc(c, "Async.VM.start", c.vm("vm04").ref, False, False, task_id=dummy) == dummy
    c.sleep(60)
    assert c.vm("vm04")["power_state"] == "Running"
    with pytest.raises(Failure) as caught:
        rpc(c, "VM.hard_shutdown", c.vm("vm04").ref, task_id="OpaqueRef:gone")
    assert caught.value.details == ["HANDLE_INVALID", "task", "OpaqueRef:gone"]
    assert c.vm("vm04")["power_state"] == "Running"


def test_a_part_of_a_toolstacks_work_has_a_task_of_its_own(calls: Make) -> None:
    """Whatever its request names."""
    c = calls(release="8.2", vms=4)
    task = c("task.create", "mine", "")
    part = rpc(c, "InternalAsync.VM.start", c.vm("vm04").ref, False, False, task_id=task)
    c.sleep(60)
    assert part != task
    assert c.pool.store.get("task", part)["status"] == "success"


# --- what a new task is told


def test_a_new_task_is_part_of_the_one_that_its_request_names(calls: Make) -> None:
    """If that is in the database, and lists it then."""
    c = calls(release="8.2", vms=4)
    parent = c("task.create", "mine", "")
    vm = c.vm("vm04").ref
    task = rpc(c, "Async.VM.start", vm, False, False, subtask_of=parent)
    assert c.pool.store.get("task", task)["subtask_of"] == parent
    assert c("task.get_subtasks", parent) == [task]
    c.sleep(60)
    assert made(c, "VM.hard_shutdown", vm, subtask_of="DummyRef:|1|x")["subtask_of"] == NULL


@pytest.mark.parametrize(
    ("release", "kept"), [("6.0", {}), ("6.1", {"http:why": "tests"}), ("8.4", {"http:why": "tests"})]
)
def test_a_new_task_keeps_what_headers_say(calls: Make, release: str, kept: dict[str, str]) -> None:
    """Since 6.1, each key behind `http:`."""
    c = calls(release=release, vms=4)
    row = made(c, "VM.start", c.vm("vm04").ref, False, False, x_http_other_config_why="tests")
    assert row["other_config"] == kept


def test_json_calls_have_the_same_headers(calls: Make) -> None:
    """The task is the caller's there too."""
    c = calls(release="8.2", vms=4)
    task = c("task.create", "mine", "")
    params = [c.session, c.vm("vm04").ref, False, False]
    body = json.dumps({"jsonrpc": "2.0", "method": "Async.VM.start", "params": params, "id": 1}).encode()
    assert json.loads(bytes(post(c, body, "/jsonrpc", task_id=task).body))["result"] == task


# --- cookies


@pytest.mark.parametrize(
    ("cookie", "status"),
    [
        ("session_id={}", 200),
        ("a=b;session_id={}", 200),
        ("a=b&session_id={}", 200),
        ("session_id={};session_id=wrong", 200),
        ("session%5Fid={}", 200),
        ("a=b; session_id={}", 401),
        ("a=b;c=d&session_id={}", 401),
        ("session_id=wrong;session_id={}", 401),
    ],
)
def test_cookies_are_read_as_xapi_reads_them(calls: Make, cookie: str, status: int) -> None:
    """No space is taken away, `&` parts where there is no `;`, and the first of a name counts; escapes are undone."""
    c = calls(release="8.2")
    for session in (c.session, c.session.replace(":", "%3A")):
        headers = {"cookie": cookie.format(session)}
        assert http.answer(c.pool, c.pool.master, "GET", "/pool/xmldbdump", headers).status == status


# --- bytes that are no UTF-8


def spoiled(method: str, *params: bytes) -> bytes:
    """A call whose parameters are these values."""
    values = b"".join(b"<param><value>%b</value></param>" % param for param in params)
    name = b"<methodName>%b</methodName>" % method.encode()
    return b"<?xml version='1.0'?><methodCall>%b<params>%b</params></methodCall>" % (name, values)


def refusal(c: Any, body: bytes) -> list[str]:
    out = post(c, body)
    assert out.status == 200
    with pytest.raises(Failure) as caught:
        xmlrpc.loads_response(bytes(out.body))
    return caught.value.details


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (GARBLED, "caf?"),
        (b"<string>%b</string>" % GARBLED, "caf?"),
        (b"<array><data><value>%b</value></data></array>" % GARBLED, '["caf?"]'),
        (b"<struct><member><name>%b</name><value>x</value></member></struct>" % GARBLED, '{"caf?":"x"}'),
    ],
)
def test_a_parameter_that_is_no_utf8_is_refused(calls: Make, value: bytes, shown: str) -> None:
    """Before anybody looks at the session, with what can be read of it."""
    c = calls(release="8.2")
    details = refusal(c, spoiled("VM.set_name_label", b"no session", b"OpaqueRef:x", value))
    assert details == ["INVALID_VALUE", "Invalid UTF-8 string in parameter", shown]


def test_what_is_no_call_without_such_bytes_is_none_with_them(calls: Make) -> None:
    """A page is the answer where the document is broken, or where they are in no parameter."""
    c = calls(release="8.2")
    assert post(c, spoiled("VM.get_all", GARBLED)[:-5]).status == 500
    assert post(c, spoiled("VM.get_all", b"x").replace(b"VM.get_all", GARBLED)).status == 500


def test_a_host_in_an_emergency_says_so_first(calls: Make) -> None:
    """Of whatever it is sent."""
    c = calls(release="8.2", hosts=2)
    c.pool.hands.power_off("host1")
    c.sleep(5)
    body = spoiled("VM.get_all", GARBLED)
    out = post(c, body, host="host2")
    with pytest.raises(Failure, match="HOST_STILL_BOOTING"):
        xmlrpc.loads_response(bytes(out.body))
