"""A pool, the way to it, and a session with it."""

from __future__ import annotations

import pytest
from wires import PASSWORD, Wire, connect

from mockserver.pool import MockPool
from xenctl.session import Session


@pytest.fixture
def pool() -> MockPool:
    """A pool of two hosts."""
    return MockPool.create(hosts=2, vms=4, release="4.0.1", password=PASSWORD)


@pytest.fixture
def wire(pool: MockPool) -> Wire:
    """The way to the pool."""
    return Wire(pool.transport())


@pytest.fixture
def session(pool: MockPool, wire: Wire) -> Session:
    """A session with the pool; the login is not among the wire's calls."""
    made = connect(pool.url, "root", PASSWORD, transport=wire)
    wire.calls.clear()
    return made
