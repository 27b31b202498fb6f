"""What keeps a guest on a host that is to be emptied, whatever else: what each release asks before it plans to move it.

Up to 5.6 Feature Pack 1 every guest had to have the drivers of the master's own release, though a migration alone asks for
less; in 6.0 guests without hardware virtualisation had to have drivers, from 6.1 to 6.5 those with it. Since 6.2 whatever
forbids the migration counts. Which build the release's drivers are is told nowhere; so builds are not compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import checks, rules
from .call import refuse

if TYPE_CHECKING:
    from xenctl.errors import Failure

    from .store import Row, Store


def refused(store: Store, vm: Row) -> Failure | None:
    """Why `vm` cannot leave its host, as an error; None where nothing of its own keeps it."""
    order = store.release.order
    if order < rules.BOSTON:
        return _outdated(store, vm)
    if order < rules.DUNDEE and checks.is_hvm(vm) == (order >= rules.TAMPA) and not _able(store, vm):
        return refuse("VM_MISSING_PV_DRIVERS", vm.ref)
    return checks.operation_refused(store, vm, "pool_migrate") if order >= rules.CLEARWATER else None


def _able(store: Store, vm: Row) -> bool:
    version = checks.drivers(store.find("VM_guest_metrics", vm["guest_metrics"]))
    return version is not None and version[0] >= checks.OLDEST_THAT_MOVES


def _outdated(store: Store, vm: Row) -> Failure | None:
    agent = store.find("VM_guest_metrics", vm["guest_metrics"])
    version, micro = checks.drivers(agent), agent["PV_drivers_version"].get("micro", "") if agent is not None else ""
    wanted = tuple(map(int, store.release.product_version.split(".")))
    if version is not None and micro.isdigit() and (*version, int(micro)) >= wanted:
        return None
    return checks.drivers_refused(store, vm)
