"""The official SDK for Python works with `python -m mockserver` over sockets and TLS as with a pool."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from xmlrpc.client import ServerProxy

import pytest
import XenAPI


@pytest.fixture(params=["http", "https"])
def ready(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the command said when it was ready. With TLS, its CA is the one that this process trusts."""
    command = [sys.executable, "-m", "mockserver", "--hosts", "2", "--vms", "4", "--time-scale", "20"]
    if request.param == "https":
        command.append("--tls")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = json.loads(process.stdout.readline())
            if request.param == "https":
                monkeypatch.setenv("SSL_CERT_FILE", found["cafile"])
            yield found
        finally:
            process.terminate()


@contextmanager
def logged_in(url: str, **options: Any) -> Iterator[Any]:
    """A session, logged out at the end."""
    session = XenAPI.Session(url, **options)
    try:
        session.xenapi.login_with_password("root", "secret", "1.0", "test")
        yield session
        session.xenapi.session.logout()
    finally:
        session("close")()


def test_a_member_names_the_master(ready: dict[str, Any]) -> None:
    """Whoever follows finds it by the same certificate authority."""
    member, port = ready["hosts"][1]["url"], ready["url"].rpartition(":")[2]
    with pytest.raises(XenAPI.Failure) as caught, logged_in(member):
        pass
    code, address = caught.value.details
    assert code == "HOST_IS_SLAVE"
    with logged_in(f"{ready['url'].partition('://')[0]}://{address}:{port}") as session:
        assert len(session.xenapi.host.get_all()) == 2
        assert session.API_version == "2.15"


def test_who_is_not_trusted_may_be_told_to_be(ready: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With `ignore_ssl` the SDK takes any certificate, without it none that it cannot trace."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if "cafile" in ready:
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"), logged_in(ready["url"]):
            pass
    with logged_in(ready["url"], ignore_ssl=True) as session:
        assert session.xenapi.VM.get_all()


def test_its_loop_of_events_keeps_a_picture(ready: dict[str, Any]) -> None:
    """As in the SDK's own sample: all classes by token, and what came is applied to a dictionary, while another client
    works; at the end the dictionary holds what a fresh look at the pool gives."""
    with logged_in(ready["url"]) as session, logged_in(ready["url"]) as other:
        api, worker = session.xenapi, other.xenapi
        (vm,) = worker.VM.get_by_name_label("vm04")
        picture: dict[tuple[str, str], Any] = {}
        token, counts = "", {}

        def work() -> None:
            worker.VM.start(vm, False, False)
            worker.VM.hard_shutdown(vm)
            worker.VM.set_name_label(vm, "last")

        thread = threading.Thread(target=work)
        while picture.get(("vm", vm), {}).get("name_label") != "last":
            batch = api.event_from(["*"], token, 30.0)
            token, counts = batch["token"], batch["valid_ref_counts"]
            for event in batch["events"]:
                if event["operation"] == "del":
                    picture.pop((event["class"], event["ref"]), None)
                else:
                    picture[event["class"], event["ref"]] = event["snapshot"]
            if not thread.ident:
                thread.start()
        thread.join()
        for kind in ("VM", "VBD", "host", "pool", "network"):
            seen = {ref: record for (name, ref), record in picture.items() if name == kind.lower()}
            assert seen == getattr(api, kind).get_all_records()
            assert int(counts[kind.lower()]) == len(seen)


def ended(api: Any, task: str) -> str:
    """How a task ended, told by events."""
    token = ""
    while (status := api.task.get_status(task)) in ("pending", "cancelling"):
        token = api.event_from([f"task/{task}"], token, 30.0)["token"]
    return str(status)


def test_tasks(ready: dict[str, Any]) -> None:
    """One that succeeds, one that is refused, one that is cancelled."""
    with logged_in(ready["url"]) as session:
        api = session.xenapi
        (halted,), (running,) = api.VM.get_by_name_label("vm04"), api.VM.get_by_name_label("vm01")
        cases: list[tuple[str, Callable[[], str], list[str]]] = [
            ("success", lambda: api.Async.VM.start(halted, False, False), []),
            (
                "failure",
                lambda: api.Async.VM.start(halted, False, False),
                ["VM_BAD_POWER_STATE", halted, "halted", "running"],
            ),
        ]
        for status, call, error in cases:
            task = call()
            assert ended(api, task) == status
            assert api.task.get_error_info(task) == error
            api.task.destroy(task)
        task = api.Async.VM.clean_shutdown(running)
        api.task.cancel(task)
        assert ended(api, task) == "cancelled"
        assert api.VM.get_power_state(running) == "Running"
        api.task.destroy(task)
        assert api.task.get_all_records() == {}


def test_a_session_that_the_server_forgot_is_renewed(ready: dict[str, Any]) -> None:
    """The SDK logs in again by itself, once another client has ended its session."""
    with logged_in(ready["url"]) as session:
        before = session._session
        with ServerProxy(ready["url"]) as other:
            other.session.logout(before)
        assert session.xenapi.VM.get_all()
        assert session._session != before
