"""What may be done to the pool itself: its operations exclude each other, since 7.0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xenctl.datamodel import load
from xenctl.errors import Failure

from . import rules
from .busy import in_progress
from .call import Call, refuse
from .holding import Marked, assert_free
from .store import Row, Store

SINCE = {
    **dict.fromkeys(("ha_enable", "ha_disable"), rules.DUNDEE),
    "cluster_create": rules.INVERNESS,
    "designate_new_master": rules.STOCKHOLM,
    **dict.fromkeys(
        "tls_verification_enable configure_repositories sync_updates apply_updates cert_refresh "
        "exchange_certificates_on_join exchange_ca_certificates_on_join copy_primary_host_certs eject get_updates".split(),
        rules.NILE,
    ),
    "sync_bundle": load().order("24.23.0"),
}
"""The operations, and when each came, in the order in which they are listed."""
WAITING = frozenset(
    "cert_refresh exchange_certificates_on_join exchange_ca_certificates_on_join copy_primary_host_certs eject "
    "get_updates exchange_crls_on_join".split()
)
"""Those that say of what goes on only that it does; the others name it by an error of its own."""
GET_UPDATES_WAITS = load().order("25.8.0")
"""The toolstack's version since which getting updates is one of them."""


def refused(store: Store, operation: str) -> Failure | None:
    """The first reason why an operation may not be done to the pool, as an error; None where it may."""
    pool = store.pool()
    going = pool.get("current_operations", {})
    waits = WAITING if store.release.order >= GET_UPDATES_WAITS else WAITING - {"get_updates"}
    blocking = next((name for name in going.values() if name not in waits), "")
    if blocking and operation not in waits:
        return refuse(f"{blocking.upper()}_IN_PROGRESS")
    if going:
        task, name = next(iter(going.items()))
        return in_progress(store, "pool", pool.ref, name, task)
    enabled = bool(pool.get("ha_enabled"))
    if operation in ("ha_enable", "tls_verification_enable") and enabled:
        return refuse("HA_IS_ENABLED")
    if operation == "ha_disable" and not enabled:
        return refuse("HA_NOT_ENABLED")
    if operation in ("cluster_create", "tls_verification_enable") and rules.upgrading(store):
        return refuse("NOT_SUPPORTED_DURING_UPGRADE")
    if operation == "cluster_create" and store.table("Cluster"):
        return refuse("CLUSTER_ALREADY_EXISTS")
    if operation == "cluster_create" and enabled:
        return refuse("INCOMPATIBLE_CLUSTER_STACK_ACTIVE", pool["ha_cluster_stack"])
    return None


@contextmanager
def operation(call: Call, name: str) -> Iterator[None]:
    """Hold the pool for an operation. Before there were such, nothing is checked or shown."""
    if call.db.release.order < SINCE[name]:
        yield
        return
    pool = call.db.pool()
    if pool.get("is_psr_pending"):
        raise refuse("POOL_SECRET_ROTATION_PENDING")
    assert_free(call, pool, name, lambda store, _, operation: refused(store, operation))
    with Marked(call, pool, name):
        yield


def allowed_operations(store: Store, pool: Row) -> list[str]:
    """What may be done to a pool now."""
    names = [name for name, since in SINCE.items() if since <= store.release.order]
    return [name for name in names if refused(store, name) is None]
