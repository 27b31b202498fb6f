"""The one path of every call: the order of its checks, who is admitted, and what each verb may write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool, classes
from mockserver.http import answer
from xenctl import datamodel, xmlrpc
from xenctl.errors import Failure
from xenctl.releases import find, known

Make = Callable[..., Any]


@pytest.fixture
def pool() -> MockPool:
    return MockPool.create(hosts=2, vms=2, release="8.2")


def details(pool: MockPool, method: str, *params: Any, on: str | None = None) -> list[str]:
    with pytest.raises(Failure) as caught:
        pool.dispatch(method, list(params), pool.machine(on) if on else None)
    return caught.value.details


def post(pool: MockPool, body: bytes, path: str = "/", machine: Any = None) -> Any:
    return answer(pool, machine or pool.master, "POST", path, {}, body)


# --- bytes


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not XML",
        b"<methodCall><methodName>pool.get_all</methodName></methodCall>",
        b"<methodCall><methodName>pool.get_all</methodName><params><param><value><int/></value></param></params></methodCall>",
        b"<methodCall><methodName>pool.get_all</methodName><params>\xff</params></methodCall>",
    ],
)
def test_what_is_no_call_is_an_error_of_http(pool: MockPool, body: bytes) -> None:
    """Bytes that cannot be read come back as an HTML page with status 500, and the connection ends."""
    out = post(pool, body)
    assert (out.status, out.close, out.headers["content-type"]) == (500, True, "text/html")
    assert out.body.startswith(b"<html>")


def test_a_call_that_is_too_large_is_refused(pool: MockPool) -> None:
    """More than 300 KiB is no call, whatever it holds."""
    body = xmlrpc.dumps_call("system.isAlive:x", ["a" * 307200])
    assert post(pool, body).status == 500


@pytest.mark.parametrize("path", ["/", "/RPC2", "/json", "/anything"])
def test_calls_are_answered_on_every_path(pool: MockPool, path: str) -> None:
    """A path that nobody registered for is one of calls; refusals have status 200 too."""
    out = post(pool, xmlrpc.dumps_call("pool.get_all", ["OpaqueRef:none"]), path)
    assert (out.status, out.headers["content-type"]) == (200, "text/xml")
    with pytest.raises(Failure, match="SESSION_INVALID"):
        xmlrpc.loads_response(out.body)


def test_system_methods_need_no_session(pool: MockPool) -> None:
    """The list of methods comes without the usual struct around it; isAlive answers what it is given."""
    names = xmlrpc.loads_response(post(pool, xmlrpc.dumps_call("system.listMethods", [])).body)
    assert names == sorted(names)
    assert {"VM.start", "event.from", "host.evacuate", "VM.get_all_where"} <= set(names)
    assert pool.dispatch("system.isAlive:web", ["ping"]) == "ping"
    assert details(pool, "system.isAlive:web") == ["MESSAGE_METHOD_UNKNOWN", "system.isAlive:web"]


# --- the order of checks


def test_emergency_mode_comes_before_everything(pool: MockPool) -> None:
    """A host that has not spoken to its master answers every call with the reason, known or not, but the emergency calls."""
    pool.master.power_off()
    booting = ["HOST_STILL_BOOTING"]
    for method, params in (
        ("no.such_thing", []),
        ("system.listMethods", []),
        ("session.login_with_password", ["root", "secret"]),
        ("VM.start", ["OpaqueRef:none"]),
        ("Async.pool.is_slave", ["OpaqueRef:none", ""]),
    ):
        assert details(pool, method, *params, on="host2") == booting, method
    local = pool.dispatch("session.slave_local_login_with_password", ["root", "secret"], pool.machine("host2"))
    assert pool.dispatch("host.is_in_emergency_mode", [local], pool.machine("host2")) is True
    assert pool.dispatch("pool.is_slave", [local, ""], pool.machine("host2")) is True
    assert details(pool, "pool.is_slave", "OpaqueRef:none", "", on="host2") == ["SESSION_INVALID", "OpaqueRef:none"]


def test_the_number_of_parameters_comes_before_their_types_and_the_session(pool: MockPool) -> None:
    """Counted without the session; what is missing may be less than nothing."""
    mismatch = "MESSAGE_PARAMETER_COUNT_MISMATCH"
    assert details(pool, "VM.start") == [mismatch, "VM.start", "3", "-1"]
    assert details(pool, "VM.start", "none", 1) == [mismatch, "VM.start", "3", "1"]
    assert details(pool, "VM.start", "none", 1, 2, 3, 4) == [mismatch, "VM.start", "3", "4"]
    assert details(pool, "Async.VM.start", "none", 1) == [mismatch, "VM.start", "3", "1"]
    assert details(pool, "InternalAsync.VM.start", "none", 1) == [mismatch, "VM.start", "3", "1"]
    assert details(pool, "VM_start", "none") == [mismatch, "VM_start", "3", "0"]
    assert details(pool, "VM.create", "none") == [mismatch, "VM.create", "1", "0"]
    assert details(pool, "session.login_with_password", "root") == [mismatch, "session.login_with_password", "2", "1"]


def test_surplus_parameters_are_passed_over_where_some_may_be_left_off(calls: Make) -> None:
    """A release that does not know the optional ones yet counts exactly."""
    new, old = MockPool.create(hosts=1, vms=0, release="8.2"), MockPool.create(hosts=1, vms=0, release="4.0.1")
    login = "session.login_with_password"
    assert new.dispatch(login, ["root", "secret", "1.0", "here", "and", "more"])
    assert details(old, login, "root", "secret", "1.0") == ["MESSAGE_PARAMETER_COUNT_MISMATCH", login, "2", "3"]
    c = calls(release="4.1")
    mismatch = ["MESSAGE_PARAMETER_COUNT_MISMATCH", "host.evacuate", "1", "2"]
    assert c.refused("host.evacuate", c.host("host1").ref, "OpaqueRef:NULL") == mismatch


@pytest.mark.parametrize(
    ("method", "params", "text"),
    [
        ("VM.start", ["none", "vm", "no", True], "Failure(\"Expected bool, got 'no'\")"),
        ("VM.start", [5, "vm", True, True], "Failure(\"Expected string, got '5'\")"),
        ("VM.get_record", ["none", 5], "Failure(\"Expected string, got '5'\")"),
        ("VM.set_user_version", ["none", "vm", "many"], "Failure(\"Expected int64, got 'many'\")"),
        ("VM.set_user_version", ["none", "vm", str(1 << 63)], f"Failure(\"Expected int64, got '{1 << 63}'\")"),
        ("VM.set_tags", ["none", "vm", "tag"], 'Failure("Expected array")'),
        ("VM.set_tags", ["none", "vm", [1]], "Failure(\"Expected string, got '1'\")"),
        ("VM.set_other_config", ["none", "vm", ["a"]], 'Failure("Expected struct")'),
        ("VM.set_other_config", ["none", "vm", {"a": 1}], "Failure(\"Expected string, got '1'\")"),
        ("VM.set_actions_after_reboot", ["none", "vm", "explode"], 'Failure("Unknown tag/contents")'),
        ("VM.assert_operation_valid", ["none", "vm", "explode"], 'Failure("Unknown tag/contents")'),
        ("event.from", ["none", [], "", "soon"], "Failure(\"Expected float, got 'soon'\")"),
        ("VDI.create", ["none", {"name_label": "x"}], 'Server_helpers.Dispatcher_FieldNotFound("SR")'),
        ("VBD.create", ["none", []], 'Failure("Expected struct")'),
    ],
)
def test_types_come_before_the_session(pool: MockPool, method: str, params: list[Any], text: str) -> None:
    """What does not fit its type is an internal error with the text of xapi's runtime, whoever asks."""
    assert details(pool, method, *params) == ["INTERNAL_ERROR", text]


def test_values_are_taken_in_every_spelling_that_xapi_takes(calls: Make) -> None:
    """Digits for an int, a whole number for a float, any case for an enum, members that nobody knows in a constructor."""
    c = calls(release="8.2", vms=2)
    vm = c.vm("vm01")
    c("VM.set_user_version", vm.ref, "7")
    c("VM.set_actions_after_reboot", vm.ref, "DESTROY")
    c("VM.set_blocked_operations", vm.ref, {"Clean_Shutdown": "no"})
    assert (vm["user_version"], vm["actions_after_reboot"]) == (7, "destroy")
    assert vm["blocked_operations"] == {"clean_shutdown": "no"}
    assert c("event.from", [], "", 0)["events"] == []
    network = c("network.create", {"name_label": "n", "other_config": {}, "made_up": 1})
    assert c("network.get_name_label", network) == "n"


def test_the_session_comes_before_what_the_message_is(calls: Make) -> None:
    """Removed messages, those without an async form and those without behaviour are only told to who is logged in."""
    c = calls(release="XCP-ng 8.3")
    removed = "VMPP.protect_now"
    assert details(c.pool, removed, "none", "vmpp") == ["SESSION_INVALID", "none"]
    assert c.refused(removed, "vmpp") == ["MESSAGE_REMOVED"]
    assert c.refused(f"Async.{removed}", "vmpp") == ["MESSAGE_REMOVED"]
    assert details(c.pool, "Async.VM.get_all", "none") == ["SESSION_INVALID", "none"]
    text = "No async mode for this operation (rpc: VM.get_all)"
    assert c.refused("Async.VM.get_all") == ["Fault", text]
    assert details(c.pool, "PVS_site.introduce", "none", "", "", "") == ["SESSION_INVALID", "none"]
    assert c.refused("PVS_site.introduce", "", "", "") == ["NOT_IMPLEMENTED", "PVS_site.introduce"]


def test_nothing_succeeds_in_silence(calls: Make) -> None:
    """A message without behaviour says so in its task too."""
    c = calls(release="8.2")
    task = c.start("PVS_site.introduce", "", "", "")
    assert (task["status"], task["error_info"]) == ("failure", ["NOT_IMPLEMENTED", "PVS_site.introduce"])


def test_unknown_methods_are_looked_for_as_late_as_xapi_does(calls: Make) -> None:
    """Without parameters at once, else the session is looked at first."""
    c = calls(release="8.2")
    assert details(c.pool, "VM.fly") == ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]
    assert details(c.pool, "Async.VM.fly") == ["MESSAGE_METHOD_UNKNOWN", "VM.fly"]
    assert details(c.pool, "VM.fly", 5) == ["INTERNAL_ERROR", "Failure(\"Expected string, got '5'\")"]
    assert details(c.pool, "VM.fly", "none") == ["SESSION_INVALID", "none"]
    assert details(c.pool, "system.nothing", "none") == ["SESSION_INVALID", "none"]
    assert c.refused("VM.fly", on="host2") == ["HOST_IS_SLAVE", c.pool.master.address]
    for method in (
        "VM.fly",
        "vm.start",
        "VM.set_power_state",
        "session.get_all",
        "unknown-message-x",
        "VM.get_recommended_guidances",
    ):
        assert c.refused(method) == ["MESSAGE_METHOD_UNKNOWN", method]


def test_the_spelling_with_an_underscore_is_the_same_message(calls: Make) -> None:
    """But has no asynchronous form."""
    c = calls(release="8.2", vms=1)
    assert c("VM_get_all") == c("VM.get_all")
    assert c("VM_metrics_get_all") == c("VM_metrics.get_all")
    assert c.refused("Async.VM_start", c.vm("vm01").ref, False, False) == ["MESSAGE_METHOD_UNKNOWN", "VM_start"]


@pytest.mark.parametrize(
    ("method", "unknown_to", "known_to"),
    [
        ("host.evacuate", "4.0.1", "4.1"),
        ("host.get_vms_which_prevent_evacuation", "4.1", "5.0"),
        ("event.from", "5.6", "6.0"),
        ("event.inject", "6.0", "6.1"),
        ("VM.shutdown", "6.1", "6.2"),
        ("host.get_servertime", "4.1", "5.0"),
        ("host.is_in_emergency_mode", "4.0.1", "4.1"),
        ("pool_patch.get_all", "4.0.1", "4.1"),
        ("VM.get_blocked_operations", "4.1", "5.0"),
    ],
)
def test_a_release_knows_no_message_that_came_later(calls: Make, method: str, unknown_to: str, known_to: str) -> None:
    """Each host has the API of its own release."""
    c = calls(release=unknown_to)
    assert method not in c.pool.dispatch("system.listMethods", [])
    assert c.refused(method) == ["MESSAGE_METHOD_UNKNOWN", method]
    assert method in calls(release=known_to).pool.dispatch("system.listMethods", [])


@pytest.mark.parametrize(("release", "name"), [("6.2", ""), ("8.2", ""), ("8.4", '"host.notify" ')])
def test_pool_internal_messages_are_refused(calls: Make, release: str, name: str) -> None:
    """Before a member says that it is none of a client's business; a pool's own session passes."""
    c = calls(release=release)
    text = f"Internal API {name}call attempted with non-pool (external) session"
    for on in ("host1", "host2"):
        assert c.refused("host.notify", "", "", on=on) == ["INTERNAL_ERROR", text]
    own = c.pool.dispatch("session.slave_login", [c.host("host2").ref, c.pool.master.system.pool_secret])
    assert c.pool.dispatch("host.notify", [own, "", ""]) == ""
    assert c.pool.dispatch("VM.get_all", [own], c.pool.machine("host2")) == c("VM.get_all")


def test_a_member_sends_clients_to_the_master(calls: Make) -> None:
    """Its own local sessions may do anything."""
    c = calls(release="8.2")
    assert c.refused("VM.get_all", on="host2") == ["HOST_IS_SLAVE", c.pool.master.address]
    assert c.refused("Async.host.disable", "x", on="host2") == ["HOST_IS_SLAVE", c.pool.master.address]
    local = c.pool.dispatch("session.slave_local_login_with_password", ["root", "secret"], c.pool.machine("host2"))
    assert c.pool.dispatch("VM.get_all", [local], c.pool.machine("host2")) == c("VM.get_all")
    assert details(c.pool, "VM.get_all", local) == ["SESSION_INVALID", local]


# --- what verbs declare


def declared() -> list[tuple[str, str, str]]:
    classes.load()
    return [
        (verb.name, table, field)
        for verb in classes.VERBS.values()
        if verb.writes is not None
        for table, field in sorted(verb.writes)
    ]


def test_every_verb_is_a_message_and_declares_what_there_is() -> None:
    """Each verb answers an explicit message or an implicit constructor or destructor, and writes tables and fields of the
    data model."""
    model = datamodel.load()
    assert len(declared()) > 100
    for name, verb in classes.VERBS.items():
        class_name, _, message = name.partition(".")
        assert message in model.classes[class_name].messages, name
        assert verb.writes is not None, name
    for name, table, field in declared():
        known = table == "machine" or field == "*" or field in model.classes[table].fields
        assert known, f"{name} declares {table}.{field}"


def test_a_message_is_answered_by_one_verb() -> None:
    """A second would take the place of the first, unseen, by the order in which modules are loaded."""
    classes.load()
    first = classes.VERBS["VM.start"]

    def start() -> None: ...

    with pytest.raises(ValueError, match=r"^VM\.start is answered in mockserver\.classes\.vm already$"):
        classes.verbs_of("VM")()(start)
    assert classes.VERBS["VM.start"] is first


def test_a_verb_takes_what_its_message_gives() -> None:
    """The parameters of the function are the call and those of the message."""
    from inspect import signature

    classes.load()
    model = datamodel.load()
    for name, verb in classes.VERBS.items():
        class_name, _, message = name.partition(".")
        params = model.classes[class_name].messages[message].params
        taken = signature(verb.function).parameters.values()
        if not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in taken):
            assert len(taken) == 1 + len(params), name


@pytest.mark.parametrize("method", ["VM.get_other_config", "VM.get_record", "VM.get_all_records", "event.from"])
def test_what_a_call_without_bytes_answers_is_the_callers_own(pool: MockPool, method: str) -> None:
    """Whatever the caller does with it, the pool stays as it is."""
    session = pool.dispatch("session.login_with_password", ["root", "secret"])
    vm = pool.dispatch("VM.get_all", [session])[0]
    before = pool.dispatch("VM.get_record", [session, vm])
    args = {"VM.get_all_records": [], "event.from": [["VM"], "", 1.0]}.get(method, [vm])

    def spoil(value: Any) -> None:
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, (dict, list)):
                spoil(item)
        value.update(spoilt="") if isinstance(value, dict) else value.append("spoilt")

    spoil(pool.dispatch(method, [session, *args]))
    assert pool.dispatch("VM.get_record", [session, vm]) == before
    assert "spoilt" not in str(pool.dispatch("VM.get_all_records", [session]))


def test_a_write_that_a_verb_does_not_declare_is_a_bug_of_the_fake(
    calls: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises at the write, in the call itself and in what goes on as a task; the far end of a relation follows."""
    c = calls(vms=4, release="8.2")
    verb = classes.VERBS["VM.clean_shutdown"]
    narrow = classes.Verb(
        verb.name, verb.function, frozenset(w for w in verb.writes or () if w != ("VM", "power_state"))
    )
    monkeypatch.setattr(c.pool, "verb", lambda message: narrow)
    vm = c.vm("vm01").ref
    with pytest.raises(AssertionError, match=r"VM\.clean_shutdown writes VM\.power_state, undeclared"):
        c.pool.dispatch("VM.clean_shutdown", [c.session, vm])
    c("Async.VM.clean_shutdown", c.vm("vm02").ref)
    with pytest.raises(AssertionError, match="undeclared"):
        c.sleep(60)


def test_every_release_answers_its_own_list_of_methods() -> None:
    """The data model and the fake agree on what there is, for every release."""
    sizes = []
    for release in known():
        names = MockPool.create(hosts=1, vms=0, release=release.name).dispatch("system.listMethods", [])
        assert {"VM.start", "session.login_with_password", "pool.get_all_records_where"} <= set(names)
        sizes.append((release, len(names)))
    assert [size for _, size in sizes] == sorted(size for _, size in sizes)
    assert find("4.0.1") == sizes[0][0]
