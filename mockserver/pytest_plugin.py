"""Fixtures for the tests of programs that talk to a pool; pytest finds them where this package is installed.

    @pytest.mark.xapi(hosts=3, vms=20, release="8.2", faults=["answer_lost VM.start"])
    def test_that_every_vm_runs(xapi, xapi_session): ...

`xapi` is a fresh pool for each test, made once and taken back after each; `make_xapi` makes further pools. A program reaches
the pool in this process with `xapi_session`, a session; or on sockets, at `xapi_url`, where `xapi_client` is a session and
`xapi_server` the server. It speaks HTTPS in a test that asks for `xapi_cafile`. The report of a test that fails has the last
calls and what changed in its pools. Other suites pay nothing for this module: what it needs is loaded by the first fixture
that is used.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from xenctl import Session

    from .fresh import FreshPools
    from .pool import MockPool
    from .transports.server import PoolServer

DEFAULTS: Mapping[str, Any] = {"hosts": 2, "vms": 4, "release": "8.2"}
"""The pool of a test that does not say what it wants."""
POOLS: pytest.StashKey[list[tuple[str, MockPool, Mapping[str, Any]]]] = pytest.StashKey()
"""The pools of a test while it goes on: by which fixture each was made, and with what options."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "xapi(hosts=2, vms=4, release='8.2', nics=1, templates=False, seed=0, faults=[...], ...): the pool of fixture "
        "`xapi`, as `MockPool.create` makes it, and what goes wrong in it",
    )


# --- what a failed test is told


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add to the report of a test that failed what its pools tell."""
    outcome = yield
    pools = item.stash.get(POOLS, None)
    if pools:
        report: pytest.TestReport = outcome.get_result()
        if report.failed:
            report.sections.extend(_told(pools))


def _told(pools: Iterable[tuple[str, MockPool, Mapping[str, Any]]]) -> Iterator[tuple[str, str]]:
    from .tail import sections

    for name, pool, options in pools:
        try:
            for title, text in sections(pool, options):
                yield f"{name}: {title}", text
        except Exception as error:  # noqa: BLE001 - it must not hide what the test failed with
            yield f"{name}: nothing more can be told", repr(error)


@contextmanager
def _reported(item: Any, name: str, pool: MockPool, options: Mapping[str, Any]) -> Iterator[None]:
    """Have a pool among those that a report tells of."""
    from .tail import CallLog

    pool.log = CallLog(pool)
    pools = item.stash.setdefault(POOLS, [])
    entry = (name, pool, options)
    pools.append(entry)
    try:
        yield
    finally:
        pools.remove(entry)
        pool.log = None


# --- pools


@pytest.fixture
def make_xapi(request: pytest.FixtureRequest) -> Iterator[Callable[..., MockPool]]:
    """Make a pool: the keywords are those of `MockPool.create`, and `faults`; what is left out is as in fixture `xapi`."""
    from .pool import MockPool

    with ExitStack() as stack:

        def make(*, faults: Iterable[Any] = (), **options: Any) -> MockPool:
            wanted = {**DEFAULTS, **options}
            pool = MockPool.create(**wanted)
            for fault in faults:
                pool.faults.plan(fault)
            stack.enter_context(_reported(request.node, "make_xapi", pool, wanted))
            return pool

        yield make


@pytest.fixture(scope="session")
def _fresh_pools() -> FreshPools:
    from .fresh import FreshPools

    return FreshPools()


@pytest.fixture
def xapi(request: pytest.FixtureRequest, _fresh_pools: FreshPools) -> Iterator[MockPool]:
    """A fresh fake pool: two hosts of release 8.2 and four VMs, or what the marker `xapi` says. It is another test's pool
    afterwards."""
    options: dict[str, Any] = dict(DEFAULTS)
    for marker in reversed(list(request.node.iter_markers("xapi"))):
        _check(marker)
        options.update(marker.kwargs)
    faults = options.pop("faults", ())
    with ExitStack() as stack:
        try:
            pool = stack.enter_context(_fresh_pools.fresh(**options))
            for fault in faults:
                pool.faults.plan(fault)
        except (ValueError, TypeError) as error:
            pytest.fail(f"@pytest.mark.xapi: {error}", pytrace=False)
        stack.enter_context(_reported(request.node, "xapi", pool, options))
        yield pool


def _check(marker: pytest.Mark) -> None:
    """Refuse a marker that `MockPool.create` would not understand, in the words of the marker."""
    from inspect import signature

    from .pool import MockPool

    known = [*signature(MockPool.create).parameters, "faults"]
    wrong = [repr(value) for value in marker.args] + sorted(set(marker.kwargs) - set(known))
    if wrong:
        pytest.fail(f"@pytest.mark.xapi does not take {', '.join(wrong)}; it takes {', '.join(known)}", pytrace=False)
    faults = marker.kwargs.get("faults", ())
    if not isinstance(faults, (list, tuple)):
        pytest.fail(f"@pytest.mark.xapi: faults is a list of faults, not {faults!r}", pytrace=False)


# --- ways to them


@pytest.fixture
def xapi_session(xapi: MockPool) -> Iterator[Session]:
    """A session with the pool of fixture `xapi`, in this process; logged out at the end, if its master is still there."""
    from xenctl import Session

    session = Session(xapi.url, transport=xapi.transport())
    session.login_with_password(xapi.username, xapi.password)
    yield session
    _log_out(session)


@pytest.fixture
def xapi_server(request: pytest.FixtureRequest, xapi: MockPool) -> Iterator[PoolServer]:
    """The pool of fixture `xapi` on sockets, an address for each host, until the test is over: HTTPS if the test uses
    `xapi_cafile`, else HTTP."""
    from .transports.server import PoolServer

    if "xapi_session" in request.fixturenames:
        pytest.fail(
            "xapi_session calls the pool in this process while xapi_server gives it to other threads: use xapi_client, or "
            "xenctl.connect(xapi_url, xapi.username, xapi.password), instead of xapi_session",
            pytrace=False,
        )
    tls = "xapi_cafile" in request.fixturenames
    try:
        server = PoolServer(xapi, tls=tls)
    except ImportError as error:
        pytest.fail(f"xapi_cafile: {error}", pytrace=False)
    with server:
        yield server


@pytest.fixture
def xapi_url(xapi_server: PoolServer) -> str:
    """The URL of the master of the pool on sockets."""
    return xapi_server.url


@pytest.fixture
def xapi_cafile(xapi_server: PoolServer) -> str:
    """The path of the certificate to trust, in PEM; asking for it makes the server speak HTTPS."""
    if not xapi_server.cafile:
        pytest.fail("the server speaks HTTP already: name xapi_cafile among the test's arguments", pytrace=False)
    return xapi_server.cafile


@pytest.fixture
def xapi_client(xapi: MockPool, xapi_server: PoolServer) -> Iterator[Session]:
    """A session with the pool on sockets; logged out at the end, if its master is still there."""
    from xenctl import connect

    with connect(xapi_server.url, xapi.username, xapi.password, verify=xapi_server.cafile or True) as session:
        yield session
        _log_out(session)


def _log_out(session: Session) -> None:
    """Log out, if the pool that the test left still lets anybody."""
    from xenctl import XenctlError

    try:
        session.logout()
    except XenctlError:
        session.ref = None
