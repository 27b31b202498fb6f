"""What may be done to the pool itself, as a table, and in the list that clients see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import pool_operations

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("state", "operation", "error"),
    [
        ({}, "ha_enable", []),
        ({}, "ha_disable", ["HA_NOT_ENABLED"]),
        ({"ha_enabled": True}, "ha_enable", ["HA_IS_ENABLED"]),
        ({"ha_enabled": True}, "ha_disable", []),
        ({"ha_enabled": True}, "tls_verification_enable", ["HA_IS_ENABLED"]),
        (
            {"ha_enabled": True, "ha_cluster_stack": "xhad"},
            "cluster_create",
            ["INCOMPATIBLE_CLUSTER_STACK_ACTIVE", "xhad"],
        ),
        ({"other_config": {"rolling_upgrade_in_progress": "true"}}, "cluster_create", ["NOT_SUPPORTED_DURING_UPGRADE"]),
        ({"current_operations": {"t": "sync_updates"}}, "ha_enable", ["SYNC_UPDATES_IN_PROGRESS"]),
        ({"current_operations": {"t": "ha_enable"}}, "eject", ["OTHER_OPERATION_IN_PROGRESS", "pool", "?"]),
        ({"current_operations": {"t": "eject"}}, "ha_enable", ["OTHER_OPERATION_IN_PROGRESS", "pool", "?"]),
        ({"current_operations": {"t": "get_updates"}}, "ha_enable", ["GET_UPDATES_IN_PROGRESS"]),
        ({"current_operations": {"t": "eject"}}, "get_updates", ["OTHER_OPERATION_IN_PROGRESS", "pool", "?"]),
    ],
)
def test_operations_exclude_each_other(calls: Make, state: dict[str, Any], operation: str, error: list[str]) -> None:
    """Each has its error, and the list says the same."""
    c = calls(release="8.4")
    pool = c.pool.store.pool()
    c.pool.store.write(pool, **state)
    refused = pool_operations.refused(c.pool.store, operation)
    assert (refused.details if refused else []) == [pool.ref if part == "?" else part for part in error]
    c.pool.freshen()
    assert (operation in c("pool.get_allowed_operations", pool.ref)) == (not error)


@pytest.mark.parametrize(
    ("release", "known"),
    [("6.5.0", set()), ("7.0.0", {"ha_enable"}), ("8.2", {"ha_enable", "cluster_create", "designate_new_master"})],
)
def test_each_release_lists_its_own(calls: Make, release: str, known: set[str]) -> None:
    """Operations came over the years; a pool that was just made lists them."""
    c = calls(release=release)
    assert set(c("pool.get_allowed_operations", c.pool.store.pool().ref)) == known


def test_bundles_came_after_xenserver_8(calls: Make, newest: Make) -> None:
    """Its toolstack does not know the word, nor that getting updates could be waited for."""
    assert "sync_bundle" not in calls(release="8.4").pool.store.pool()["allowed_operations"]
    c = newest()
    assert "sync_bundle" in c.pool.store.pool()["allowed_operations"]
    c.pool.store.write(c.pool.store.pool(), current_operations={"t": "get_updates"})
    refused = pool_operations.refused(c.pool.store, "ha_enable")
    assert refused is not None and refused.code == "OTHER_OPERATION_IN_PROGRESS"


def test_a_secret_that_changes_is_in_the_way(calls: Make) -> None:
    """Of every operation."""
    c = calls(release="8.4")
    c.pool.store.write(c.pool.store.pool(), is_psr_pending=True)
    assert c.refused("pool.enable_ha", [], {}) == ["POOL_SECRET_ROTATION_PENDING"]


def test_one_cluster_is_enough(calls: Make) -> None:
    """Where there is one no other is made, and the list says so as soon as it is there."""
    c = calls(release="8.4")
    pool, store = c.pool.store.pool(), c.pool.store
    assert "cluster_create" in c("pool.get_allowed_operations", pool.ref)
    cluster = store.create("Cluster", c.pool.new_ref(), {"uuid": c.pool.new_uuid()})
    refused = pool_operations.refused(store, "cluster_create")
    assert refused is not None
    assert refused.details == ["CLUSTER_ALREADY_EXISTS"]
    assert "cluster_create" not in c("pool.get_allowed_operations", pool.ref)
    store.delete(cluster)
    assert "cluster_create" in c("pool.get_allowed_operations", pool.ref)
