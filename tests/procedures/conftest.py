"""Fixtures of tests that upgrade a pool of every age: they ask for `release`, and make their `pool` of it. And the place
where the command meets pools that are served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from places import Place
from pools import RELEASES, connected

from mockserver import MockPool
from xenctl.releases import find, next_release
from xenctl.session import Session


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """A release of every age."""
    return str(request.param)


@pytest.fixture
def old(release: str) -> str:
    """The version that every host has at first."""
    return find(release).product_version


@pytest.fixture
def new(release: str) -> str:
    """The version that it is upgraded to."""
    following = next_release(find(release))
    assert following is not None
    return following.product_version


@pytest.fixture
def session(pool: MockPool) -> Session:
    """A session with the pool of the test, which is the test's own fixture."""
    return connected(pool)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A folder, and pools that are served as long as the test lasts."""
    made = Place(tmp_path)
    yield made
    made.close()
