"""The pytest plugin: what a suite gets that has this package installed, and what one that does not use it pays."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import xenctl

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


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("host=1", "*@pytest.mark.xapi does not take host; it takes hosts, vms, release, seed*"),
        ("3", "*@pytest.mark.xapi does not take 3; it takes hosts, vms, release, seed*"),
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
    result.stdout.fnmatch_lines(["*use xenctl.connect(xapi_url, *"])


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
