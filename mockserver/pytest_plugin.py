"""Fixtures for the tests of programs that talk to a pool; pytest finds them where this package is installed.

    @pytest.mark.xapi(hosts=3, vms=20, release="8.2")
    def test_that_every_vm_is_stopped(xapi, xapi_session): ...

`xapi` is a fresh pool for each test, made once and taken back after each; `xapi_session` is a session with it in this
process, `make_xapi` makes further pools, `xapi_server` and `xapi_url` are the same pool on sockets. Other suites pay nothing
for this module: what it needs is loaded by the first fixture that is used.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from xenctl import Session

    from .fresh import FreshPools
    from .pool import MockPool
    from .transports.server import PoolServer

DEFAULTS: Mapping[str, Any] = {"hosts": 2, "vms": 4, "release": "8.2"}
"""The pool of a test that does not say what it wants."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "xapi(hosts=2, vms=4, release='8.2', seed=0, ...): the pool of fixture `xapi`, as `MockPool.create` makes it",
    )


@pytest.fixture
def make_xapi() -> Callable[..., MockPool]:
    """Make a pool: the keywords are those of `MockPool.create`, and what is left out is as in fixture `xapi`."""
    from .pool import MockPool

    def make(**options: Any) -> MockPool:
        return MockPool.create(**{**DEFAULTS, **options})

    return make


@pytest.fixture(scope="session")
def _fresh_pools() -> FreshPools:
    from .fresh import FreshPools

    return FreshPools()


@pytest.fixture
def xapi(request: pytest.FixtureRequest, _fresh_pools: FreshPools) -> Iterator[MockPool]:
    """A fresh fake pool: two hosts of release 8.2 and four VMs, or what the marker `xapi` says. It is another test's pool
    afterwards."""
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("xapi"))):
        _check(marker)
        options.update(marker.kwargs)
    with ExitStack() as stack:
        try:
            pool = stack.enter_context(_fresh_pools.fresh(**{**DEFAULTS, **options}))
        except ValueError as error:
            pytest.fail(f"@pytest.mark.xapi: {error}", pytrace=False)
        yield pool


def _check(marker: pytest.Mark) -> None:
    """Refuse a marker that `MockPool.create` would not understand, in the words of the marker."""
    from inspect import signature

    from .pool import MockPool

    known = signature(MockPool.create).parameters
    wrong = [repr(value) for value in marker.args] + sorted(set(marker.kwargs) - set(known))
    if wrong:
        pytest.fail(f"@pytest.mark.xapi does not take {', '.join(wrong)}; it takes {', '.join(known)}", pytrace=False)


@pytest.fixture
def xapi_session(xapi: MockPool) -> Iterator[Session]:
    """A session with the pool of fixture `xapi`, in this process; logged out at the end, if its master is still there."""
    from xenctl import Session, TransportError

    session = Session(xapi.url, transport=xapi.transport())
    session.login_with_password(xapi.username, xapi.password)
    yield session
    try:
        session.logout()
    except TransportError:
        session.ref = None


@pytest.fixture
def xapi_server(request: pytest.FixtureRequest, xapi: MockPool) -> Iterator[PoolServer]:
    """The pool of fixture `xapi` on sockets, an address for each host, until the test is over."""
    from .transports.server import PoolServer

    if "xapi_session" in request.fixturenames:
        pytest.fail(
            "xapi_session calls the pool in this process while xapi_server gives it to other threads: use "
            "xenctl.connect(xapi_url, xapi.username, xapi.password) instead of xapi_session",
            pytrace=False,
        )

    with PoolServer(xapi) as server:
        yield server


@pytest.fixture
def xapi_url(xapi_server: PoolServer) -> str:
    """The URL of the master of the pool on sockets."""
    return xapi_server.url
