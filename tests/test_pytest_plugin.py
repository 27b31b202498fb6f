"""The pytest plugin: what a suite gets that has this package installed, and what one that does not use it pays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import xenctl
from mockserver.faults import Planned
from xenctl.api import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from mockserver import MockPool, PoolServer

pytest_plugins = ["pytester"]


def test_a_pool_has_two_hosts_of_8_2_and_four_vms_by_default(xapi: MockPool, xapi_session: xenctl.Session) -> None:
    guests = [vm for vm in xapi_session.VM.get_all_records().values() if not vm.is_control_domain]
    versions = {host.software_version["product_version"] for host in xapi_session.host.get_all_records().values()}
    assert len(xapi.machines) == 2
    assert len(guests) == 4
    assert versions == {"8.2.0"}


@pytest.mark.xapi(hosts=3, vms=6, release="4.0.1", seed=1)
def test_the_marker_says_what_the_pool_is_made_of(xapi: MockPool) -> None:
    guests = [vm for vm in xapi.store.table("VM").values() if not vm["is_control_domain"]]
    assert [machine.system.release.product_version for machine in xapi.machines] == ["4.0.1"] * 3
    assert len(guests) == 6
    assert xapi.seed == 1


@pytest.mark.xapi(hosts=5, vms=0)
class TestMarkersAdd:
    """A marker on a test adds to that of its class and wins over it."""

    @pytest.mark.xapi(hosts=1, release="7.0.0")
    def test_the_nearest_marker_wins(self, xapi: MockPool) -> None:
        assert [machine.system.release.product_version for machine in xapi.machines] == ["7.0.0"]
        assert not [vm for vm in xapi.store.table("VM").values() if not vm["is_control_domain"]]


def test_vms_of_a_modern_pool_stop_and_start(xapi_session: xenctl.Session) -> None:
    vm = _running(xapi_session)
    xapi_session.VM.clean_shutdown(vm)
    assert xapi_session.VM.get_power_state(vm) == "Halted"
    xapi_session.Async.VM.start(vm, False, False).wait()
    assert xapi_session.VM.get_power_state(vm) == "Running"


def test_pools_can_be_made_as_needed(make_xapi: Callable[..., MockPool]) -> None:
    first, second = make_xapi(), make_xapi(hosts=1, release="4.1.0", seed=3)
    assert len(first.machines) == 2
    assert second.machines[0].system.release.product_version == "4.1.0"
    with pytest.raises(TypeError, match="'host'"):
        make_xapi(host=1)


def test_the_pool_is_served_on_sockets(xapi_server: PoolServer, xapi_url: str, xapi: MockPool) -> None:
    assert xapi_url == xapi_server.url
    with xenctl.connect(xapi_url, xapi.username, xapi.password) as session:
        assert len(session.host.get_all()) == 2
    member = xapi_server.hosts()[1]["url"]
    with xenctl.connect(member, xapi.username, xapi.password) as session:
        assert session.origin == xapi_url


def test_a_session_over_sockets_is_logged_in(xapi_client: xenctl.Session, xapi_url: str, xapi: MockPool) -> None:
    assert xapi_client.origin == xapi_url
    assert xapi_url.startswith("http://")
    vm = _running(xapi_client)
    xapi_client.VM.clean_shutdown(vm)
    assert xapi.store.get("VM", vm)["power_state"] == "Halted"


def test_the_server_speaks_https_where_its_certificate_is_asked_for(
    xapi_client: xenctl.Session, xapi_url: str, xapi_cafile: str, xapi: MockPool
) -> None:
    assert xapi_url.startswith("https://")
    assert xapi_client.origin == xapi_url
    assert Path(xapi_cafile).read_text().startswith("-----BEGIN CERTIFICATE-----")
    with xenctl.connect(xapi_url, xapi.username, xapi.password, verify=xapi_cafile) as session:
        assert len(session.host.get_all()) == len(xapi_client.host.get_all()) == 2
    with pytest.raises(xenctl.TransportError, match="certificate"):
        xenctl.connect(xapi_url, xapi.username, xapi.password)


@pytest.mark.xapi(
    faults=[
        "error VM.start code=HOST_NOT_ENOUGH_FREE_MEMORY params=1,0",
        {"kind": "answer_lost", "method": "VM.clean_shutdown"},
        Planned(kind="power_loss", victim="host2", after=90),
    ]
)
def test_the_marker_says_what_goes_wrong(xapi: MockPool, xapi_session: xenctl.Session) -> None:
    vm = _running(xapi_session)
    with pytest.raises(xenctl.ConnectionLost):
        xapi_session.VM.clean_shutdown(vm)
    with pytest.raises(errors.HOST_NOT_ENOUGH_FREE_MEMORY):
        xapi_session.VM.start(vm, False, False)
    xapi.clock.advance(90)
    assert xapi.machine("host2").state == "off"
    assert not xapi.faults.unused()


def test_faults_of_a_test_are_gone_with_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from mockserver import Trace

        @pytest.mark.xapi(faults=["reset host.get_all times=always", "power_loss victim=host2 after=90"])
        def test_one(xapi):
            xapi.faults.add("refused", times=None)
            Trace(xapi).start()

        def test_other(xapi, xapi_session):
            assert not len(xapi.faults) and xapi.trace is None
            assert len(xapi_session.host.get_all()) == 2
            xapi.clock.advance(90)
            assert xapi.machine("host2").state == "running"
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_pools_made_as_needed_have_faults_too(make_xapi: Callable[..., MockPool]) -> None:
    pool = make_xapi(faults=["reset session.login_with_password times=always"])
    with pytest.raises(xenctl.ConnectionLost):
        xenctl.connect(pool.url, pool.username, pool.password, transport=pool.transport())
    assert pool.faults.unused() == []


FAILING = """
    import pytest, xenctl

    @pytest.mark.xapi(faults=["answer_lost VM.pause", "reset VM.unpause"])
    def test_it(xapi, xapi_session):
        (vm,) = xapi_session.VM.get_by_name_label("vm01")
        xapi_session.VM.add_to_other_config(vm, "root-password", "hunter2")
        xapi_session.Async.VM.clean_shutdown(vm)
        with pytest.raises(xenctl.Failure):
            xapi_session.VM.start(vm, False, False)
        with pytest.raises(xenctl.ConnectionLost):
            xapi_session.VM.unpause(vm)
        xapi.hands.power_off("host2")
        assert False
"""


def test_a_failed_test_tells_the_last_calls_and_what_changed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- xapi: calls -*",
            "6 calls",
            "+0 s host1 session.login_with_password('root', 'REDACTED'*) -> 'session-1'",
            "+0 s host1 VM.get_by_name_label(session-1, 'vm01') -> *OpaqueRef:*",
            "+0 s host1 VM.add_to_other_config(session-1, 'OpaqueRef:*', 'root-password', 'REDACTED') -> *",
            "+0 s host1 Async.VM.clean_shutdown(session-1, 'OpaqueRef:*') -> 'OpaqueRef:*'",
            "+0 s host1 VM.start(session-1, *) -> refused: VM_BAD_POWER_STATE(*, halted, running)",
            "+0 s host1 VM.unpause(session-1, *) -> no answer: fault reset",
            "*- xapi: tasks that go on -*",
            "Async.VM.clean_shutdown: 0% done",
            "*- xapi: faults that never struck -*",
            "pool.faults.add('answer_lost', method='VM.pause')",
            "*- xapi: changes since the test began -*",
            "VM vm01: other_config *'root-password': 'REDACTED'*",
            "machine host2: state running -> off",
        ]
    )
    assert "hunter2" not in result.stdout.str().split("xapi: calls")[1]


def test_the_report_of_a_failed_test_is_bounded(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(xapi, xapi_session):
            for vm in xapi_session.VM.get_all():
                for _ in range(9):
                    xapi_session.VM.get_power_state(vm)
                xapi_session.VM.set_name_description(vm, "x" * 1000)
            for _ in range(40):
                xapi_session.secret.create({"value": "hunter2", "other_config": {"note": "n" * 500}})
            assert False
        """
    )
    text = pytester.runpytest_subprocess("-p", "no:cacheprovider").stdout.str()
    lines = text.partition("- xapi: calls -")[2].splitlines()
    assert lines[1].startswith("the last 20 of ")
    assert sum(line.startswith("+0 s") for line in lines) == 20
    assert any(line.startswith("... and ") for line in lines)
    assert max(map(len, lines)) <= 200
    assert not any("hunter2" in line for line in lines)


def test_every_pool_of_a_failed_test_is_told_of(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def broken(make_xapi):
            first, second = make_xapi(hosts=1), make_xapi(hosts=1, seed=3)
            second.hands.power_off("host1")
            raise OSError("it is not there")

        def test_it(broken): ...
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*- make_xapi: calls -*",
            "no calls",
            "*- make_xapi: calls -*",
            "no calls",
            "machine host1: state running -> off",
        ]
    )


def test_a_test_that_passes_or_has_no_pool_tells_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(xapi_session): ...\n\ndef test_two():\n    assert False\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rA")
    result.assert_outcomes(passed=1, failed=1)
    assert "xapi:" not in result.stdout.str()


def test_a_served_pool_of_a_failed_test_is_told_of(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(xapi_client, xapi_cafile):
            (vm,) = xapi_client.VM.get_by_name_label("vm01")
            xapi_client.VM.set_name_label(vm, "another")
            assert False
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*VM.set_name_label(session-1, *", "*- xapi: changes since *", "VM vm01: name_label vm01 -> another"],
        consecutive=False,
    )
    result.stdout.no_fnmatch_line("*address*->*")


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("faults=['answer_lots']", "@pytest.mark.xapi: no such fault: 'answer_lots' (is 'answer_lost' meant?)*"),
        ("faults=['reset nth=x']", "@pytest.mark.xapi: not a value of nth: 'x' in 'reset nth=x'"),
        ("faults='reset'", "@pytest.mark.xapi: faults is a list of faults, not 'reset'"),
        ("faults=[{'kind': 'reset', 'code': 'X'}]", "@pytest.mark.xapi: a fault 'reset' does not take code*"),
        (
            "host=1",
            "*@pytest.mark.xapi does not take host; it takes hosts, vms, nics, gpus, usbs, templates, *",
        ),
        ("3", "*@pytest.mark.xapi does not take 3; it takes hosts, vms, nics, gpus, usbs, templates, *"),
        ("release='4.0.7'", "@pytest.mark.xapi: no release is called '4.0.7'; known are *"),
        ("hosts=0", "@pytest.mark.xapi: a pool has at least one host, not 0"),
    ],
)
def test_a_marker_that_makes_no_sense_is_an_error_that_says_so(
    pytester: pytest.Pytester, marker: str, message: str
) -> None:
    pytester.makepyfile(f"import pytest\n\n@pytest.mark.xapi({marker})\ndef test_it(xapi): ...\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_a_session_in_process_and_sockets_do_not_mix(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(xapi_session, xapi_url): ...\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*use xapi_client, or xenctl.connect(xapi_url, *"])


def test_a_session_whose_master_is_off_at_the_end_is_no_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(xapi, xapi_session):\n    xapi.hands.power_off(xapi.master.name)\n")
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_a_suite_that_uses_no_fixture_loads_nothing_of_ours(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("mockserver")
            heavy = {"lxml", "requests", "xenctl.session", "mockserver.pool", "mockserver.transports.server"}
            assert not heavy & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest").assert_outcomes(passed=1)


def test_importing_the_plugin_loads_pytest_and_nothing_else_of_weight() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); "
        "import mockserver.pytest_plugin; print(*set(sys.modules) - before)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(loaded) == ["mockserver", "mockserver.pytest_plugin"]


def _running(session: xenctl.Session) -> xenctl.Ref[object]:
    vms = session.VM.get_all_records().items()
    return next(ref for ref, vm in vms if vm.power_state == "Running" and not vm.is_control_domain)
