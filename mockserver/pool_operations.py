"""Operations on the whole pool, which exclude each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xenctl.errors import Failure

from .call import Call, refuse
from .checks import marked
from .store import Store

BLOCKING = frozenset(
    "ha_enable ha_disable cluster_create designate_new_master tls_verification_enable configure_repositories sync_updates "
    "sync_bundle apply_updates".split()
)
"""The operations that refuse each other by an error of their own; the others wait for each other, and errors tell so."""


def going_on(store: Store, name: str) -> Failure | None:
    """The error of the operation that keeps `name` from being done to the pool; None where none goes on."""
    row = store.pool()
    going = {operation: task for task, operation in row["current_operations"].items()}
    blocking = next((operation for operation in going if operation in BLOCKING), None)
    if blocking is not None and name in BLOCKING:
        return refuse(f"{blocking.upper()}_IN_PROGRESS")
    if not going:
        return None
    waited = next(((operation, task) for operation, task in going.items() if operation not in BLOCKING), ())
    return refuse("OTHER_OPERATION_IN_PROGRESS", "pool", row.ref, *waited)


@contextmanager
def pool_operation(call: Call, name: str) -> Iterator[None]:
    """Hold the pool for an operation. Raises the error of the one that goes on."""
    refused = going_on(call.db, name)
    if refused is not None:
        raise refused
    with marked(call, call.db.pool(), name):
        yield
